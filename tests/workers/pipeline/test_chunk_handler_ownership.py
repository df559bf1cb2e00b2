"""What a message asks for ends in rows or in a letter, and in nobody else's place."""

import json
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from arno_shared.dead_letters import LetterKind
from arno_shared.errors import Timeout
from arno_shared.ledger import JobState
from arno_shared.messages import ImageRef
from arno_shared.names import Lane, job_keys, task_id
from arno_shared.parts import decode_part
from tests.workers.pipeline.test_chunk_handler import Bench, encoded


@pytest.fixture
def bench(valkey_url: str, tmp_path: Path) -> Bench:
    return Bench(valkey_url, tmp_path / "results")


def message(bench: Bench, *uris: str, **fields: Any) -> dict[str, Any]:
    asked = bench.chunk.model_copy(update={"images": tuple(ImageRef(uri=uri) for uri in uris)}).to_wire()
    return {name: value for name, value in (asked | fields).items() if value is not None}


def handle(bench: Bench, message: dict[str, Any], message_id: str = "message-1") -> str:
    return bench.handler.handle([], message, bench.delivery(message_id=message_id))


def uris(bench: Bench) -> list[list[str]]:
    """Of the rows of each part."""
    parts = sorted(bench.part.parent.glob("part-*"))
    return [[row.image.uri for row in decode_part(part.read_bytes(), "jsonl")] for part in parts]


def letter_codes(bench: Bench) -> list[str]:
    return [letter.code for letter in bench.letters()]


def open_job(bench: Bench, chunks: int) -> None:
    bench.ledger.open("run-7", "terms", bench.chunk.output, Lane.BULK)
    bench.ledger.announce("run-7", chunks, chunks)
    bench.ledger.seal("run-7", chunks, chunks, "digest")


CATS, DOGS, OWLS = "s3://b/cats.png", "s3://b/dogs.png", "s3://b/owls.png"


def test_a_message_without_index_into_a_producer_s_job_is_a_letter(bench: Bench) -> None:
    open_job(bench, 1)
    assert handle(bench, message(bench, CATS, index=None)) == "given up: job_conflict"
    assert letter_codes(bench) == ["job_conflict"]
    assert bench.ledger.status("run-7").state is JobState.RUNNING
    assert handle(bench, message(bench, DOGS), task_id("run-7", 0, 1)) == "1 ok"
    assert uris(bench) == [[DOGS]]
    assert bench.ledger.status("run-7").state is JobState.DONE


@pytest.mark.parametrize("again", ["message-1", "message-2"])
def test_two_messages_of_one_index_do_not_share_a_place(again: str, bench: Bench) -> None:
    assert handle(bench, message(bench, CATS)) == "1 ok"
    assert handle(bench, message(bench, DOGS), again) == "given up: job_conflict"
    assert handle(bench, message(bench, CATS), again) == "done before"
    assert uris(bench) == [[CATS]]
    assert letter_codes(bench) == ["job_conflict"]


def test_messages_without_index_beside_one_with_it_all_get_rows(bench: Bench) -> None:
    assert handle(bench, message(bench, CATS, index=0)) == "1 ok"
    assert handle(bench, message(bench, DOGS, index=None), "message-2") == "1 ok"
    assert handle(bench, message(bench, OWLS, index=None), "message-2") == "1 ok"
    assert uris(bench) == [[CATS], [DOGS], [OWLS]]


def test_messages_without_index_are_numbered_on_after_a_loss(bench: Bench) -> None:
    for number, uri in enumerate((CATS, DOGS, OWLS)):
        assert handle(bench, message(bench, uri, index=None), f"message-{number}") == "1 ok"
        bench.redis.flushall()
    assert uris(bench) == [[CATS], [DOGS], [OWLS]]
    assert bench.letters() == []


def test_a_message_that_is_refused_is_found_by_the_job_that_it_names(bench: Bench) -> None:
    open_job(bench, 1)
    handle(bench, message(bench, CATS, index=None))
    assert [filed.letter.code for filed in bench.dead_letters.list(job_id="run-7")] == ["job_conflict"]


def test_two_jobs_do_not_share_a_prefix(bench: Bench) -> None:
    assert handle(bench, message(bench, CATS)) == "1 ok"
    assert handle(bench, message(bench, DOGS, job_id="another")) == "given up: job_conflict"
    assert uris(bench) == [[CATS]]


