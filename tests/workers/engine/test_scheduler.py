"""What the scheduler promises holds whatever comes in which order, and however long its answers take."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any, NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arno_shared.names import Lane
from arno_workers.engine.scheduler import Limits, Picture, Request, Scheduler, Step, Work

EVERYBODY = 10**9


@dataclass(frozen=True)
class Wish:
    """A request to be."""

    prompt_tokens: int
    num_beams: int
    lasts: int
    """Steps until its answer ends."""


@dataclass(frozen=True)
class Arrival:
    lane: Lane
    wishes: Sequence[Wish]


@dataclass(frozen=True)
class Script:
    vision_images: int
    encoder_requests: int
    slots: dict[int, int]
    """By number of beams."""
    rounds: Sequence[Sequence[Arrival]]
    """What comes before each turn of the device."""
    seed: int
    """In which order the answers that end together are given."""


@dataclass
class Standing:
    request: Request
    slot: int
    steps: int = 0


@dataclass
class Turn:
    """What the device was told to do, and how things stood."""

    came: list[Picture]
    """Submitted since the turn before."""
    unseen: list[Picture]
    """Before it, those who came included."""
    ready: list[Request]
    """Before it: looked at, and without a slot."""
    free: dict[int, list[int]]
    """Before it: slots, by number of beams that somebody has asked for, the lowest first."""
    work: Work
    standing: list[Standing]
    """While its steps run, those included."""
    unplaced: list[tuple[Picture, int]]
    """After admission, what each picture in flight says of itself."""
    answered: list[tuple[Request, Picture | None]]
    """Whose answers ended, and what came back for them."""

    def admitted(self, num_beams: int) -> list[Request]:
        admissions = [admission for admission in self.work.admissions if admission.num_beams == num_beams]
        return [request for admission in admissions for request in admission.requests]


class Device:
    """Plays what a scheduler drives, and writes it down. It keeps its own account of who is where."""

    def __init__(self, script: Script) -> None:
        self.script, self.turns = script, list[Turn]()
        self.limits = Limits(script.vision_images, script.encoder_requests, script.slots.__getitem__)
        self.scheduler = Scheduler(self.limits)
        self.submitted, self.unseen, self.seen = list[Picture](), list[Picture](), list[Picture]()
        self._came, self._ready, self._standing = list[Picture](), list[Request](), list[Standing]()
        self._pools, self._random = set[int](), Random(script.seed)

    @property
    def left(self) -> int:
        """Steps that it takes at most to answer everybody."""
        return sum(request.max_new_tokens for picture in self.unseen + self.seen for request in picture.requests)

    def submit(self, *pictures: Picture) -> None:
        for picture in pictures:
            self.scheduler.submit(picture)
            self._pools.update(request.num_beams for request in picture.requests)
        for those in (self.submitted, self.unseen, self._came):
            those.extend(pictures)

    def turn(self, most_answers: int = EVERYBODY) -> Turn:
        came, unseen, ready, free = self._came, self.unseen, self._ready, self._free()
        work = self.scheduler.schedule()
        admitted = [request for admission in work.admissions for request in admission.requests]
        looked_at = [request for picture in work.vision for request in picture.requests]
        self._came = []
        self.unseen = [picture for picture in unseen if picture not in work.vision]
        self.seen = [*self.seen, *work.vision]
        self._ready = [request for request in ready + looked_at if request not in admitted]
        for request in admitted:
            assert request.slot is not None
            self._standing.append(Standing(request, request.slot))
        for stands in self._standing:
            stands.steps += 1
        standing = [Standing(stands.request, stands.slot, stands.steps) for stands in self._standing]
        unplaced = [(picture, picture.unplaced) for picture in self.seen]
        ended = [stands for stands in self._standing if stands.steps >= stands.request.max_new_tokens]
        self._random.shuffle(ended)
        answered = [(stands.request, self.scheduler.retire(stands.request)) for stands in ended[:most_answers]]
        self._standing = [stands for stands in self._standing if stands not in ended[:most_answers]]
        self.seen = [picture for picture in self.seen if all(picture is not back for _, back in answered)]
        self.turns.append(Turn(came, unseen, ready, free, work, standing, unplaced, answered))
        return self.turns[-1]

    def play(self) -> list[Turn]:
        for arrivals in self.script.rounds:
            self.submit(*map(picture, arrivals))
            self.turn()
        return self.play_out()

    def play_out(self) -> list[Turn]:
        for _ in range(self.left):
            if self.scheduler.idle:
                break
            self.turn()
        assert self.scheduler.idle, "somebody is left for ever"
        return self.turns

    def forget(self) -> None:
        """What was in flight is gone."""
        self._ready, self._standing, self.seen = [], [], []

    def _free(self) -> dict[int, list[int]]:
        taken = {(stands.request.num_beams, stands.slot) for stands in self._standing}
        return {
            beams: [slot for slot in range(self.script.slots[beams]) if (beams, slot) not in taken]
            for beams in self._pools
        }


ages = count()


def picture(arrival: Arrival) -> Picture:
    """Its owner, whom the scheduler must leave alone, is its age: the later, the more."""
    picture = Picture(None, arrival.lane, owner=next(ages))
    picture.requests = [
        Request(picture, tuple(range(wish.prompt_tokens)), wish.num_beams, wish.lasts) for wish in arrival.wishes
    ]
    return picture


def play(script: Script) -> list[Turn]:
    return Device(script).play()


wishes = st.builds(
    Wish, prompt_tokens=st.integers(3, 6), num_beams=st.sampled_from([1, 1, 3, 5]), lasts=st.integers(1, 5)
)
arrivals = st.builds(Arrival, lane=st.sampled_from(Lane), wishes=st.lists(wishes, min_size=1, max_size=6))
capacities = st.integers(1, 3) | st.integers(1, 20)
scripts = st.builds(
    Script,
    vision_images=st.integers(1, 5),
    encoder_requests=st.integers(1, 5),
    slots=st.fixed_dictionaries({1: capacities, 3: capacities, 5: capacities}),
    rounds=st.lists(st.lists(arrivals, max_size=6), max_size=8),
    seed=st.integers(0, 100),
)

whatever_comes = settings(max_examples=70, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class One(NamedTuple):
    """Who waits in a queue: a picture for the vision tower, or a request for a slot."""

    who: Any
    lane: Lane
    age: int


Queue = list[tuple[list[One], list[One]]]
"""Who came and who went, turn by turn."""


def pools_of(picture: Picture) -> frozenset[int]:
    return frozenset(request.num_beams for request in picture.requests)


def queues_of_pictures(turns: Sequence[Turn]) -> list[Queue]:
    """Those that wait for slots of the same kinds wait in one queue."""

    def those(pictures: Sequence[Picture], pools: frozenset[int]) -> list[One]:
        return [One(picture, picture.lane, picture.owner) for picture in pictures if pools_of(picture) == pools]

    kinds = {pools_of(picture) for turn in turns for picture in turn.came}
    return [[(those(turn.came, pools), those(turn.work.vision, pools)) for turn in turns] for pools in kinds]


def queues_of_requests(turns: Sequence[Turn]) -> dict[int, Queue]:
    """By number of beams."""

    def those(requests: Sequence[Request]) -> list[One]:
        return [One(request, request.picture.lane, request.picture.owner) for request in requests]

    queues: dict[int, Queue] = {}
    for beams in (1, 3, 5):
        queues[beams] = []
        for turn in turns:
            came = [request for picture in turn.work.vision for request in picture.requests]
            queues[beams].append(
                (those([request for request in came if request.num_beams == beams]), those(turn.admitted(beams)))
            )
    return queues


def waiting(queue: Queue) -> Iterator[tuple[One, list[One]]]:
    """After each turn, everybody who waits still, and who has gone since that one came."""
    gone: dict[One, list[One]] = {}
    for came, went in queue:
        gone.update((one, []) for one in came)
        for one in went:
            del gone[one]
        for others in gone.values():
            others.extend(went)
        yield from gone.items()


def assert_slots_are_given_out_well(turns: Sequence[Turn], slots: dict[int, int]) -> None:
    for turn in turns:
        taken = [(stands.request.num_beams, stands.slot) for stands in turn.standing]
        assert len(set(taken)) == len(taken)
        assert all(0 <= slot < slots[beams] for beams, slot in taken)
        for beams, free in turn.free.items():
            given_out = sorted(s.slot for s in turn.standing if s.request.num_beams == beams and s.steps == 1)
            assert given_out == free[: len(given_out)]


def assert_steps_reach_everybody(turns: Sequence[Turn]) -> None:
    for turn in turns:
        assert Counter(step.num_beams for step in turn.work.steps) == Counter(
            {stands.request.num_beams for stands in turn.standing}
        )
        for step in turn.work.steps:
            standing = [stands for stands in turn.standing if stands.request.num_beams == step.num_beams]
            assert step.slots == max(stands.slot for stands in standing) + 1
            assert step.prompt_tokens == max(len(stands.request.prompt_ids) for stands in standing)
            assert_reaches_are_tight(step, {s.slot: min(s.steps, s.request.max_new_tokens) for s in standing})
            assert all(stands.request.steps >= stands.steps for stands in standing)


def assert_reaches_are_tight(step: Step, steps: Mapping[int, int]) -> None:
    """Everybody is reached; and nobody's attention gets twice as long for somebody far away."""
    first = 0
    for slots, reach in step.reaches:
        within = [steps.get(slot, 0) for slot in range(first, slots)]
        assert max(within) <= reach
        assert reach == max(1, *within)
        for start in range(0, len(within), 8):
            assert reach <= max(32, 2 * max(within[start : start + 8]))
        first = slots


