"""Two versions of the message at once, and workers of both on the same queues: each message ends with one that
understands it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arno_shared.messages import SCHEMA_VERSION
from arno_shared.names import Lane
from tests.acceptance.arno_worker import eventually
from tests.acceptance.fork_server import ROOT
from tests.faults.rig import events_of, nothing_in_hand, report

NEXT = SCHEMA_VERSION + 1
TASK: dict[str, Any] = {"prompts": ["<OD>"], "schema_version": 1}
OWN: dict[str, Any] = {"prompts": ["<OD>", {"raw": "<VQA>what is it?"}], "schema_version": 2}
UNKNOWN: dict[str, Any] = {"prompts": ["<OD>"], "schema_version": NEXT}


@pytest.fixture
def code_of(tmp_path: Path) -> Callable[[int], dict[str, str]]:
    """Makes a copy of the code that speaks another schema version; the environment in which a worker is of it."""

    def make(version: int) -> dict[str, str]:
        folder = tmp_path / f"v{version}"
        for package in ("shared/arno_shared", "workers/arno_workers", "producer/arno_producer"):
            shutil.copytree(ROOT / package, folder / Path(package).name, ignore=shutil.ignore_patterns("models"))
        messages = folder / "arno_shared/messages.py"
        here, there = f"SCHEMA_VERSION = {SCHEMA_VERSION}", f"SCHEMA_VERSION = {version}"
        text, changes = re.subn(f"^{here}$", there, messages.read_text(), flags=re.M)
        assert changes == 1
        messages.write_text(text)
        return {"PYTHONPATH": str(folder)}

    return make


def send(producer, uris: list[str], job_id: str, lane: Lane, asked: dict[str, Any]) -> None:
    for index, uri in enumerate(uris):
        message = {"images": [uri], "job_id": job_id, "index": index, **asked}
        producer.app.send_task("arno.annotate", kwargs=message, queue=lane.queue)


@pytest.mark.parametrize(
    ("older", "newer", "newest"),
    [
        pytest.param(1, None, OWN, id="a fine-tune's own prompts, and workers before them"),
        pytest.param(None, NEXT, UNKNOWN, id="what comes after this code"),
    ],
)
def test_each_message_ends_with_a_worker_that_understands_it(
    start, producer, pictures, code_of, older: int | None, newer: int | None, newest: dict[str, Any]
) -> None:
    uris = pictures(60)
    old, new = start("old", **(code_of(older) if older else {})), start("new", **(code_of(newer) if newer else {}))
    messages = {"task": TASK, "newest": newest}
    for lane in Lane:
        for name, asked in messages.items():
            send(producer, uris, f"{name}-{lane}", lane, asked)
    jobs = {name: [producer.job(f"{name}-{lane}") for lane in Lane] for name in messages}
    eventually(lambda: all(job_is_done(job, 60) for each in jobs.values() for job in each), "all are done")
    assert not list(producer.dead_letters.list())
    # Whoever did them: a newer message was done by the newer worker alone.
    assert {row["worker"].split("@")[0] for job in jobs["newest"] for row in rows_of(producer, job)} == {"new"}
    for job in (*jobs["task"], *jobs["newest"]):
        assert set(events_of(producer, job.id).values()) == {1}
    eventually(lambda: nothing_in_hand(producer), "nothing is left")
    assert old.process.poll() is None
    assert new.process.poll() is None
    report("two schema versions at once", "240 messages, each done once by a worker that understands it")


def test_fine_tunes_own_prompts_stay_with_newer_workers_through_all_attempts(
    start, producer, pictures, code_of
) -> None:
    """Put off, given up and replayed, they say as much as when they were submitted."""
    env = {"ARNO_RETRIES__MAX_ATTEMPTS": "2", "ARNO_RETRIES__TRIES": "1", "ARNO_LIMITS__PRIVATE_ADDRESSES": "true"}
    start("old", **code_of(1), **env)
    start("new", **env)
    uris = [*pictures(4), "http://127.0.0.1:9/absent.png"]
    job = producer.submit(uris, OWN["prompts"], job_id="own")
    eventually(lambda: job.status().finished, "it is done")
    (filed,) = producer.dead_letters.list()
    assert (filed.letter.kind, filed.letter.attempt) == ("images", 2)
    assert json.loads(filed.letter.raw)["kwargs"]["schema_version"] == 2
    producer.replay(filed)
    eventually(lambda: len(rows_of(producer, job)) == 6, "the replay has its row")
    rows = rows_of(producer, job)
    assert {row["worker"].split("@")[0] for row in rows} == {"new"}
    assert sorted(row["attempts"] for row in rows) == [1, 1, 1, 1, 2, 3]
    answers = [answer for row in rows for answer in row["prompts"] if answer["task"] is None]
    assert [(answer["prompt"], answer["parse"]) for answer in answers] == [("<VQA>what is it?", "text")] * 4
    assert [row["schema_version"] for row in rows if row["prompts"]] == [2] * 4


@pytest.mark.long
@pytest.mark.parametrize(("older", "newer", "newest"), [(1, None, OWN), (None, NEXT, UNKNOWN)])
def test_newer_messages_wait_for_newer_workers(
    start, producer, pictures, code_of, older: int | None, newer: int | None, newest: dict[str, Any]
) -> None:
    uris = pictures(5)
    start("old", **(code_of(older) if older else {}))
    send(producer, uris, "early", Lane.BULK, newest)
    queue = Lane.BULK.queue_for(newest["schema_version"])
    eventually(lambda: producer.redis.llen(queue) == 5, "they wait in a queue of their own")
    assert not list(producer.dead_letters.list())
    start("new", **(code_of(newer) if newer else {}))
    eventually(lambda: job_is_done(producer.job("early"), 5), "the newer worker has done them")


def job_is_done(job, images: int) -> bool:
    fields = job._ledger._redis.hgetall(f"arno:job:{job.id}")
    return fields.get(b"ok") == str(images).encode()


def rows_of(producer, job) -> list[dict[str, Any]]:
    """As they lie, for they may be of another version."""
    folder = Path(producer.settings.output_prefix.removeprefix("file://")) / job.id
    return [json.loads(line) for path in sorted(folder.glob("part-*.jsonl")) for line in path.read_text().splitlines()]
