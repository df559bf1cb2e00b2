"""Two versions of the message at once, and workers of both on the same queues: each message ends with one that
understands it."""

import re
import shutil
from pathlib import Path

import pytest

from arno_shared.names import Lane
from tests.acceptance.arno_worker import eventually
from tests.acceptance.fork_server import ROOT
from tests.faults.rig import events_of, nothing_in_hand, report

NEWER = 2


@pytest.fixture
def newer_code(tmp_path: Path) -> str:
    """A copy of the code that speaks the next schema version."""
    for package in ("shared/arno_shared", "workers/arno_workers", "producer/arno_producer"):
        shutil.copytree(
            ROOT / package, tmp_path / "newer" / Path(package).name, ignore=shutil.ignore_patterns("models")
        )
    messages = tmp_path / "newer/arno_shared/messages.py"
    text, changes = re.subn(r"^SCHEMA_VERSION = 1$", f"SCHEMA_VERSION = {NEWER}", messages.read_text(), flags=re.M)
    assert changes == 1
    messages.write_text(text)
    return str(tmp_path / "newer")


def send(producer, uris: list[str], job_id: str, lane: Lane, version: int) -> None:
    for index, uri in enumerate(uris):
        message = {"images": [uri], "prompts": ["<OD>"], "job_id": job_id, "index": index, "schema_version": version}
        producer.app.send_task("arno.annotate", kwargs=message, queue=lane.queue)


def test_each_message_ends_with_a_worker_that_understands_it(start, producer, pictures, newer_code: str) -> None:
    uris = pictures(60)
    old, new = start("old"), start("new", PYTHONPATH=newer_code)
    for lane in Lane:
        for version in (1, NEWER):
            send(producer, uris, f"v{version}-{lane}", lane, version)
    jobs = {version: [producer.job(f"v{version}-{lane}") for lane in Lane] for version in (1, NEWER)}
    eventually(lambda: all(job_is_done(job, 60) for each in jobs.values() for job in each), "all are done")
    assert not list(producer.dead_letters.list())
    # Whoever did them: a newer message was done by the newer worker alone.
    assert {name for job in jobs[NEWER] for name in workers_of(producer, job)} == {"new"}
    for job in (*jobs[1], *jobs[NEWER]):
        assert set(events_of(producer, job.id).values()) == {1}
    eventually(lambda: nothing_in_hand(producer), "nothing is left")
    assert old.process.poll() is None
    assert new.process.poll() is None
    report("two schema versions at once", "240 messages, each done once by a worker that understands it")


@pytest.mark.long
def test_newer_messages_wait_for_newer_workers(start, producer, pictures, newer_code: str) -> None:
    uris = pictures(5)
    start("old")
    send(producer, uris, "early", Lane.BULK, NEWER)
    eventually(lambda: producer.redis.llen(Lane.BULK.queue_for(NEWER)) == 5, "they wait in a queue of their own")
    assert not list(producer.dead_letters.list())
    start("new", PYTHONPATH=newer_code)
    eventually(lambda: job_is_done(producer.job("early"), 5), "the newer worker has done them")


def job_is_done(job, images: int) -> bool:
    fields = job._ledger._redis.hgetall(f"arno:job:{job.id}")
    return fields.get(b"ok") == str(images).encode()


def workers_of(producer, job) -> set[str]:
    """Names of the workers that wrote the job's rows; read as they lie, for they are of another version."""
    folder = Path(producer.settings.output_prefix.removeprefix("file://")) / job.id
    rows = "".join(path.read_text() for path in folder.glob("part-*.jsonl"))
    return {name.split("@")[0] for name in re.findall(r'"worker":"([^"]+)"', rows)}
