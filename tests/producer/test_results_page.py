"""Whoever follows the pages sees each image's last row, whatever happens meanwhile, or is told why not."""

import re
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arno_producer import Producer
from arno_producer.results_page import CURSOR_PATTERN, FIRST_PAGE, results_page
from arno_shared.errors import CursorStale, InvalidRequest
from arno_shared.ledger import JobState
from arno_shared.messages import Chunk
from arno_shared.names import job_keys
from arno_shared.results import ResultRow
from tests.producer.conftest import Hand, forgotten_later, lose_redis

Seen = tuple[int, int | None, int]
"""Index, position and attempts of a row."""


class Reader:
    """Follows the pages of one job."""

    def __init__(self, producer: Producer, limit: int = 1000, job_id: str = "run-7") -> None:
        self.job, self.limit = producer.job(job_id), limit
        self.cursor: str | None = FIRST_PAGE
        self.rows: list[ResultRow] = []

    def read(self, limit: int | None = None) -> list[Seen]:
        """A page."""
        assert self.cursor is not None
        page = results_page(self.job, self.cursor, limit or self.limit)
        assert len(page.rows) <= (limit or self.limit)
        self.cursor = page.next_cursor
        self.rows += page.rows
        return [seen(row) for row in page.rows]

    def read_on(self) -> list[Seen]:
        """Until there is nothing more just now."""
        found: list[Seen] = []
        while self.cursor is not None and (rows := self.read()):
            found += rows
        return found

    @property
    def last(self) -> dict[tuple[int, int | None], tuple[int, str | None]]:
        """By index and position, the attempts and the code of the row that counts."""
        return {
            (row.index, row.position): (row.attempts, row.error and row.error.code)
            for row in sorted(self.rows, key=lambda row: row.attempts)
        }


def seen(row: ResultRow) -> Seen:
    return row.index, row.position, row.attempts


def images(number: int) -> list[str]:
    return [f"s3://b/{place}.jpg" for place in range(number)]


def give_up(hand: Hand, chunk: Chunk, *places: int) -> None:
    hand.settle(chunk, dict.fromkeys(places, "timeout"), give_up=True)


# --- a replay ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_what_was_replayed_before_comes_once(producer: Producer, hand: Hand, limit: int) -> None:
    first, second = hand.open(images(3), images(2))
    give_up(hand, first, 0, 2)
    hand.settle(second, {})
    (later,) = hand.replay_all()
    hand.settle(later, {})
    reader = Reader(producer, limit)
    assert reader.read_on() == [(0, 1, 1), (1, 0, 1), (1, 1, 1), (0, 0, 2), (0, 2, 2)]
    assert reader.cursor is None


@pytest.mark.parametrize("read", range(8))
def test_a_replay_while_pages_are_read(producer: Producer, hand: Hand, read: int) -> None:
    """Before, at and behind the cursor: chunks 2, 1 and 0 are replayed in this order."""
    chunks = hand.open(images(3), images(3), images(2))
    for chunk in chunks:
        give_up(hand, chunk, 0, 1)
    reader = Reader(producer, 1)
    for _ in range(read):
        reader.read()
    later = hand.replay_all()
    for chunk in reversed(later):
        hand.settle(chunk, {})
        reader.read()
    reader.read_on()
    expected = {(chunk.index, place): (2, None) for chunk in chunks for place in (0, 1)}
    assert reader.last == expected | {(0, 2): (1, None), (1, 2): (1, None)}
    assert len(set(map(seen, reader.rows))) == len(reader.rows)
    assert reader.cursor is None


def test_a_replay_that_supersedes_rows_of_a_part_that_is_half_read(producer: Producer, hand: Hand) -> None:
    (chunk,) = hand.open(images(4))
    give_up(hand, chunk, 0, 2)
    reader = Reader(producer)
    assert reader.read(2) == [(0, 0, 1), (0, 1, 1)]
    (later,) = hand.replay_all()
    hand.settle(later, {})
    assert reader.read_on() == [(0, 3, 1), (0, 0, 2), (0, 2, 2)]


