"""What strangers and models say is shown on a terminal as it is, and commands it nothing."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arno_producer import Producer
from arno_producer.cli import terminal
from arno_shared.controls import escape_controls, has_controls
from arno_shared.dead_letters import DeadLetter, LetterKind
from arno_shared.messages import ImageRef
from tests.producer.conftest import Hand, Ran

Arno = Callable[..., Ran]

COMMANDS = "\x1b[2J\x1b]52;c;ZXZpbA==\x07\x9b31m\x7f\r\n\x08\0\u202egpj\u2066\u2028\ufeff\U000e0041."
"""Clears the screen, writes to the clipboard, goes back over what was said, turns the direction of writing."""


@pytest.fixture
def done(producer: Producer, hand: Hand) -> str:
    """The id of a job whose images, errors and dead letters have such names."""
    images = [ImageRef(uri=f"s3://b/{COMMANDS}", id=COMMANDS), ImageRef(uri=f"s3://b/2{COMMANDS}", id=COMMANDS)]
    job = producer.submit(images, "<OD>", job_id="job-1")
    (chunk,) = hand.take_all()
    hand.begin(chunk)
    hand.commit(chunk, failed={images[0].uri: f"code{COMMANDS}"})
    producer.dead_letters.add(
        DeadLetter(
            kind=LetterKind.MESSAGE,
            code=f"code{COMMANDS}",
            reason=f"because{COMMANDS}",
            raw=COMMANDS,
            job_id=f"job{COMMANDS}",
            worker=COMMANDS,
        )
    )
    return job.id


def _harmless(ran: Ran) -> Ran:
    assert ran.out
    assert not has_controls(ran.out.replace("\n", "")), ascii(ran.out)
    assert not has_controls(ran.err.replace("\n", "")), ascii(ran.err)
    return ran


def test_results_are_the_same_json_without_control_characters(arno: Arno, done: str) -> None:
    rows = _harmless(arno("results", done)).lines
    assert [row["image"]["id"] for row in rows] == [COMMANDS] * 2
    assert {row["image"]["uri"] for row in rows} == {f"s3://b/{COMMANDS}", f"s3://b/2{COMMANDS}"}


def test_dead_letters_command_no_terminal(arno: Arno, done: str) -> None:
    assert "because\\u001b[2J" in re.sub(r"\s", "", _harmless(arno("dead", "list")).out)
    (letter,) = _harmless(arno("dead", "list", "--json")).lines
    assert letter["reason"] == f"because{COMMANDS}"


def test_the_status_commands_no_terminal(arno: Arno, done: str) -> None:
    assert "code\\u001b[2J" in _harmless(arno("status", done)).out
    assert _harmless(arno("status", done, "--json")).lines[0]["failed_by_code"] == {f"code{COMMANDS}": 1}
    assert done in _harmless(arno("status")).out


def test_an_error_commands_no_terminal(arno: Arno) -> None:
    ran = arno("dead", "replay", COMMANDS)
    assert ran.code == 2
    assert "\\u001b[2J" in ran.err
    assert not has_controls(ran.err.replace("\n", ""))


def test_a_table_on_a_terminal_has_no_commands_but_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    terminal.show_table(("one", "two"), [(COMMANDS, "[bold]no markup[/]")])
    out = capsys.readouterr().out
    assert "\x1b[" in out, "the headings are not bold: this shows nothing"
    assert not has_controls(re.sub(r"\x1b\[[0-9;]*m|\n", "", out))
    assert "[bold]no markup[/]" in out


@settings(deadline=None)
@given(st.dictionaries(st.text(), st.text() | st.lists(st.text())))
@example({COMMANDS: COMMANDS, '\\\x1b"': '"\\\x9b'})
def test_json_keeps_its_meaning(value: dict[str, Any]) -> None:
    line = json.dumps(value, ensure_ascii=False)
    assert not has_controls(escape_controls(line))
    assert json.loads(escape_controls(line)) == value
