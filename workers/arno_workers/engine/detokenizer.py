"""What tokens spell, and where in the text each of them stands.

The tokenizer's own `decode` gives the text alone, holds the interpreter, and takes several times as long.
"""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from itertools import repeat
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from arno_shared.errors import ModelUnusable


class Detokenizer:
    """Of a byte-level tokenizer, as Florence-2's is. May be used by many threads."""

    def __init__(self, tokenizer: Any) -> None:
        """Raises ModelUnusable when the tokenizer spells its vocabulary in another way."""
        self._pieces = {id_: _bytes(token) for token, id_ in tokenizer.get_vocab().items()}
        ids = sorted(self._pieces)
        if tokenizer.decode(ids, skip_special_tokens=False) != text_of(self.pieces(ids)):
            raise ModelUnusable("the tokenizer must be a byte-level one that cleans nothing up")

    def pieces(self, ids: Sequence[int]) -> list[bytes]:
        """UTF-8, of which a piece may hold a part of a character; empty for a number that is no token."""
        return list(map(self._pieces.get, ids, repeat(b"")))


def text_of(pieces: Sequence[bytes]) -> str:
    return b"".join(pieces).decode(errors="replace")


def places_of(pieces: Sequence[bytes]) -> tuple[list[int], list[int]]:
    """Where in the text each piece starts, and where each ends; several may share a character."""
    decoder = getincrementaldecoder("utf-8")("replace")
    starts, ends, length, unfinished = [], [], 0, False
    for piece in pieces:
        # What does not go on with an unfinished character stands behind the � that it became.
        starts.append(length + (unfinished and bool(piece) and piece[0] & 0xC0 != 0x80))
        length += len(decoder.decode(piece))
        unfinished = bool(decoder.getstate()[0])
        ends.append(length + unfinished)
    return starts, ends


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
