"""Decides what the device does next. Plain data: no torch, no threads, no clock.

A picture waits for the vision tower; then each of its requests (one for each prompt) waits for a slot; then it stands
in its slot, one step at a time, until its answer ends. What holds, whatever comes in which order:

- every request is answered once, and no slot holds two;
- the vision tower looks at more pictures of a lane only when those it has seen do not fill the free slots; of the
  requests that wait, the oldest is the first to go;
- interactive ones go before bulk ones, but of four that go while both could, one is bulk: nobody waits for ever.
"""

import heapq
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, groupby
from typing import Any, Generic, Protocol, TypeVar

from arno_shared.names import Lane

INTERACTIVE_IN_A_ROW = 3
"""How many interactive ones may pass a bulk one that waits."""

_BLOCK_SLOTS, _SHORT_STEPS = 8, 32
"""What is less than that apart is not worth telling apart."""


@dataclass(eq=False, slots=True)
class Request:
    """One prompt of one picture."""

    picture: "Picture"
    prompt_ids: tuple[int, ...]
    num_beams: int
    max_new_tokens: int
    slot: int | None = None
    steps: int = 0
    """Steps that were scheduled since it got its slot."""
    answer: Any = None

    @property
    def order(self) -> int:
        return self.picture.order


@dataclass(eq=False, slots=True)
class Picture:
    """A picture on its way through the engine. `pixels`, `features` and `owner` belong to others."""

    pixels: Any
    lane: Lane
    owner: Any = None
    requests: list[Request] = field(default_factory=list)
    features: Any = None
    """What the vision tower saw; dropped when the last of its requests has a slot."""
    order: int = -1
    """Its place among all pictures; given by the scheduler."""
    unplaced: int = 0
    """Requests that have no slot yet."""
    unanswered: int = 0


