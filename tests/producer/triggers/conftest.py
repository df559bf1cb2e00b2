"""What the tests of triggers share: queues of SQS, and threads in which triggers run."""

import json
import secrets
from collections.abc import Callable, Iterator
from threading import Event, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import boto3
import pytest

from arno_producer import Producer
from arno_producer.triggers import sqs as sqs_module
from arno_producer.triggers.rules import Rule
from arno_producer.triggers.trigger import Handled, Trigger
from arno_shared.settings import ProducerSettings, Settings
from tests.servers import Valkey

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

PATIENCE_S = 30
RULE = Rule.model_validate({"name": "a", "prompts": "<OD>", "output": "s3://results/"})


class Queue:
    def __init__(self, **attributes: str) -> None:
        self.sqs: SQSClient = boto3.client("sqs")
        self.url = self.sqs.create_queue(QueueName=f"events-{secrets.token_hex(4)}", Attributes=attributes)["QueueUrl"]  # type: ignore[arg-type]

    def send(self, *events: Any) -> None:
        for event in events:
            body = event if isinstance(event, str) else json.dumps(event)
            self.sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def receive(self, wait_s: int = 1) -> "list[MessageTypeDef]":
        """As anybody else would: whatever becomes visible within that time."""
        answer = self.sqs.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=wait_s,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        )
        return answer.get("Messages", [])

    @property
    def left(self) -> int:
        """Messages that are not deleted."""
        names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.sqs.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)


@pytest.fixture
def make_queue(moto_s3: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Queue]:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", moto_s3)
    # Else the thread that polls outlives its test.
    monkeypatch.setattr(sqs_module, "_LONG_POLL_S", 1)
    return Queue


class Runs(Protocol):
    def run(self) -> None: ...


@pytest.fixture
def stopping() -> Event:
    return Event()


@pytest.fixture
def start(stopping: Event) -> Iterator[Callable[[Runs], Callable[[], None]]]:
    """Runs a trigger in a thread, until the test ends or what it returns is called."""
    threads: list[Thread] = []

    def stop() -> None:
        stopping.set()
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def run(taker: Runs) -> Callable[[], None]:
        threads.append(Thread(target=taker.run))
        threads[-1].start()
        return stop

    yield run
    stop()


class Hasty(Event):
    """A word to stop for which nobody waits; it comes after so many waits, if at all."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_s: list[float | None] = []
        self.stop_after_waits: int | None = None

    def wait(self, timeout: float | None = None) -> bool:
        self.waited_s.append(timeout)
        if len(self.waited_s) == self.stop_after_waits:
            self.set()
        return self.is_set()


class HouseFalls(Trigger):
    """Redis goes away just before the first event is enqueued."""

    def __init__(self, valkey: Valkey, producer: Producer, *arguments: Any) -> None:
        super().__init__(producer, *arguments)
        self._valkey = valkey
        self.tries = 0

    def handle(self, event: Any) -> Handled:
        if not self.tries:
            self._valkey.kill()
        self.tries += 1
        return super().handle(event)


@pytest.fixture
def away() -> Iterator[Valkey]:
    """A Redis of Arno's own, for a test that ends it."""
    with Valkey() as valkey:
        yield valkey


@pytest.fixture
def away_settings(away: Valkey, environment: None) -> Settings:
    return Settings(redis_url=away.url, producer=ProducerSettings(chunk_images=2))


def eventually(condition: Callable[[], object], what: str) -> None:
    give_up_s = monotonic() + PATIENCE_S
    while not condition():
        assert monotonic() < give_up_s, f"still not: {what}"
        Event().wait(0.02)