@pytest.mark.parametrize("job_id", ["run-7", "another"])
def test_what_the_ledger_has_forgotten_is_not_replaced_in_storage(job_id: str, bench: Bench) -> None:
    handle(bench, message(bench, CATS))
    bench.redis.flushall()
    assert handle(bench, message(bench, DOGS, job_id=job_id)) == "given up: job_conflict"
    assert uris(bench) == [[CATS]]
    (letter,) = bench.letters()
    assert letter.kind is LetterKind.CHUNK
    assert json.loads(letter.raw)["kwargs"]["images"] == [{"uri": DOGS}]
    assert bench.ledger.status(job_id).dead == 1


def test_what_the_ledger_has_forgotten_is_found_done_in_storage(bench: Bench) -> None:
    handle(bench, message(bench, CATS))
    stood = bench.part.read_bytes()
    bench.redis.flushall()
    assert handle(bench, message(bench, CATS)) == "1 ok"
    assert bench.part.read_bytes() == stood
    assert bench.letters() == []


@pytest.mark.parametrize(("images", "said"), [(CATS, "done before"), (DOGS, "given up: job_conflict")])
def test_a_message_whose_index_is_committed_is_compared_with_its_rows(images: str, said: str, bench: Bench) -> None:
    handle(bench, message(bench, CATS))
    bench.redis.delete(job_keys("run-7").loose)
    assert handle(bench, message(bench, images), "message-2") == said
    assert len(bench.letters()) == (said != "done before")
    assert uris(bench) == [[CATS]]


def test_a_producer_s_chunk_that_cannot_be_read_settles_its_job(bench: Bench) -> None:
    open_job(bench, 1)
    wrong = message(bench, CATS, DOGS, prompts=[{"task": "<OF_THE_FUTURE>"}])
    assert handle(bench, wrong, task_id("run-7", 0, 1)) == "given up: invalid_message"
    (letter,) = bench.letters()
    assert (letter.kind, letter.job_id, letter.images) == (LetterKind.CHUNK, "run-7", 2)
    assert json.loads(letter.raw)["kwargs"] == wrong
    status = bench.ledger.status("run-7")
    assert (status.state, status.dead) == (JobState.DONE, 2)


def test_what_only_calls_itself_the_house_s_is_a_letter_that_its_job_does_not_count(bench: Bench) -> None:
    open_job(bench, 1)
    assert handle(bench, message(bench, CATS, index=7), task_id("run-7", 7, 1)) == "given up: job_conflict"
    (letter,) = bench.letters()
    assert letter.kind is LetterKind.MESSAGE
    status = bench.ledger.status("run-7")
    assert (status.state, status.images, status.dead) == (JobState.RUNNING, 1, 0)


def test_the_reason_of_a_letter_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: object) -> None:
        raise ValueError("x" * 50_000)

    monkeypatch.setattr(bench.handler, "_run_together", break_down)
    # Not rendered: as people see them, tracebacks show every value.
    with capture_logs():
        assert handle(bench, message(bench, CATS)) == "given up: internal_error"
    (letter,) = bench.letters()
    assert len(letter.reason) < 10_000


def test_a_message_that_cannot_be_read_keeps_the_id_that_it_came_under(bench: Bench) -> None:
    handle(bench, message(bench, CATS, prompts=[]), "its own id")
    (letter,) = bench.letters()
    assert (letter.kind, letter.message_id) == (LetterKind.MESSAGE, "its own id")


@pytest.mark.parametrize("attempt", [512, 513, 1000])
def test_an_attempt_may_be_the_last_that_there_is(attempt: int, bench: Bench) -> None:
    assert handle(bench, message(bench, CATS, attempt=attempt)) == "1 ok"


def test_a_later_attempt_s_rows_say_where_their_images_were_in_the_first(valkey_url: str, tmp_path: Path) -> None:
    away = {DOGS, OWLS}

    def read(image: ImageRef) -> bytes:
        if image.uri in away:
            raise Timeout("away")
        return encoded((4, 3))

    bench = Bench(valkey_url, tmp_path / "results", read)
    handle(bench, message(bench, CATS, DOGS, CATS, OWLS))
    away.remove(OWLS)
    for field in ("0.2", "0.3"):
        bench.redis.zadd("arno:delayed", {f"run-7/{field}": 0})
        (due,) = bench.ledger.due()
        assert set(due.message) == set(message(bench, CATS, attempt=2)), "it travels as ever"
        handle(bench, due.message, due.task_id)
        bench.ledger.sent(due)
    rows = [row for part in sorted(bench.part.parent.glob("part-*")) for row in decode_part(part.read_bytes(), "jsonl")]
    assert sorted((row.position, row.image.uri, row.attempts) for row in rows) == [
        (0, CATS, 1),
        (1, DOGS, 3),
        (2, CATS, 1),
        (3, OWLS, 2),
    ]
    (letter,) = bench.letters()
    assert (letter.positions, letter.chunk().positions) == ((1,), (1,))
