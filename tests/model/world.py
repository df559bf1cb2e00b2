"""Everything that a sequence happens to: a server, a folder, a producer and its workers; and what can be seen of it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from arno_producer import Producer
from arno_shared.dead_letters import FiledLetter
from arno_shared.ledger import indices_of
from arno_shared.names import DELAYED, LIVE, TOPIC, UNACKED, JobKeys, Lane, job_keys, lists, place_key
from arno_shared.parts import decode_part
from arno_shared.results import ResultRow
from arno_shared.settings import BrokerSettings, ProducerSettings, RetrySettings, Settings
from arno_shared.uris import file_uri
from arno_workers.health.vitals import Vitals
from arno_workers.pipeline.metrics import WorkerMetrics
from tests.model.hand import Hand, Workplace

LEASE_S = 60
RETENTION_S = 7 * 86_400
ABANDON_S = 90 * 86_400


_COUNTS = ("chunks", "images", "committed", "buried", "ok", "failed", "put_off", "dead", "dropped")


class Attempt(NamedTuple):
    index: int
    attempt: int


@dataclass
class SeenJob:
    """What the server holds of one job."""

    state: str = ""
    """Empty when the ledger does not hold it any more."""
    origin: str = ""
    sealed: bool = False
    prefix: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    committed: set[Attempt] = field(default_factory=set)
    buried: dict[Attempt, tuple[int, str]] = field(default_factory=dict)
    """Images, and the letter's id."""
    waiting: dict[Attempt, list[str]] = field(default_factory=dict)
    """Images of attempts that are still to be made."""
    restored: set[Attempt] = field(default_factory=set)
    """Known by their result objects alone."""
    tombstone: str = ""
    live: bool = False
    left_ms: dict[str, int] = field(default_factory=dict)
    """For each key, its time to live; -1 for ever."""
    place: str | None = None
    """Whose its prefix is."""


class SeenRow(NamedTuple):
    folder: str
    row: ResultRow


@dataclass
class Seen:
    jobs: dict[str, SeenJob]
    objects: dict[str, bytes]
    """Path below the folder → what it holds."""
    rows: list[SeenRow]
    letters: list[FiledLetter]
    events: list[tuple[str, Attempt]]


class World:
    def __init__(self, redis_url: str, folder: Path, metrics: WorkerMetrics) -> None:
        self.folder = folder
        self.settings = Settings(
            redis_url=redis_url,
            output_prefix=file_uri(folder / "loose"),
            ledger_retention_s=RETENTION_S,
            ledger_abandon_s=ABANDON_S,
            broker=BrokerSettings(lease_s=LEASE_S),
            retries=RetrySettings(max_attempts=2, max_deliveries=4, tries=1),
            producer=ProducerSettings(chunk_images=2, block_chunks=2, patience_s=0),
        )
        self.producer = Producer(self.settings)
        self.redis, self.ledger, self.letters = self.producer.redis, self.producer.ledger, self.producer.dead_letters
        self._place = Workplace(self.redis, self.ledger, self.producer.store, self.settings, metrics, Vitals())
        self._hands = 0
        self._decoded: dict[bytes, list[ResultRow]] = {}

    def hand(self) -> Hand:
        self._hands += 1
        return Hand(f"w{self._hands}", self._place)

    def prefix(self, name: str) -> str:
        return file_uri(self.folder / name) + "/"

    def queued(self) -> int:
        return sum(self.redis.llen(name) for lane in Lane for name in lists(lane.queue))

    def outstanding(self) -> int:
        """Messages that wait or are in hand, and attempts that are due some time."""
        return self.queued() + self.redis.hlen(UNACKED) + self.redis.zcard(DELAYED)

    def see(self) -> Seen:
        objects = {
            str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()
        }
        start = job_keys("").job
        job_ids = sorted({key.decode().removeprefix(start).partition(":")[0] for key in self.redis.keys(f"{start}*")})
        ask = self.redis.pipeline(transaction=False)
        for job_id in job_ids:
            _ask_for_job(ask, job_id)
        ask.xrange(TOPIC)
        *answers, events = ask.execute()
        jobs = dict(zip(job_ids, (_seen_job(job_keys(job_id), answers) for job_id in job_ids), strict=True))
        places = self.redis.mget([place_key(job.prefix) for job in jobs.values()]) if jobs else []
        for job, place in zip(jobs.values(), places, strict=True):
            job.place = place and place.decode()
        return Seen(
            jobs=jobs,
            objects=objects,
            rows=[
                SeenRow(path.rpartition("/")[0], row)
                for path, data in objects.items()
                if "/part-" in path
                for row in self._rows(data)
            ],
            letters=list(self.letters.list()),
            events=[
                (data["job_id"], Attempt(data["index"], data["attempt"]))
                for data in (json.loads(fields[b"event"])["data"] for _, fields in events)
            ],
        )

    def _rows(self, data: bytes) -> list[ResultRow]:
        if data not in self._decoded:
            self._decoded[data] = decode_part(data, "jsonl")
        return self._decoded[data]


def _ask_for_job(ask: Any, job_id: str) -> None:
    keys = job_keys(job_id)
    ask.hgetall(keys.job)
    ask.get(keys.committed)
    ask.zrange(keys.commits, 0, -1)
    ask.hgetall(keys.buried)
    ask.hgetall(keys.put_off)
    ask.get(keys.restored)
    ask.hkeys(keys.begun)
    ask.hget(keys.tombstone, "state")
    ask.zscore(LIVE, job_id)
    for key in keys:
        ask.pttl(key)


def _seen_job(keys: JobKeys, answers: list[Any]) -> SeenJob:
    """Takes its answers from the first of them."""
    job, bits, commits, buried, put_off, restored, begun, tombstone, live = answers[:9]
    left_ms = answers[9 : 9 + len(keys)]
    del answers[: 9 + len(keys)]
    text = {name.decode(): value.decode() for name, value in job.items()}
    return SeenJob(
        state=text.get("state", ""),
        origin=text.get("origin", ""),
        sealed=text.get("sealed") == "1",
        prefix=text.get("prefix", ""),
        counts={name: int(text.get(name, 0)) for name in _COUNTS},
        committed={Attempt(index, 1) for index in indices_of(bits or b"", 0)}
        # The log has other entries as well.
        | {_attempt(member) for member in commits if member.replace(b".", b"").isdigit()},
        buried={_attempt(name): _images_and_letter(value.decode()) for name, value in buried.items()},
        waiting={
            _attempt(name): [image["uri"] for image in json.loads(value)["message"]["images"]]
            for name, value in put_off.items()
        },
        restored={Attempt(index, 1) for index in indices_of(restored or b"", 0)}
        | {_attempt(name.removesuffix(b"/restored")) for name in begun if name.endswith(b"/restored")},
        tombstone=(tombstone or b"").decode(),
        live=live is not None,
        left_ms={key: left for key, left in zip(keys, left_ms, strict=True) if left != -2},
    )


def _attempt(member: bytes) -> Attempt:
    index, attempt = member.split(b".")
    return Attempt(int(index), int(attempt))


def _images_and_letter(value: str) -> tuple[int, str]:
    images, letter, *_ = value.split(":")
    return int(images), letter
