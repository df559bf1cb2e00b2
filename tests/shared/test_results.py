"""A row is of the chunk that asked for it, to the letter."""

from datetime import UTC, datetime

import pytest

from arno_shared.messages import Chunk, Output, Prompt
from arno_shared.prompts import Answer
from arno_shared.results import ImageFacts, ModelFacts, PromptResult, ResultRow, Status

OWN, CAR = Prompt(raw="<VQA>what?"), Prompt(task="<CAPTION_TO_PHRASE_GROUNDING>", text="a red car")


def row_of(*prompts: Prompt) -> ResultRow:
    return ResultRow(
        job_id="run-7",
        index=0,
        attempts=1,
        image=ImageFacts(uri="s3://b/a.jpg"),
        status=Status.OK,
        prompts=tuple(
            PromptResult(
                task=prompt.task,
                text=prompt.text,
                parse=prompt.parse,
                prompt=prompt.raw or "Locate the phrases in the caption: a red car",
                raw="",
                tokens=2,
                truncated=False,
            )
            for prompt in prompts
        ),
        model=ModelFacts(id="none", revision="1", dtype="float32"),
        worker="hand",
        finished_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("asked", "is_answer"),
    [
        ([CAR, OWN], True),
        ([OWN, CAR], False),
        ([CAR], False),
        ([CAR, OWN, OWN], False),
        ([CAR, Prompt(raw="<VQA>what? ")], False),
        ([CAR, Prompt(raw="<VQA>what?", parse=Answer.BOXES)], False),
        ([Prompt(task=CAR.task, text="a blue car"), OWN], False),
    ],
)
def test_a_row_answers_a_chunk_of_the_same_prompts_alone(asked: list[Prompt], is_answer: bool) -> None:
    output = Output(prefix="s3://results/run-7/")
    chunk = Chunk(images=("s3://b/a.jpg",), prompts=tuple(asked), output=output, job_id="run-7", index=0)
    assert row_of(CAR, OWN).answers(chunk) is is_answer


def test_a_row_is_of_version_2_where_it_answers_a_fine_tunes_own_prompt() -> None:
    assert (row_of(CAR).schema_version, row_of(CAR, OWN).schema_version) == (1, 2)
    assert '"parse"' not in row_of(CAR).model_dump_json()
