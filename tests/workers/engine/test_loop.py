"""The engine's loop batches across its callers, and keeps a bad picture's trouble to itself."""

from collections.abc import Callable, Sequence
from threading import Event, Thread
from typing import Any

import pytest
from PIL import Image

from arno_shared.errors import ItemError, ModelFailed
from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.names import Lane
from arno_workers.engine import Answer, Answered, Ask
from arno_workers.engine.loop import EngineLoop
from arno_workers.engine.null import NullReplica
from arno_workers.engine.scheduler import Limits, Request, Work

ASKS = [Ask("one", 8, 3), Ask("two", 8, 3)]


class EchoReplica(NullReplica):
    """Answers `a.b` steps after it was admitted, with the tokens of its picture and prompt; fails on "poison"."""

    def __init__(self, batch_images: int = 16, steps: int = 3) -> None:
        self.limits = Limits(vision_images=batch_images, encoder_requests=8, slots=lambda _: 6)
        self.batches: list[list[Any]] = []
        self.may_run = Event()
        self._steps = steps
        self._standing: list[tuple[Request, int]] = []

    def prompt_ids(self, sentence: str) -> tuple[int, ...]:
        return tuple(sentence.encode())

    def run(self, work: Work) -> Sequence[tuple[Request, Answer | None]]:
        self.may_run.wait(30)
        if work.vision:
            self.batches.append([picture.pixels for picture in work.vision])
        self.look_at([picture.pixels for picture in work.vision])
        self._standing += [(request, self._steps) for admission in work.admissions for request in admission.requests]
        self._standing = [(request, left - 1) for request, left in self._standing]
        ended = [request for request, left in self._standing if left == 0]
        self._standing = [(request, left) for request, left in self._standing if left]
        return [(request, echo(request)) for request in ended]

    def look_at(self, pictures: list[Any]) -> None:
        if "poison" in pictures:
            raise RuntimeError("cannot digest this")

    def reset(self) -> None:
        self._standing.clear()


def echo(request: Request) -> Answer:
    ids = (*str(request.picture.pixels).encode(), *request.prompt_ids)
    return Answer(ids, (0.0,) * len(ids), forced=0, truncated=False)


def said(answered: Answered | ItemError) -> list[str]:
    assert isinstance(answered, Answered)
    return [bytes(answer.ids).decode() for answer in answered.answers]


def loop(replica: NullReplica, max_ready_images: int = 100, on_broken: Callable[[], None] | None = None) -> EngineLoop:
    return EngineLoop(
        lambda: replica, max_ready_images, on_broken or (lambda: pytest.fail("the replica is not broken"))
    )


class Deliveries:
    def __init__(self, expected: int) -> None:
        self.of: dict[Any, list[Answered | ItemError]] = {}
        self.order: list[Any] = []
        self._left = expected
        self.all_there = Event()

    def for_(self, key: Any) -> Any:
        def deliver(outcome: Answered | ItemError) -> None:
            self.of.setdefault(key, []).append(outcome)
            self.order.append(key)
            self._left -= 1
            if not self._left:
                self.all_there.set()

        return deliver


def submit_all(engine: EngineLoop, pictures: Sequence[str], lane: Lane = Lane.BULK) -> Deliveries:
    deliveries = Deliveries(len(pictures))
    for picture in pictures:
        engine.submit(picture, ASKS, lane, deliveries.for_(picture))
    return deliveries


def test_pictures_of_different_callers_share_a_batch_and_get_their_own_answers() -> None:
    replica = EchoReplica(batch_images=4)
    engine = loop(replica)
    deliveries = submit_all(engine, [f"p{n}" for n in range(9)])
    replica.may_run.set()
    assert deliveries.all_there.wait(30)
    for picture, (answered,) in deliveries.of.items():
        assert said(answered) == [f"{picture}one", f"{picture}two"]
    # The first batch may have begun with whatever came first; the rest waited and went together.
    assert max(map(len, replica.batches)) == 4
    engine.close()


def test_a_picture_that_breaks_its_batch_fails_alone() -> None:
    replica = EchoReplica()
    engine = loop(replica)
    deliveries = submit_all(engine, [*(f"p{n}" for n in range(7)), "poison", *(f"q{n}" for n in range(5))])
    replica.may_run.set()
    assert deliveries.all_there.wait(30)
    (failure,) = deliveries.of.pop("poison")
    assert isinstance(failure, ModelFailed)
    assert "cannot digest this" in str(failure)
    for picture, (answered,) in deliveries.of.items():
        assert said(answered) == [f"{picture}one", f"{picture}two"]
    engine.close()


