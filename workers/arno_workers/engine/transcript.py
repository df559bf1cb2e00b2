"""An answer's text as it is looked through for objects, and where in it each token stands."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from arno_workers.engine.detokenizer import places_of

_REMOVED = ("<s>", "</s>", "<pad>")
"""What transformers' post-processor takes out of the text first, one after the other."""


class Transcript:
    def __init__(self, raw: str, pieces: Sequence[bytes]) -> None:
        """`raw`: what the pieces spell, which are the tokens'."""
        self.text = raw
        # Where no characters are shared, each piece starts where the one before it ends: one list tells both.
        plain = raw.isascii()
        places = [list(accumulate(map(len, pieces), initial=0))] if plain else list(places_of(pieces))
        for word in _REMOVED:
            if word in self.text:
                cuts = [cut.start() for cut in re.finditer(word, self.text)]
                places = [_moved(each, cuts, len(word)) for each in places]
                self.text = self.text.replace(word, "")
        self.starts, self.ends = (places[0][:-1], places[0][1:]) if plain else places
        """Of each token; the same place where nothing of it is left."""


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
