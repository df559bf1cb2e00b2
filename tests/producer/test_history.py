"""What became of a chunk's images is told from the rows of its attempts, each of its place."""

from collections.abc import Sequence

from arno_producer.history import History
from arno_shared.messages import Chunk
from arno_shared.names import Lane
from arno_shared.parts import decode_part
from arno_shared.results import PromptResult, ResultRow, Status
from tests.producer.conftest import Hand

ANSWER = PromptResult(task="<OD>", prompt="?", raw="!", tokens=1, truncated=False)
CAT = "s3://b/cat.jpg"


def rows_of(
    hand: Hand, chunk: Chunk, failed: dict[int, str], put_off: Sequence[int] = (), *, old: bool = False
) -> list[ResultRow]:
    """`old`: as they were written before rows had positions."""
    uri = hand.write(chunk, failed, put_off).event.data.result_uri
    return [
        row.model_copy(
            update={
                "prompts": (ANSWER,) if row.status is Status.OK else (),
                "position": None if old else row.position,
            }
        )
        for row in decode_part(hand.store.get(uri), chunk.output.format)
    ]


def counts(history: History) -> list[tuple[int, int, dict[str, int], tuple[int, ...] | None]]:
    """Of what is to be restored: attempt, ok, failed by code, and the positions of what is still to be done."""
    return [
        (attempt.attempt, found.ok, dict(found.failed_by_code), found.put_off and found.put_off.positions)
        for attempt, found in history.found(Lane.BULK)
    ]


def test_what_was_put_off_knows_its_places(hand: Hand) -> None:
    chunk = hand.chunk("run-7", 0, *[CAT] * 4)
    history = History(chunk)
    assert history.add(rows_of(hand, chunk, {0: "not_found"}, [1, 3]))
    assert counts(history) == [(1, 1, {"not_found": 1}, (1, 3))]
    later = history.next
    assert (later.attempt, later.positions, len(later.images)) == (2, (1, 3), 2)
    assert history.add(rows_of(hand, later, {}, [0]))
    assert counts(history) == [(2, 1, {}, (1,)), (1, 1, {"not_found": 1}, None)]


def test_rows_of_before_there_were_positions_are_of_the_first_that_fits(hand: Hand) -> None:
    chunk = hand.chunk("run-7", 0, CAT, "s3://b/dog.jpg", CAT)
    history = History(chunk)
    assert history.add(rows_of(hand, chunk, {}, [2], old=True))
    assert history.next.positions == (2,)
    assert history.add(rows_of(hand, history.next, {0: "timeout"}, old=True))
    assert counts(history) == [(2, 0, {"timeout": 1}, None), (1, 2, {}, None)]


def test_what_was_replayed_counts_as_it_was_last(hand: Hand) -> None:
    """The same image twice: one was not found, the other was given up, again and again."""
    chunk = hand.chunk("run-7", 0, CAT, CAT)
    history = History(chunk)
    assert history.add(rows_of(hand, chunk, {0: "not_found", 1: "unavailable"}))
    for attempt in (2, 3, 4):
        assert (history.next.attempt, history.next.positions) == (attempt, (1,))
        assert history.add(rows_of(hand, history.next, {0: "timeout"}))
    assert history.add(rows_of(hand, history.next, {}))
    nothing = [(attempt, 0, {}, None) for attempt in (2, 3, 4)]
    assert counts(history) == [*nothing, (5, 1, {}, None), (1, 0, {"not_found": 1}, None)]


def test_of_what_was_replayed_a_part_may_be_put_off(hand: Hand) -> None:
    chunk = hand.chunk("run-7", 0, *[CAT] * 3)
    history = History(chunk)
    assert history.add(rows_of(hand, chunk, {0: "worker_lost", 2: "timeout"}))
    assert history.add(rows_of(hand, history.next, {}, [1]))
    assert counts(history) == [(2, 1, {}, (2,)), (1, 1, {}, None)]
    assert (history.next.attempt, history.next.positions) == (3, (2,))


def test_rows_that_cannot_be_of_the_next_attempt_are_not_added(hand: Hand) -> None:
    chunk = hand.chunk("run-7", 0, CAT, CAT)
    history = History(chunk)
    assert not history
    assert not history.add(rows_of(hand, hand.chunk("run-8", 0, CAT), {}))
    assert history.add(rows_of(hand, chunk, {0: "not_found"}))
    done = chunk.retry_of(chunk.images[:1], [0])
    assert not history.add(rows_of(hand, done, {}))
    assert counts(history) == [(1, 1, {"not_found": 1}, None)]
