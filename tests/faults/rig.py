"""What every fault is judged by: nothing lost, nothing twice, no neighbour failed."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic

from arno_producer import Producer
from arno_producer.job import Job
from arno_shared.dead_letters import LetterKind
from arno_shared.errors import HouseError
from arno_shared.ledger import JobState
from arno_shared.messages import SCHEMA_VERSION
from arno_shared.names import TOPIC, UNACKED, UNACKED_INDEX, Lane, lists, queues
from arno_shared.results import Status
from tests.acceptance.arno_worker import eventually
from tests.faults.proxy import TcpProxy

REPORT: list[str] = []
"""A line for each fault; shown when the tests end."""

LEASE_S = 2
SOON_S = 60.0

QUICK = {
    "ARNO_BROKER__LEASE_S": str(LEASE_S),
    "ARNO_BROKER__LEASE_MAX_S": "20",
    "ARNO_BROKER__SOCKET_TIMEOUT_S": "4",
    "ARNO_BROKER__CONNECT_TIMEOUT_S": "2",
    "ARNO_RETRIES__BACKOFF_S": "0.05",
    "ARNO_RETRIES__PUT_OFF_S": "0.2",
    "ARNO_WORKER__FETCH_THREADS": "4",
}
"""A worker's settings, so that nothing is waited for as long as in earnest."""


@dataclass
class Watch:
    """How long something took, by the clock that never jumps."""

    began_s: float = field(default_factory=monotonic)

    @property
    def seconds(self) -> float:
        return monotonic() - self.began_s


def in_chunks_of(images: int, producer: Producer) -> Producer:
    settings = producer.settings
    # Submitted before any worker is there, all of it waits in the queue.
    smaller = settings.producer.model_copy(update={"chunk_images": images, "high_water_messages": 1_000_000})
    return Producer(settings.model_copy(update={"producer": smaller}))


def report(fault: str, words: str) -> None:
    REPORT.append(f"{fault}: {words}")


def settled(job: Job, timeout_s: float = SOON_S) -> None:
    """Waits until the job is done, however often Redis is away meanwhile."""

    def done() -> bool:
        with suppress(HouseError):
            return job.status().finished
        return False

    eventually(done, f"job {job.id} is done", timeout_s)


def reconcile(producer: Producer, job: Job, uris: Iterable[str], *, failed: Mapping[str, str] | None = None) -> str:
    """As `account` does; asserts also that nothing is left in queues and hands."""
    line = account(producer, job, uris, failed=failed)
    eventually(lambda: nothing_in_hand(producer), "nothing is left in queues and hands")
    return line


def account(producer: Producer, job: Job, uris: Iterable[str], *, failed: Mapping[str, str] | None = None) -> str:
    """Asserts that each image has one row, or is in one letter of a whole chunk; that each committed chunk has one
    event; that only those failed that had to (`failed`: URI → code). A line for the
    report.
    """
    failed = dict(failed or {})
    status = job.status()
    assert status.state is JobState.DONE
    wanted = Counter(uris)
    rows = list(job.results())
    buried = [
        image["uri"]
        for filed in producer.dead_letters.list(job_id=job.id)
        if filed.letter.kind is LetterKind.CHUNK
        for image in json.loads(filed.letter.raw)["kwargs"]["images"]
    ]
    found = Counter(row.image.uri for row in rows) + Counter(buried)
    lost, twice = wanted - found, found - wanted
    assert not lost, f"{lost.total()} of {wanted.total()} images are lost: {list(lost)[:3]}"
    assert not twice, f"{twice.total()} images have more than one row: {list(twice)[:3]}"
    codes = {row.image.uri: row.error.code for row in rows if row.status is Status.FAILED and row.error}
    assert codes | dict.fromkeys(buried, "dead letter") == failed, "neighbours failed"
    assert (status.ok, status.failed + status.dead) == (
        wanted.total() - len(codes) - len(buried),
        len(codes) + len(buried),
    )
    assert status.images == wanted.total()
    events = events_of(producer, job.id)
    assert max(events.values(), default=1) == 1, "published twice"
    later = [commit for commit in producer.ledger.commits(job.id, 0, 2**31) if commit.attempt > 1]
    assert len(events) == status.chunks_committed + len(later)
    return f"{wanted.total()} images, lost 0, twice 0, {len(codes) + len(buried)} failed as they had to"


def events_of(producer: Producer, job_id: str) -> Counter[str]:
    """Ids of the job's events, as they stand in the topic."""
    ids = [json.loads(fields[b"event"])["id"] for _, fields in producer.redis.xrange(TOPIC)]
    return Counter(event_id for event_id in ids if event_id.split("/")[0] == job_id)


def nothing_in_hand(producer: Producer) -> bool:
    redis = producer.redis
    return (
        not any(redis.llen(name) for queue in queues(SCHEMA_VERSION + 1) for name in lists(queue))
        and not redis.hlen(UNACKED)
        and not redis.zcard(UNACKED_INDEX)
    )


def waiting(producer: Producer, lane: Lane = Lane.BULK) -> int:
    """Messages in the lane's lists."""
    return int(producer.redis.llen(lane.queue) + producer.redis.llen(f"{lane.queue}.arrivals"))


def host_port(proxy: TcpProxy) -> str:
    """For a URL."""
    host, port = proxy.address
    return f"{host}:{port}"