@whatever_comes
@given(scripts)
def test_every_request_gets_a_slot_once_and_an_answer_once(script: Script) -> None:
    device = Device(script)
    turns = device.play()
    asked = Counter(request for picture in device.submitted for request in picture.requests)
    admitted = [request for turn in turns for admission in turn.work.admissions for request in admission.requests]
    assert Counter(admitted) == asked
    assert Counter(request for turn in turns for request, _ in turn.answered) == asked


@whatever_comes
@given(scripts)
def test_no_slot_holds_two_and_the_lowest_free_ones_are_taken_first(script: Script) -> None:
    assert_slots_are_given_out_well(play(script), script.slots)


@whatever_comes
@given(scripts)
def test_those_who_are_admitted_together_are_alike_and_as_many_as_the_encoder_takes(script: Script) -> None:
    for turn in play(script):
        sizes: dict[tuple[int, int], list[int]] = {}
        for admission in turn.work.admissions:
            assert {request.num_beams for request in admission.requests} == {admission.num_beams}
            (prompt_tokens,) = {len(request.prompt_ids) for request in admission.requests}
            sizes.setdefault((admission.num_beams, prompt_tokens), []).append(len(admission.requests))
        for of_a_kind in sizes.values():
            *full, last = of_a_kind
            assert set(full) <= {script.encoder_requests}
            assert 1 <= last <= script.encoder_requests


