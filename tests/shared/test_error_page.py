"""Every error code is explained in docs/errors.md, which says nothing that is not so."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

import arno_producer.cli
import arno_workers.cli
from arno_shared import errors
from arno_shared.error_page import export, page, tree
from arno_shared.errors import ArnoError
from arno_shared.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "errors.md"
PROGRAMS = {"arno": arno_producer.cli.app, "arno-worker": arno_workers.cli.app}

PERMANENT = """
    access_denied broken_image changed credentials_refused cursor_stale demo_failed forbidden_address forbidden_path
    http_error incompatible_kombu internal_error invalid_message invalid_request invalid_uri item_failed
    job_conflict job_not_found missing_extra model_failed model_unusable newer_schema not_an_image not_found
    output_refused redis_refused region_outside scheme_not_allowed storage_refused too_many_bytes too_many_pixels
    too_many_redirects undecodable unknown_message unknown_task worker_lost
"""
RETRYABLE = "connection_failed house_unavailable lane_full throttled timeout unavailable"

each_error = pytest.mark.parametrize("error", tree(), ids=lambda error: error.__name__)


def source_trees(*packages: str) -> Iterator[tuple[Path, ast.Module]]:
    """The modules of Arno, errors.py left out."""
    for package in packages:
        for file in sorted((ROOT / package).rglob("*.py")):
            if file != Path(errors.__file__):
                yield file.relative_to(ROOT), ast.parse(file.read_text())


def section(code: str) -> str:
    """What the page says of a code, its heading left out."""
    _, _, rest = page().partition(f"\n### `{code}`\n")
    return rest.partition("\n### ")[0]


def commands() -> set[str]:
    """Every command line of Arno's that the page names, in a sentence or in a block."""
    spans = re.findall(r"`([^`\n]+)`", page()) + page().splitlines()
    lines = (line.strip() for span in spans for line in span.split(" | "))
    return {line for line in lines if line.split(" ")[0] in PROGRAMS}


def names_of(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """The environment variables of a group of settings."""
    for name, field in model.model_fields.items():
        variable = f"{prefix}{name.upper()}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from names_of(field.annotation, f"{variable}__")
        else:
            yield variable


# The page and the tree


def test_the_page_is_what_the_tree_gives_now(tmp_path: Path) -> None:
    written = tmp_path / "errors.md"
    export(written)
    assert PAGE.read_text() == written.read_text(), "run make errors"


@each_error
def test_an_error_has_a_code_a_docstring_and_a_remedy_of_its_own(error: type[ArnoError]) -> None:
    for name in ("code", "__doc__", "remedy"):
        assert vars(error).get(name), f"{error.__name__} lacks {name}"
        assert "\n" not in vars(error)[name], f"{name} stands in a table, or in a list, on one line"


def test_codes_are_unique_and_in_snake_case() -> None:
    codes = [error.code for error in tree()]
    assert sorted(set(codes)) == sorted(codes)
    assert [code for code in codes if not re.fullmatch(r"[a-z]+(_[a-z]+)*", code)] == []


def test_codes_and_what_is_tried_again_are_as_ever() -> None:
    retryable = {error.code: error.retryable for error in tree()}
    assert retryable == dict.fromkeys(PERMANENT.split(), False) | dict.fromkeys(RETRYABLE.split(), True)


@each_error
def test_an_error_has_its_place_on_the_page(error: type[ArnoError]) -> None:
    assert f"── {error.__name__} " in page()
    assert page().count(f"\n| [`{error.code}`](#{error.code}) | ") == 1
    assert f"\n### `{error.code}`\n" in page()
    assert error.__name__ in str(errors.__doc__), "the tree at the top of errors.py lacks it"


# The source


def test_errors_that_are_declared_elsewhere_are_on_the_page_too() -> None:
    known = {error.__name__ for error in (ArnoError, *tree())}
    declared = [
        statement.value
        for _, module in source_trees("shared", "producer", "workers")
        for node in ast.walk(module)
        if isinstance(node, ast.ClassDef) and known & {base.id for base in node.bases if isinstance(base, ast.Name)}
        for statement in node.body
        if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == ["code"]
    ]
    assert {ast.literal_eval(code) for code in declared} <= {error.code for error in tree()}


def test_workers_take_codes_from_the_tree_and_spell_none_themselves() -> None:
    # The others are plain words, which may stand for something else.
    codes = {error.code for error in tree() if "_" in error.code or error is errors.Undecodable}
    spelt = [
        f"{file}:{node.lineno} {node.value}"
        for file, module in source_trees("workers")
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and node.value in codes
    ]
    assert spelt == []


# What to do


def test_the_settings_that_are_named_exist() -> None:
    named = set(re.findall(r"\bARNO_[A-Z0-9_]+", page()))
    assert named
    assert named - set(names_of(Settings, "ARNO_")) == set()


@pytest.mark.parametrize("line", sorted(commands()))
def test_a_command_that_is_named_exists_with_its_options(line: str) -> None:
    program, *words = shlex.split(line)
    command = typer.main.get_command(PROGRAMS[program])
    while subcommands := getattr(command, "commands", None):
        if not words:
            return
        if words[0] == "resume" and "resume" not in subcommands:
            pytest.skip("arno resume is not there yet")
        command = subcommands[words.pop(0)]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if re.match("-.", word)} <= options


@each_error
def test_dead_letters_are_replayed_or_purged_by_their_own_code(error: type[ArnoError]) -> None:
    said = section(error.code)
    named = re.findall(r"`arno dead (?:replay|purge) --code (\w+)`", said)
    assert named == ([error.code] if "dead letters (" in said else [])
