"""A real PUT to a bucket comes out as a result object: by SQS, SNS, EventBridge, and by MinIO's way over Redis."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import boto3
import pytest
import urllib3
from PIL import Image

from arno_producer import Producer
from arno_producer.triggers.install import Installation
from arno_shared.parts import decode_part
from arno_shared.results import ResultRow
from arno_shared.settings import Settings
from tests.acceptance.arno_worker import ArnoWorker, eventually, logged_lines
from tests.acceptance.fork_server import LIGHT, Fork, fork_server
from tests.producer.sources.test_events import event
from tests.servers import make_bucket

ODD_KEY = "dir x/a b+c é.jpg"


def picture(colour: tuple[int, int, int] = (200, 30, 30), size: int = 16) -> bytes:
    data = BytesIO()
    Image.new("RGB", (size, size), colour).save(data, "JPEG")
    return data.getvalue()


class Cloud:
    """S3, SQS, SNS and EventBridge, with buckets and queues of the test's own."""

    def __init__(self) -> None:
        self.s3, self.sqs, self.sns, self.events = (boto3.client(name) for name in ("s3", "sqs", "sns", "events"))
        self.bucket, self.results = make_bucket(), make_bucket()

    def queue(self, name: str, **attributes: str) -> tuple[str, str]:
        """A new queue's URL and ARN."""
        url = self.sqs.create_queue(QueueName=f"{name}-{self.bucket}", Attributes=attributes)["QueueUrl"]
        return url, self.arn(url)

    def arn(self, url: str) -> str:
        return self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]

    def waiting(self, url: str) -> int:
        names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def put(self, key: str = ODD_KEY, data: bytes = b"") -> str:
        return self.s3.put_object(Bucket=self.bucket, Key=key, Body=data or picture()).get("VersionId", "")

    def notify(self, **configuration: Any) -> None:
        self.s3.put_bucket_notification_configuration(Bucket=self.bucket, NotificationConfiguration=configuration)


@pytest.fixture
def cloud(moto_s3: str, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    for service in ("SQS", "SNS", "EVENTBRIDGE", "EVENTS"):
        monkeypatch.setenv(f"AWS_ENDPOINT_URL_{service}", moto_s3)
    return Cloud()


@pytest.fixture
def rows(cloud: Cloud, producer: Producer) -> Callable[[], list[ResultRow]]:
    """What lies in the bucket of results."""

    def read() -> list[ResultRow]:
        found = producer.store.list(f"s3://{cloud.results}/out/")
        return [row for one in found if "part-" in one.uri for row in decode_part(producer.store.get(one.uri), "jsonl")]

    return read


class Running:
    def __init__(self, process: Fork, log: Path) -> None:
        self.process, self.log = process, log

    def logged(self, words: str) -> list[dict[str, Any]]:
        return [line for line in logged_lines(self.log) if line["event"] == words]

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0, self.log.read_text()


@contextmanager
def trigger(settings: Settings, folder: Path, *arguments: str) -> Iterator[Running]:
    log = folder / "trigger.log"
    log.unlink(missing_ok=True)
    env = {**os.environ, "ARNO_REDIS_URL": settings.redis_url, "ARNO_OUTPUT_PREFIX": settings.output_prefix}
    process = fork_server(*LIGHT).start("tests.acceptance.arno_command", ["trigger", *arguments], env, log)
    running = Running(process, log)

    def started() -> bool:
        assert process.poll() is None, log.read_text()
        return bool(running.logged("trigger starts"))

    try:
        eventually(started, "the trigger has started")
        yield running
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def follow(cloud: Cloud, settings: Settings, tmp_path: Path) -> Callable[..., Any]:
    """Runs `arno trigger` on a queue, for captions of all that comes."""
    asked = ("--prompts", "<CAPTION>", "--output", f"s3://{cloud.results}/out/")
    return lambda *source: trigger(settings, tmp_path, *source, *asked)


def by_sqs(cloud: Cloud, url: str, arn: str) -> None:
    cloud.notify(QueueConfigurations=[{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}])


def by_sns(cloud: Cloud, url: str, arn: str, raw: str = "false") -> None:
    topic = cloud.sns.create_topic(Name=f"topic-{cloud.bucket}")["TopicArn"]
    attributes = {"RawMessageDelivery": raw}
    cloud.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn, Attributes=attributes)
    cloud.notify(TopicConfigurations=[{"TopicArn": topic, "Events": ["s3:ObjectCreated:*"]}])


def by_raw_sns(cloud: Cloud, url: str, arn: str) -> None:
    by_sns(cloud, url, arn, raw="true")


