"""Whatever a message is or does, it ends where somebody can look at it, and the next one runs."""

import json
from base64 import b64encode
from collections import Counter

import pytest
from kombu.utils.json import dumps

from arno_shared.names import Lane
from tests.acceptance.arno_worker import eventually
from tests.faults.afflicted import MEMORY_ERROR, OUT_OF_MEMORY, SYSTEM_EXIT
from tests.faults.rig import in_chunks_of, nothing_in_hand, reconcile, report, settled


def envelope(tag: str, **changes: object) -> dict[str, object]:
    """What a Celery client puts into the list, but for `changes`."""
    message: dict[str, object] = {
        "body": "W1tdLCB7fSwgbnVsbF0=",
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"task": "arno.annotate", "id": tag, "lang": "py", "argsrepr": "", "kwargsrepr": ""},
        "properties": {
            "delivery_tag": tag,
            "delivery_info": {"exchange": "", "routing_key": "arno.bulk"},
            "body_encoding": "base64",
            "delivery_mode": 2,
            "priority": 0,
        },
    }
    return message | changes


def v1(**changes: object) -> str:
    """A body of Celery's protocol v1."""
    fields = {"task": "arno.annotate", "id": "v1", "args": [], "kwargs": {}} | changes
    return b64encode(json.dumps(fields).encode()).decode()


V1_ODD_ARGS, V1_ETA = v1(args=7), v1(eta="2099-01-01T00:00:00")

UNREADABLE: list[bytes] = [
    b"not json at all",
    b"\xff\xfe\x00",
    b"",
    b"[1, 2, 3]",
    b'{"body": "x"}',
    b'{"properties": {"delivery_tag": 7}}',
    b"{" * 5000,
    dumps(envelope("bad-base64", body="%%%")).encode(),
    dumps(envelope("not-a-body", body=17)).encode(),
    dumps(envelope("no-headers", headers=None)).encode(),
    dumps(envelope("list-headers", headers=[1])).encode(),
    dumps(
        envelope("pickle", **{"content-type": "application/x-python-serialize", "content-encoding": "binary"})
    ).encode(),
    dumps(envelope("unknown-type", **{"content-type": "text/strange"})).encode(),
    dumps(envelope("not-v2", body="bnVsbA==")).encode(),
    dumps(envelope("other-task", headers={"task": "other.task", "id": "other"})).encode(),
    dumps(envelope("odd-id", headers={"task": "arno.annotate", "id": None})).encode(),
    dumps(envelope("eta", headers={"task": "arno.annotate", "id": "e", "eta": "2099-01-01T00:00:00"})).encode(),
    dumps(envelope("list-id", headers={"task": "arno.annotate", "id": [1]})).encode(),
    dumps(envelope("odd-limit", headers={"task": "arno.annotate", "id": "x", "timelimit": 7})).encode(),
    dumps(envelope("odd-shadow", headers={"task": "arno.annotate", "id": "x", "shadow": [1]})).encode(),
    dumps(envelope("v1", headers={}, body=V1_ODD_ARGS)).encode(),
    dumps(envelope("v1-eta", headers={}, body=V1_ETA)).encode(),
    dumps(envelope("odd-properties", properties={"delivery_tag": "x"})).encode(),
]


def test_what_cannot_be_read_is_a_dead_letter_and_the_next_message_runs(start, producer, pictures) -> None:
    worker = start("reader", ARNO_WORKER__CHUNKS_IN_FLIGHT="1")
    uris = pictures(4)
    for lane in Lane:
        for entry in UNREADABLE:
            producer.redis.lpush(lane.queue, entry)
    job = in_chunks_of(1, producer).submit(uris, "<OD>", job_id="next")
    settled(job)
    eventually(lambda: nothing_in_hand(producer), "all are dealt with")
    letters = [filed.letter for filed in producer.dead_letters.list()]
    assert len(letters) == 2 * len(UNREADABLE), Counter(letter.reason for letter in letters)
    assert Counter(letter.lane for letter in letters) == Counter({lane: len(UNREADABLE) for lane in Lane})
    assert worker.process.poll() is None
    line = reconcile(producer, job, uris)
    report("messages that are none", f"{len(letters)} of {2 * len(UNREADABLE)} dead letters; {line}")


@pytest.mark.long
def test_senders_that_give_all_messages_one_tag_lose_none(start, producer, pictures) -> None:
    uris = pictures(8)
    for uri in uris:
        body = json.dumps([[], {"images": [uri], "prompts": ["<OD>"], "job_id": "tags"}, None])
        entry = envelope("1", body=body, headers={"task": "arno.annotate", "id": uri[-12:]})
        entry["properties"]["body_encoding"] = None  # type: ignore[index]
        producer.redis.lpush(Lane.BULK.queue, json.dumps(entry))
    start("w", afflicted=True, AFFLICTED_IMAGE_S="0.1")
    job = producer.job("tags")
    eventually(lambda: producer.redis.hget("arno:job:tags", "ok") == b"8", "all are done")
    assert sorted(row.image.uri for row in job.results()) == sorted(uris)


def test_messages_with_a_priority_are_done_too(start, producer, pictures) -> None:
    """Celery clients put them into lists of their own, which kombu names after its steps."""
    uris = pictures(4)
    for priority, uri in zip((0, 3, 6, 9), uris, strict=True):
        key = Lane.BULK.queue + (f"\x06\x16{priority}" if priority else "")
        body = json.dumps([[], {"images": [uri], "prompts": ["<OD>"], "job_id": "priorities"}, None])
        entry = envelope(str(priority), body=body, headers={"task": "arno.annotate", "id": uri[-12:]})
        entry["properties"]["body_encoding"] = None  # type: ignore[index]
        producer.redis.lpush(key, json.dumps(entry))
    start("w")
    eventually(lambda: producer.redis.hget("arno:job:priorities", "ok") == b"4", "all are done")


def test_errors_that_end_threads_end_neither_worker_nor_neighbours(start, producer, pictures, harmful) -> None:
    worker = start("tough", afflicted=True, ARNO_WORKER__CHUNKS_IN_FLIGHT="1")
    bad = {harmful(affliction): "model_failed" for affliction in (MEMORY_ERROR, OUT_OF_MEMORY)}
    uris = [*pictures(20), *bad]
    job = in_chunks_of(11, producer).submit(uris, "<OD>", job_id="tough")
    settled(job)
    line = reconcile(producer, job, uris, failed=bad)
    assert worker.process.poll() is None
    report("MemoryError and CUDA out of memory in the model", line)


@pytest.mark.long
def test_a_device_thread_that_ends_takes_its_worker_with_it(start, producer, pictures, harmful) -> None:
    worker = start("exits", afflicted=True, ARNO_WORKER__STUCK_S="4")
    producer.submit([harmful(SYSTEM_EXIT)], "<OD>", job_id="exits")
    assert worker.process.wait(60) != 0