def test_an_image_that_is_given_up_again_and_again_comes_as_it_was_last(producer: Producer, hand: Hand) -> None:
    (chunk,) = hand.open(images(2))
    give_up(hand, chunk, 1)
    slow = Reader(producer, 1)
    assert slow.read() == [(0, 0, 1)]
    for _ in range(3):
        (chunk,) = hand.replay_all()
        give_up(hand, chunk, 0)
    (chunk,) = hand.replay_all()
    hand.settle(chunk, {})
    assert chunk.attempt == 5
    assert slow.read_on() == [(0, 1, 5)]
    assert Reader(producer).read_on() == [(0, 0, 1), (0, 1, 5)]


def test_of_what_was_replayed_a_part_may_be_put_off(producer: Producer, hand: Hand) -> None:
    (chunk,) = hand.open(images(2))
    give_up(hand, chunk, 0, 1)
    (chunk,) = hand.replay_all()
    hand.settle(chunk, {}, put_off=[0])
    assert Reader(producer).read_on() == [(0, 0, 1), (0, 1, 2)]
    hand.release_due()
    hand.settle(hand.take_all()[0], {})
    assert Reader(producer).read_on() == [(0, 1, 2), (0, 0, 3)]


# --- what is passed over ----------------------------------------------------------------------------------------------


def test_a_chunk_that_was_given_up_and_replayed_comes_to_those_who_passed_it_over(
    producer: Producer, hand: Hand
) -> None:
    first, second, third = hand.open(images(2), images(1), images(1))
    hand.bury(first)
    hand.settle(second, {})
    early, late = Reader(producer, 1), Reader(producer, 1)
    assert early.read() == [(1, 0, 1)]
    (again,) = hand.replay_all()
    hand.settle(again, {})
    hand.settle(third, {})
    for reader in (early, late):
        reader.read_on()
        assert sorted(map(seen, reader.rows)) == [(0, 0, 1), (0, 1, 1), (1, 0, 1), (2, 0, 1)]


def test_a_chunk_that_a_slow_holder_commits_after_it_was_given_up(producer: Producer, hand: Hand) -> None:
    """It has rows, is not dead, and has no letter any more."""
    first, second = hand.open(images(1), images(1))
    hand.bury(first)
    hand.settle(second, {})
    reader = Reader(producer)
    assert reader.job.status().dead == 1
    assert reader.read(1) == [(1, 0, 1)]
    hand.settle(first, {})
    status = reader.job.status()
    assert (status.state, status.ok, status.dead, status.chunks_committed) == (JobState.DONE, 2, 0, 2)
    assert list(producer.dead_letters.list()) == []
    assert sorted(map(seen, reader.job.results())) == [(0, 0, 1), (1, 0, 1)]
    assert sorted(Reader(producer).read_on()) == [(0, 0, 1), (1, 0, 1)]


@pytest.mark.parametrize("ends", ["cancel", "abandon"])
def test_a_job_that_ended_and_goes_on(producer: Producer, hand: Hand, ends: str) -> None:
    chunks = hand.open(*(images(1) for _ in range(6)))
    for index in (1, 3, 5):
        hand.settle(chunks[index], {})
    reader = Reader(producer)
    assert reader.read() == []
    if ends == "cancel":
        reader.job.cancel()
    else:
        hand.redis.zadd("arno:live", {"run-7": 0})
        assert hand.ledger.abandon() == 1
        assert list(map(seen, reader.job.results())) == [(1, 0, 1), (3, 0, 1), (5, 0, 1)]
    assert reader.job.status().finished
    assert reader.read(2) == [(1, 0, 1), (3, 0, 1)]
    hand.open(*(images(1) for _ in range(6)))
    for index in (2, 0, 4):
        hand.settle(chunks[index], {})
    assert reader.read_on() == [(5, 0, 1), (2, 0, 1), (0, 0, 1), (4, 0, 1)]
    assert sorted(Reader(producer, 2).read_on()) == [(index, 0, 1) for index in range(6)]
    assert reader.cursor is None


