"""A bucket is set up with as few changes as it takes, and what others have there stays."""

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from arno_producer.triggers.install import Installation
from arno_shared.errors import AccessDenied, HouseError, InvalidRequest, NotFound
from tests.producer.triggers.conftest import Queue
from tests.servers import free_port

FOURTEEN_DAYS_S = "1209600"


@pytest.fixture
def own(bucket: str, make_queue: Callable[..., Queue]) -> Installation:
    return Installation(bucket, prefix="in/", suffix=".jpg", max_receives=3)


def attributes(queue: str) -> dict[str, str]:
    sqs = boto3.client("sqs")
    url = sqs.get_queue_url(QueueName=queue)["QueueUrl"]
    return dict(sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"])


def told(bucket: str) -> list[Any]:
    found = boto3.client("s3").get_bucket_notification_configuration(Bucket=bucket)
    return list(found.get("QueueConfigurations", []))


def rules(configuration: Any) -> set[tuple[str, str]]:
    return {(rule["Name"].lower(), rule["Value"]) for rule in configuration["Filter"]["Key"]["FilterRules"]}


def test_all_is_made_once_and_as_it_was_said(own: Installation) -> None:
    steps = own.plan()
    assert [step.words for step in steps] == [
        f"+ queue arno-{own.bucket}-dead, for messages that cannot be read",
        f"+ queue arno-{own.bucket}; after 3 deliveries, messages go to arno-{own.bucket}-dead",
        f"~ policy of arno-{own.bucket}: the bucket {own.bucket} may send to it",
        f"~ bucket {own.bucket}: tells arno-{own.bucket} of each new object in/*.jpg",
    ]
    own.take(steps)
    assert own.plan() == []
    dead, queue = attributes(own.dead_letters), attributes(own.queue)
    assert (queue["VisibilityTimeout"], queue["MessageRetentionPeriod"]) == ("120", FOURTEEN_DAYS_S)
    assert dead["MessageRetentionPeriod"] == FOURTEEN_DAYS_S
    redrive = json.loads(queue["RedrivePolicy"])
    assert redrive == {"deadLetterTargetArn": dead["QueueArn"], "maxReceiveCount": 3}
    (statement,) = json.loads(queue["Policy"])["Statement"]
    assert (statement["Effect"], statement["Action"], statement["Resource"]) == (
        "Allow",
        "sqs:SendMessage",
        queue["QueueArn"],
    )
    assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
    assert statement["Condition"] == {
        "ArnLike": {"aws:SourceArn": f"arn:aws:s3:::{own.bucket}"},
        "StringEquals": {"aws:SourceAccount": queue["QueueArn"].split(":")[4]},
    }
    (notification,) = told(own.bucket)
    assert notification["Events"] == ["s3:ObjectCreated:*"]
    assert rules(notification) == {("prefix", "in/"), ("suffix", ".jpg")}
    assert own.queue_url().endswith(f"/{own.queue}")


def test_what_is_not_to_be_filtered_has_no_filter(bucket: str, make_queue: Callable[..., Queue]) -> None:
    everything = Installation(bucket)
    everything.take(everything.plan())
    assert everything.plan() == []
    (notification,) = told(bucket)
    assert not notification.get("Filter")
    by_suffix = Installation(bucket, suffix=".jpg")
    by_suffix.take(by_suffix.plan())
    (notification,) = told(bucket)
    assert rules(notification) == {("suffix", ".jpg")}


def test_what_others_have_in_a_policy_and_among_notifications_stays(own: Installation) -> None:
    own.take(own.plan()[:2])
    theirs = {"Sid": "theirs", "Effect": "Allow", "Principal": "*", "Action": "sqs:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [theirs]})
    boto3.client("sqs").set_queue_attributes(QueueUrl=own.queue_url(), Attributes={"Policy": policy})
    others = {"Id": "theirs", "QueueArn": attributes(own.queue)["QueueArn"], "Events": ["s3:ObjectRemoved:*"]}
    boto3.client("s3").put_bucket_notification_configuration(
        Bucket=own.bucket,
        NotificationConfiguration={"QueueConfigurations": [others]},  # type: ignore[list-item]
    )
    steps = own.plan()
    assert [step.words.split()[1] for step in steps] == ["policy", "bucket"]
    own.take(steps)
    assert own.plan() == []
    statements = json.loads(attributes(own.queue)["Policy"])["Statement"]
    assert [one["Sid"] for one in statements] == ["theirs", own._statement_id]
    assert {one["Id"] for one in told(own.bucket)} == {"theirs", f"arno-{own.queue}"}


def test_a_queue_that_is_there_is_given_dead_letters_and_is_otherwise_left_alone(own: Installation) -> None:
    boto3.client("sqs").create_queue(QueueName=own.queue, Attributes={"VisibilityTimeout": "7"})
    steps = own.plan()
    assert [(step.words[0], step.words.split()[1]) for step in steps] == [
        ("+", "queue"),
        ("~", "queue"),
        ("~", "policy"),
        ("~", "bucket"),
    ]
    own.take(steps)
    assert own.plan() == []
    queue = attributes(own.queue)
    assert queue["VisibilityTimeout"] == "7"
    assert json.loads(queue["RedrivePolicy"])["maxReceiveCount"] == 3


def test_a_dead_letter_policy_that_stands_is_left_alone(own: Installation) -> None:
    own.take(own.plan())
    assert Installation(own.bucket, prefix="in/", suffix=".jpg", max_receives=9).plan() == []


def test_another_filter_takes_the_place_of_the_one_before(own: Installation) -> None:
    own.take(own.plan())
    other = Installation(own.bucket, suffix=".png")
    (step,) = other.plan()
    assert step.words.endswith("of each new object *.png")
    other.take([step])
    (notification,) = told(own.bucket)
    assert rules(notification) == {("suffix", ".png")}


def test_a_filter_is_known_however_its_words_are_written(own: Installation) -> None:
    own.take(own.plan())
    (notification,) = told(own.bucket)
    for rule in notification["Filter"]["Key"]["FilterRules"]:
        rule["Name"] = rule["Name"].capitalize()
    with Stubber(own._s3) as stub:
        stub.add_response("get_bucket_notification_configuration", {"QueueConfigurations": [notification]})
        assert own.plan() == []


def test_queues_have_names_that_sqs_takes(make_queue: Callable[..., Queue]) -> None:
    assert Installation("photos.example").queue == "arno-photos-example"
    # Some old buckets have such names.
    long = Installation("b" * 255)
    assert (len(long.queue), len(long.dead_letters)) == (80, 80)
    assert long.dead_letters.endswith("-dead")
    named = Installation("b", queue="q", dead_letters="d")
    assert (named.queue, named.dead_letters) == ("q", "d")


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        ("NoSuchBucket", NotFound, "there is no bucket"),
        ("AccessDenied", AccessDenied, "these credentials may not set it up: no"),
        ("AllAccessDisabled", HouseError, "AWS cannot be used: no"),
        ("InvalidAccessKeyId", AccessDenied, "these credentials may not set it up: no"),
    ],
)
def test_why_it_cannot_be_is_said(own: Installation, code: str, error: type[Exception], words: str) -> None:
    with Stubber(own._s3) as stub:
        stub.add_client_error("get_bucket_notification_configuration", code, "no")
        with pytest.raises(error, match=words):
            own.plan()


def test_that_another_notification_is_in_the_way_is_said(own: Installation) -> None:
    *_, step = own.plan()
    own.take(own.plan()[:-1])
    with Stubber(own._s3) as stub:
        stub.add_response("get_bucket_notification_configuration", {})
        stub.add_client_error("put_bucket_notification_configuration", "InvalidArgument", "overlapping")
        with pytest.raises(InvalidRequest, match=r"overlapping\. Another one may tell of the same objects"):
            own.take([step])


def test_aws_that_is_not_there_is_the_house_away(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(HouseError, match="AWS cannot be used"):
        Installation(bucket).plan()
