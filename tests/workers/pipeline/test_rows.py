"""Rows are for whoever asked; what others read of a chunk, its event and the reason of its letter, has no secrets."""

from arno_shared.errors import NotFound, Timeout
from arno_shared.messages import Chunk, ImageRef, Output, Prompt
from arno_shared.names import Lane
from arno_shared.prompts import Answer
from arno_shared.settings import Settings, TopicSettings
from arno_workers.engine import Answered
from arno_workers.engine.null import NullReplica
from arno_workers.pipeline.chunk_run import ChunkRun
from arno_workers.pipeline.rows import outcome, settle
from tests.workers.pipeline.test_chunk_handler import NOTHING_SAID, FakeEngine

URIS = [f"https://user:hush@photos.example/{name}.jpg?X-Amz-Signature=hush" for name in "abc"]
REDACTED = [f"https://***@photos.example/{name}.jpg?***" for name in "abc"]


TASK, OWN = Prompt(task="<OD>"), Prompt(raw="<VQA>what?", parse=Answer.QUADS)


def ran(inline: bool, prompt: Prompt = TASK) -> ChunkRun:
    """An image is well, one is not there, and one did not come in time."""
    chunk = Chunk(
        images=tuple(ImageRef(uri=uri) for uri in URIS),
        prompts=(prompt,),
        output=Output(prefix="s3://results/", inline=inline),
        job_id="run-7",
        index=0,
    )
    run = ChunkRun(chunk, Lane.BULK)
    run.items[0].settle(Answered((NOTHING_SAID,), wait_ms=1.0, model_ms=2.0))
    run.items[1].settle(NotFound(f"{URIS[1]} is not there"))
    run.items[2].settle(Timeout(f"{URIS[2]} did not come in time"))
    return run


def test_an_event_has_no_secrets_of_presigned_uris() -> None:
    run = ran(inline=True)
    settled = settle(run, FakeEngine(), 1, "w")
    result = outcome(run.chunk, settled, "s3://results/part", Lane.BULK, "w", Settings())
    assert "hush" not in result.event.model_dump_json()
    assert [(one.uri, one.code) for one in result.event.data.failed] == [
        (REDACTED[1], "not_found"),
        (REDACTED[2], "timeout"),
    ]
    inline = result.event.data.results
    assert inline
    assert [row.image.uri for row in inline] == REDACTED
    assert [row.error.message for row in inline if row.error] == [
        f"{REDACTED[1]} is not there",
        f"{REDACTED[2]} did not come in time",
    ]


def test_the_reason_of_a_letter_has_none_and_its_message_can_be_replayed() -> None:
    run = ran(inline=False)
    result = outcome(run.chunk, settle(run, FakeEngine(), 1, "w"), "s3://results/part", Lane.BULK, "w", Settings())
    assert result.letter
    assert result.letter.reason == f"1 images failed 1 times, last: {REDACTED[2]} did not come in time"
    assert URIS[2] in result.letter.raw
    assert URIS[1] not in result.letter.raw
    assert result.event.data.results is None


def test_rows_name_images_as_they_were_asked_for_and_say_no_secret_in_their_errors() -> None:
    run = ran(inline=False)
    settled = settle(run, FakeEngine(), 3, "w")
    assert [row.image.uri for row in settled.rows] == URIS[:2]
    (failure,) = settled.failures
    assert failure.error
    assert failure.error.message == f"{REDACTED[1]} is not there"
    assert settled.put_off
    assert [image.uri for image in settled.put_off.images] == URIS[2:]


def test_results_that_are_too_large_do_not_travel_in_the_event() -> None:
    run = ran(inline=True)
    settled = settle(run, FakeEngine(), 1, "w")
    size = sum(len(row.model_dump_json()) for row in settled.rows)

    def travels(max_bytes: int) -> bool:
        settings = Settings(topic=TopicSettings(inline_max_bytes=max_bytes))
        result = outcome(run.chunk, settled, "s3://results/part", Lane.BULK, "w", settings)
        return result.event.data.results is not None

    assert travels(size)
    assert not travels(size - 1)


def test_rows_and_events_say_version_2_where_a_fine_tunes_own_prompt_is_answered_and_there_alone() -> None:
    def versions(inline: bool, prompt: Prompt) -> tuple[list[int], int, str]:
        run = ran(inline, prompt)
        settled = settle(run, FakeEngine(), 3, "w")
        event = outcome(run.chunk, settled, "s3://results/part", Lane.BULK, "w", Settings()).event
        assert settled.put_off
        return [row.schema_version for row in settled.rows], settled.put_off.schema_version, event.dataschema

    assert versions(True, TASK) == ([1, 1], 1, "urn:arno:chunk-completed:v1")
    assert versions(True, OWN) == ([2, 1], 2, "urn:arno:chunk-completed:v2")
    # Without its rows it says nothing that is new.
    assert versions(False, OWN) == ([2, 1], 2, "urn:arno:chunk-completed:v1")


def test_the_answer_to_a_fine_tunes_own_prompt_says_how_it_was_read() -> None:
    run = ran(False, OWN)
    (answer,) = settle(run, NullReplica(), 1, "w").rows[0].prompts
    assert (answer.task, answer.parse, answer.prompt) == (None, Answer.QUADS, "<VQA>what?")
