"""Characters that are obeyed and not seen: they command a terminal, end a line, or turn the direction of writing."""

import json
from unicodedata import category

_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Controls, formats, halves of surrogate pairs, and separators of lines and of paragraphs."""


def has_controls(text: str) -> bool:
    return not text.isprintable() and any(map(_is_control, text))


def escape_controls(text: str) -> str:
    """`text` with its control characters written out as JSON does (`\\u001b`), so that JSON keeps its meaning."""
    if text.isprintable():
        return text
    return "".join(json.dumps(character)[1:-1] if _is_control(character) else character for character in text)


def _is_control(character: str) -> bool:
    return category(character) in _CATEGORIES