@whatever_comes
@given(scripts)
def test_a_picture_is_looked_at_once_before_any_of_its_requests_is_admitted(script: Script) -> None:
    device = Device(script)
    looked_at: list[Picture] = []
    for turn in device.play():
        assert len(turn.work.vision) <= script.vision_images
        looked_at.extend(turn.work.vision)
        for admission in turn.work.admissions:
            assert all(request.picture in looked_at for request in admission.requests)
    assert Counter(looked_at) == Counter(device.submitted)


@whatever_comes
@given(scripts)
def test_a_picture_says_how_many_of_its_requests_may_still_need_what_was_seen_of_it(script: Script) -> None:
    placed: set[Request] = set()
    for turn in play(script):
        placed.update(stands.request for stands in turn.standing)
        for picture, unplaced in turn.unplaced:
            assert unplaced == sum(request not in placed for request in picture.requests)


@whatever_comes
@given(scripts)
def test_a_step_reaches_everybody_who_stands_in_a_slot(script: Script) -> None:
    assert_steps_reach_everybody(play(script))


@whatever_comes
@given(scripts)
def test_a_picture_comes_back_with_the_last_of_its_answers_and_no_other(script: Script) -> None:
    answers: Counter[Picture] = Counter()
    for turn in play(script):
        for request, back in turn.answered:
            answers[request.picture] += 1
            is_last = answers[request.picture] == len(request.picture.requests)
            assert back is (request.picture if is_last else None)


@whatever_comes
@given(scripts)
def test_while_anything_is_left_every_turn_takes_somebody_a_step_on(script: Script) -> None:
    for turn in play(script):
        in_flight = {request.picture for request in turn.ready} | {stands.request.picture for stands in turn.standing}
        assert bool(turn.work.steps) == bool(turn.unseen or in_flight)


