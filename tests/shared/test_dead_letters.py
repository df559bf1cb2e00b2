"""Dead letters are kept with their reason, in order and in bounded number, until they are removed."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from arno_shared.dead_letters import DeadLetter, DeadLetters, LetterKind
from arno_shared.messages import Chunk, ImageRef, Output, Prompt, raw_message
from arno_shared.names import DEAD_LETTERS, Lane
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import Settings

CHUNK = Chunk(
    images=(ImageRef(uri="s3://photos/a.jpg", id="ä"), ImageRef(uri="s3://photos/b.jpg")),
    prompts=(Prompt(task="<OD>"),),
    output=Output(prefix="s3://results/run-7/", format="parquet"),
    job_id="run-7",
    index=12,
    attempt=2,
)


@pytest.fixture
def redis(valkey_url: str) -> Iterator[RedisClient]:
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


@pytest.fixture
def letters(redis: RedisClient) -> DeadLetters:
    return DeadLetters(redis, max_letters=1000)


def letter_of(number: int = 0, **fields: Any) -> DeadLetter:
    raw = raw_message([], {"images": number})
    given = {"kind": LetterKind.MESSAGE, "code": "invalid_message", "reason": "wrong", "raw": raw, "worker": "gpu0"}
    return DeadLetter(**{**given, **fields})


def numbers(letters: DeadLetters, **filters: Any) -> list[int]:
    return [json.loads(filed.letter.raw)["kwargs"]["images"] for filed in letters.list(**filters)]


def test_a_letter_is_read_as_it_was_filed(letters: DeadLetters) -> None:
    letter = letter_of(
        kind=LetterKind.IMAGES,
        task="other.task",
        lane=Lane.INTERACTIVE,
        images=3,
        job_id="run-7",
        index=12,
        attempt=2,
        failed_by_code={"timeout": 2, "throttled": 1},
        at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    )
    letters.add(letter)
    (filed,) = letters.list()
    assert filed.letter == letter


def test_a_letter_says_when_it_was_written(letters: DeadLetters) -> None:
    letters.add(letter_of())
    (filed,) = letters.list()
    assert abs((datetime.now(UTC) - filed.letter.at).total_seconds()) < 60


def test_the_letter_of_a_chunk_holds_all_that_doing_it_again_needs() -> None:
    letter = DeadLetter.of_chunk(LetterKind.CHUNK, CHUNK, code="worker_lost", reason="it kills workers", worker="gpu0")
    assert (letter.job_id, letter.index, letter.attempt, letter.images) == ("run-7", 12, 2, 2)
    message = json.loads(letter.raw)
    assert message["args"] == []
    assert Chunk.model_validate(message["kwargs"]) == CHUNK
    assert "ä" in letter.raw


def test_letters_are_listed_oldest_first(letters: DeadLetters) -> None:
    for number in range(5):
        letters.add(letter_of(number))
    assert numbers(letters) == [0, 1, 2, 3, 4]


def test_letters_are_listed_to_the_last_however_many_there_are(redis: RedisClient) -> None:
    many = DeadLetters(redis, max_letters=10_000)
    with redis.pipeline() as pipeline:
        for number in range(1001):
            pipeline.xadd(DEAD_LETTERS, {"letter": letter_of(number).model_dump_json()})
        pipeline.execute()
    assert numbers(many) == list(range(1001))


def test_letters_are_found_by_job_by_code_and_by_both(letters: DeadLetters) -> None:
    for number, (job_id, code) in enumerate([("a", "x"), ("a", "y"), ("b", "x"), (None, "x")]):
        letters.add(letter_of(number, job_id=job_id, code=code))
    assert numbers(letters, job_id="a") == [0, 1]
    assert numbers(letters, code="x") == [0, 2, 3]
    assert numbers(letters, job_id="b", code="x") == [2]
    assert numbers(letters, job_id="b", code="y") == []


def test_letters_may_be_removed_while_they_are_listed(letters: DeadLetters) -> None:
    for number in range(5):
        letters.add(letter_of(number))
    assert [letters.remove(filed.entry_id) for filed in letters.list()] == [True] * 5
    assert numbers(letters) == []


def test_a_letter_is_removed_once(letters: DeadLetters) -> None:
    letters.add(letter_of(0))
    letters.add(letter_of(1))
    first, _ = letters.list()
    assert [letters.remove(first.entry_id), letters.remove(first.entry_id)] == [True, False]
    assert numbers(letters) == [1]


def test_no_letters_are_an_empty_list(letters: DeadLetters) -> None:
    assert list(letters.list()) == []
    assert letters.remove("1-1") is False


def test_the_newest_letters_are_kept(redis: RedisClient) -> None:
    few = DeadLetters(redis, max_letters=100)
    for number in range(350):
        few.add(letter_of(number))
    kept = numbers(few)
    # Streams are trimmed by whole nodes of 100 entries.
    assert 100 <= len(kept) <= 200
    assert kept == list(range(350))[-len(kept) :]


def test_an_entry_that_is_no_letter_keeps_nobody_from_the_others(redis: RedisClient, letters: DeadLetters) -> None:
    for fields in ({"letter": "{}"}, {"other": "x"}, {"letter": "no JSON"}):
        redis.xadd(DEAD_LETTERS, fields)
    letters.add(letter_of(7))
    assert numbers(letters) == [7]