def by_eventbridge(cloud: Cloud, url: str, arn: str) -> None:
    name = f"rule-{cloud.bucket}"
    cloud.events.put_rule(
        Name=name,
        EventPattern=json.dumps({"source": ["aws.s3"], "detail": {"bucket": {"name": [cloud.bucket]}}}),
    )
    cloud.events.put_targets(Rule=name, Targets=[{"Id": "queue", "Arn": arn}])
    cloud.notify(EventBridgeConfiguration={})


@pytest.mark.parametrize("way", [by_sqs, by_sns, by_raw_sns, by_eventbridge])
def test_a_put_comes_out_as_a_result(
    way: Callable[[Cloud, str, str], None],
    cloud: Cloud,
    follow: Callable[..., Any],
    rows: Callable[[], list[ResultRow]],
    start_worker: Callable[..., ArnoWorker],
) -> None:
    url, arn = cloud.queue("events")
    way(cloud, url, arn)
    start_worker()
    with follow("sqs", "--queue", url) as running:
        cloud.put()
        (row,) = eventually(rows, "the result is there")
        assert row.image.uri == f"s3://{cloud.bucket}/{ODD_KEY}"
        assert row.status == "ok"
        eventually(lambda: not cloud.waiting(url), "its message is deleted")
        running.stop()


