"""Messages in hand are nobody else's, however long they wait; what is let go is everybody's at once."""

from collections.abc import Callable
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import EndpointConnectionError
from structlog.testing import capture_logs

from arno_producer.triggers import visibility
from arno_producer.triggers.visibility import Hold
from tests.producer.triggers.conftest import PATIENCE_S, Queue, eventually

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

LONG_S = 600


def hold(queue: Queue, messages: "list[MessageTypeDef]", visibility_s: int) -> Hold:
    return Hold(queue.sqs, queue.url, messages, visibility_s)


def bodies(messages: "list[MessageTypeDef]") -> list[str]:
    return sorted(message["Body"] for message in messages)


def test_what_is_held_stays_hidden_while_others_come_back(make_queue: Callable[..., Queue]) -> None:
    queue = make_queue(VisibilityTimeout="4")
    queue.send("held", "not held", "held too")
    messages = queue.receive()
    with hold(queue, [message for message in messages if message["Body"] != "not held"], 4):
        # Each time, as long has passed as the queue hides them.
        for _ in range(2):
            assert bodies(queue.receive(wait_s=10)) == ["not held"]


def test_what_is_held_until_the_end_is_visible_at_once_and_what_was_left_is_not(
    make_queue: Callable[..., Queue],
) -> None:
    queue = make_queue(VisibilityTimeout=str(LONG_S))
    queue.send("waits", "is done", "waits too")
    messages = queue.receive()
    with hold(queue, messages, LONG_S) as held:
        assert not queue.receive(0)
        held.leave([message for message in messages if message["Body"] == "is done"])
        assert not held.over
    assert bodies(queue.receive(wait_s=5)) == ["waits", "waits too"]


def test_once_all_are_left_sqs_is_asked_nothing_more(make_queue: Callable[..., Queue]) -> None:
    queue = make_queue(VisibilityTimeout="1")
    queue.send("waits")
    messages = queue.receive()
    held = hold(queue, messages, 1)
    with capture_logs() as logs, held:
        held.leave(messages)
        held._thread.join(5)
        assert not held._thread.is_alive()
        assert bodies(queue.receive(wait_s=5)) == ["waits"]
        # What would be refused is not asked.
        queue.sqs.delete_message(QueueUrl=queue.url, ReceiptHandle=messages[0]["ReceiptHandle"])
    assert not logs


def test_a_call_that_fails_is_survived_and_made_again(
    make_queue: Callable[..., Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue(VisibilityTimeout="2")
    queue.send("held", "not held")
    messages = queue.receive()
    calls = 0
    change = queue.sqs.change_message_visibility_batch

    def fails_at_first(**arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise EndpointConnectionError(endpoint_url="https://key:hush@sqs")
        return change(**arguments)

    monkeypatch.setattr(queue.sqs, "change_message_visibility_batch", fails_at_first)
    with capture_logs() as logs, hold(queue, [message for message in messages if message["Body"] == "held"], 2):
        assert bodies(queue.receive(wait_s=10)) == ["not held"]
    (log,) = logs
    assert log["event"] == "SQS does not change how long messages are hidden"
    assert "hush" not in str(log)


def test_what_sqs_refuses_of_one_message_is_said(make_queue: Callable[..., Queue]) -> None:
    queue = make_queue(VisibilityTimeout=str(LONG_S))
    queue.send("deleted by somebody", "waits")
    messages = queue.receive()
    (deleted,) = (message for message in messages if message["Body"] != "waits")
    queue.sqs.delete_message(QueueUrl=queue.url, ReceiptHandle=deleted["ReceiptHandle"])
    with capture_logs() as logs, hold(queue, messages, LONG_S):
        pass
    assert [log["event"] for log in logs] == ["SQS does not change how long a message is hidden"]
    assert bodies(queue.receive()) == ["waits"]


def test_when_sqs_will_soon_hide_them_no_longer_they_are_let_go(
    make_queue: Callable[..., Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, calls = 0.0, 0
    monkeypatch.setattr(visibility, "monotonic", lambda: now_s)

    def count(**_: Any) -> None:
        nonlocal calls
        calls += 1

    queue = make_queue(VisibilityTimeout="2")
    queue.sqs.meta.events.register("before-call.sqs.ChangeMessageVisibilityBatch", count)
    queue.send("waits")
    twelve_hours_s = 12 * 3600
    with hold(queue, queue.receive(), 2) as held:
        now_s = twelve_hours_s - 3
        eventually(lambda: calls >= 2, "it is hidden for two seconds more")
        assert not held.over
        now_s = twelve_hours_s - 1
        eventually(lambda: held.over, "it is over")
        # Nobody else had it before.
        assert not queue.receive(0)
    assert bodies(queue.receive()) == ["waits"]


def test_a_call_that_is_on_its_way_does_not_hide_what_is_given_back(
    make_queue: Callable[..., Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue(VisibilityTimeout="2")
    queue.send("waits")
    begun, go, done = Event(), Event(), list[int]()
    change = queue.sqs.change_message_visibility_batch

    def slow(Entries: Any, **arguments: Any) -> Any:
        if seconds := Entries[0]["VisibilityTimeout"]:
            begun.set()
            assert go.wait(PATIENCE_S)
        answer = change(Entries=Entries, **arguments)
        done.append(seconds)
        return answer

    monkeypatch.setattr(queue.sqs, "change_message_visibility_batch", slow)

    def go_once_it_is_over() -> None:
        eventually(lambda: held.over, "it is over")
        go.set()

    with hold(queue, queue.receive(), 2) as held:
        assert begun.wait(PATIENCE_S)
        Thread(target=go_once_it_is_over).start()
    assert done == [2, 0]
    assert bodies(queue.receive(0)) == ["waits"]


def test_a_queue_that_hides_nothing_is_asked_for_nothing(make_queue: Callable[..., Queue]) -> None:
    queue = make_queue(VisibilityTimeout="0")
    queue.send("seen by all")
    messages = queue.receive()
    queue.sqs.delete_message(QueueUrl=queue.url, ReceiptHandle=messages[0]["ReceiptHandle"])
    with capture_logs() as logs, hold(queue, messages, 0) as held:
        held._thread.join(5)
        assert not held._thread.is_alive()
    assert not logs
