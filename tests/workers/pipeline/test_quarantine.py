"""Chunks run together, and a suspect alone."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from threading import Event, Thread
from time import monotonic

import pytest

from arno_workers.pipeline.patience import Drained
from arno_workers.pipeline.quarantine import Quarantine

PATIENCE_S = 30


class Guest:
    """A thread that asks to come in, and stays until it is told to go."""

    def __init__(self, room: Callable[[Callable[[], None]], AbstractContextManager[None]]) -> None:
        self.inside, self.go, self.gone, self.turned_away = Event(), Event(), Event(), Event()
        self.waits = 0
        self.drained = False
        Thread(target=self._visit, args=(room,), daemon=True).start()

    def _visit(self, room: Callable[[Callable[[], None]], AbstractContextManager[None]]) -> None:
        try:
            with room(self._wait):
                self.inside.set()
                self.go.wait(PATIENCE_S)
        except Drained:
            self.turned_away.set()
        self.gone.set()

    def _wait(self) -> None:
        self.waits += 1
        if self.drained:
            raise Drained

    def leave(self) -> None:
        self.go.set()
        assert self.gone.wait(PATIENCE_S)


@pytest.fixture
def quarantine() -> Quarantine:
    return Quarantine()


@pytest.fixture
def guest() -> Iterator[Callable[..., Guest]]:
    guests: list[Guest] = []

    def make(room: Callable[[Callable[[], None]], AbstractContextManager[None]], inside: bool) -> Guest:
        guests.append(Guest(room))
        if inside:
            assert guests[-1].inside.wait(PATIENCE_S)
        else:
            eventually(lambda: guests[-1].waits, "it waits")
            assert not guests[-1].inside.is_set()
        return guests[-1]

    yield make
    for each in guests:
        each.go.set()


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline_s = monotonic() + PATIENCE_S
    while not condition():
        assert monotonic() < deadline_s, f"still not: {what}"
        Event().wait(0.01)


def test_chunks_run_together(quarantine: Quarantine, guest: Callable[..., Guest]) -> None:
    for each in [guest(quarantine.together, inside=True) for _ in range(5)]:
        each.leave()


def test_a_suspect_waits_until_it_is_alone(quarantine: Quarantine, guest: Callable[..., Guest]) -> None:
    first, second = guest(quarantine.together, inside=True), guest(quarantine.together, inside=True)
    suspect = guest(quarantine.alone, inside=False)
    first.leave()
    waits = suspect.waits
    eventually(lambda: suspect.waits > waits + 1, "it has looked again")
    assert not suspect.inside.is_set()
    second.leave()
    assert suspect.inside.wait(PATIENCE_S)


def test_others_wait_while_a_suspect_runs(quarantine: Quarantine, guest: Callable[..., Guest]) -> None:
    suspect = guest(quarantine.alone, inside=True)
    others = [guest(quarantine.together, inside=False) for _ in range(3)]
    suspect.leave()
    for each in others:
        assert each.inside.wait(PATIENCE_S)


def test_no_chunk_goes_before_a_suspect_that_waits(quarantine: Quarantine, guest: Callable[..., Guest]) -> None:
    """Else a suspect would wait for ever on a busy worker."""
    busy = guest(quarantine.together, inside=True)
    suspect = guest(quarantine.alone, inside=False)
    late = guest(quarantine.together, inside=False)
    busy.leave()
    assert suspect.inside.wait(PATIENCE_S)
    assert not late.inside.is_set()
    suspect.leave()
    assert late.inside.wait(PATIENCE_S)


def test_two_suspects_run_one_after_the_other(quarantine: Quarantine, guest: Callable[..., Guest]) -> None:
    first = guest(quarantine.alone, inside=True)
    second = guest(quarantine.alone, inside=False)
    first.leave()
    assert second.inside.wait(PATIENCE_S)


def test_a_suspect_that_gives_up_waiting_keeps_nobody_out(quarantine: Quarantine, guest: Callable[..., Guest]) -> None:
    busy = guest(quarantine.together, inside=True)
    suspect = guest(quarantine.alone, inside=False)
    late = guest(quarantine.together, inside=False)
    suspect.drained = True
    assert suspect.turned_away.wait(PATIENCE_S)
    assert late.inside.wait(PATIENCE_S)
    busy.leave()


def test_a_chunk_that_gives_up_waiting_keeps_no_suspect_waiting(
    quarantine: Quarantine, guest: Callable[..., Guest]
) -> None:
    suspect = guest(quarantine.alone, inside=True)
    other = guest(quarantine.together, inside=False)
    other.drained = True
    assert other.turned_away.wait(PATIENCE_S)
    suspect.leave()
    guest(quarantine.alone, inside=True)


@pytest.mark.parametrize("room", ["together", "alone"])
def test_whatever_happens_inside_the_door_opens_again(
    room: str, quarantine: Quarantine, guest: Callable[..., Guest]
) -> None:
    with pytest.raises(SystemExit), getattr(quarantine, room)(lambda: None):
        raise SystemExit
    guest(quarantine.alone, inside=True).leave()
    guest(quarantine.together, inside=True).leave()