def test_a_job_that_is_not_submitted_whole_has_no_last_page(producer: Producer, hand: Hand) -> None:
    chunks = hand.open(images(2), sealed=False)
    hand.settle(chunks[0], {}, put_off=[1])
    reader = Reader(producer)
    assert reader.read() == [(0, 0, 1)]
    hand.release_due()
    hand.settle(hand.take_all()[0], {})
    assert reader.read() == []
    chunks = hand.open(images(2), images(1))
    hand.settle(chunks[1], {})
    assert reader.read_on() == [(1, 0, 1), (0, 1, 2)]
    assert reader.cursor is None


# --- messages of others -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("indices", [(1, 2, 3), (9000,), (5, 0, 9000, 2)], ids=str)
@pytest.mark.parametrize("limit", [1, 2, 100])
def test_indices_of_others_say_nothing(producer: Producer, hand: Hand, indices: Sequence[int], limit: int) -> None:
    """What never comes is not waited for."""
    reader, found = Reader(producer, limit), []
    for chunk in [hand.begin_foreign(hand.chunk("run-7", index, *images(2))) for index in indices]:
        hand.settle(chunk, {1: "timeout"}, give_up=True)
        found += [(chunk.index, 0, 1), (chunk.index, 1, 1)]
        # As far as that the job, of which nobody knows more, has not come to its end.
        reader.read(len(found) - 1 - len(reader.rows))
        assert list(map(seen, reader.rows)) == found[:-1]
    for chunk in reversed(hand.replay_all()):
        hand.settle(chunk, {})
    expected = [row for row in found if row[1] == 0] + [(index, 1, 2) for index in reversed(indices)]
    assert reader.read_on() == [(index, 1, 2) for index in reversed(indices)]
    assert Reader(producer, limit).read_on() == expected
    assert sorted(map(seen, producer.job("run-7").results())) == sorted(expected)


# --- a ledger that was lost, or is older than its readers -------------------------------------------------------------


def test_a_redis_that_comes_back_with_its_data_changes_nothing(producer: Producer, hand: Hand) -> None:
    first, second = hand.open(images(2), images(2))
    give_up(hand, first, 0, 1)
    hand.settle(second, {})
    (later,) = hand.replay_all()
    hand.settle(later, {})
    reader, found = Reader(producer, 1), []
    while reader.cursor:
        with forgotten_later(hand):
            pass
        found += reader.read()
    assert found == [(1, 0, 1), (1, 1, 1), (0, 0, 2), (0, 1, 2)]


def rebuild(hand: Hand, *attempts: tuple[Chunk, dict[int, str], Sequence[int]]) -> None:
    """Redis is lost, and the job resumed: these attempts are found in storage."""
    lose_redis(hand)
    hand.open(images(3), images(3), images(3))
    for chunk, failed, put_off in attempts:
        assert hand.ledger.restore(chunk, hand.found(chunk, failed, put_off))


def test_first_attempts_are_where_they_were_when_the_ledger_is_rebuilt(producer: Producer, hand: Hand) -> None:
    first, second, third = hand.open(images(3), images(3), images(3))
    for chunk in (first, second):
        give_up(hand, chunk, 0)
    hand.settle(third, {})
    later = hand.replay_all()
    for chunk in later:
        hand.settle(chunk, {})
    readers = [Reader(producer, 1) for _ in range(9)]
    for number, reader in enumerate(readers):
        for _ in range(number):
            reader.read()
    rebuild(hand, *((chunk, {}, []) for chunk in (*later, first, second, third)))
    for reader in readers[:8]:
        reader.read_on()
        assert sorted(map(seen, reader.rows)) == sorted(seen(row) for row in reader.job.results())
        assert len(reader.rows) == 9
    with pytest.raises(CursorStale, match="begin again without a cursor"):
        readers[8].read_on()


