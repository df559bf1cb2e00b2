"""Every Redis key, queue, stream and object name, made in this one file."""

import hashlib
import re
from enum import StrEnum
from typing import Any, NamedTuple

TASK_NAME = "arno.annotate"

TOPIC = "arno:topic"
"""Stream of CloudEvents, one for each committed chunk."""

DEAD_LETTERS = "arno:dead"
"""Stream of messages and chunks that were given up."""

DELAYED = "arno:delayed"
"""Sorted set of `job/index.attempt`, scored by the time (seconds) at which they are due."""

JOBS = "arno:jobs"
"""Sorted set of job ids that a producer opened, scored by when."""

UNACKED = "unacked"
"""Hash: delivery tag → the message in a worker's hands, as kombu lays it out: `[message, exchange, routing key]`."""

UNACKED_INDEX = "unacked_index"
"""Sorted set of those delivery tags, scored by when their lease was last renewed, by the server's clock."""

LIVE = "arno:live"
"""Sorted set of the ids of jobs that have not ended, scored by when each is given up if nothing is heard of it."""

WORKERS = "arno:workers"
"""Sorted set of workers' names, scored by when each was last heard of, by the server's clock."""

REMOTE_CONTROL = "_kombu.binding.celery.pidbox"
"""Set that kombu keeps: a member for each worker that listens to Celery's remote control."""

REMOTE_CONTROL_ANSWERS = "_kombu.binding.reply.celery.pidbox"
"""Set that kombu keeps: a member for each process that asked workers something."""

JOB_ID_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_JOB_ID = re.compile(JOB_ID_PATTERN[1:-1])


class Lane(StrEnum):
    """Workers drain `interactive` before `bulk`."""

    INTERACTIVE = "interactive"
    BULK = "bulk"

    @property
    def queue(self) -> str:
        return f"arno.{self.value}"

    def queue_for(self, schema_version: int) -> str:
        """The queue of messages that only workers of this schema version, and newer ones, understand."""
        return self.queue if schema_version == 1 else f"{self.queue}.v{schema_version}"

    def queues(self, schema_version: int) -> tuple[str, ...]:
        """Those of messages up to this schema version, in the order in which they are drained."""
        return tuple(self.queue_for(version) for version in range(1, schema_version + 1))


def check_lane(lane: Any) -> Lane:
    """Raises ValueError, which names the lanes."""
    try:
        return Lane(lane)
    except ValueError:
        raise ValueError(f"{str(lane)[:80]!r} is not a lane; the lanes are {', '.join(Lane)}") from None


def queues(schema_version: int) -> tuple[str, ...]:
    """The queues of workers that speak up to this schema version, in the order in which they drain them."""
    return tuple(queue for lane in Lane for queue in lane.queues(schema_version))


def lane_of_queue(queue: str) -> Lane:
    """The lane of a queue; that of unknown ones is bulk."""
    return next((lane for lane in Lane if queue == lane.queue or queue.startswith(f"{lane.queue}.")), Lane.BULK)


def lists(queue: str) -> tuple[str, ...]:
    """Where messages of the queue lie, in the order in which they are claimed. Celery clients that give a message a
    priority put it into a list of its own, named as kombu does."""
    return arrivals(queue), queue, *(f"{queue}\x06\x16{priority}" for priority in (3, 6, 9))


def arrivals(queue: str) -> str:
    """List in which a message of the queue lies from the moment it woke a worker until it is claimed."""
    return f"{queue}.arrivals"


def check_job_id(job_id: str) -> str:
    """Raises ValueError unless `job_id` can stand in keys, paths and URLs."""
    if not _JOB_ID.fullmatch(job_id):
        raise ValueError("a job id has 1 to 128 letters, digits, '.', '_' or '-', and starts with a letter or a digit")
    return job_id


class JobKeys(NamedTuple):
    """A job's keys in the ledger."""

    job: str
    """Hash: state, counters and terms."""
    committed: str
    """Bitmap: bit `index` is set once the chunk's first attempt is committed. A part of the tombstone."""
    commits: str
    """The log, a sorted set scored by when (µs), no two alike: `index.attempt` of later attempts that were committed,
    of all attempts at what came in messages, and of first attempts that readers may have passed over; `index.1/buried`
    and `ended`, which let them pass over one: it was given up whole, or its job ended without it."""
    put_off: str
    """Hash `index.attempt` → message: attempts still to be made of images that were put off, and chunks that wait for
    their job to go on, or to be sent."""
    buried: str
    """Hash `index.attempt` → `images:letter:digest:positions`: chunks that were dead-lettered whole, without a commit;
    the digest is of what was asked. A part of the tombstone."""
    loose: str
    """Hash of what came in messages of others: `#index` → digest of what was asked, and `message id digest` → the index
    that a message got which named none."""
    begun: str
    """Hash `index.attempt` → how many holders of it are gone, and the tags of those that may live;
    `index.attempt/position` → the same of this image, alone in a worker; `index.attempt/restored`: see `restored`."""
    restored: str
    """Bitmap: bit `index` is set while a chunk is known by its result object alone, and was perhaps never announced."""
    bygone: str
    """Bitmap: what `committed` was before the ledger had let the job go, and something of it came all the same."""
    tombstone: str
    """Hash: what a job was that the ledger has let go."""


