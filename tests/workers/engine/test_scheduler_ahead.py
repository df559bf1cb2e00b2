"""Where the tower works beside the steps, and where steps go together, everybody is answered once all the same."""

from collections import Counter
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from arno_shared.names import Lane
from arno_workers.engine.scheduler import Limits, Picture, Request, Scheduler

whatever_comes = settings(max_examples=150, deadline=None)


def picture(random: Random, lane: Lane) -> Picture:
    made = Picture(None, lane)
    made.requests = [
        Request(made, (0,) * random.randint(1, 3), random.choice((1, 3)), random.randint(2, 9))
        for _ in range(random.randint(1, 4))
    ]
    return made


class Device:
    """Looks at pictures for a while, and takes as many steps as it is told."""

    def __init__(self, seed: int, slots: int, vision_images: int, steps_at_once: int) -> None:
        self.random, self.slots = Random(seed), slots
        limits = Limits(vision_images, 4, lambda _: slots, looks_ahead=True, steps_at_once=steps_at_once)
        self.scheduler = Scheduler(limits)
        self.looking: list[list[Picture]] = []
        self.left: dict[Request, int] = {}
        self.answered: Counter[int] = Counter()

    def turn(self) -> Any:
        work = self.scheduler.schedule()
        if work.vision:
            self.looking.append(list(work.vision))
        for admission in work.admissions:
            for request in admission.requests:
                assert all(request.picture not in batch for batch in self.looking), "it has not been seen"
                self.left[request] = request.max_new_tokens
        for step in work.steps:
            standing = [request for request in self.left if request.num_beams == step.num_beams]
            assert len({request.slot for request in standing}) == len(standing) <= self.slots
            assert step.times <= max(1, min(self.left[request] for request in standing))
            for request in standing:
                assert request.slot is not None
                assert request.slot < step.slots
                self.left[request] -= step.times
        for request in [request for request, left in self.left.items() if left <= 0]:
            del self.left[request]
            self.answered[id(request)] += 1
            self.scheduler.retire(request)
        # Seen in order, now or later; with nothing else to do, the first are waited for.
        while self.looking and (self.random.random() < 0.5 or not work.steps):
            self.scheduler.saw(self.looking.pop(0))
        return work


@whatever_comes
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 5), st.sampled_from([1, 4]), st.integers(1, 25))
def test_everybody_is_answered_once_and_nobody_before_he_was_seen(
    seed: int, slots: int, vision_images: int, steps_at_once: int, count: int
) -> None:
    device, random = Device(seed, slots, vision_images, steps_at_once), Random(seed)
    pictures = [picture(random, random.choice(list(Lane))) for _ in range(count)]
    waiting = list(pictures)
    for _ in range(5_000):
        while waiting and random.random() < 0.5:
            device.scheduler.submit(waiting.pop())
        if not waiting and device.scheduler.idle:
            break
        if not device.scheduler.idle:
            device.turn()
    assert device.answered == Counter(id(request) for each in pictures for request in each.requests)


def submit(scheduler: Scheduler, limit: int) -> None:
    made = Picture(None, Lane.BULK)
    made.requests = [Request(made, (1,), 3, limit)]
    scheduler.submit(made)


def test_no_more_is_looked_at_than_could_have_slots() -> None:
    """What is under way counts: the tower does not fill the memory with features while steps go on."""
    scheduler = Scheduler(Limits(2, 4, lambda _: 6, looks_ahead=True))
    for _ in range(20):
        submit(scheduler, limit=9)
    batches = [scheduler.schedule().vision for _ in range(5)]
    assert [len(batch) for batch in batches] == [2, 2, 2, 0, 0]
    scheduler.saw(batches[0])
    assert [len(admission.requests) for admission in scheduler.schedule().admissions] == [2]


def test_steps_go_together_only_while_nobody_waits() -> None:
    scheduler = Scheduler(Limits(4, 4, lambda _: 2, steps_at_once=4))
    submit(scheduler, limit=20)
    assert [step.times for step in scheduler.schedule().steps] == [4]
    submit(scheduler, limit=6)
    submit(scheduler, limit=9)
    # Two stand, and one waits.
    assert [step.times for step in scheduler.schedule().steps] == [1]


def test_steps_that_go_together_end_with_the_first_answer_that_must() -> None:
    scheduler = Scheduler(Limits(4, 4, lambda _: 2, steps_at_once=4))
    submit(scheduler, limit=6)
    assert [scheduler.schedule().steps[0].times for _ in range(4)] == [4, 2, 1, 1]
