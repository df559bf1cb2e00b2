"""What `Job.results` gives: every row once, as chunks commit, whatever the ledger forgets."""

from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from arno_producer import Job, Producer
from arno_shared.errors import NotFound
from arno_shared.ledger import JobState
from arno_shared.messages import Chunk
from arno_shared.results import ResultRow
from tests.producer.conftest import Hand, forgotten_later

Seen = tuple[int, int | None, int]
"""Index, position and attempts of a row."""


def seen(row: ResultRow) -> Seen:
    return row.index, row.position, row.attempts


def images(number: int) -> list[str]:
    return [f"s3://b/{place}.jpg" for place in range(number)]


def take(rows: Iterator[ResultRow], number: int) -> list[Seen]:
    return [seen(next(rows)) for _ in range(number)]


@pytest.fixture
def job(producer: Producer) -> Job:
    return producer.job("run-7")


def without_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """As workers of versions that did not say them write, and put off."""
    monkeypatch.setattr(Chunk, "position", lambda self, place: None)


@pytest.mark.parametrize("knows_positions", [True, False])
@pytest.mark.parametrize("first", [0, 1])
def test_the_same_image_twice_once_not_found_and_once_replayed(
    job: Job, hand: Hand, monkeypatch: pytest.MonkeyPatch, first: int, knows_positions: bool
) -> None:
    if not knows_positions:
        without_positions(monkeypatch)
    (chunk,) = hand.open(["s3://b/0.jpg", "s3://b/0.jpg"])
    hand.settle(chunk, {first: "not_found", 1 - first: "unavailable"})
    busy = chunk.only([1 - first])
    hand.settle(busy.retry_of(busy.images, busy.positions), {})
    assert Counter(row.error and row.error.code for row in job.results()) == {None: 1, "not_found": 1}


def test_two_versions_of_one_uri_and_one_image_three_times(job: Job, hand: Hand) -> None:
    versions = [{"uri": "s3://b/0.jpg", "version_id": version} for version in ("v1", "v2")]
    chunks = hand.open(versions, ["s3://b/0.jpg"] * 3)
    for chunk in chunks:
        hand.settle(chunk, {0: "timeout"}, give_up=True)
    for chunk in hand.replay_all():
        hand.settle(chunk, {})
    rows = [(*seen(row), row.image.version_id, row.error) for row in job.results()]
    assert sorted(rows, key=str) == [
        (0, 0, 2, "v1", None),
        (0, 1, 1, "v2", None),
        (1, 0, 2, None, None),
        (1, 1, 1, None, None),
        (1, 2, 1, None, None),
    ]


def test_an_image_that_is_given_up_again_and_again_comes_as_it_was_last(job: Job, hand: Hand) -> None:
    (chunk,) = hand.open(images(3))
    hand.settle(chunk, {1: "timeout", 2: "timeout"}, give_up=True)
    for _ in range(3):
        (chunk,) = hand.replay_all()
        hand.settle(chunk, {0: "unavailable", 1: "timeout"}, give_up=True)
    assert [(*seen(row), row.error and row.error.code) for row in job.results()] == [
        (0, 0, 1, None),
        (0, 1, 4, "unavailable"),
        (0, 2, 4, "timeout"),
    ]


@pytest.mark.parametrize("indices", [(9000,), (1, 2, 3), (20_000, 3)], ids=str)
def test_indices_of_others_may_be_any(job: Job, hand: Hand, indices: Sequence[int]) -> None:
    for index in indices:
        hand.settle(hand.begin_foreign(hand.chunk("run-7", index, *images(2))), {})
    assert sorted(map(seen, job.results())) == sorted((index, place, 1) for index in indices for place in (0, 1))


def test_a_fail_over_that_forgets_commits_neither_ends_the_results_nor_repeats_them(job: Job, hand: Hand) -> None:
    chunks = hand.open(*[images(1)] * 20)
    hand.settle(chunks[0], {}, put_off=[0])
    hand.settle(chunks[3], {0: "timeout"}, give_up=True)
    hand.release_due()
    (later,) = hand.take_all()
    rows = job.results()
    with forgotten_later(hand):
        hand.settle(later, {})
        hand.settle(chunks[19], {})
        assert sorted(take(rows, 3)) == [(0, 0, 2), (3, 0, 1), (19, 0, 1)]
    # The bitmap is shorter than it was.
    assert hand.ledger.committed_chunks("run-7") == 8
    hand.settle(chunks[4], {})
    assert take(rows, 1) == [(4, 0, 1)]
    hand.settle(chunks[19], {})
    hand.settle(later, {})
    (again,) = hand.replay_all()
    hand.settle(again, {})
    assert take(rows, 1) == [(3, 0, 2)]
    for chunk in chunks:
        if not hand.ledger.is_committed(chunk):
            hand.settle(chunk, {})
    assert sorted(map(seen, rows)) == [(index, 0, 1) for index in range(20) if index not in (0, 3, 4, 19)]


def test_rows_of_a_part_that_is_superseded_while_it_is_read(job: Job, hand: Hand) -> None:
    first, second = hand.open(images(3), images(1))
    hand.settle(first, {0: "timeout", 2: "timeout"}, give_up=True)
    rows = job.results()
    assert take(rows, 1) == [(0, 0, 1)]
    (later,) = hand.replay_all()
    hand.settle(later, {})
    hand.settle(second, {})
    assert list(map(seen, rows)) == [(0, 1, 1), (0, 2, 1), (0, 0, 2), (0, 2, 2), (1, 0, 1)]


def test_the_results_of_a_job_that_is_given_up_end(job: Job, hand: Hand) -> None:
    first, _ = hand.open(images(1), images(1), sealed=False)
    hand.settle(first, {})
    hand.redis.zadd("arno:live", {"run-7": 0})
    assert hand.ledger.abandon() == 1
    assert list(map(seen, job.results())) == [(0, 0, 1)]
    assert job.wait(timeout_s=0).state is JobState.INCOMPLETE


def test_a_result_object_that_is_gone_is_said_to_be(job: Job, hand: Hand) -> None:
    (chunk,) = hand.open(images(1))
    hand.ledger.commit(chunk, hand.write(chunk, {}))
    hand.redis.hset("arno:job:run-7", "prefix", chunk.output.prefix + "elsewhere/")
    with pytest.raises(NotFound):
        list(job.results())