def job_keys(job_id: str) -> JobKeys:
    job = f"arno:job:{job_id}"
    return JobKeys(job, *(f"{job}:{field}" for field in JobKeys._fields[1:]))


def turn_key(job_id: str) -> str:
    """Whose turn it is to submit a job, of several that do."""
    return f"arno:job:{job_id}:turn"


def place_key(prefix: str) -> str:
    """Whose an output prefix is: the id of the job that has results there."""
    return f"arno:place:{hashlib.sha256(prefix.encode()).hexdigest()[:32]}"


def worker_key(worker: str) -> str:
    """JSON: what a worker last said of itself; it expires some minutes after the worker fell silent."""
    return f"arno:worker:{worker}"


def write_lock(uri: str) -> str:
    """Text: who writes this object just now, where storage cannot write conditionally. URIs are long, and none of
    Redis's business."""
    return f"arno:writes:{hashlib.sha256(uri.encode('utf-8', 'surrogatepass')).hexdigest()}"


def attempt_field(index: int, attempt: int) -> str:
    """A chunk's attempt within its job's sets and hashes."""
    return f"{index}.{attempt}"


ENDED = "ended"
"""In a job's log: it ended without being done."""


def buried_field(index: int) -> str:
    """In a job's log: the chunk's first attempt was given up whole."""
    return f"{attempt_field(index, 1)}/buried"


def suspect_field(index: int, attempt: int, what: int | str) -> str:
    """An image of a chunk's attempt, by its position, or the chunk without any."""
    return f"{attempt_field(index, attempt)}/{what}"


def split_delayed_member(member: str) -> tuple[str, str]:
    """→ job id, attempt field."""
    job_id, _, field = member.rpartition("/")
    return job_id, field


def task_id(job_id: str, index: int, attempt: int) -> str:
    """Of the Celery message that asks for an attempt: who has it sent is the ledger, or a producer."""
    return f"{job_id}.{attempt_field(index, attempt)}"


_TASK_ID = re.compile(f"({JOB_ID_PATTERN[1:-1]})[.][0-9]+[.][0-9]+")


def job_of_task_id(name: str) -> str | None:
    """The job that a message of the house's is of, by its id alone; None when that is another's."""
    match = _TASK_ID.fullmatch(name)
    return match[1] if match else None


def event_id(job_id: str, index: int, attempt: int) -> str:
    """`job/index`; later attempts of a chunk carry `.attempt`."""
    return f"{job_id}/{index}" if attempt == 1 else f"{job_id}/{index}.{attempt}"


def part_uri(prefix: str, index: int, attempt: int, suffix: str) -> str:
    """The result object of a chunk: `PREFIX/part-000000012.jsonl`; later attempts `part-000000012.2.jsonl`."""
    tail = "" if attempt == 1 else f".{attempt}"
    return f"{prefix}part-{index:09d}{tail}.{suffix}"


_PART = re.compile(r"part-([0-9]{9})(?:[.][0-9]+)?[.](?:jsonl|parquet)")


def index_of_part(uri: str, prefix: str) -> int | None:
    """The chunk's, whose result object below the prefix this is; None when it is another object."""
    match = _PART.fullmatch(uri.removeprefix(prefix))
    return int(match[1]) if match else None


_OWN_OBJECT = re.compile(r"(.*/)?(_arno/.*|part-[0-9]{9}([.][0-9]+)?[.](jsonl|parquet))", re.DOTALL)


def is_own_object(key: str) -> bool:
    """Whether it is named as what Arno writes itself is: a result object, or a part of a manifest."""
    return _OWN_OBJECT.fullmatch(key) is not None


def taken_list(key: str) -> str:
    """Where events of somebody else's list in Redis lie from the moment they are taken until they are enqueued."""
    return f"{key}.arno-taken"


def dead_list(key: str) -> str:
    """Where events go that cannot be read."""
    return f"{key}.arno-dead"


def job_record_uri(prefix: str) -> str:
    """The object that says which job a prefix belongs to."""
    return f"{prefix}_arno/job.json"


def conditional_probe_uri(prefix: str) -> str:
    """The object on which it is tried whether storage writes conditionally."""
    return f"{prefix}_arno/conditional.txt"


def uploads_prefix(output_prefix: str) -> str:
    """Where the HTTP door puts pictures that are sent to it, below `Settings.output_prefix`."""
    return f"{output_prefix}_uploads/"


def annotations_prefix(output_prefix: str) -> str:
    """Where results of single pictures go that the HTTP door was asked about, below `Settings.output_prefix`."""
    return f"{output_prefix}_annotate/"


def manifest_uri(prefix: str, block: int) -> str:
    """The object that lists a block of chunks."""
    return f"{prefix}_arno/manifest-{block:06d}.jsonl"
