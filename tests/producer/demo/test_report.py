"""The report shows what strangers and models say as it is: it adds nothing to the page."""

from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

pytest.importorskip("jinja2")

from arno_producer.demo.outcome import Announcements, Entry, Outcome, compare
from arno_producer.demo.pictures import Picture, broken_pictures, scene_pictures
from arno_producer.demo.report import render
from arno_shared.results import Failure, ModelFacts, ResultRow
from tests.producer.demo.test_demo import row_of

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