@whatever_comes
@given(scripts)
def test_it_is_idle_exactly_when_nothing_is_left(script: Script) -> None:
    device = Device(script)
    assert device.scheduler.idle
    for arrivals in [*script.rounds, *[()] * 5]:
        device.submit(*map(picture, arrivals))
        assert device.scheduler.idle == (not device.unseen and not device.seen)
        assert device.scheduler.waiting == len(device.unseen)
        device.turn()
        assert device.scheduler.idle == (not device.unseen and not device.seen)
        assert device.scheduler.waiting == len(device.unseen)


@whatever_comes
@given(scripts)
def test_of_four_that_go_while_both_lanes_wait_one_is_bulk(script: Script) -> None:
    turns = play(script)
    for queue in queues_of_requests(turns).values():
        for one, others in waiting(queue):
            gone = Counter(other.lane for other in others)
            if one.lane is Lane.BULK:
                assert gone[Lane.INTERACTIVE] <= 3 * (gone[Lane.BULK] + 1)
            else:
                # Three may have gone before this one came.
                assert 3 * gone[Lane.BULK] <= gone[Lane.INTERACTIVE] + 3


@whatever_comes
@given(scripts)
def test_nobody_goes_before_the_oldest_of_the_lane(script: Script) -> None:
    turns = play(script)
    for queue in [*queues_of_pictures(turns), *queues_of_requests(turns).values()]:
        waits: set[One] = set()
        for came, went in queue:
            waits.update(came)
            for lane in {one.lane for one in went}:
                oldest = min(one.age for one in waits if one.lane == lane)
                assert min(one.age for one in went if one.lane == lane) == oldest
            waits.difference_update(went)


@whatever_comes
@given(scripts)
def test_pictures_of_a_lane_are_looked_at_in_the_order_in_which_they_came(script: Script) -> None:
    for queue in queues_of_pictures(play(script)):
        for lane in Lane:
            ages = [one.age for _, went in queue for one in went if one.lane == lane]
            assert ages == sorted(ages)


@whatever_comes
@given(scripts)
def test_younger_ones_of_another_length_pass_only_in_the_company_of_an_older_one(script: Script) -> None:
    for beams, queue in queues_of_requests(play(script)).items():
        for one, others in waiting(queue):
            of_lane = [other for other in others if other.lane == one.lane]
            older = sum(other.age <= one.age for other in of_lane)
            assert len(of_lane) - older <= (script.slots[beams] - 1) * older


@whatever_comes
@given(scripts)
def test_pictures_are_looked_at_only_while_those_that_were_leave_slots_free(script: Script) -> None:
    for turn in play(script):
        ready = Counter((request.picture.lane, request.num_beams) for request in turn.ready)

        def could_have_a_slot(picture: Picture, turn: Turn = turn, ready: Counter[Any] = ready) -> bool:
            return any(ready[picture.lane, beams] < len(turn.free[beams]) for beams in pools_of(picture))

        assert all(map(could_have_a_slot, turn.work.vision))
        assert bool(turn.work.vision) == any(map(could_have_a_slot, turn.unseen))


def fail(script: Script, turns: int, answers: int) -> tuple[Device, list[Picture]]:
    """A device that fails in the middle of a turn, and the pictures that were begun."""
    device = Device(script)
    for arrivals in script.rounds[:turns]:
        device.submit(*map(picture, arrivals))
        device.turn()
    for arrivals in script.rounds[turns:]:
        device.submit(*map(picture, arrivals))
    device.turn(most_answers=answers)
    begun = sorted(device.seen, key=lambda picture: picture.owner)
    withdrawn = device.scheduler.withdraw()
    device.forget()
    assert withdrawn == begun
    assert device.scheduler.idle == (not device.unseen)
    assert device.scheduler.waiting == len(device.unseen)
    return device, withdrawn


failures = given(script=scripts, turns=st.integers(0, 8), answers=st.integers(0, 5))