def test_who_passed_a_chunk_over_begins_again_when_the_ledger_is_rebuilt(producer: Producer, hand: Hand) -> None:
    first, second, _ = hand.open(images(3), images(3), images(3))
    hand.bury(first)
    hand.settle(second, {})
    reader = Reader(producer, 1)
    reader.read()
    hand.settle(first, {})
    rebuild(hand, (first, {}, []), (second, {}, []))
    with pytest.raises(CursorStale):
        reader.read()


@pytest.mark.parametrize("lost", ["burial", "end"])
def test_a_fail_over_that_loses_why_a_chunk_was_passed_over_is_told(producer: Producer, hand: Hand, lost: str) -> None:
    first, second = hand.open(images(1), images(2))
    hand.settle(second, {})
    reader = Reader(producer)
    with forgotten_later(hand):
        if lost == "end":
            reader.job.cancel()
        else:
            hand.bury(first)
        assert reader.read(1) == [(1, 0, 1)]
    hand.settle(first, {})
    with pytest.raises(CursorStale):
        reader.read()
    assert Reader(producer).read_on() == [(0, 0, 1), (1, 0, 1), (1, 1, 1)]


def test_a_fail_over_that_loses_why_a_row_was_not_shown_is_told(producer: Producer, hand: Hand) -> None:
    (chunk,) = hand.open(images(3))
    give_up(hand, chunk, 0)
    (later,) = hand.replay_all()
    reader = Reader(producer)
    with forgotten_later(hand):
        hand.settle(later, {})
        assert reader.read(1) == [(0, 1, 1)]
    with pytest.raises(CursorStale):
        reader.read()


def test_a_fail_over_that_changes_the_order_of_later_attempts_is_told(producer: Producer, hand: Hand) -> None:
    for chunk in hand.open(images(1), images(1)):
        give_up(hand, chunk, 0)
    one, other = hand.replay_all()
    reader = Reader(producer)
    with forgotten_later(hand):
        hand.settle(one, {})
        assert reader.read_on() == [(1, 0, 1), (0, 0, 2)]
    for again in (other, one):
        with pytest.raises(CursorStale):
            reader.read()
        hand.settle(again, {})
    with pytest.raises(CursorStale):
        reader.read()


def test_what_a_fail_over_did_not_lose_is_read_on(producer: Producer, hand: Hand) -> None:
    chunks = hand.open(images(1), images(1))
    for chunk in chunks:
        give_up(hand, chunk, 0)
    one, other = hand.replay_all()
    hand.settle(one, {})
    reader = Reader(producer)
    assert reader.read_on() == [(1, 0, 1), (0, 0, 2)]
    with forgotten_later(hand):
        hand.settle(other, {})
    assert reader.read_on() == []
    hand.settle(other, {})
    assert reader.read_on() == [(1, 0, 2)]


def test_who_read_a_job_of_messages_begins_again_when_its_producer_comes_back(producer: Producer, hand: Hand) -> None:
    """After the loss of Redis, what workers had in hand opens the job again, as if nobody had submitted it."""
    first, second, _ = hand.open(images(3), images(3), images(3))
    hand.settle(first, {})
    by_index = Reader(producer)
    by_index.read(2)
    lose_redis(hand)
    hand.settle(second, {})
    between = Reader(producer)
    assert between.read(1) == [(1, 0, 1)]
    with pytest.raises(CursorStale):
        by_index.read()
    hand.open(images(3), images(3), images(3))
    assert hand.ledger.restore(first, hand.found(first, {}, []))
    with pytest.raises(CursorStale):
        between.read()
    assert by_index.read_on() == [(0, 2, 1), (1, 0, 1), (1, 1, 1), (1, 2, 1)]


# --- cursors, and what pages cost -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cursor", ["", "x", "0.0", "0.3.0", "0.0.0.", "0.0.0.1.1.1.1", "-1.0.0", "0.0.0\n"])
def test_a_cursor_that_no_page_made(producer: Producer, hand: Hand, cursor: str) -> None:
    hand.open(images(1))
    with pytest.raises(InvalidRequest, match="follow the link of the page before"):
        results_page(producer.job("run-7"), cursor, 10)


