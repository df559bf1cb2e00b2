"""What is wrong with what somebody wrote, in words for people who have never heard of Pydantic.

SDK, command line, dead letters, rules and the HTTP door all say it in these.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

_MOST_CHARS = 1000

_WORDS = {
    "missing": "is missing",
    "extra_forbidden": "there is no such field: correct its name, or leave it out",
    "string_type": "must be a text",
    "string_unicode": "must be a text, and holds half of a character",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "has characters, or a form, that it may not have",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "too_long": "must have at most {max_length} items",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}
"""By Pydantic's name for the error; what stands in braces is what it says beside it."""


class Finding(NamedTuple):
    place: tuple[str | int, ...]
    """Names of fields and numbers of items, from the outside in; empty for the whole."""
    words: str


def findings_of(errors: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """What Pydantic found (`ValidationError.errors()`): one finding for each place, without the input values, which
    may hold secrets."""
    errors = list(errors)
    within = {error["loc"][:depth] for error in errors for depth in range(len(error["loc"]))}
    found: dict[tuple[str | int, ...], str] = {}
    for error in errors:
        # A list whose items are wrong is called too short as well.
        echoes = error["type"] == "too_short" and error["loc"] in within
        # What was left out, and follows from fields that are wrong.
        if not echoes and error["type"] != "default_factory_not_called":
            found.setdefault(error["loc"], _words(error)[:_MOST_CHARS])
    return [Finding(place, words) for place, words in found.items()]


def _words(error: Mapping[str, Any]) -> str:
    kind = error["type"]
    said = {name: f"{value:g}" if isinstance(value, float) else value for name, value in error.get("ctx", {}).items()}
    if kind in ("string_too_short", "too_short"):
        what = "characters" if kind == "string_too_short" else "items"
        return "must not be empty" if said["min_length"] == 1 else f"must have at least {said['min_length']} {what}"
    if kind in _WORDS:
        return _WORDS[kind].format(**said)
    words = str(error["msg"])
    return words.removeprefix("Value error, ").replace("Input should be", "must be")