@dataclass(slots=True)
class Limits:
    """What memory allows. Out of memory lowers it."""

    vision_images: int
    encoder_requests: int
    slots: Callable[[int], int]
    """How many slots there are for requests with that many beams."""
    looks_ahead: bool = False
    """The vision tower works beside the steps: of what it was given, `Scheduler.saw` hears when it is done."""
    steps_at_once: int = 1
    """Steps that are taken together where nobody could be admitted between them."""

    def shrink(self) -> bool:
        """Halves the batches; False when they cannot be smaller."""
        if self.vision_images == self.encoder_requests == 1:
            return False
        self.vision_images = max(1, self.vision_images // 2)
        self.encoder_requests = max(1, self.encoder_requests // 2)
        return True


@dataclass(frozen=True, slots=True)
class Admission:
    """Requests with prompts of one length and as many beams, each with its new slot."""

    num_beams: int
    requests: Sequence[Request]


@dataclass(frozen=True, slots=True)
class Step:
    """One token for every request that stands in a slot below `slots`."""

    num_beams: int
    prompt_tokens: int
    """Of the longest prompt among them."""
    reaches: tuple[tuple[int, int], ...]
    """(slots, steps): from where the one before it ends up to that slot nobody's answer takes more steps, these
    included."""
    times: int = 1
    """How many steps, one after the other."""

    @property
    def slots(self) -> int:
        return self.reaches[-1][0]


@dataclass(frozen=True, slots=True)
class Work:
    """What the device does next, in this order."""

    vision: Sequence[Picture]
    admissions: Sequence[Admission]
    steps: Sequence[Step]


class _Waits(Protocol):
    @property
    def order(self) -> int: ...


W = TypeVar("W", bound=_Waits)
K = TypeVar("K", bound=Hashable)


class _Line(Generic[W, K]):
    """Who waits, by lane and by a key. The oldest goes first, and takes along those with the same key."""

    def __init__(self, key: Callable[[W], K]) -> None:
        self._key = key
        # Heaps: who was looked at late may be older than those who wait for slots already.
        self._lanes: dict[Lane, dict[K, list[tuple[int, int, W]]]] = {lane: {} for lane in Lane}
        self._joined = count()
        self._in_a_row = 0
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def waiting_in(self, lane: Lane) -> int:
        return sum(map(len, self._lanes[lane].values()))

    def join(self, one: W, lane: Lane) -> None:
        heapq.heappush(self._lanes[lane].setdefault(self._key(one), []), (one.order, next(self._joined), one))
        self._length += 1

    def take(self, most: int, may_go: Callable[[Lane, K], bool] = lambda *_: True) -> Iterator[W]:
        """At most so many of those whose lane and key may go now."""
        going = {lane: [key for key in queues if may_go(lane, key)] for lane, queues in self._lanes.items()}
        while most > 0 and any(going.values()):
            lane, at_once = self._turn(going)
            queues = self._lanes[lane]
            key = min(going[lane], key=lambda key: queues[key][0])
            for _ in range(min(most, at_once, len(queues[key]))):
                yield heapq.heappop(queues[key])[-1]
                self._length -= 1
                most -= 1
            if not queues[key]:
                del queues[key]
                going[lane].remove(key)

    def _turn(self, going: Mapping[Lane, Sequence[K]]) -> tuple[Lane, int]:
        """Whose turn it is, and for how many at most."""
        if not going[Lane.BULK]:
            return Lane.INTERACTIVE, self._length
        if not going[Lane.INTERACTIVE]:
            self._in_a_row = 0
            return Lane.BULK, self._length
        if self._in_a_row < INTERACTIVE_IN_A_ROW:
            self._in_a_row += 1
            return Lane.INTERACTIVE, 1
        self._in_a_row = 0
        return Lane.BULK, 1


class _Pool:
    """The slots for requests with one number of beams."""

    def __init__(self, num_beams: int, slots: int) -> None:
        self.num_beams = num_beams
        self.free = list(range(slots))
        self.standing: dict[int, Request] = {}
        self.ready: _Line[Request, int] = _Line(lambda request: len(request.prompt_ids))
        self.looked_at = dict.fromkeys(Lane, 0)
        """Requests of pictures that the vision tower has, by lane."""
        # A few at a time: the encoder has a price for each call, and an empty slot one for each step.
        self._worth_a_call = max(1, slots // 8)

    def has_room_for(self, lane: Lane) -> bool:
        """Whether slots would be left when those of its lane who are ready had theirs."""
        return self.ready.waiting_in(lane) + self.looked_at[lane] < len(self.free)

    def admit(self, encoder_requests: int) -> Iterator[Admission]:
        """Fills free slots from those who are ready, the lowest first, so that steps stay short."""
        urgent = self.ready.waiting_in(Lane.INTERACTIVE)
        if self.standing and len(self.free) < self._worth_a_call and not urgent:
            return
        requests = sorted(self.ready.take(len(self.free)), key=lambda request: len(request.prompt_ids))
        for request in requests:
            request.slot = heapq.heappop(self.free)
            self.standing[request.slot] = request
        for _, equals in groupby(requests, key=lambda request: len(request.prompt_ids)):
            group = list(equals)
            for first in range(0, len(group), encoder_requests):
                yield Admission(self.num_beams, group[first : first + encoder_requests])

    def step(self, most: int) -> Step:
        """At most so many steps, and no more than the first of them who stand there may need."""
        standing = self.standing.values()
        times = max(1, min(most, *(request.max_new_tokens - request.steps for request in standing)))
        for request in standing:
            request.steps += times
        return Step(
            num_beams=self.num_beams,
            prompt_tokens=max(len(request.prompt_ids) for request in standing),
            reaches=self._reaches(),
            times=times,
        )

    def _reaches(self) -> tuple[tuple[int, int], ...]:
        """Slots by blocks, and neighbours whose answers are about as long together: each reach is a piece of work of
        its own for the device."""
        longest: list[int] = [1] * (max(self.standing) // _BLOCK_SLOTS + 1)
        for slot, request in self.standing.items():
            block = slot // _BLOCK_SLOTS
            # Whoever has ended may stand there for a while until that is known.
            longest[block] = max(longest[block], min(request.steps, request.max_new_tokens))
        reaches, end = [], 0
        for _, alike in groupby(longest, key=lambda steps: max(steps - 1, _SHORT_STEPS - 1).bit_length()):
            blocks = list(alike)
            end += len(blocks) * _BLOCK_SLOTS
            reaches.append((end, max(blocks)))
        reaches[-1] = (max(self.standing) + 1, reaches[-1][1])
        return tuple(reaches)

    def leave(self, slot: int) -> None:
        del self.standing[slot]
        heapq.heappush(self.free, slot)


class Scheduler:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._order = count()
        self._waiting: _Line[Picture, frozenset[int]] = _Line(_pools_of)
        self._pools: dict[int, _Pool] = {}
        self._begun: dict[int, Picture] = {}

    @property
    def waiting(self) -> int:
        """Pictures that the vision tower has not taken."""
        return len(self._waiting)

    @property
    def slots(self) -> tuple[int, int]:
        """Those in use, and all there are."""
        pools = list(self._pools.values())
        in_use = sum(len(pool.standing) for pool in pools)
        return in_use, in_use + sum(len(pool.free) for pool in pools)

    @property
    def idle(self) -> bool:
        return not len(self._waiting) and not self._begun

    def submit(self, picture: Picture) -> None:
        """Also a picture that was withdrawn from another scheduler: it begins anew."""
        picture.order = next(self._order)
        picture.features = None
        picture.unplaced = picture.unanswered = len(picture.requests)
        for request in picture.requests:
            request.slot, request.steps, request.answer = None, 0, None
            if request.num_beams not in self._pools:
                self._pools[request.num_beams] = _Pool(request.num_beams, self.limits.slots(request.num_beams))
        self._waiting.join(picture, picture.lane)

    def schedule(self) -> Work:
        """What to run now. It counts as done: when it fails, `withdraw` takes everything back."""
        pictures = self._next_pictures()
        for picture in pictures:
            self._begun[picture.order] = picture
            for request in picture.requests:
                self._pools[request.num_beams].looked_at[picture.lane] += 1
        if not self.limits.looks_ahead:
            self.saw(pictures)
        pools = list(self._pools.values())
        admissions = [admission for pool in pools for admission in pool.admit(self.limits.encoder_requests)]
        for admission in admissions:
            for request in admission.requests:
                request.picture.unplaced -= 1
        most = self.limits.steps_at_once if self._nobody_waits() else 1
        return Work(pictures, admissions, [pool.step(most) for pool in pools if pool.standing])

    def saw(self, pictures: Sequence[Picture]) -> None:
        """The vision tower is done with these: their requests may have slots."""
        for picture in pictures:
            for request in picture.requests:
                pool = self._pools[request.num_beams]
                pool.looked_at[picture.lane] -= 1
                pool.ready.join(request, picture.lane)

    def _nobody_waits(self) -> bool:
        pools = self._pools.values()
        return not self.waiting and not any(len(pool.ready) or any(pool.looked_at.values()) for pool in pools)

    def retire(self, request: Request) -> Picture | None:
        """Frees the slot of a request that has its answer; its picture, when that was the last one."""
        assert request.slot is not None
        self._pools[request.num_beams].leave(request.slot)
        request.slot = None
        picture = request.picture
        picture.unanswered -= 1
        if picture.unanswered:
            return None
        del self._begun[picture.order]
        return picture

    def withdraw(self) -> list[Picture]:
        """Takes back every picture that was begun, the oldest first; all slots are free."""
        for pool in self._pools.values():
            for slot in list(pool.standing):
                pool.leave(slot)
            list(pool.ready.take(len(pool.ready)))
            pool.looked_at = dict.fromkeys(Lane, 0)
        return [self._begun.pop(order) for order in sorted(self._begun)]

    def _next_pictures(self) -> list[Picture]:
        """A batch for the vision tower, of pictures that could have slots."""

        def may_go(lane: Lane, num_beams: frozenset[int]) -> bool:
            return any(self._pools[each].has_room_for(lane) for each in num_beams)

        return list(self._waiting.take(self.limits.vision_images, may_go))


def _pools_of(picture: Picture) -> frozenset[int]:
    return frozenset(request.num_beams for request in picture.requests)
