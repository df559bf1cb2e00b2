"""The report: one HTML file that needs nothing else, neither scripts nor network."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from arno_producer.demo.outcome import CAPTION, OBJECTS, TASKS, TEXT, Entry, Outcome
from arno_producer.demo.pictures import SIZE_PX, Picture, encode
from arno_shared.scenes import Scene
from arno_shared.scenes.lexicon import COLOURS

_NAMES = {CAPTION: "Captions", OBJECTS: "Objects", TEXT: "Texts"}
_NO_COLOUR = (170, 170, 170)


@dataclass(frozen=True, slots=True)
class DrawnBox:
    """In pixels of the picture."""

    label: str
    x: float
    y: float
    width: float
    height: float

    @property
    def colour(self) -> str:
        """As CSS: the one that the label speaks of, grey when it speaks of none."""
        red, green, blue = COLOURS.get(self.label.partition(" ")[0], _NO_COLOUR)
        return f"rgb({red} {green} {blue})"

    @classmethod
    def between(cls, label: str, x1: float, y1: float, x2: float, y2: float) -> "DrawnBox":
        return cls(label, round(x1, 1), round(y1, 1), round(x2 - x1, 1), round(y2 - y1, 1))


def write_report(outcome: Outcome, folder: Path) -> Path:
    """The path of the page that was written."""
    page = folder / "index.html"
    page.write_text(render(outcome), encoding="utf-8")
    return page


def render(outcome: Outcome) -> str:
    environment = Environment(
        loader=PackageLoader("arno_producer.demo", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        outcome=outcome,
        tasks=TASKS,
        names=_NAMES,
        size_px=SIZE_PX,
        found_boxes=found_boxes,
        true_boxes=true_boxes,
        data_uri=data_uri,
        written_at=datetime.now(UTC),
    )


def data_uri(picture: Picture) -> str:
    """The picture as it was submitted, but in fewer bytes: the page holds hundreds."""
    webp = encode(Image.open(io.BytesIO(picture.data or b"")), "webp", quality=75)
    return "data:image/webp;base64," + base64.b64encode(webp).decode()


def found_boxes(entry: Entry) -> Sequence[DrawnBox]:
    return [
        DrawnBox.between(label, *box)
        for result in entry.row.prompts
        if result.task == OBJECTS
        for label, box in zip(result.parsed["labels"], result.parsed["bboxes"], strict=True)
    ]


def true_boxes(scene: Scene) -> Sequence[DrawnBox]:
    return [
        DrawnBox.between(
            item.label, *(edge * SIZE_PX for edge in (item.box.left, item.box.top, item.box.right, item.box.bottom))
        )
        for item in scene.objects
    ]
