"""A row is of one place in a chunk, and the same image may stand in several."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import permutations

import pytest

from arno_shared.errors import NotFound, Timeout, Unavailable, WorkerLost
from arno_shared.messages import Chunk, ImageRef, Output, Prompt
from arno_shared.places import is_given_up, places_of, superseded
from arno_shared.results import Failure, ImageFacts, ModelFacts, ResultRow, Status

GONE, BUSY, OK = NotFound.code, Unavailable.code, None
CAT, DOG = ImageRef(uri="s3://b/cat.jpg"), ImageRef(uri="s3://b/dog.jpg")
OLD_CAT, NEW_CAT = (ImageRef(uri="s3://b/cat.jpg", version_id=version) for version in ("v1", "v2"))


def chunk_of(*images: ImageRef, attempt: int = 1, positions: Sequence[int] = ()) -> Chunk:
    return Chunk(
        images=images,
        prompts=(Prompt(task="<OD>"),),
        output=Output(prefix="s3://results/run-7/"),
        job_id="run-7",
        index=0,
        attempt=attempt,
        positions=tuple(positions),
    )


def row(image: ImageRef, position: int | None, code: str | None = OK, attempts: int = 1) -> ResultRow:
    return ResultRow(
        job_id="run-7",
        index=0,
        position=position,
        attempts=attempts,
        image=ImageFacts.asked(image),
        status=Status.FAILED if code else Status.OK,
        error=Failure(code=code, message="no") if code else None,
        model=ModelFacts(id="none", revision="1", dtype="float32"),
        worker="hand",
        finished_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def old(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """As they were written before there were positions."""
    return [row.model_copy(update={"position": None}) for row in rows]


def test_the_same_image_twice_once_not_found_and_once_replayed_is_two_rows() -> None:
    first = [row(CAT, 0, GONE), row(CAT, 1, BUSY)]
    assert superseded(first, [row(CAT, 1, attempts=2)]) == {1}
    assert superseded(first[::-1], [row(CAT, 1, attempts=2)]) == {0}
    for rows, later in ((old(first), [row(CAT, 1)]), (first, old([row(CAT, 1)])), (old(first), old([row(CAT, 1)]))):
        assert superseded(rows, later) == {1}


def test_two_versions_of_one_uri_are_two_images() -> None:
    first = [row(OLD_CAT, 0, BUSY), row(NEW_CAT, 1, BUSY), row(CAT, 2, BUSY)]
    for place, image in enumerate((OLD_CAT, NEW_CAT, CAT)):
        assert superseded(first, [row(image, place, attempts=2)]) == {place}
        assert superseded(old(first), old([row(image, place, attempts=2)])) == {place}


@pytest.mark.parametrize("codes", sorted(set(permutations([OK, GONE, BUSY, BUSY], 4)), key=str))
def test_the_same_image_several_times(codes: Sequence[str | None]) -> None:
    first = [row(CAT, place, code) for place, code in enumerate(codes)]
    given_up = [place for place, code in enumerate(codes) if code == BUSY]
    later = [row(CAT, place, attempts=2) for place in given_up]
    assert superseded(first, later) == set(given_up)
    assert superseded(old(first), old(later)) == set(given_up)


def test_what_was_put_off_takes_nobody_s_place() -> None:
    """The cat at place 1 had no row before."""
    first = [row(CAT, 0, GONE), row(CAT, 2)]
    assert superseded(first, [row(CAT, 1, attempts=2)]) == set()
    assert superseded(old(first), old([row(CAT, 1, attempts=2)])) == set()


def test_what_is_replayed_in_parts_takes_one_place_each() -> None:
    """Two were given up; of their next attempt one was put off."""
    first = [row(CAT, 0, BUSY), row(CAT, 1, BUSY), row(DOG, 2, BUSY)]
    later = [row(CAT, 0, attempts=2), row(CAT, 1, attempts=3)]
    assert superseded(first, later) == superseded(old(first), old(later)) == {0, 1}


def test_a_place_that_is_known_goes_before_one_that_is_not() -> None:
    first = [row(CAT, 0, BUSY), row(CAT, 1, BUSY)]
    assert superseded(first, [row(CAT, None, attempts=2), row(CAT, 0, attempts=3)]) == {0, 1}


@pytest.mark.parametrize(("error", "given_up"), [(Timeout, True), (WorkerLost, True), (NotFound, False)])
def test_which_codes_say_that_an_image_was_given_up(error: type[Timeout], given_up: bool) -> None:
    assert is_given_up(row(CAT, 0, error.code)) is given_up
    assert not is_given_up(row(CAT, 0))


def test_rows_stand_at_their_places() -> None:
    chunk = chunk_of(CAT, DOG, CAT, attempt=2, positions=(4, 7, 9))
    rows = [row(CAT, 9), row(DOG, 7), row(CAT, 4)]
    assert places_of(chunk, rows) == [2, 1, 0]
    assert places_of(chunk, old(rows)) == [0, 1, 2]
    # One of them knows: the other cat is the one that is left.
    assert places_of(chunk, [row(CAT, None), row(CAT, 4)]) == [2, 0]


@pytest.mark.parametrize(
    "rows", [[row(DOG, 0)], [row(CAT, 1)], [row(CAT, 0), row(CAT, 0)], [row(CAT, None)] * 3], ids=str
)
def test_rows_that_are_of_none_of_its_images(rows: Sequence[ResultRow]) -> None:
    assert places_of(chunk_of(CAT, DOG, CAT), rows) is None