def test_the_longest_cursor_is_one(producer: Producer) -> None:
    assert re.fullmatch(CURSOR_PATTERN, "134217727.1.1024.1767225600000000.1767225600000000.1767225600000000")


def is_cheap(hand: Hand, reader: Reader) -> bool:
    """Whether a page of it takes few commands, with short answers."""
    before = hand.redis.info("stats")
    assert reader.read()
    after = hand.redis.info("stats")
    commands, size = (after[name] - before[name] for name in ("total_commands_processed", "total_net_output_bytes"))
    return bool(commands < 20 and size < 10_000)


def test_a_page_of_a_large_job_costs_what_one_of_a_small_job_does(producer: Producer, hand: Hand) -> None:
    """A million chunks, the job cancelled, and as many commits in the log."""
    size = 1_000_000
    (first,) = hand.open(images(2))
    hand.redis.hset(job_keys("run-7").job, "chunks", size)
    hand.settle(first, {}, put_off=[1])
    hand.release_due()
    hand.settle(hand.take_all()[0], {})
    hand.settle(hand.chunk("run-7", size - 1, "s3://b/last.jpg"), {})
    log = job_keys("run-7").commits
    for start in range(1, size, 10_000):
        hand.redis.zadd(log, {f"{index}.9": index for index in range(start, start + 10_000)})
    producer.job("run-7").cancel()
    reader = Reader(producer, 1)
    assert all(is_cheap(hand, reader) for _ in range(2))
    assert [seen(row) for row in reader.rows] == [(0, 0, 1), (size - 1, 0, 1)]
    reader.cursor = f"{size}.1.0.{size}"
    assert is_cheap(hand, reader)
    assert seen(reader.rows[-1]) == (0, 1, 2)


# --- whatever happens, in whatever order ------------------------------------------------------------------------------


