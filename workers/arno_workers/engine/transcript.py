"""An answer's text as it is looked through for objects, and where in it each token stands."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, compress
from operator import lt

from arno_workers.engine.detokenizer import places_of

_REMOVED = ("<s>", "</s>", "<pad>")
"""What transformers' post-processor takes out of the text first, one after the other."""

_REMOVED_PIECES = frozenset(word.encode() for word in _REMOVED)


class Transcript:
    def __init__(self, raw: str, pieces: Sequence[bytes], logprobs: Sequence[float]) -> None:
        """`raw`: what the pieces spell, which are the tokens'. Raises ValueError without a log-probability for each."""
        if len(logprobs) != len(pieces):
            raise ValueError(f"{len(logprobs)} log-probabilities for {len(pieces)} tokens")
        first, last = _said(pieces)
        self.text = raw[sum(map(len, pieces[:first])) : len(raw) - sum(map(len, pieces[last:]))]
        starts, ends = self._places(pieces[first:last])
        logprobs = logprobs[first:last]
        left = list(map(lt, starts, ends))
        if not all(left):
            starts, ends = list(compress(starts, left)), list(compress(ends, left))
            logprobs = list(compress(logprobs, left))
        self.starts, self.ends, self.logprobs = starts, ends, logprobs
        """Of each token of which something is left in the text."""

    def _places(self, pieces: Sequence[bytes]) -> tuple[list[int], list[int]]:
        """Where each starts, and where it ends, when the text is without what is removed."""
        # Where no characters are shared, each piece starts where the one before it ends: one list tells both.
        plain = self.text.isascii()
        places = [list(accumulate(map(len, pieces), initial=0))] if plain else list(places_of(pieces))
        for word in _REMOVED:
            if word in self.text:
                cuts = [cut.start() for cut in re.finditer(word, self.text)]
                places = [_moved(each, cuts, len(word)) for each in places]
                self.text = self.text.replace(word, "")
        return (places[0][:-1], places[0][1:]) if plain else (places[0], places[1])


def _said(pieces: Sequence[bytes]) -> tuple[int, int]:
    """From which piece to which there is more than what is removed: most often nothing in between need move."""
    first, last = 0, len(pieces)
    while first < last and pieces[first] in _REMOVED_PIECES:
        first += 1
    while first < last and pieces[last - 1] in _REMOVED_PIECES:
        last -= 1
    return first, last


def _moved(places: list[int], cuts: Sequence[int], length: int) -> list[int]:
    """Where the places, in order, are once `length` characters are gone at each of the cuts."""
    moved: list[int] = []
    gone = 0
    for cut in cuts:
        before = bisect_left(places, cut, len(moved))
        behind = bisect_left(places, cut + length, before)
        moved += _earlier(places[len(moved) : before], gone)
        moved += [cut - gone] * (behind - before)
        gone += length
    return moved + _earlier(places[len(moved) :], gone)


def _earlier(places: list[int], gone: int) -> list[int]:
    return [place - gone for place in places] if gone else places