def test_uploads_in_parts_are_done_once_and_versions_are_those_of_their_events(
    cloud: Cloud,
    follow: Callable[..., Any],
    rows: Callable[[], list[ResultRow]],
    start_worker: Callable[..., ArnoWorker],
) -> None:
    cloud.s3.put_bucket_versioning(Bucket=cloud.bucket, VersioningConfiguration={"Status": "Enabled"})
    url, arn = cloud.queue("events")
    by_eventbridge(cloud, url, arn)
    versions = {cloud.put("a.jpg", picture(size=16)): 16, cloud.put("a.jpg", picture(size=32)): 32}
    # moto tells of an upload in parts twice.
    upload = cloud.s3.create_multipart_upload(Bucket=cloud.bucket, Key="parts.jpg")["UploadId"]
    part = cloud.s3.upload_part(Bucket=cloud.bucket, Key="parts.jpg", UploadId=upload, PartNumber=1, Body=picture())
    cloud.s3.complete_multipart_upload(
        Bucket=cloud.bucket,
        Key="parts.jpg",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    start_worker()
    with follow("sqs", "--queue", url):
        eventually(lambda: not cloud.waiting(url), "all messages are deleted")
        found = eventually(lambda: len(rows()) == 3 and rows(), "each is done once")
    widths = {row.image.version_id: row.image.width for row in found if row.image.uri.endswith("/a.jpg")}
    assert {version: widths.get(version) for version in versions} == versions


def test_killed_between_enqueueing_and_deleting_it_does_nothing_twice(
    cloud: Cloud,
    producer: Producer,
    follow: Callable[..., Any],
    rows: Callable[[], list[ResultRow]],
    start_worker: Callable[..., ArnoWorker],
) -> None:
    url, arn = cloud.queue("events", VisibilityTimeout="0")
    by_sqs(cloud, url, arn)
    cloud.put()
    # Seen again and again while it is not deleted, as after each death.
    with follow("sqs", "--queue", url) as running:
        eventually(lambda: running.logged("event"), "it is enqueued")
        running.process.kill()
    cloud.put()
    start_worker()
    with follow("sqs", "--queue", url) as running:
        eventually(lambda: any(line["duplicate"] for line in running.logged("event")), "it is found enqueued")
        eventually(lambda: not cloud.waiting(url), "its messages are deleted")
    eventually(rows, "it is done")
    assert len(rows()) == 1
    assert len(producer.redis.xrange("arno:topic")) == 1


def test_what_cannot_be_read_is_left_to_the_queues_own_dead_letters(cloud: Cloud, follow: Callable[..., Any]) -> None:
    dead_url, dead_arn = cloud.queue("dead")
    redrive = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": 2})
    url, _ = cloud.queue("events", VisibilityTimeout="0", RedrivePolicy=redrive)
    test_event = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": cloud.bucket}
    for body in ("not JSON", json.dumps({"hello": 1}), json.dumps(test_event)):
        cloud.sqs.send_message(QueueUrl=url, MessageBody=body)
    with follow("sqs", "--queue", url) as running:
        eventually(lambda: cloud.waiting(dead_url) == 2, "both are dead letters")
        assert cloud.waiting(url) == 0
        metrics = running.logged("trigger starts")[0]["metrics"]
        told = urllib3.request("GET", f"http://{metrics}/metrics", timeout=10).data.decode()
        assert 'arno_trigger_records_total{outcome="unparseable",source="unknown"}' in told


def test_minio_over_redis_as_a_list_and_as_a_hash(
    cloud: Cloud,
    producer: Producer,
    follow: Callable[..., Any],
    start_worker: Callable[..., ArnoWorker],
    settings: Settings,
) -> None:
    records = event("minio")["Records"]
    redis = producer.redis
    redis.rpush("minio", json.dumps([{"Event": records, "EventTime": "2026-03-01T10:20:30Z"}]), "not JSON")
    # Taken by one that died then.
    other = json.dumps([{"Event": records, "EventTime": ""}]).replace("red", "blue")
    redis.rpush("minio.arno-taken", other)
    with follow("redis", "--key", "minio") as running:
        eventually(lambda: len(running.logged("event")) == 2, "both are enqueued")
        eventually(lambda: redis.lrange("minio.arno-dead", 0, -1) == [b"not JSON"], "what cannot be read is kept")
        eventually(lambda: not redis.exists("minio", "minio.arno-taken"), "the lists are empty")
        running.stop()
    redis.hset("bucket", "photos/x.jpg", json.dumps({"Records": records}).replace("red", "green"))
    redis.hset("bucket", "photos/y.jpg", "{}")
    with follow("redis", "--key", "bucket") as running:
        eventually(lambda: not redis.exists("bucket"), "the hash is empty")
        assert len(running.logged("event")) == 1
        assert redis.lrange("bucket.arno-dead", 0, -1) == [b"{}"]


def test_one_command_leads_from_a_bucket_to_results(
    cloud: Cloud,
    settings: Settings,
    tmp_path: Path,
    rows: Callable[[], list[ResultRow]],
    start_worker: Callable[..., ArnoWorker],
) -> None:
    _, arn = cloud.queue("others")
    cloud.notify(
        QueueConfigurations=[
            {
                "Id": "theirs",
                "QueueArn": arn,
                "Events": ["s3:ObjectRemoved:*"],
            }
        ]
    )
    wanted = Installation(cloud.bucket, suffix=".jpg")
    assert len(wanted.plan()) == 4
    start_worker()
    output = f"s3://{cloud.results}/out/"
    with trigger(
        settings,
        tmp_path,
        "install",
        "--bucket",
        cloud.bucket,
        "--suffix",
        ".jpg",
        "--yes",
        "-p",
        "<OD>",
        "--output",
        output,
    ):
        cloud.put("a.jpg")
        cloud.put("b.txt")
        (row,) = eventually(rows, "the result is there")
        assert row.image.uri == f"s3://{cloud.bucket}/a.jpg"
    assert wanted.plan() == []
    told = cloud.s3.get_bucket_notification_configuration(Bucket=cloud.bucket)["QueueConfigurations"]
    assert {one["Id"] for one in told} == {"theirs", f"arno-{wanted.queue}"}
    queue = cloud.sqs.get_queue_attributes(QueueUrl=wanted.queue_url(), AttributeNames=["All"])["Attributes"]
    (statement,) = json.loads(queue["Policy"])["Statement"]
    assert statement["Condition"]["ArnLike"] == {"aws:SourceArn": f"arn:aws:s3:::{cloud.bucket}"}
    assert json.loads(queue["RedrivePolicy"])["maxReceiveCount"] == 5


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("install", "--bucket", "no-such-bucket"), 1, "no bucket 'no-such-bucket'"),
        (("install", "--bucket", "BUCKET"), 1, "Nothing was changed"),
        (("install", "--bucket", "BUCKET", "--dry-run"), 0, "Nothing was changed"),
        (("install", "--bucket", "BUCKET", "-p", "OD", "--output", "s3://BUCKET/out/"), 2, "--output lies where"),
        (("sqs", "--queue", "no-such-queue", "-p", "OD", "--output", "s3://r/o/"), 2, "no queue 'no-such-queue'"),
        (("sqs", "--queue", "q"), 2, "--prompts and --output are needed"),
        (("sqs", "--queue", "q", "--rules", "/nowhere.toml"), 2, "/nowhere.toml cannot be read"),
        (("redis", "--key", "k", "-p", "NO", "--output", "s3://r/o/"), 2, "'NO' is not a task"),
    ],
)
def test_what_cannot_be_is_said(
    cloud: Cloud, settings: Settings, arguments: tuple[str, ...], code: int, said: str
) -> None:
    ran = subprocess.run(
        [
            *(sys.executable, "-c", "from arno_producer.cli import main; main()", "trigger"),
            *(argument.replace("BUCKET", cloud.bucket) for argument in arguments),
        ],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "ARNO_REDIS_URL": settings.redis_url},
        timeout=60,
        check=False,
    )
    assert (ran.returncode, said in ran.stderr) == (code, True), ran.stderr
    assert Installation(cloud.bucket)._attributes(Installation(cloud.bucket).queue) is None
