"""The plain engine batches across its callers, and keeps a bad picture's trouble to itself."""

from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import Any

import pytest
from PIL import Image

from arno_shared.errors import ItemError, ModelFailed
from arno_workers.engine import Answer, Answered, Ask, Pixels
from arno_workers.engine.null import NullReplica
from arno_workers.engine.plain import PlainEngine


class EchoReplica(NullReplica):
    """Answers each ask with the picture and the ask; fails on a batch that holds the picture "poison"."""

    def __init__(self) -> None:
        self.batches: list[list[Pixels]] = []
        self.may_run = Event()

    def annotate(self, pictures: Sequence[Pixels], asks: Sequence[Sequence[Ask]]) -> list[tuple[Answer, ...]]:
        self.may_run.wait(30)
        self.batches.append(list(pictures))
        if "poison" in pictures:
            raise RuntimeError("cannot digest this")
        return [
            tuple(Answer(f"{picture}:{ask.sentence}", 1, False) for ask in wanted)
            for picture, wanted in zip(pictures, asks, strict=True)
        ]


def _engine(
    replica: NullReplica,
    max_batch_images: int,
    max_ready_images: int = 100,
    on_broken: Callable[[], None] | None = None,
) -> PlainEngine:
    return PlainEngine(
        replica, max_batch_images, max_ready_images, on_broken or (lambda: pytest.fail("the replica is not broken"))
    )


class Deliveries:
    def __init__(self, expected: int) -> None:
        self.of: dict[Any, list[Answered | ItemError]] = {}
        self._left = expected
        self.all_there = Event()

    def for_(self, key: Any) -> Any:
        def deliver(outcome: Answered | ItemError) -> None:
            self.of.setdefault(key, []).append(outcome)
            self._left -= 1
            if not self._left:
                self.all_there.set()

        return deliver


def _submit_all(engine: PlainEngine, pictures: Sequence[str], asks: Sequence[Ask]) -> Deliveries:
    deliveries = Deliveries(len(pictures))
    for picture in pictures:
        engine.submit(picture, asks, deliveries.for_(picture))
    return deliveries


ASKS = [Ask("one", 8), Ask("two", 8)]


def test_pictures_of_different_callers_share_a_batch_and_get_their_own_answers() -> None:
    replica = EchoReplica()
    engine = _engine(replica, 4, 100)
    deliveries = _submit_all(engine, [f"p{n}" for n in range(9)], ASKS)
    replica.may_run.set()
    assert deliveries.all_there.wait(30)
    for picture, outcomes in deliveries.of.items():
        (answered,) = outcomes
        assert isinstance(answered, Answered)
        assert [answer.raw for answer in answered.answers] == [f"{picture}:one", f"{picture}:two"]
    # The first batch may have begun with whatever came first; the rest waited and went together.
    assert max(map(len, replica.batches)) == 4
    engine.close()


def test_a_picture_that_breaks_its_batch_fails_alone() -> None:
    replica = EchoReplica()
    engine = _engine(replica, 16, 100)
    pictures = [f"p{n}" for n in range(7)] + ["poison"] + [f"q{n}" for n in range(5)]
    deliveries = _submit_all(engine, pictures, ASKS)
    replica.may_run.set()
    assert deliveries.all_there.wait(30)
    (failure,) = deliveries.of.pop("poison")
    assert isinstance(failure, ModelFailed)
    assert "cannot digest this" in str(failure)
    assert all(isinstance(outcomes[0], Answered) and len(outcomes) == 1 for outcomes in deliveries.of.values())
    engine.close()


def test_submitting_blocks_while_too_many_pictures_wait() -> None:
    replica = EchoReplica()
    engine = _engine(replica, 1, 2)
    deliveries = Deliveries(10)
    through: list[int] = []

    def feed() -> None:
        for number in range(10):
            engine.submit(f"p{number}", ASKS, deliveries.for_(number))
            through.append(number)

    feeder = Thread(target=feed)
    feeder.start()
    feeder.join(0.5)
    # One in the device's hands, two waiting, and the feeder holds the fourth.
    assert len(through) <= 3
    replica.may_run.set()
    assert deliveries.all_there.wait(30)
    feeder.join(30)
    engine.close()


def test_closing_answers_what_was_submitted_first() -> None:
    replica = EchoReplica()
    replica.may_run.set()
    engine = _engine(replica, 2, 100)
    deliveries = _submit_all(engine, [f"p{n}" for n in range(20)], ASKS)
    engine.close()
    assert deliveries.all_there.is_set()


def test_the_null_replica_answers_every_ask() -> None:
    engine = _engine(NullReplica(), 8, 8)
    deliveries = Deliveries(1)
    engine.submit(engine.prepare(Image.new("RGB", (4, 4))), ASKS, deliveries.for_("p"))
    assert deliveries.all_there.wait(30)
    (answered,) = deliveries.of["p"]
    assert isinstance(answered, Answered)
    assert len(answered.answers) == 2
    engine.close()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_every_picture_may_be_bad(count: int) -> None:
    replica = EchoReplica()
    engine = _engine(replica, 8, 100)
    deliveries = Deliveries(count)
    for number in range(count):
        engine.submit("poison", ASKS, deliveries.for_(number))
    replica.may_run.set()
    assert deliveries.all_there.wait(30)
    assert all(isinstance(outcomes[0], ModelFailed) for outcomes in deliveries.of.values())
    engine.close()


class BrokenReplica(EchoReplica):
    """Answers nothing, and no blank picture either, as a device that is lost."""

    def annotate(self, pictures: Sequence[Pixels], asks: Sequence[Sequence[Ask]]) -> list[tuple[Answer, ...]]:
        raise RuntimeError("device lost")

    def warm_up(self) -> None:
        raise RuntimeError("device lost")


def test_a_replica_that_is_broken_fails_no_picture_and_says_so_once() -> None:
    calls: list[None] = []
    told = Event()

    def on_broken() -> None:
        calls.append(None)
        told.set()

    engine = _engine(BrokenReplica(), 4, 100, on_broken)
    deliveries = _submit_all(engine, [f"p{n}" for n in range(9)], ASKS)
    assert told.wait(30)
    engine.close()
    assert len(calls) == 1
    assert not deliveries.of
