"""Whether an answer runs in a loop: the model says the same over and over instead of coming to an end."""

from collections.abc import Container, Iterator, Sequence
from itertools import groupby

_REPEATS = 3
_MIN_REPEATED_TOKENS = 12
"""So many tokens in all, so that "ha ha ha" is none."""

_WINDOW_TOKENS = 64
_MAX_VARIETY = 10
"""Where no three tokens may be said twice, a loop goes through its few words in ever new orders: four of them last for
66 tokens. Prose has several times as many different ones in 64 tokens, and the dullest of true texts, a table of
decimal numbers, has the digits and a point."""


def runs_in_a_loop(ids: Sequence[int], locations: Container[int], ends: Container[int]) -> bool:
    """Whether the answer ends in one block of tokens said at least three times in a row, or has too few different ones.

    `locations`: the tokens `<loc_N>`; `ends`: the end tokens. The time grows with the length and no faster.
    """
    said = ids[:-1] if ids and ids[-1] in ends else ids
    return _ends_in_repeats(said) or _lacks_variety(said, locations)


def _ends_in_repeats(ids: Sequence[int]) -> bool:
    return any(same + block >= max(_REPEATS * block, _MIN_REPEATED_TOKENS) for block, same in _blocks(ids[::-1]))


def _blocks(ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The lengths of blocks that may be said so often, each with how many tokens behind the block are those from the
    start on (Gusfield's Z algorithm, which need not look at other places than those of the first token)."""
    common = [0] * len(ids)
    left = right = 0
    for at in [at for at in range(1, len(ids) // _REPEATS + 1) if ids[at] == ids[0]]:
        same = min(right - at, common[at - left]) if at < right else 0
        while at + same < len(ids) and ids[same] == ids[at + same]:
            same += 1
        common[at] = same
        if at + same > right:
            left, right = at, at + same
        yield at, same


def _lacks_variety(ids: Sequence[int], locations: Container[int]) -> bool:
    """Looks at the last tokens that are no locations.

    What stands between two locations counts once however often it is said: as the label of another box, a `<sep>`
    before another polygon or the same figure in another cell, it says something new each time.
    """
    if len(ids) < _WINDOW_TOKENS:
        return False
    texts = dict.fromkeys(tuple(text) for located, text in groupby(ids, key=locations.__contains__) if not located)
    last = [id_ for text in texts for id_ in text][-_WINDOW_TOKENS:]
    return len(last) == _WINDOW_TOKENS and len(set(last)) <= _MAX_VARIETY
