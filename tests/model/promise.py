"""What is promised, as a plain model: it is told what was asked, looks at what can be seen, and says what is broken.

Every image that is asked for has a URI of its own, by which it is found again, in a row or in a dead letter. Jobs of
which the server forgot something, because it was lost or their time was over, are promised less: no image of a
producer's list is lost, no row is ever replaced, and counts are not negative.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from arno_shared.dead_letters import DeadLetter, FiledLetter, LetterKind
from arno_shared.results import ResultRow, Status
from tests.model.world import Attempt, Seen, SeenJob

CHUNK_IMAGES = 2


@dataclass
class Ask:
    """Images that somebody asked for in one chunk."""

    origin: str
    job_id: str
    index: int | None
    """None where the message did not say."""
    uris: tuple[str, ...]
    excused: str = ""
    """Why nothing need have become of them."""


class Promise:
    def __init__(self) -> None:
        self.lists: dict[str, tuple[str, ...]] = {}
        """Of each job that was submitted whole: its images."""
        self.asks: list[Ask] = []
        self.cancelled: set[str] = set()
        self.paused: set[str] = set()
        self.excused: dict[str, str] = {}
        """Jobs of which not all need have become something."""
        self.torn: set[str] = set()
        """Jobs of which the server forgot something."""
        self.purged: set[str] = set()
        """Ids of letters that somebody threw away."""
        self.purged_uris: set[str] = set()
        self._before = Seen({}, {}, [], [], [])

    @property
    def jobs(self) -> list[str]:
        """Those that were seen last."""
        return [*self._before.jobs]

    # What is done

    def submitted(self, job_id: str, uris: tuple[str, ...]) -> None:
        known = self.lists.setdefault(job_id, uris)
        assert known == uris, f"job {job_id} was accepted with two lists"

    def asked(self, ask: Ask) -> None:
        if ask.job_id in self.cancelled:
            ask.excused = "its job was cancelled"
        same = [one for one in self.asks if one.uris == ask.uris]
        for one in same:
            one.excused = ask.excused
        if not same:
            self.asks.append(ask)

    def was_cancelled(self, job_id: str) -> None:
        self.cancelled.add(job_id)
        self.paused.discard(job_id)
        self.excuse(job_id, "it was cancelled")

    def was_resumed(self, job_id: str) -> None:
        self.cancelled.discard(job_id)
        self.paused.discard(job_id)
        self.excused.pop(job_id, None)

    def was_purged(self, filed: FiledLetter) -> None:
        self.purged.add(filed.entry_id)
        self.purged_uris |= _uris_of(filed)

    def was_lost(self) -> None:
        """Redis lost everything."""
        for ask in self.asks:
            ask.excused = "it was lost with Redis"
        self.torn |= {*self._before.jobs, *self.lists}
        self.cancelled.clear()
        self.paused.clear()
        self._before.jobs, self._before.events, self._before.letters = {}, [], []

    def excuse(self, job_id: str, why: str) -> None:
        self.excused[job_id] = why
        for ask in self.asks:
            if ask.job_id == job_id:
                ask.excused = why

    # What is seen

    def may_begin(self, job_id: str, attempt: int, uris: Iterable[str]) -> None:
        """A worker has its images in hand."""
        assert job_id not in self.cancelled, f"cancelled job {job_id} runs"
        job = self._before.jobs.get(job_id, SeenJob())
        assert job_id not in self.paused or job.state != "paused", f"paused job {job_id} runs"
        if job_id in self.torn:
            return
        done = {
            seen.row.image.uri
            for seen in self._before.rows
            if seen.row.job_id == job_id
            and seen.row.attempts >= attempt
            and Attempt(seen.row.index, seen.row.attempts) in job.committed
        }
        assert not done & set(uris), f"job {job_id} runs what is committed: {done & set(uris)}"

    def may_be_dropped(self, job_id: str, attempt: int, uris: Iterable[str]) -> None:
        """A message was dropped because its images are done, or wait for a later attempt."""
        if job_id in self.excused:
            return
        done = {seen.row.image.uri for seen in self._before.rows} | self.purged_uris
        done |= {uri for filed in self._before.letters for uri in _uris_of(filed)}
        done |= {uri for waiting in self._before.jobs.get(job_id, SeenJob()).waiting.values() for uri in waiting}
        assert done >= set(uris), f"dropped in silence: {set(uris) - done} of job {job_id}"

    def step(self, seen: Seen) -> None:
        """After anything that happens."""
        self._nothing_is_replaced(seen)
        self._rows_are_in_their_places(seen)
        for job_id, before in self._before.jobs.items():
            self._nothing_vanishes(job_id, before, seen.jobs.get(job_id, SeenJob()))
        for job_id, job in seen.jobs.items():
            self._keys_age(job_id, job)
            if job.state:
                self._stopped_stays_so(job_id, job)
                self._counts_are_right(job_id, job, seen)
                self._letters_are_right(job_id, job, seen)
        self._events_are_right(seen)
        self._before = seen

    def _nothing_is_replaced(self, seen: Seen) -> None:
        for path, data in self._before.objects.items():
            if not path.endswith(("_arno/job.json", "_arno/conditional.txt")):
                assert seen.objects.get(path) == data, f"{path} was replaced"

    def _rows_are_in_their_places(self, seen: Seen) -> None:
        jobs: dict[str, str] = {}
        places: set[tuple[object, ...]] = set()
        for folder, row in seen.rows:
            first = jobs.setdefault(folder, row.job_id)
            assert first == row.job_id or self.torn & {first, row.job_id}, f"{folder} has rows of two jobs"
            place = (folder, row.index, row.attempts, row.position)
            assert row.position is None or place not in places, f"two rows of {place}"
            places.add(place)

    def _nothing_vanishes(self, job_id: str, before: SeenJob, now: SeenJob) -> None:
        if before.live:
            assert now.state, f"job {job_id} vanished before it ended"
        if before.state and not now.state:
            self.torn.add(job_id)
            self.paused.discard(job_id)
        if not now.state and not now.tombstone:
            self.cancelled.discard(job_id)

    def _keys_age(self, job_id: str, job: SeenJob) -> None:
        left = {key: left for key, left in job.left_ms.items() if not key.endswith(":tombstone")}
        if job.live:
            assert set(left.values()) <= {-1}, f"job {job_id} has not ended, and ages: {left}"
            # After a loss, a job whose record stands in storage takes its place back.
            assert job.place == job_id or {job_id, job.place} & self.torn, (
                f"the place of job {job_id}, which has not ended, is {job.place}'s"
            )
        else:
            assert -1 not in left.values(), f"job {job_id} has ended, and does not age: {left}"
        if job.state in ("running", "paused"):
            assert job.live, f"job {job_id} is {job.state}, and not live"
        elif job.state in ("done", "incomplete"):
            assert not job.live, f"job {job_id} is {job.state}, and live"

    def _stopped_stays_so(self, job_id: str, job: SeenJob) -> None:
        if job.state == "incomplete":
            self.excuse(job_id, "it ended incomplete")
        if job_id in self.cancelled:
            assert job.state == "cancelled", f"cancelled job {job_id} is {job.state}"
        if job_id in self.paused:
            assert job.state != "running", f"paused job {job_id} is {job.state}"
            if job.state != "paused":
                self.paused.discard(job_id)

    def _counts_are_right(self, job_id: str, job: SeenJob, seen: Seen) -> None:
        counts = Counter(job.counts)
        assert min(counts.values()) >= 0, f"negative counts of job {job_id}: {counts}"
        if job.state == "done":
            assert job.sealed, f"job {job_id} is done, and was not submitted whole"
            assert counts["put_off"] == 0, f"job {job_id} is done, and something is put off"
            assert counts["committed"] + counts["buried"] >= counts["chunks"], f"job {job_id} is done in part"
        if job_id in self.torn:
            return
        first = {index for index, attempt in (*job.committed, *job.buried) if attempt == 1}
        waiting = sum(size for index, size in self._sizes(job_id, job, seen).items() if index not in first)
        told = {name: counts[name] for name in ("images", "ok", "failed", "put_off", "dead")}
        assert counts["images"] == sum(counts[name] for name in ("ok", "failed", "put_off", "dead")) + waiting, (
            f"job {job_id} counts {told}, and {waiting} wait"
        )
        ok = [row for _, row in seen.rows if row.status is Status.OK and self._is_committed(row, job_id, job)]
        assert counts["ok"] == len(ok), f"job {job_id} counts {told}, and has {len(ok)} rows that are ok"
        later = sum(len(uris) for (_, attempt), uris in job.waiting.items() if attempt > 1)
        assert counts["put_off"] == later, f"job {job_id} counts {told}, and {later} are put off"
        dead = sum(images for images, _ in job.buried.values())
        assert counts["dead"] == dead, f"job {job_id} counts {told}, and {dead} are dead"

    def _is_committed(self, row: ResultRow, job_id: str, job: SeenJob) -> bool:
        return row.job_id == job_id and Attempt(row.index, row.attempts) in job.committed

    def _sizes(self, job_id: str, job: SeenJob, seen: Seen) -> Mapping[int, int]:
        """Images of each chunk that was announced."""
        if job.origin == "message":
            return {}
        if job.origin == "sender":
            return {0: next(len(ask.uris) for ask in self.asks if (ask.origin, ask.job_id) == ("sender", job_id))}
        listed = _listed(seen, job.prefix)
        return {index: len(listed[index]) for index in range(job.counts.get("chunks", 0))}

    def _letters_are_right(self, job_id: str, job: SeenJob, seen: Seen) -> None:
        if job_id in self.torn:
            return
        filed = {
            filed.entry_id
            for filed in seen.letters
            if filed.letter.kind is LetterKind.CHUNK and filed.letter.job_id == job_id
        }
        buried = {letter for _, letter in job.buried.values()}
        assert filed == buried - self.purged, f"job {job_id} has the letters {filed}, and should have {buried}"

    def _events_are_right(self, seen: Seen) -> None:
        twice = [event for event, times in Counter(seen.events).items() if times > 1 and event[0] not in self.torn]
        assert not twice, f"events that came twice: {twice}"
        for job_id, job in seen.jobs.items():
            if job_id not in self.torn and job.state:
                told = {attempt for event_job, attempt in seen.events if event_job == job_id}
                assert told <= job.committed, f"events of what is not committed: {job_id}, {told - job.committed}"
                silent = job.committed - told - job.restored
                assert not silent, f"no events of what is committed: {job_id}, {silent}"

    # What there is at the end

    def end(self, seen: Seen) -> None:
        """Nothing waits any more."""
        for ask in [*self.asks, *self._listed_asks()]:
            if not ask.excused and ask.job_id not in self.excused:
                self._came_to_something(ask, seen)
        for job_id in self.lists:
            job = seen.jobs.get(job_id, SeenJob())
            if job_id not in self.excused:
                assert (job.state or job.tombstone) == "done", (
                    f"job {job_id} is {job.state or job.tombstone} at the end"
                )

    def were_read(self, job_id: str, rows: Sequence[ResultRow], seen: Seen) -> None:
        """All rows of a job that has ended, read in one way or another."""
        job = seen.jobs[job_id]
        folder = _folder(job.prefix)
        standing = [row for place, row in seen.rows if place == folder and self._is_committed(row, job_id, job)]
        read = Counter((row.index, row.position, row.attempts) for row in rows if row.position is not None)
        assert set(read.values()) <= {1}, f"rows of job {job_id} were read twice: {read}"
        if job_id in self.torn:
            # Of what it had forgotten the ledger does not know any more where it stands.
            return
        missed = _last(standing) ^ _last(rows)
        assert not missed, f"what became of images of job {job_id} was read wrong: {missed}"

    def _listed_asks(self) -> list[Ask]:
        return [
            Ask("producer", job_id, first // CHUNK_IMAGES, uris[first : first + CHUNK_IMAGES])
            for job_id, uris in self.lists.items()
            for first in range(0, len(uris), CHUNK_IMAGES)
        ]

    def _is_an_end(self, row: ResultRow, seen: Seen) -> bool:
        job = seen.jobs.get(row.job_id)
        known = job is not None and job.state and row.job_id not in self.torn
        return not known or self._is_committed(row, row.job_id, job)

    def _came_to_something(self, ask: Ask, seen: Seen) -> None:
        # What a slow holder wrote, and did not come to commit, is no end.
        rows = [row for _, row in seen.rows if row.image.uri in ask.uris and self._is_an_end(row, seen)]
        letters = [filed.letter for filed in seen.letters if _uris_of(filed) & {*ask.uris}]
        refused = any(letter.kind is LetterKind.MESSAGE for letter in letters)
        buried = [letter for letter in letters if letter.kind is LetterKind.CHUNK]
        for position, uri in enumerate(ask.uris):
            rowed = [row.attempts for row in rows if row.image.uri == uri and row.position in (position, None)]
            given_up = [letter.attempt or 1 for letter in buried if position in _positions(letter)]
            ends = rowed + given_up
            assert ends or refused or uri in self.purged_uris, f"lost: {uri}, of {ask}"
            if ask.job_id not in self.torn:
                assert len(ends) == len({*ends}), f"{uri} came to an end more than once: {ends}"
                assert len(given_up) <= 1, f"{uri} has letters of attempts {given_up}"
                assert max(given_up, default=0) in (0, max(ends, default=0)), f"the letter of {uri} is out of date"
        places = {(row.job_id, row.index) for row in rows}
        if ask.job_id not in self.torn and places:
            assert len(places) == 1, f"{ask} has rows in {places}"
            assert ask.index in (None, *(index for _, index in places)), f"{ask} has rows in {places}"


def _positions(letter: DeadLetter) -> Sequence[int]:
    return letter.positions or range(letter.images)


def _last(rows: Iterable[ResultRow]) -> set[tuple[object, ...]]:
    """What became of each image last."""
    last: dict[object, tuple[object, ...]] = {}
    for row in sorted(rows, key=lambda row: row.attempts):
        last[row.index, row.position] = (row.index, row.position, row.attempts, row.image.uri, row.status)
    return set(last.values())


def _folder(prefix: str) -> str:
    name = prefix.rstrip("/").rpartition("/")
    return f"loose/{name[2]}" if name[0].endswith("/loose") else name[2]


def _listed(seen: Seen, prefix: str) -> dict[int, tuple[str, ...]]:
    """What a manifest says."""
    folder = _folder(prefix)
    lines = (
        json.loads(line)
        for path, data in seen.objects.items()
        if path.startswith(f"{folder}/_arno/manifest-")
        for line in data.splitlines()
    )
    return {line["index"]: tuple(image["uri"] for image in line["images"]) for line in lines}


def _uris_of(filed: FiledLetter) -> set[str]:
    kwargs = json.loads(filed.letter.raw)["kwargs"]
    return {image if isinstance(image, str) else image["uri"] for image in kwargs["images"]}