@whatever_comes
@failures
def test_pictures_that_are_withdrawn_may_come_again(script: Script, turns: int, answers: int) -> None:
    device, withdrawn = fail(script, turns, answers)
    before = len(device.turns)
    expected = Counter(request for picture in device.unseen + withdrawn for request in picture.requests)
    device.submit(*withdrawn)
    after = device.play_out()[before:]
    assert_slots_are_given_out_well(after, script.slots)
    assert_steps_reach_everybody(after)
    assert Counter(request for turn in after for request, _ in turn.answered) == expected
    assert Counter(back for turn in after for _, back in turn.answered if back) == Counter(
        {request.picture for request in expected}
    )


@whatever_comes
@failures
def test_pictures_that_are_withdrawn_may_go_to_another_scheduler_meanwhile(
    script: Script, turns: int, answers: int
) -> None:
    device, withdrawn = fail(script, turns, answers)
    other, before = Device(script), len(device.turns)
    other.submit(*withdrawn)
    left = list(device.unseen)
    for scheduler, pictures, history in (
        (other, withdrawn, other.play_out()),
        (device, left, device.play_out()[before:]),
    ):
        assert scheduler.scheduler.idle
        assert_slots_are_given_out_well(history, script.slots)
        assert_steps_reach_everybody(history)
        assert Counter(back for turn in history for _, back in turn.answered if back) == Counter(pictures)


def test_withdrawing_frees_every_slot() -> None:
    def twelve() -> list[Picture]:
        return [picture(Arrival(Lane.BULK, [Wish(3, 1, 9)] * 4)) for _ in range(3)]

    script = Script(vision_images=8, encoder_requests=8, slots={1: 12}, rounds=[], seed=0)
    device = Device(script)
    device.submit(*twelve())
    assert len(device.turn().standing) == 12
    device.scheduler.withdraw()
    device.forget()
    device.submit(*twelve())
    assert sorted(stands.slot for stands in device.turn().standing) == list(range(12))


def test_an_idle_scheduler_has_nothing_to_withdraw_and_nothing_to_do() -> None:
    scheduler = Scheduler(Limits(4, 4, lambda _: 4))
    assert scheduler.withdraw() == []
    assert scheduler.schedule() == Work([], [], [])


def test_a_bulk_picture_gets_through_a_stream_of_interactive_ones_that_never_ends() -> None:
    device = Device(Script(vision_images=1, encoder_requests=1, slots={1: 1}, rounds=[], seed=0))
    bulk = picture(Arrival(Lane.BULK, [Wish(3, 1, 1)]))
    device.submit(*(picture(Arrival(Lane.INTERACTIVE, [Wish(3, 1, 1)])) for _ in range(10)))
    device.submit(bulk)
    before = 0
    while all(back is not bulk for _, back in device.turn().answered):
        before += 1
        device.submit(*(picture(Arrival(Lane.INTERACTIVE, [Wish(3, 1, 1)])) for _ in range(2)))
        assert before <= 3


def test_an_interactive_picture_that_comes_last_is_looked_at_and_answered_first() -> None:
    device = Device(Script(vision_images=1, encoder_requests=1, slots={1: 1}, rounds=[], seed=0))
    device.submit(*(picture(Arrival(Lane.BULK, [Wish(3, 1, 1)])) for _ in range(10)))
    urgent = picture(Arrival(Lane.INTERACTIVE, [Wish(3, 1, 1)]))
    device.submit(urgent)
    assert [back for _, back in device.turn().answered] == [urgent]


def test_an_interactive_picture_goes_first_again_once_bulk_went_alone() -> None:
    device = Device(Script(vision_images=1, encoder_requests=1, slots={1: 1}, rounds=[], seed=0))

    def one(lane: Lane) -> Picture:
        return picture(Arrival(lane, [Wish(3, 1, 1)]))

    device.submit(one(Lane.BULK), one(Lane.BULK), *(one(Lane.INTERACTIVE) for _ in range(3)))
    lanes = [device.turn().work.vision[0].lane for _ in range(4)]
    assert lanes == [Lane.INTERACTIVE] * 3 + [Lane.BULK]
    device.submit(one(Lane.INTERACTIVE))
    assert device.turn().work.vision[0].lane is Lane.INTERACTIVE


