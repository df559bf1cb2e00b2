"""A message of SQS is one trigger's until its event is enqueued, and not deleted before."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from arno_producer import Producer
from arno_producer.triggers.sqs import SqsTrigger
from arno_producer.triggers.trigger import Trigger
from arno_shared import tracing
from arno_shared.broker import queue_length
from arno_shared.errors import AccessDenied, HouseError, InvalidRequest
from arno_shared.names import Lane
from arno_shared.settings import ProducerSettings, Settings
from tests.producer.conftest import Hand
from tests.producer.sources.test_events import changed
from tests.producer.triggers.conftest import RULE, HouseFalls, Queue, Runs, eventually
from tests.servers import Valkey

Start = Callable[[Runs], Callable[[], None]]

TWO = [changed("minio", "Records/0/s3/object/key", key) for key in ("a.jpg", "b.jpg")]


@pytest.fixture
def taker(settings: Settings, stopping: Event) -> Callable[[Queue], SqsTrigger]:
    """Whose lane has room for one message."""
    narrow = Producer(settings.model_copy(update={"producer": ProducerSettings(high_water_messages=1)}))
    trigger = Trigger(narrow, [RULE], CollectorRegistry())
    return lambda queue: SqsTrigger(queue.url, trigger, narrow, [RULE.lane], stopping)


def keys(hand: Hand) -> list[str]:
    return [image.uri.rpartition("/")[2] for chunk in hand.take_all() for image in chunk.images]


def test_a_message_that_waits_for_room_comes_to_nobody_else(
    make_queue: Callable[..., Queue], taker: Callable[[Queue], SqsTrigger], start: Start, hand: Hand
) -> None:
    queue = make_queue(VisibilityTimeout="4")
    queue.send(*TWO)
    start(taker(queue))
    eventually(lambda: queue_length(hand.redis, Lane.BULK), "one is enqueued, and the other waits")
    assert not queue.receive(wait_s=7), "it was visible"
    assert queue.left == 2
    assert keys(hand) == ["a.jpg"]
    eventually(lambda: queue_length(hand.redis, Lane.BULK), "there is room for the other")
    assert keys(hand) == ["b.jpg"]
    eventually(lambda: not queue.left, "both are deleted")


def test_what_was_not_taken_when_it_stops_is_visible_at_once(
    make_queue: Callable[..., Queue], taker: Callable[[Queue], SqsTrigger], start: Start, hand: Hand
) -> None:
    queue = make_queue(VisibilityTimeout="600")
    queue.send(*TWO, TWO[1])
    stop = start(taker(queue))
    eventually(lambda: queue_length(hand.redis, Lane.BULK), "one is enqueued, and the others wait")
    stop()
    assert queue.left == 2, "what is enqueued is deleted"
    given_back = queue.receive(wait_s=5)
    assert [message["Attributes"]["ApproximateReceiveCount"] for message in given_back] == ["2", "2"]
    assert all("b.jpg" in message["Body"] for message in given_back)


def test_messages_that_come_together_with_the_word_to_stop_are_visible_at_once(
    make_queue: Callable[..., Queue], taker: Callable[[Queue], SqsTrigger], stopping: Event, hand: Hand
) -> None:
    queue = make_queue(VisibilityTimeout="600")
    queue.send(*TWO)
    taking = taker(queue)
    taking._sqs.meta.events.register("after-call.sqs.ReceiveMessage", lambda **_: stopping.set())
    taking.run()
    assert len(queue.receive(wait_s=5)) == 2
    assert keys(hand) == []


def test_after_twelve_hours_the_batch_goes_back_until_there_is_room(
    make_queue: Callable[..., Queue],
    taker: Callable[[Queue], SqsTrigger],
    start: Start,
    hand: Hand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("arno_producer.triggers.visibility._LONGEST_S", 2)
    queue = make_queue(VisibilityTimeout="1")
    queue.send(*TWO)
    start(taker(queue))
    eventually(lambda: queue.left == 1, "the first is deleted, and the other is let go")
    assert keys(hand) == ["a.jpg"]
    eventually(lambda: not queue.left, "it was received again")
    assert keys(hand) == ["b.jpg"]


def test_an_event_that_redis_was_away_for_is_deleted_once_it_is_enqueued(
    make_queue: Callable[..., Queue], away: Valkey, away_settings: Settings, stopping: Event, start: Start
) -> None:
    queue = make_queue(VisibilityTimeout="4")
    queue.send(TWO[0])
    producer = Producer(away_settings)
    falls = HouseFalls(away, producer, [RULE], CollectorRegistry())
    start(SqsTrigger(queue.url, falls, producer, [RULE.lane], stopping))
    eventually(lambda: falls.tries >= 3, "it is tried again and again")
    assert queue.left == 1
    assert not queue.receive(wait_s=7), "it was visible"
    away.start()
    eventually(lambda: not queue.left, "it is deleted")
    assert keys(Hand(away_settings)) == ["a.jpg"]


def test_an_event_that_comes_while_redis_is_away_is_not_even_received(
    make_queue: Callable[..., Queue], away: Valkey, away_settings: Settings, stopping: Event, start: Start
) -> None:
    queue = make_queue(VisibilityTimeout="600")
    queue.send(TWO[0])
    producer = Producer(away_settings)
    taking = SqsTrigger(queue.url, Trigger(producer, [RULE], CollectorRegistry()), producer, [RULE.lane], stopping)
    away.kill()
    with capture_logs() as logs:
        start(taking)
        eventually(lambda: [log for log in logs if log["event"] == "waiting"], "it waits for Redis")
    (message,) = queue.receive()
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"
    queue.sqs.change_message_visibility(QueueUrl=queue.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=0)
    away.start()
    eventually(lambda: not queue.left, "it is deleted")
    assert keys(Hand(away_settings)) == ["a.jpg"]


@pytest.mark.parametrize("body", ["not JSON", "[" * 100_000, {"hello": 1}])
def test_what_cannot_be_read_is_left_to_its_queue(
    make_queue: Callable[..., Queue], taker: Callable[[Queue], SqsTrigger], start: Start, hand: Hand, body: Any
) -> None:
    queue = make_queue(VisibilityTimeout="600")
    queue.send(body, TWO[0])
    stop = start(taker(queue))
    eventually(lambda: queue.left == 1, "its neighbour is deleted")
    stop()
    assert not queue.receive(), "it comes again after a while, and not at once"
    assert keys(hand) == ["a.jpg"]


def test_what_cannot_be_deleted_comes_again_and_is_found_done(
    make_queue: Callable[..., Queue], taker: Callable[[Queue], SqsTrigger], start: Start, hand: Hand
) -> None:
    queue = make_queue(VisibilityTimeout="1")
    queue.send(TWO[0])
    taking = taker(queue)
    failures = iter(["away"])

    def fail(**_: Any) -> None:
        if next(failures, None):
            raise EndpointConnectionError(endpoint_url="https://key:hush@sqs")

    def refuse(parsed: Any, **_: Any) -> None:
        parsed["Failed"] = [{"Id": "0", "Code": "InternalError", "SenderFault": False, "Message": "not now"}]

    taking._sqs.meta.events.register("before-call.sqs.DeleteMessageBatch", fail)
    taking._sqs.meta.events.register("after-call.sqs.DeleteMessageBatch", refuse)
    with capture_logs() as logs:
        start(taking)
        eventually(lambda: queue_length(hand.redis, Lane.BULK), "it is enqueued")
        assert keys(hand) == ["a.jpg"]
        eventually(lambda: [log for log in logs if log.get("error") == "not now"], "it came again")
    assert [log["duplicate"] for log in logs if log["event"] == "event"] == [False, True]
    assert any("messages were not deleted" in log["event"] for log in logs)
    assert "hush" not in str(logs)
    assert not hand.take_all()


PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
X_RAY = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"


def test_an_event_is_in_the_trace_that_its_message_names(
    make_queue: Callable[..., Queue],
    taker: Callable[[Queue], SqsTrigger],
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parents = []

    @contextmanager
    def span(*_: Any, parent: str | None, **__: Any) -> Iterator[None]:
        parents.append(parent)
        yield

    monkeypatch.setattr(tracing, "span", span)
    queue = make_queue()
    given: Any = {"traceparent": {"DataType": "String", "StringValue": PARENT}}
    handed_on: Any = {"AWSTraceHeader": {"DataType": "String", "StringValue": X_RAY}}
    for attributes, system in ((given, handed_on), ({}, handed_on), ({}, {})):
        queue.sqs.send_message(
            QueueUrl=queue.url, MessageBody="{}", MessageAttributes=attributes, MessageSystemAttributes=system
        )
    start(taker(queue))
    eventually(lambda: len(parents) == 3, "all are handled")
    assert parents == [PARENT, "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01", None]


@pytest.mark.parametrize(
    ("code", "error", "words"),
    [
        ("AWS.SimpleQueueService.NonExistentQueue", InvalidRequest, "there is no queue"),
        ("QueueDoesNotExist", InvalidRequest, "there is no queue"),
        ("AccessDenied", AccessDenied, "may not be read with these credentials"),
        ("InvalidClientTokenId", AccessDenied, "may not be read with these credentials"),
        ("SignatureDoesNotMatch", AccessDenied, "may not be read with these credentials"),
        ("ServiceUnavailable", HouseError, "SQS cannot be used"),
    ],
)
def test_why_a_queue_cannot_be_used_is_said(
    make_queue: Callable[..., Queue],
    taker: Callable[[Queue], SqsTrigger],
    code: str,
    error: type[Exception],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue = make_queue()
    with Stubber(queue.sqs) as stub:
        monkeypatch.setattr(boto3, "client", lambda _: queue.sqs)
        stub.add_client_error("get_queue_attributes", code)
        with pytest.raises(error, match=words):
            taker(queue)


def test_sqs_may_be_away_for_a_while(
    make_queue: Callable[..., Queue], taker: Callable[[Queue], SqsTrigger], start: Start, hand: Hand
) -> None:
    queue = make_queue()
    queue.send(TWO[0])
    taking = taker(queue)
    failures = iter(["receive", "receive"])

    def fail(**_: Any) -> None:
        if next(failures, None):
            raise EndpointConnectionError(endpoint_url="https://key:hush@sqs")

    taking._sqs.meta.events.register("before-call.sqs.ReceiveMessage", fail)
    with capture_logs() as logs:
        start(taking)
        eventually(lambda: not queue.left, "it is deleted")
    waited = [log for log in logs if log["event"] == "waiting"]
    assert [log["pause_s"] for log in waited] == [0.2, 0.4]
    assert "hush" not in str(waited)
