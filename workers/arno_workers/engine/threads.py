"""How many threads torch should use on a CPU: measured, because it depends on the model and on who else is there."""

from collections.abc import Callable
from time import perf_counter

import torch

from arno_shared.logs import get_logger

log = get_logger(__name__)

_ENOUGH_S = 0.5
"""A run that takes this long is measured once; a shorter one three times, of which the best counts."""

_WORTH_MORE = 0.9
"""More threads must save at least a tenth: others have work for the cores as well."""


def choose_threads(run: Callable[[], object]) -> int:
    """Sets torch to the fewest threads with which `run` is about as fast as it gets; how many that is."""
    most = torch.get_num_threads()
    counts = [count for count in (1, 2, 4, 8, 16, 32, 64) if count < most] + [most]
    seconds = {count: _seconds(run, count) for count in counts}
    chosen = min(count for count in counts if seconds[count] * _WORTH_MORE <= min(seconds.values()))
    torch.set_num_threads(chosen)
    log.info("threads chosen", threads=chosen, seconds={count: round(each, 4) for count, each in seconds.items()})
    return chosen


def _seconds(run: Callable[[], object], threads: int) -> float:
    torch.set_num_threads(threads)
    best = float("inf")
    for _ in range(3):
        began_s = perf_counter()
        run()
        best = min(best, perf_counter() - began_s)
        if best > _ENOUGH_S:
            break
    return best