class BreaksLater(EchoReplica):
    """Fails while a certain picture's answers grow, long after it was looked at."""

    def run(self, work: Work) -> Sequence[tuple[Request, Answer | None]]:
        ended = super().run(work)
        if any(request.picture.pixels == "late poison" and left == 1 for request, left in self._standing):
            raise RuntimeError("a step failed")
        return ended

    def look_at(self, pictures: list[Any]) -> None:
        pass


def test_a_picture_that_breaks_a_step_is_found_among_all_that_are_in_flight() -> None:
    replica = BreaksLater(batch_images=4)
    engine = loop(replica)
    deliveries = submit_all(engine, [*(f"p{n}" for n in range(10)), "late poison", *(f"q{n}" for n in range(10))])
    replica.may_run.set()
    assert deliveries.all_there.wait(30)
    (failure,) = deliveries.of.pop("late poison")
    assert isinstance(failure, ModelFailed)
    assert "a step failed" in str(failure)
    for picture, (answered,) in deliveries.of.items():
        assert said(answered) == [f"{picture}one", f"{picture}two"]
    engine.close()


class SmallDevice(EchoReplica):
    """Has memory for so many pictures at a time."""

    fits = 3

    def look_at(self, pictures: list[Any]) -> None:
        if len(pictures) > self.fits:
            raise MemoryError("device full")

    def is_out_of_memory(self, error: Exception) -> bool:
        return isinstance(error, MemoryError)


def test_out_of_memory_halves_the_batches_and_fails_nobody() -> None:
    replica = SmallDevice(batch_images=16)
    engine = loop(replica)
    deliveries = submit_all(engine, [f"p{n}" for n in range(40)])
    replica.may_run.set()
    assert deliveries.all_there.wait(30)
    for picture, (answered,) in deliveries.of.items():
        assert said(answered) == [f"{picture}one", f"{picture}two"]
    assert replica.limits.vision_images == 2
    # Once it was found out, no batch was too large again.
    too_large = [len(batch) > SmallDevice.fits for batch in replica.batches]
    assert too_large == sorted(too_large, reverse=True)
    engine.close()


def test_a_picture_that_no_memory_is_enough_for_fails_alone() -> None:
    class TooSmall(SmallDevice):
        def look_at(self, pictures: list[Any]) -> None:
            if "huge" in pictures:
                raise MemoryError("device full")

    replica = TooSmall(batch_images=4)
    engine = loop(replica)
    deliveries = submit_all(engine, ["a", "b", "huge", "c"])
    replica.may_run.set()
    assert deliveries.all_there.wait(30)
    (failure,) = deliveries.of.pop("huge")
    assert isinstance(failure, ModelFailed)
    assert all(isinstance(outcomes[0], Answered) for outcomes in deliveries.of.values())
    engine.close()


def test_a_picture_that_asks_for_more_beams_than_fit_fails_alone() -> None:
    replica = EchoReplica()

    def slots(num_beams: int) -> int:
        if num_beams > 3:
            raise MemoryError("no room for such slots")
        return 6

    replica.limits.slots = slots
    replica.may_run.set()
    engine = loop(replica)
    deliveries = Deliveries(3)
    for name, num_beams in (("a", 3), ("wide", 16), ("b", 3)):
        engine.submit(name, [Ask("one", 8, num_beams)], Lane.BULK, deliveries.for_(name))
    assert deliveries.all_there.wait(30)
    (failure,) = deliveries.of.pop("wide")
    assert isinstance(failure, ModelFailed)
    assert "no room for such slots" in str(failure)
    assert [said(outcomes[0]) for outcomes in deliveries.of.values()] == [["aone"], ["bone"]]
    engine.close()


def test_submitting_blocks_while_too_many_pictures_wait() -> None:
    replica = EchoReplica(batch_images=1)
    engine = loop(replica, max_ready_images=2)
    deliveries = Deliveries(10)
    through: list[int] = []

    def feed() -> None:
        for number in range(10):
            engine.submit(f"p{number}", ASKS, Lane.BULK, deliveries.for_(number))
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


class SlowReplica(EchoReplica):
    """Answers nobody before it may."""

    def __init__(self) -> None:
        super().__init__(batch_images=1)
        self.may_run.set()
        self.may_answer = Event()
        self._held: list[tuple[Request, Answer]] = []

    def run(self, work: Work) -> Sequence[tuple[Request, Answer | None]]:
        self._held += super().run(work)
        if not self.may_answer.wait(0.001):
            return []
        held, self._held = self._held, []
        return held


