"""Random sequences of all that producers, workers, senders, strangers, people and time do, held to what is promised."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from arno_producer.results_page import FIRST_PAGE, results_page
from arno_shared.broker import Sender, celery_app
from arno_shared.delayed import release_due
from arno_shared.errors import CursorStale, InvalidRequest, JobConflict, JobNotFound
from arno_shared.messages import Chunk, ImageRef, Output, Prompt
from arno_shared.names import TASK_NAME, Lane
from arno_shared.results import ResultRow
from arno_workers.pipeline.metrics import WorkerMetrics
from tests.model.clock import pass_time
from tests.model.hand import Fate, Hand
from tests.model.promise import Ask, Promise
from tests.model.same_sequences import BACKEND
from tests.model.world import ABANDON_S, LEASE_S, RETENTION_S, Seen, World

OD = Prompt(task="<OD>")
MOST_HANDS = 4

producers_jobs = st.sampled_from(("a", "b"))
senders_jobs = st.sampled_from(("s", "t"))
fates: st.SearchStrategy[list[Fate]] = st.sampled_from(
    (["ok"], ["later"], ["ok", "later"], ["failed", "ok"], ["later", "failed"], ["broken"])
)
any_one = st.integers(0, 5)


def list_of(job_id: str, kind: str) -> tuple[str, ...]:
    """A job's images. `first` has one image twice in a chunk; the others begin as it does."""
    first = [f"s3://b/{job_id}/{number}" for number in (0, 1, 2, 2, 4, 5, 6)]
    match kind:
        case "other":
            first[4] += "-other"
        case "shorter":
            first = first[:4]
        case "longer":
            first += [f"s3://b/{job_id}/{number}" for number in (7, 8)]
    return tuple(first)


@dataclass
class Reader:
    cursor: str = FIRST_PAGE
    ended: bool = False
    rows: list[ResultRow] = field(default_factory=list)


