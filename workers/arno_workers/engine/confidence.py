"""How sure the model was of each object that an answer names.

An object's confidence is the geometric mean of the probabilities of the tokens that wrote it: those of its label, which
boxes of one label share, and those of its own locations.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import exp

from arno_workers.engine.objects import Found
from arno_workers.engine.transcript import Transcript

_LEAST_LOGPROB = -80.0
"""A confidence is never 0, nor what a 32-bit float would round to it."""


def confidences(objects: Iterable[Found], transcript: Transcript) -> tuple[float, ...]:
    """One for each object, in (0, 1]. Tokens of which nothing is left in the text are no part of any."""
    # What is no number counts as the least.
    bounded = [
        one if _LEAST_LOGPROB <= one <= 0.0 else 0.0 if one > 0.0 else _LEAST_LOGPROB for one in transcript.logprobs
    ]
    totals = list(accumulate(bounded, initial=0.0))
    return tuple(exp(_mean_logprob(found, transcript.starts, transcript.ends, totals)) for found in objects)


def _mean_logprob(found: Found, starts: Sequence[int], ends: Sequence[int], totals: Sequence[float]) -> float:
    """Over the tokens that have a part in what names the object."""
    total, count = 0.0, 0
    for start, end in found.spans:
        first, last = bisect_right(ends, start), bisect_left(starts, end)
        total += totals[last] - totals[first]
        count += last - first
    return total / count