def test_an_unusual_prompt_gets_through_a_stream_of_usual_ones_that_never_ends() -> None:
    device = Device(Script(vision_images=4, encoder_requests=4, slots={1: 4}, rounds=[], seed=0))
    device.submit(*(picture(Arrival(Lane.BULK, [Wish(3, 1, 2)])) for _ in range(12)))
    unusual = picture(Arrival(Lane.BULK, [Wish(5, 1, 2)]))
    device.submit(unusual)
    turns = 0
    while all(request.picture is not unusual for request in device.turn().admitted(1)):
        turns += 1
        device.submit(*(picture(Arrival(Lane.BULK, [Wish(3, 1, 2)])) for _ in range(4)))
        # Twelve older ones in four slots, two steps each.
        assert turns <= 6


def full_house() -> Device:
    """Sixteen slots, all taken, whose answers end one by one."""
    device = Device(Script(vision_images=8, encoder_requests=64, slots={1: 16}, rounds=[], seed=0))
    device.submit(*(picture(Arrival(Lane.BULK, [Wish(3, 1, lasts)])) for lasts in range(3, 19)))
    device.turn()
    assert len(device.turn().standing) == 16
    return device


def test_a_bulk_request_waits_until_two_of_sixteen_slots_are_free() -> None:
    device = full_house()
    device.submit(*(picture(Arrival(Lane.BULK, [Wish(3, 1, 9)])) for _ in range(8)))
    while not device.turn().answered:
        pass
    assert [len(device.turn().admitted(1)) for _ in range(4)] == [0, 2, 0, 2]


def test_an_interactive_request_gets_the_first_slot_that_falls_free() -> None:
    device = full_house()
    while not device.turn().answered:
        pass
    urgent = picture(Arrival(Lane.INTERACTIVE, [Wish(3, 1, 9)]))
    device.submit(urgent)
    assert device.turn().admitted(1) == urgent.requests


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_limits_shrink_by_half_until_there_is_no_half(vision_images: int, encoder_requests: int) -> None:
    limits = Limits(vision_images, encoder_requests, lambda _: 1)
    while (limits.vision_images, limits.encoder_requests) != (1, 1):
        assert limits.shrink()
        vision_images, encoder_requests = max(1, vision_images // 2), max(1, encoder_requests // 2)
        assert (limits.vision_images, limits.encoder_requests) == (vision_images, encoder_requests)
    assert not limits.shrink()
    assert (limits.vision_images, limits.encoder_requests) == (1, 1)


def test_batches_are_smaller_as_soon_as_the_limits_are() -> None:
    device = Device(Script(vision_images=8, encoder_requests=4, slots={1: 64}, rounds=[], seed=0))
    device.submit(*(picture(Arrival(Lane.BULK, [Wish(3, 1, 9)])) for _ in range(40)))
    device.turn()
    device.limits.shrink()
    work = device.turn().work
    assert len(work.vision) == 4
    assert [len(admission.requests) for admission in work.admissions] == [2, 2]


def test_the_scheduler_can_be_imported_without_torch() -> None:
    code = "import sys, arno_workers.engine.scheduler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_interactive_picture_passes_bulk_requests_that_were_looked_at_before() -> None:
    device = full_house()
    device.submit(*(picture(Arrival(Lane.BULK, [Wish(3, 1, 9)])) for _ in range(8)))
    while not device.turn().answered:
        pass
    urgent = picture(Arrival(Lane.INTERACTIVE, [Wish(3, 1, 9)]))
    device.submit(urgent)
    assert urgent.requests[0] in device.turn().admitted(1)


def test_the_slots_of_one_search_are_no_room_for_another() -> None:
    """Features take memory: those who wait for three beams are not looked at because greedy slots are free."""
    scheduler = Scheduler(Limits(vision_images=4, encoder_requests=8, slots=lambda beams: {1: 100, 3: 2}[beams]))
    greedy = picture(Arrival(Lane.BULK, [Wish(3, 1, 1)]))
    scheduler.submit(greedy)
    scheduler.schedule()
    scheduler.retire(greedy.requests[0])
    for _ in range(50):
        scheduler.submit(picture(Arrival(Lane.BULK, [Wish(3, 3, 99)])))
    seen = sum(len(scheduler.schedule().vision) for _ in range(20))
    assert seen <= 4
    late = picture(Arrival(Lane.BULK, [Wish(3, 1, 1)]))
    scheduler.submit(late)
    assert late in scheduler.schedule().vision