class Delivery(RuleBasedStateMachine):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world, self.promise = world, Promise()
        self.hands: list[Hand] = []
        self.sender = Sender(celery_app(world.settings))
        self.messages = count()
        self.years, self.losses = False, 0
        self.waited_s = 0
        self.readers: dict[str, Reader] = {}
        self.folders = {"a": "a", "b": "b"}
        """Where producers' jobs have their results."""
        self.sent: list[tuple[str, dict[str, object], Ask]] = []

    @initialize(folder=st.sampled_from(("b", "b", "a", "s")), years=st.booleans(), losses=st.sampled_from((0, 0, 0, 2)))
    def choose(self, folder: str, years: bool, losses: int) -> None:
        """Two jobs may want one prefix. Of what the server forgets less is promised: that is not in all sequences."""
        self.folders["b"], self.years, self.losses = folder, years, losses

    # Producers

    @rule(
        job_id=producers_jobs,
        kind=st.sampled_from(("first", "first", "other", "shorter", "longer")),
        breaks_after=st.one_of(st.none(), st.integers(1, 8)),
    )
    def submit(self, job_id: str, kind: str, breaks_after: int | None) -> None:
        """A list, or what a source gives, which may break off."""
        with suppress(JobConflict, InterruptedError):
            self._submit(job_id, list_of(job_id, kind), breaks_after)

    def _submit(self, job_id: str, uris: tuple[str, ...], breaks_after: int | None = None) -> None:
        def source() -> Iterator[str]:
            for number, uri in enumerate(uris):
                if number == breaks_after:
                    raise InterruptedError
                yield uri

        self.world.producer.submit(
            uris if breaks_after is None else source(),
            [OD],
            output=self.world.prefix(self.folders[job_id]),
            job_id=job_id,
            wait_for_room=False,
        )
        if job_id not in self.promise.cancelled:
            self.promise.submitted(job_id, uris)

    # Senders

    def _chunk(self, job_id: str, version: int, folder: str) -> Chunk:
        images = tuple(ImageRef(uri=f"s3://b/{job_id}/sent-{version}-{number}") for number in range(2))
        return Chunk(
            images=images, prompts=(OD,), output=Output(prefix=self.world.prefix(folder)), job_id=job_id, index=0
        )

    @rule(
        job_id=senders_jobs,
        version=st.integers(0, 1),
        folder=st.sampled_from(("own", "own", "s", "a")),
        dies=st.sampled_from(("", "", "before the queue", "after it")),
    )
    def send(self, job_id: str, version: int, folder: str, dies: str) -> None:
        chunk = self._chunk(job_id, version, job_id if folder == "own" else folder)
        try:
            if dies:
                self._die_sending(chunk, reaches_the_queue=dies == "after it")
            else:
                self.world.producer.send(list(chunk.images), [OD], output=chunk.output, job_id=job_id)
        except JobConflict:
            return
        self.promise.asked(Ask("sender", chunk.job_id, 0, tuple(image.uri for image in chunk.images)))

    def _die_sending(self, chunk: Chunk, *, reaches_the_queue: bool) -> None:
        if self.world.ledger.expect(chunk, Lane.INTERACTIVE) and reaches_the_queue:
            self.sender.send_chunk(chunk, Lane.INTERACTIVE)

    # Strangers

    @rule(
        job_id=st.sampled_from((None, "f", "f", "a", "s")),
        index=st.sampled_from((None, None, 0, 1, 3)),
        folder=st.sampled_from(("own", "own", "own", "f", "a")),
        same_id=st.booleans(),
    )
    def send_foreign(self, job_id: str | None, index: int | None, folder: str, same_id: bool) -> None:
        number = next(self.messages)
        message_id = self.sent[-1][0] if same_id and self.sent else f"message-{number}"
        uris = tuple(f"s3://b/foreign/{number}-{image}" for image in range(2))
        message: dict[str, object] = {"images": list(uris), "prompts": ["<OD>"]}
        if job_id:
            message |= {"job_id": job_id, "output": self.world.prefix(job_id if folder == "own" else folder)}
            if index is not None:
                message["index"] = index
        self.sent.append((message_id, message, Ask("message", job_id or message_id, index if job_id else 0, uris)))
        self._send_foreign(-1)

    @precondition(lambda self: self.sent)
    @rule(which=any_one)
    def send_foreign_again(self, which: int) -> None:
        self._send_foreign(which % len(self.sent))

    def _send_foreign(self, which: int) -> None:
        message_id, message, ask = self.sent[which]
        self.sender.send_raw(Lane.BULK, TASK_NAME, [], message, message_id)
        self.promise.asked(ask)

    # Workers

    @precondition(lambda self: len(self.hands) < MOST_HANDS)
    @rule(ends_after=st.sampled_from(("", "", "", "", "begin", "park", "add")))
    def take(self, ends_after: str) -> None:
        self._take(ends_after)

    def _take(self, ends_after: str = "") -> bool:
        hand = self.world.hand()
        took = hand.take(ends_after=ends_after)
        hand.renewed_s = self.waited_s
        if hand.in_hand:
            self.hands.append(hand)
            self.promise.may_begin(*hand.asked)
        elif hand.words == "done before":
            self.promise.may_be_dropped(*hand.asked)
        return took

    @rule(messages=st.integers(1, 8), fates=fates, put_off=st.booleans(), replayed=st.booleans())
    def work(self, messages: int, fates: list[Fate], put_off: bool, replayed: bool) -> None:
        """One after the other is taken and finished; what was put off too, and what was given up is replayed."""
        for _ in range(messages):
            before = len(self.hands)
            if not self._take():
                if not put_off:
                    return
                self._wait(30)
                self.look()
            if len(self.hands) > before:
                self.hands.pop().finish(fates)
            self.is_as_promised()
        if replayed:
            self._replay(-1)

    def _hand(self, which: int) -> Hand:
        return self.hands.pop(which % len(self.hands))

    @precondition(lambda self: self.hands)
    @rule(which=any_one, fates=fates, unheard=st.sampled_from(("", "", "write", "commit", "bury")))
    def finish(self, which: int, fates: list[Fate], unheard: str) -> None:
        """The answer to a step may be lost: then it is done again."""
        self._hand(which).finish(fates, answer_lost=unheard)

    @precondition(lambda self: self.hands)
    @rule(which=any_one, fates=fates, how=st.sampled_from(("stops", "dies", "write", "commit", "bury", "ack")))
    def leave(self, which: int, fates: list[Fate], how: str) -> None:
        """A worker hands back and stops; or dies, at once or after a step."""
        hand = self._hand(which)
        match how:
            case "stops":
                hand.hand_back()
            case "dies":
                hand.die()
            case step:
                hand.finish(fates, ends_after=step)

    @rule()
    def lapse(self) -> None:
        """Of whoever has something in hand nothing is heard, for longer than a lease."""
        self._wait(LEASE_S + 1)
        self._sweep()

    @rule()
    def look(self) -> None:
        """What all workers do now and then."""
        self._sweep()
        self.world.ledger.abandon()
        release_due(self.world.ledger, self.sender)

    def _sweep(self) -> None:
        living = [hand for hand in self.hands if hand.holds and self.waited_s - hand.renewed_s < LEASE_S]
        self.world.hand().sweep()
        assert all(hand.holds for hand in living), "what a living worker has in hand was taken from it"

    # People

    @precondition(lambda self: self.promise.jobs)
    @rule(which=any_one, to=st.sampled_from(("pause", "unpause", "cancel", "resume")))
    def move(self, which: int, to: str) -> None:
        job_id = self._job(which)
        with suppress(JobNotFound):
            if to == "resume":
                self._resume(job_id)
            else:
                self._move(job_id, to)

    def _job(self, which: int) -> str:
        return self.promise.jobs[which % len(self.promise.jobs)]

    def _move(self, job_id: str, to: str) -> None:
        state = getattr(self.world.ledger, to)(job_id)
        match to, state:
            case "pause", "paused":
                self.promise.paused.add(job_id)
            case "unpause", "running":
                self.promise.paused.discard(job_id)
            case "cancel", "cancelled":
                self.promise.was_cancelled(job_id)

    def _resume(self, job_id: str) -> None:
        try:
            self.world.producer.resume(job_id, output=self.world.prefix(self.folders.get(job_id, job_id)))
        except JobConflict:
            return
        except InvalidRequest:
            pass  # not submitted whole: what is known goes on
        self.promise.was_resumed(job_id)

    @rule(which=any_one, purged=st.booleans())
    def empty(self, which: int, purged: bool) -> None:
        """A dead letter is replayed, or thrown away."""
        if not purged:
            self._replay(which)
        elif letters := list(self.world.letters.list()):
            filed = letters[which % len(letters)]
            self.world.letters.remove(filed.entry_id)
            self.promise.was_purged(filed)

    def _replay(self, which: int) -> None:
        if letters := list(self.world.letters.list()):
            # Of a job that was cancelled, or tried as often as can be: the letter stays.
            with suppress(InvalidRequest, JobConflict):
                self.world.producer.replay(letters[which % len(letters)])

    # Readers

    @precondition(lambda self: self.promise.jobs)
    @rule(which=any_one, limit=st.integers(1, 4))
    def read_page(self, which: int, limit: int) -> None:
        self._read_page(self._job(which), limit)

    def _read_page(self, job_id: str, limit: int) -> bool:
        """Whether that was the last one."""
        if job_id not in self.readers or self.readers[job_id].ended:
            self.readers[job_id] = Reader()
        reader = self.readers[job_id]
        try:
            page = results_page(self.world.producer.job(job_id), reader.cursor, limit)
        except (CursorStale, JobNotFound):
            del self.readers[job_id]
            return False
        reader.rows += page.rows
        reader.cursor, reader.ended = page.next_cursor or "", page.next_cursor is None
        return reader.ended

    def _read_all(self, seen: Seen) -> None:
        for job_id, job in seen.jobs.items():
            if job.state in ("done", "cancelled", "incomplete"):
                while not self._read_page(job_id, 3):
                    pass
                self.promise.were_read(job_id, self.readers[job_id].rows, seen)
                self.promise.were_read(job_id, [*self.world.producer.job(job_id).results()], seen)

    # Time and fate

    @rule(
        seconds=st.sampled_from((20, LEASE_S + 1, RETENTION_S + 1, 10 * RETENTION_S + 1)),
        renewed=st.booleans(),
    )
    def wait(self, seconds: int, renewed: bool) -> None:
        self._wait(seconds if self.years else min(seconds, LEASE_S + 1))
        if renewed:
            for hand in self.hands:
                hand.renew()
                hand.renewed_s = self.waited_s

    def _wait(self, seconds: int) -> None:
        pass_time(self.world.redis, seconds)
        self.waited_s += seconds
        if seconds >= RETENTION_S:
            # No worker forgets to look for so long.
            self.world.ledger.abandon()

    @precondition(lambda self: self.losses)
    @rule()
    def lose_redis(self) -> None:
        self.losses -= 1
        self.world.redis.flushall()
        self.promise.was_lost()

    @invariant()
    def is_as_promised(self) -> None:
        self.promise.step(self.world.see())

    # The end

    def teardown(self) -> None:
        try:
            if sys.exception() is None:
                self._drain()
                self.promise.step(seen := self.world.see())
                self.promise.end(seen)
                self._read_all(seen)
                self._age()
        finally:
            for hand in self.hands:
                hand.die()

    def _drain(self) -> None:
        """Everything goes well, until nothing waits."""
        for job_id in [*self.promise.paused]:
            self._move(job_id, "unpause")
        self._do_everything()
        for job_id in ("a", "b"):
            if job_id in self.promise.lists and job_id not in self.promise.excused:
                self._complete(job_id)
        self._do_everything()

    def _complete(self, job_id: str) -> None:
        """Submitted again, what Redis has lost of it goes on."""
        self._submit(job_id, self.promise.lists[job_id])

    def _do_everything(self) -> None:
        for _ in range(100):
            took = True
            while took or self.hands:
                if self.hands:
                    self.hands.pop().finish(["ok"])
                self.is_as_promised()
                took = self._take()
            if not self.world.outstanding():
                return
            self.is_as_promised()
            self._wait(3600)
            self.look()
        raise AssertionError("it never ends")

    def _age(self) -> None:
        """What has ended is forgotten."""
        pass_time(self.world.redis, ABANDON_S + 1)
        self.world.ledger.abandon()
        self.is_as_promised()
        pass_time(self.world.redis, RETENTION_S + 1)
        self.is_as_promised()
        left = {job_id: job.left_ms for job_id, job in self.world.see().jobs.items()}
        kept = {"tombstone", "committed", "bygone", "buried"}
        assert {key.rpartition(":")[2] for keys in left.values() for key in keys} <= kept, left
        pass_time(self.world.redis, 10 * RETENTION_S + 1)
        assert not self.world.see().jobs


@pytest.fixture
def quiet() -> None:
    """Logs of what goes wrong on purpose, thousands of times, cost more than the rest."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("critical"))


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: each object is written through to the disk."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as name:
        yield Path(name)


@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("quiet")
def test_what_is_promised_is_kept(valkey_url: str, folder: Path, request: pytest.FixtureRequest) -> None:
    metrics, number = WorkerMetrics(), count()

    def fresh() -> Delivery:
        world = World(valkey_url, folder / str(next(number)), metrics)
        world.redis.flushall()
        return Delivery(world)

    long = bool(request.config.getoption("--long"))
    patient = settings(
        max_examples=2000 if long else 100,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        # The short form says whether a change broke what held; the long one looks for what never did.
        derandomize=not long,
        backend="hypothesis" if long else BACKEND,
        database=None,
    )
    run_state_machine_as_test(fresh, settings=patient)
