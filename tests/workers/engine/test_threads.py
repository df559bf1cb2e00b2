"""Torch gets the fewest threads that are worth it, by the clock."""

from collections import Counter
from collections.abc import Iterator

import pytest
import torch

from arno_workers.engine import threads
from arno_workers.engine.threads import choose_threads


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Machine:
    """Its clock goes on when something is run, by what that takes with as many threads as torch has then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> None:
        self.runs: Counter[int] = Counter()
        self.noise_s: list[float] = []
        """What the first runs take longer."""
        self._seconds, self._now_s = seconds, 1000.0
        torch.set_num_threads(max(seconds))
        monkeypatch.setattr(threads, "perf_counter", lambda: self._now_s)

    def run(self) -> str:
        count = torch.get_num_threads()
        self.runs[count] += 1
        self._now_s += self._seconds[count] + (self.noise_s.pop(0) if self.noise_s else 0.0)
        return "whatever it gives"


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        pytest.param({1: 0.4, 2: 0.2, 4: 0.1, 8: 0.05}, 8, id="every thread helps"),
        pytest.param({1: 0.4, 2: 0.2, 4: 0.1, 8: 0.098}, 4, id="the last ones hardly help"),
        pytest.param({1: 0.4, 2: 0.2, 4: 0.25, 8: 0.4}, 2, id="too many are in each other's way"),
        pytest.param({1: 0.1, 2: 0.1, 4: 0.1, 8: 0.1}, 1, id="threads make no difference"),
        pytest.param({1: 0.1, 2: 0.095, 4: 0.092, 8: 0.091}, 1, id="not a tenth is saved"),
        pytest.param({1: 0.1, 2: 0.2, 4: 0.3, 8: 0.4}, 1, id="threads make it slower"),
        pytest.param({1: 0.4, 2: 0.5, 4: 0.1, 8: 0.1}, 4, id="two are worse than one and four are better"),
        pytest.param({1: 0.1, 2: 0.095, 4: 0.09, 8: 0.06}, 8, id="only the last ones help"),
        pytest.param({1: 0.1, 2: 0.092, 4: 0.084, 8: 0.077}, 4, id="each helps a little and some together do"),
        pytest.param({1: 4.0, 2: 2.0, 4: 1.0, 8: 0.9001}, 4, id="long runs"),
        pytest.param({1: 0.2, 2: 0.1, 4: 0.05, 6: 0.04}, 6, id="six cores"),
        pytest.param({1: 0.2, 2: 0.1, 4: 0.05, 6: 0.05}, 4, id="six cores of which four are enough"),
        pytest.param({1: 0.2, 2: 0.1, 3: 0.05}, 3, id="three cores"),
        pytest.param({1: 0.2}, 1, id="one core"),
    ],
)
def test_torch_gets_the_fewest_threads_that_are_worth_it(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float], chosen: int
) -> None:
    machine = Machine(monkeypatch, seconds)
    assert choose_threads(machine.run) == chosen
    assert torch.get_num_threads() == chosen
    assert set(machine.runs) == set(seconds)


def test_no_more_threads_are_tried_than_torch_had(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, dict.fromkeys(range(1, 100), 0.1) | {24: 0.05})
    torch.set_num_threads(24)
    assert choose_threads(machine.run) == 24
    assert sorted(machine.runs) == [1, 2, 4, 8, 16, 24]


def test_of_three_short_runs_the_best_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {1: 0.1, 2: 0.08})
    # Somebody else is busy in all but one of the runs with two threads.
    machine.noise_s = [0.0, 0.0, 0.0, 0.3, 0.0, 0.3]
    assert choose_threads(machine.run) == 2
    assert machine.runs == {1: 3, 2: 3}


def test_a_long_run_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, {1: 3.0, 2: 0.51, 4: 0.3})
    assert choose_threads(machine.run) == 4
    assert machine.runs == {1: 1, 2: 1, 4: 3}


def test_a_run_that_fails_is_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    Machine(monkeypatch, {1: 0.1, 2: 0.1})

    def broken() -> None:
        raise RuntimeError("no picture for you")

    with pytest.raises(RuntimeError, match="no picture for you"):
        choose_threads(broken)
