"""What strangers and models say is shown as it is: it adds nothing to a page, and commands no terminal."""

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytest.importorskip("jinja2")

from arno_producer import Producer
from arno_producer.cli import terminal
from arno_producer.demo.outcome import Announcements, Entry, Outcome, compare
from arno_producer.demo.pictures import Picture, broken_pictures, scene_pictures
from arno_producer.demo.report import render
from arno_shared.controls import escape_controls, has_controls
from arno_shared.dead_letters import DeadLetter, LetterKind
from arno_shared.messages import ImageRef
from arno_shared.results import Failure, ModelFacts, ResultRow
from tests.producer.conftest import Hand, Ran
from tests.producer.test_demo import row_of

Arno = Callable[..., Ran]

# -- the report --------------------------------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert('evil')</script>",
    "</title></style><script src=//evil.example></script>",
    '"><img src=x onerror=evil()>',
    "' onmouseover='evil()' x='",
    '" style="background:url(//evil.example)" x="',
    "--></textarea><svg/onload=evil()>",
    "red; background: url(//evil.example)",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;script&gt;evil()&lt;/script&gt;",
    "</code></dd></dl></article><iframe src=javascript:evil()>",
    "<!--",
    "<![CDATA[",
    "\x1b]0;evil\x07\u202eevil",
]


class Elements(HTMLParser):
    """What a page consists of: its elements with their attributes' names, and the texts in them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: Counter[tuple[str, ...]] = Counter()
        self.values: list[tuple[str, str]] = []
        self.others: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag, *(name for name, _ in attrs)] += 1
        self.values += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        self.elements[f"/{tag}",] += 1

    def handle_comment(self, data: str) -> None:
        self.others.append(data)

    def handle_pi(self, data: str) -> None:
        self.others.append(data)

    def unknown_decl(self, data: str) -> None:
        self.others.append(data)

    def handle_data(self, data: str) -> None:
        self.text += data


def _says(row: ResultRow, words: str) -> ResultRow:
    """The row, with these words wherever words can be."""
    box = [10.0, 20.0, 110.0, 220.0]
    parsed: dict[str, Any] = {"<OD>": {"labels": [words, words], "bboxes": [box, box]}}
    return row.model_copy(
        update={
            "job_id": words,
            "worker": words,
            "model": ModelFacts(id=words, revision=words, dtype=words),
            "image": row.image.model_copy(update={"id": words, "format": words}),
            "error": row.error and Failure(code=words, message=words),
            "prompts": tuple(
                prompt.model_copy(update={"parsed": parsed.get(prompt.task, words), "raw": words})
                for prompt in row.prompts
            ),
        }
    )


PICTURES: list[Picture] = [next(iter(scene_pictures(1))), broken_pictures()[0]]


def _outcome(words: str) -> Outcome:
    """Of a picture that was done, and one that failed."""
    rows = [_says(row_of(picture, picture.must_fail_with), words) for picture in PICTURES]
    entries = [
        Entry(
            replace(entry.picture, what=words),
            entry.row,
            [replace(verdict, truth=words, right=False) for verdict in entry.verdicts],
        )
        for entry in compare(PICTURES, rows, Announcements(), chunks=0).entries
    ]
    return Outcome(entries, None, [words])


@pytest.mark.parametrize("words", HOSTILE)
def test_words_add_no_element_and_no_attribute_to_the_report(words: str) -> None:
    harmless, hostile = Elements(render(_outcome("harmless"))), Elements(render(_outcome(words)))
    assert hostile.elements == harmless.elements
    assert hostile.others == []
    # Ids, captions, labels, texts, truths, reasons: all of it can be read.
    assert hostile.text.count(words) == harmless.text.count("harmless") >= 15
    assert ("alt", words) in hostile.values
    # Styles come from the page, and colours from a table, whatever a label says.
    assert styles(hostile) == styles(harmless)


def styles(page: Elements) -> list[str]:
    return [value for name, value in page.values if name == "style"]


def test_the_report_lets_nothing_run_and_nothing_be_loaded() -> None:
    page = Elements(render(_outcome("harmless")))
    (policy,) = [value for name, value in page.values if name == "content" and "default-src" in value]
    assert policy.split("; ")[:3] == ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"]
    assert not [element for element in page.elements if element[0] in ("script", "link", "iframe", "object", "base")]
    assert all(value.startswith("data:image/webp;base64,") for name, value in page.values if name == "src")


# -- the terminal ------------------------------------------------------------------------------------------------------

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