def test_pictures_that_the_scheduler_holds_count_as_waiting() -> None:
    """The loop takes everything in, so that interactive ones can pass; that makes no room."""
    replica = SlowReplica()
    engine = loop(replica, max_ready_images=5)
    deliveries = Deliveries(50)
    through: list[int] = []

    def feed() -> None:
        for number in range(50):
            engine.submit(f"p{number}", ASKS, Lane.BULK, deliveries.for_(number))
            through.append(number)

    feeder = Thread(target=feed)
    feeder.start()
    feeder.join(0.5)
    # Three pictures fill the six slots, and five wait.
    assert len(through) == 8
    replica.may_answer.set()
    assert deliveries.all_there.wait(30)
    feeder.join(30)
    engine.close()


def test_an_interactive_picture_passes_the_bulk_ones_that_wait() -> None:
    replica = EchoReplica(batch_images=1)
    engine = loop(replica)
    deliveries = Deliveries(21)
    for number in range(20):
        engine.submit(f"bulk{number}", ASKS, Lane.BULK, deliveries.for_(f"bulk{number}"))
    engine.submit("urgent", ASKS, Lane.INTERACTIVE, deliveries.for_("urgent"))
    replica.may_run.set()
    assert deliveries.all_there.wait(30)
    assert deliveries.order.index("urgent") < 5
    engine.close()


def test_closing_answers_what_was_submitted_first() -> None:
    replica = EchoReplica(batch_images=2)
    replica.may_run.set()
    engine = loop(replica)
    deliveries = submit_all(engine, [f"p{n}" for n in range(20)])
    engine.close()
    assert deliveries.all_there.is_set()


def test_the_null_replica_answers_every_ask() -> None:
    engine = loop(NullReplica(), 8)
    deliveries = Deliveries(1)
    prompts = [Prompt(task="<OD>"), Prompt(task="<OCR>")]
    asks = [engine.ask(prompt, 4, 4, GenerationOptions()) for prompt in prompts]
    engine.submit(engine.prepare(Image.new("RGB", (4, 4))), asks, Lane.BULK, deliveries.for_("p"))
    assert deliveries.all_there.wait(30)
    (answered,) = deliveries.of["p"]
    assert isinstance(answered, Answered)
    assert len(answered.answers) == 2
    engine.close()


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_every_picture_may_be_bad(count: int) -> None:
    replica = EchoReplica(batch_images=8)
    engine = loop(replica)
    deliveries = Deliveries(count)
    for number in range(count):
        engine.submit("poison", ASKS, Lane.BULK, deliveries.for_(number))
    replica.may_run.set()
    assert deliveries.all_there.wait(30)
    assert all(isinstance(outcomes[0], ModelFailed) and len(outcomes) == 1 for outcomes in deliveries.of.values())
    engine.close()


class BrokenReplica(EchoReplica):
    """Answers nothing, and no blank picture either, as a device that is lost."""

    def look_at(self, pictures: list[Any]) -> None:
        raise RuntimeError("device lost")

    def warm_up(self) -> None:
        raise RuntimeError("device lost")


def test_a_replica_that_is_broken_fails_no_picture_and_says_so_once() -> None:
    calls: list[None] = []
    told = Event()

    def on_broken() -> None:
        calls.append(None)
        told.set()

    replica = BrokenReplica(batch_images=4)
    replica.may_run.set()
    engine = loop(replica, on_broken=on_broken)
    deliveries = submit_all(engine, [f"p{n}" for n in range(9)])
    assert told.wait(30)
    engine.close()
    assert len(calls) == 1
    assert not deliveries.of


def test_a_picture_without_an_answer_in_numbers_fails() -> None:
    class Nan(EchoReplica):
        def run(self, work: Work) -> Sequence[tuple[Request, Answer | None]]:
            ended = super().run(work)
            return [(request, None if request.picture.pixels == "dark" else answer) for request, answer in ended]

    replica = Nan()
    replica.may_run.set()
    engine = loop(replica)
    deliveries = submit_all(engine, ["a", "dark", "b"])
    assert deliveries.all_there.wait(30)
    (failure,) = deliveries.of.pop("dark")
    assert isinstance(failure, ModelFailed)
    assert "NaN" in str(failure)
    assert all(isinstance(outcomes[0], Answered) for outcomes in deliveries.of.values())
    engine.close()