class Story:
    """Work on one job, by chance, beside the plainest account of it: what each image's last row is."""

    def __init__(self, hand: Hand, producer: Producer, chance: Random) -> None:
        self.hand, self.producer, self.chance = hand, producer, chance
        self.last: dict[tuple[int, int | None], tuple[int, str | None]] = {}
        self.dropped: list[Chunk] = []
        """What was given up whole, by whoever may still have it in hand."""
        self.readers: list[Reader] = []
        sizes = [chance.randint(1, 4) for _ in range(chance.randint(1, 5))]
        # The same image may stand in a chunk several times.
        self.asked = [[f"s3://b/{chance.randint(0, 2)}.jpg" for _ in range(size)] for size in sizes]
        if chance.random() < 0.5:
            self.by_producer, self.waiting = True, hand.open(*self.asked)
        else:
            indices = chance.sample([*range(6), 9000], len(self.asked))
            chunks = [hand.chunk("run-7", index, *asked) for index, asked in zip(indices, self.asked, strict=True)]
            self.by_producer, self.waiting = False, [hand.begin_foreign(chunk) for chunk in chunks]

    def step(self) -> None:
        steps = [self.work] * 5 + [self.read] * 5 + [self.replay] * 2 + [self.bury, self.rise, self.stop_and_go]
        self.chance.choice(steps)()

    def settle(self, chunk: Chunk, failed: dict[int, str], put_off: Sequence[int], *, give_up: bool) -> None:
        self.hand.settle(chunk, failed, put_off, give_up=give_up)
        for place in set(range(len(chunk.images))) - set(put_off):
            self.last[chunk.index, chunk.position(place)] = (chunk.attempt, failed.get(place))
        self.hand.release_due()
        self.waiting += self.hand.take_all()

    def work(self, *, well: bool = False) -> None:
        if not self.waiting:
            return
        chunk = self.waiting.pop(self.chance.randrange(len(self.waiting)))
        if self.hand.ledger.is_committed(chunk):
            return
        ends = ["ok"] if well else ["ok", "not_found", "timeout"]
        ended = dict(enumerate(self.chance.choices(ends, k=len(chunk.images))))
        busy = [place for place, end in ended.items() if end == "timeout"]
        if busy and self.chance.random() < 0.5:
            failed = {place: end for place, end in ended.items() if end == "not_found"}
            self.settle(chunk, failed, busy, give_up=False)
        else:
            self.give_up(chunk, {place: end for place, end in ended.items() if end != "ok"}, busy)

    def give_up(self, chunk: Chunk, failed: dict[int, str], busy: Sequence[int]) -> None:
        """What failed transiently has rows, and a letter."""
        outcome = self.hand.write(chunk, failed)
        if busy:
            letter = self.hand.write(chunk, dict.fromkeys(busy, "timeout"), give_up=True).letter
            outcome = replace(self.hand.write(chunk, failed), letter=letter)
        assert self.hand.ledger.commit(chunk, outcome)
        for place in range(len(chunk.images)):
            self.last[chunk.index, chunk.position(place)] = (chunk.attempt, failed.get(place))

    def bury(self) -> None:
        if self.waiting:
            chunk = self.waiting.pop()
            if not self.hand.ledger.is_committed(chunk):
                self.hand.bury(chunk)
                self.dropped.append(chunk)

    def rise(self) -> None:
        """A slow holder of what was given up commits it after all."""
        if self.dropped:
            chunk = self.dropped.pop()
            if not self.hand.ledger.is_committed(chunk):
                self.settle(chunk, {}, [], give_up=False)

    def replay(self) -> None:
        letters = list(self.producer.dead_letters.list())
        if letters and self.producer.job("run-7").status().state is not JobState.CANCELLED:
            assert self.hand.ledger.replay(self.chance.choice(letters))
            self.hand.release_due()
            self.waiting += self.hand.take_all()

    def stop_and_go(self) -> None:
        """The job is cancelled; later it is resumed, and what is not done is sent again."""
        if not self.by_producer:
            return
        if self.producer.job("run-7").status().state is not JobState.CANCELLED:
            self.producer.job("run-7").cancel()
            return
        self.go_on()

    def go_on(self) -> None:
        chunks = self.hand.open(*self.asked)
        self.hand.release_due()
        known = {(chunk.index, chunk.attempt) for chunk in self.waiting}
        sent = [*self.hand.take_all(), *(chunk for chunk in chunks if not self.hand.ledger.is_committed(chunk))]
        self.waiting += [chunk for chunk in sent if (chunk.index, chunk.attempt) not in known]

    def read(self) -> None:
        if not self.readers or self.chance.random() < 0.2:
            self.readers.append(Reader(self.producer))
        reader = self.chance.choice(self.readers)
        reader.read(self.chance.randint(1, 5))
        if reader.cursor is None:
            self.check(reader)
            self.readers.remove(reader)

    def end(self) -> None:
        """All that is left is done, and all readers come to the end."""
        if self.by_producer:
            self.go_on()
        while self.waiting:
            self.work(well=True)
        for reader in [*self.readers, Reader(self.producer), Reader(self.producer, 1)]:
            reader.read_on()
            self.check(reader)

    def check(self, reader: Reader) -> None:
        assert reader.last == self.last
        assert len(set(map(seen, reader.rows))) == len(reader.rows), "a row came twice"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(chance=st.randoms(use_true_random=False), steps=st.integers(5, 60))
def test_every_reader_sees_each_image_s_last_row_and_no_row_twice(
    producer: Producer, hand: Hand, chance: Random, steps: int
) -> None:
    lose_redis(hand)
    story = Story(hand, producer, chance)
    for _ in range(steps):
        story.step()
    story.end()
    rows = list(producer.job("run-7").results())
    assert {(row.index, row.position): (row.attempts, row.error and row.error.code) for row in rows} == story.last
    assert len(rows) == len(story.last)
