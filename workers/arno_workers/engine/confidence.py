"""How sure the model was of each object that an answer names.

An object's confidence is the geometric mean of the probabilities of the tokens that wrote it: those of its label, which
boxes of one label share, and those of its own locations. Objects are found as `Florence2PostProcessor` finds them, but
with the places where they stand; their labels are compared with those that it found.
"""

import re
from bisect import bisect_left, bisect_right
from codecs import getincrementaldecoder
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate, compress
from math import exp
from operator import lt
from typing import Any, NamedTuple

from tokenizers.pre_tokenizers import ByteLevel

from arno_workers.engine.phrases import Phrase, has_polygons, phrases, removed_from

_LEAST_LOGPROB = -80.0
"""A confidence is never 0, nor what a 32-bit float would round to it."""

_BOX = re.compile(r"(?:<loc_\d+>){4}")
_POLYGON = re.compile(r"<poly>(.*?)</poly>")
_LOCATION = re.compile(r"<loc_\d+>")
_OUTLINE_END = re.compile(r"<loc_\d+>(?:<sep>|$)")
_POLYGONS_LABEL = re.compile(r"\s*+(.*?)(?=<loc_|<poly>)")


class _Span(NamedTuple):
    start: int
    end: int


class _Found(NamedTuple):
    label: str
    spans: tuple[_Span, ...]


class Confidences:
    """May be used by many threads."""

    def __init__(self, processor: Any) -> None:
        """`processor`: a `Florence2Processor`."""
        self._kinds: dict[str, str] = dict(processor.tasks_answer_post_processing_type)
        self._banned: frozenset[str] = frozenset(processor.post_processor.banned_grounding_tokens)
        self._pieces = {id_: _bytes(token) for token, id_ in processor.tokenizer.get_vocab().items()}

    def of(
        self, task: str, ids: Sequence[int], logprobs: Sequence[float], raw: str, parsed: Any
    ) -> tuple[float, ...] | None:
        """One for each object of `parsed`, in its order, in (0, 1].

        `raw` is the decoded text of `ids`, special tokens and all, and `parsed` what `post_process_generation` made of
        it for the task. None where the task finds no objects, and where another version of transformers, or another
        kind of tokenizer, reads the answer in a way that this file does not know.
        """
        kind = self._kinds.get(task, "pure_text")
        if kind == "pure_text":
            return None
        pieces = [self._pieces.get(id_, b"") for id_ in ids]
        if b"".join(pieces).decode(errors="replace") != raw:
            return None
        text = _Text(raw, pieces, logprobs)
        found = list(self._find(kind, text.clean, raw))
        if [label for label, _ in found] != _labels(parsed):
            return None
        return tuple(exp(text.mean_logprob(spans)) for _, spans in found)

    def _find(self, kind: str, text: str, raw: str) -> Iterator[_Found]:
        for phrase in phrases(kind, text, raw):
            if kind == "ocr":
                yield _Found(text[phrase.start : phrase.marks].strip(), (_Span(phrase.start, phrase.end),))
            elif has_polygons(kind, raw):
                yield from _polygons(text, phrase)
            else:
                yield from _boxes(text, phrase, self._banned if kind == "phrase_grounding" else ())


class _Text:
    """A text as the post-processor reads it, and where in it each token stands."""

    def __init__(self, raw: str, pieces: Sequence[bytes], logprobs: Sequence[float]) -> None:
        starts, ends = _places(pieces)
        self.clean = raw
        for word in removed_from(raw):
            moved = _moved(self.clean, word)
            starts, ends = [moved[start] for start in starts], [moved[end] for end in ends]
            self.clean = self.clean.replace(word, "")
        # Tokens of which nothing is left are no part of any object.
        left = list(map(lt, starts, ends))
        self._starts, self._ends = list(compress(starts, left)), list(compress(ends, left))
        # With its arguments in this order, max takes the bound in place of NaN.
        kept = (max(_LEAST_LOGPROB, logprob) for logprob, stays in zip(logprobs, left, strict=True) if stays)
        self._totals = list(accumulate((min(logprob, 0.0) for logprob in kept), initial=0.0))

    def mean_logprob(self, spans: Iterable[_Span]) -> float:
        """Over the tokens that have a part in the spans."""
        total, count = 0.0, 0
        for start, end in spans:
            first, last = bisect_right(self._ends, start), bisect_left(self._starts, end)
            total += self._totals[last] - self._totals[first]
            count += last - first
        return total / count


def _bytes(token: str) -> bytes:
    """What a token of a byte-level vocabulary stands for."""
    if all(char in _BYTE_OF for char in token):
        return bytes(_BYTE_OF[char] for char in token)
    return token.encode()


def _byte_of_char() -> dict[str, int]:
    """Printable bytes are written as themselves, the others as the characters from U+0100 on, in order."""
    alphabet = sorted(ByteLevel.alphabet())
    printable = {char: ord(char) for char in alphabet if ord(char) < 256}
    others = sorted(set(range(256)) - set(printable.values()))
    return printable | dict(zip(alphabet[len(printable) :], others, strict=True))


_BYTE_OF = _byte_of_char()


def _places(pieces: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """Where in the text each piece starts, and where each ends; several may share a character."""
    if all(map(bytes.isascii, pieces)):
        edges = list(accumulate(map(len, pieces), initial=0))
        return edges[:-1], edges[1:]
    decoder = getincrementaldecoder("utf-8")("replace")
    starts, ends, length, unfinished = [], [], 0, False
    for piece in pieces:
        # What does not go on with an unfinished character stands behind the � that it became.
        starts.append(length + (unfinished and bool(piece) and piece[0] & 0xC0 != 0x80))
        length += len(decoder.decode(piece))
        unfinished = bool(decoder.getstate()[0])
        ends.append(length + unfinished)
    return starts, ends


def _moved(text: str, word: str) -> list[int]:
    """For each place in the text, where it is once every `word` has been removed."""
    stays = bytearray(b"\1") * len(text)
    for cut in re.finditer(word, text):
        stays[cut.start() : cut.end()] = bytes(len(word))
    return list(accumulate(stays, initial=0))


def _labels(parsed: Any) -> list[str]:
    return [label for key in ("labels", "bboxes_labels", "polygons_labels") for label in parsed.get(key, ())]


def _boxes(text: str, phrase: Phrase, banned: Collection[str]) -> Iterator[_Found]:
    label = text[phrase.start : phrase.marks].strip()
    if label in banned:
        return
    label = label.encode("ascii", "ignore").decode()
    for box in _BOX.finditer(text, phrase.marks, phrase.end):
        yield _Found(label, (_Span(phrase.start, phrase.marks), _Span(*box.span())))


def _polygons(text: str, phrase: Phrase) -> Iterator[_Found]:
    written, at = text[phrase.start : phrase.end], phrase.start
    skipped = first.end() if (first := _LOCATION.match(written)) else 0
    named = _POLYGONS_LABEL.match(written, skipped)
    if named is None:
        return
    label = named[0].strip()
    if "<poly>" in written and "</poly>" in written:
        label_at = _Span(at + named.start(), at + named.end())
        # No polygon is looked for behind the last end of one.
        for polygon in _POLYGON.finditer(written, 0, written.rfind("</poly>") + len("</poly>")):
            if _OUTLINE_END.search(written, *polygon.span(1)):
                yield _Found(label, (label_at, _Span(at + polygon.start(), at + polygon.end())))
    elif _OUTLINE_END.search(written):
        yield _Found(label, (_Span(at, phrase.end),))
