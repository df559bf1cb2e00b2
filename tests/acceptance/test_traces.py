"""One trace leads from whoever asked to the commit, and batches are linked to all whose pictures they hold."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import pytest

from arno_producer import Producer
from arno_producer.triggers.sqs import parent_of
from arno_shared.settings import Settings
from tests.acceptance.arno_worker import ArnoWorker, eventually
from tests.acceptance.collector import Collector, collector
from tests.acceptance.test_http import open_door
from tests.acceptance.test_trigger import Cloud, cloud, trigger
from tests.producer.sources.test_events import changed

__all__ = ["cloud"]

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "100"}


@pytest.fixture
def collecting() -> Iterator[Collector]:
    with collector() as here:
        yield here


def test_a_request_is_one_trace_to_the_commit_across_attempts(
    collecting: Collector,
    settings: Settings,
    tmp_path: Path,
    pictures: Callable[[int], list[str]],
    start_worker: Callable[..., ArnoWorker],
) -> None:
    env = {**QUICK, "OTEL_EXPORTER_OTLP_ENDPOINT": collecting.url}
    retries = {"TRIES": "1", "MAX_ATTEMPTS": "2", "PUT_OFF_S": "0.1"}
    worker = start_worker(
        ARNO_WORKER__ENGINE="florence", **env, **{f"ARNO_RETRIES__{name}": value for name, value in retries.items()}
    )
    secret = "http://absent.invalid/a.png?X-Amz-Signature=hush"
    with open_door(settings, tmp_path / "door.log", ARNO_PRODUCER__CHUNK_IMAGES="4", **env) as door:
        answer = door.ask(
            "POST",
            "/v1/jobs",
            json={"images": [*pictures(15), secret], "prompts": ["<CAPTION>"]},
            headers={"traceparent": f"00-{TRACE}-{PARENT}-01"},
        )
        Producer(settings).job(answer.json()["job_id"]).wait(60)
        door.process.terminate()
        assert door.process.wait(20) == 0
    assert worker.terminate() == 0
    (request,) = collecting.named("POST /v1/jobs")
    assert (request.trace_id, request.parent_id, request.service) == (TRACE, PARENT, "arno-serve")
    tasks = collecting.named("arno.annotate")
    # Four chunks, and the second attempt of one.
    assert len(tasks) == 5
    by_id = {span.span_id: span for span in collecting.spans}
    for span in [*tasks, *collecting.named("arno.commit"), *collecting.named("arno.write")]:
        assert span.trace_id == TRACE
        while span.parent_id in by_id:
            span = by_id[span.parent_id]
        assert span is request
    chunks = {(span.trace_id, span.span_id) for span in collecting.named("arno.images")}
    batches = collecting.named("arno.batch")
    assert batches
    assert set().union(*(batch.links for batch in batches)) <= chunks
    assert any(len(batch.links) > 1 for batch in batches)
    assert "hush" not in str([span.attributes for span in collecting.spans])


def test_what_was_sent_over_sqs_goes_on_in_its_trace() -> None:
    own = f"00-{TRACE}-{PARENT}-01"
    x_ray = f"Root=1-{TRACE[:8]}-{TRACE[8:]};Parent={PARENT};Sampled=1"
    assert parent_of({"MessageAttributes": {"traceparent": {"StringValue": own, "DataType": "String"}}}) == own
    assert parent_of({"Attributes": {"AWSTraceHeader": x_ray}}) == own
    assert parent_of({}) is None


def test_an_event_is_one_trace_to_the_commit(
    collecting: Collector,
    cloud: Cloud,
    settings: Settings,
    tmp_path: Path,
    start_worker: Callable[..., ArnoWorker],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {**QUICK, "OTEL_EXPORTER_OTLP_ENDPOINT": collecting.url}.items():
        monkeypatch.setenv(name, value)
    url, _ = cloud.queue("events")
    own = {"traceparent": {"StringValue": f"00-{TRACE}-{PARENT}-01", "DataType": "String"}}
    cloud.put("a.jpg")
    body = changed("ceph", "Records/0/s3/bucket/name", cloud.bucket)
    body["Records"][0]["s3"]["object"] = {"key": "a.jpg"}
    cloud.sqs.send_message(QueueUrl=url, MessageBody=json.dumps(body), MessageAttributes=own)
    start_worker()
    asked = ("-p", "<OD>", "--output", f"s3://{cloud.results}/out/")
    with trigger(settings, tmp_path, "sqs", "--queue", url, *asked) as running:
        eventually(lambda: collecting.named("arno.commit"), "it is committed")
        running.stop()
    names = {span.name for span in collecting.spans if span.trace_id == TRACE}
    assert names >= {"arno.event", "arno.send", "arno.annotate", "arno.images", "arno.write", "arno.commit"}


def test_nobody_who_collects_holds_nothing_up(
    producer: Producer, pictures: Callable[[int], list[str]], start_worker: Callable[..., ArnoWorker]
) -> None:
    worker = start_worker(**QUICK, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    assert producer.submit(pictures(40), "<OD>").wait(60).ok == 40
    began_s = monotonic()
    assert worker.terminate() == 0
    assert monotonic() - began_s < 15
    assert not worker.log.read_text().count("Traceback")
    assert eventually(lambda: worker.logged("worker stopped"), "it says that it has stopped")
