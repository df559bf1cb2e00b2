"""A fine-tune's own prompts, through a real worker: the sentences of tasks, asked to the letter, are answered as the
tasks are."""

from collections.abc import Callable
from pathlib import Path

import pytest

from arno_producer import Producer
from arno_shared.messages import Prompt
from arno_shared.prompts import Answer
from arno_shared.results import PromptResult
from arno_shared.scenes import draw, make_scene
from arno_shared.settings import Settings
from arno_shared.uris import file_uri
from tests.acceptance.arno_worker import ArnoWorker
from tests.acceptance.test_http import open_door

CAPTION = "What does the image describe?"
OD = "Locate the objects with category name in the image."
ASKED = ["<CAPTION>", {"raw": CAPTION}, "<OD>", Prompt(raw=OD, parse=Answer.BOXES)]


@pytest.fixture
def scene(tmp_path: Path) -> str:
    draw(make_scene(50_001), size_px=256).save(tmp_path / "scene.png")
    return file_uri(tmp_path / "scene.png")


def check(answers: list[PromptResult]) -> None:
    caption, own_caption, found, own_found = answers
    assert [(answer.task, answer.parse) for answer in (own_caption, own_found)] == [(None, "text"), (None, "boxes")]
    assert [answer.prompt for answer in answers] == [CAPTION, CAPTION, OD, OD]
    assert caption.parsed
    assert found.parsed["bboxes"]
    for own, task in ((own_caption, caption), (own_found, found)):
        named = {"task": task.task, "parse": None}
        assert own.model_copy(update=named) == task


def test_what_is_asked_with_the_sdk_and_over_http_is_answered_as_the_tasks_are(
    settings: Settings, scene: str, tmp_path: Path, start_worker: Callable[..., ArnoWorker]
) -> None:
    start_worker(ARNO_WORKER__ENGINE="florence")
    producer = Producer(settings)
    for job in (producer.submit([scene], ASKED), producer.send([scene], ASKED).job):
        (row,) = job.results()
        assert row.schema_version == 2
        check(list(row.prompts))
    (plain,) = producer.submit([scene], "<CAPTION>").results()
    assert plain.schema_version == 1

    said = [{"raw": prompt.raw, "parse": prompt.parse} if isinstance(prompt, Prompt) else prompt for prompt in ASKED]
    with open_door(settings, tmp_path / "door.log") as door:
        answer = door.ask("POST", "/v1/annotate", json={"image": scene, "prompts": said})
        assert answer.status == 200, answer.data
        row = answer.json()
        assert row["schema_version"] == 2
        check([PromptResult.model_validate(one) for one in row["prompts"]])

        view = door.ask("POST", "/v1/jobs", json={"images": [scene], "prompts": said}).json()
        assert "done" in door.ask("GET", view["links"]["events"]).data.decode()
        row = door.ask("GET", view["links"]["results"]).json()
        assert row["schema_version"] == 2
        check([PromptResult.model_validate(one) for one in row["prompts"]])
