"""Rules: which new objects are asked what, and where the answers go. A small TOML file holds them.

[[rule]]
name = "receipts"
bucket = "uploads"              # any, unless it is given
prefix = "receipts/"
suffix = [".jpg", ".png"]       # in whatever case
prompts = ["<OCR>"]
output = "s3://results/receipts/"
lane = "interactive"            # bulk, unless it is given
"""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationError

from arno_shared.errors import InvalidRequest
from arno_shared.messages import GenerationOptions, Output, Prompts, WireModel, describe_invalid
from arno_shared.names import Lane, check_lane, is_own_object
from arno_shared.uris import split_s3


def _check_name(name: str) -> str:
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise ValueError(
            "a rule's name has 1 to 64 letters, digits, '.', '_' or '-', and starts with a letter or a digit"
        )
    return name


def _several(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Rule(WireModel):
    name: Annotated[str, AfterValidator(_check_name)]
    bucket: str | None = None
    prefix: str = ""
    suffix: Annotated[tuple[str, ...], BeforeValidator(_several)] = ()
    prompts: Prompts
    output: Output
    """Each object has a folder of its own below it."""
    lane: Annotated[Lane, BeforeValidator(check_lane)] = Lane.BULK
    generation: GenerationOptions = GenerationOptions()

    def matches(self, bucket: str, key: str) -> bool:
        return (
            self.bucket in (None, bucket)
            and key.startswith(self.prefix)
            and (not self.suffix or key.lower().endswith(tuple(suffix.lower() for suffix in self.suffix)))
        )

    @property
    def watches_its_output(self) -> bool:
        """Its own results would be new objects to it, were they not left out."""
        if not self.output.prefix.startswith("s3://"):
            return False
        bucket, key = split_s3(self.output.prefix)
        return self.bucket == bucket and self.matches(bucket, f"{key}part-000000000.{self.output.format}")


class LoopGuard:
    """Leaves out what Arno wrote itself, whatever the rules say: results must not become work."""

    def __init__(self, prefixes: Sequence[str]) -> None:
        """`prefixes`: of results; those in S3 count."""
        self._places = [split_s3(prefix) for prefix in prefixes if prefix.startswith("s3://")]

    def holds_back(self, bucket: str, key: str) -> bool:
        return is_own_object(key) or any(bucket == own and key.startswith(place) for own, place in self._places)


def load_rules(path: Path) -> tuple[Rule, ...]:
    """Raises InvalidRequest, which names the file, the rule and the field that is wrong."""
    try:
        document = tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidRequest(f"the rules in {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path} is not TOML: {error}") from None
    if unknown := document.keys() - {"rule"}:
        raise InvalidRequest(f"{path}: {sorted(unknown)[0]!r} is not known; rules are [[rule]] tables")
    tables = document.get("rule")
    if not isinstance(tables, list) or not tables:
        raise InvalidRequest(f"{path} has no rules: write each as a [[rule]] table")
    rules = tuple(_rule(table, number, path) for number, table in enumerate(tables, start=1))
    names = [rule.name for rule in rules]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InvalidRequest(f"{path}: two rules have the name {twice!r}")
    return rules


def _rule(table: Any, number: int, path: Path) -> Rule:
    try:
        return Rule.model_validate(table)
    except ValidationError as error:
        named = table.get("name") if isinstance(table, dict) else None
        called = f"rule {number}" + (f" ({named})" if isinstance(named, str) else "")
        raise InvalidRequest(f"{path}, {called}: {describe_invalid(error)}") from None
