"""Messages from anywhere: plain Celery senders, wrong messages, dead letters and their replay."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from arno_producer import Producer
from arno_shared.dead_letters import LetterKind
from arno_shared.ledger import JobState
from arno_shared.names import Lane
from arno_shared.parts import decode_part
from arno_shared.topic import TopicReader
from tests.acceptance.arno_worker import eventually

pytestmark = pytest.mark.usefixtures("shared_worker")

PLAIN_SENDER = """
import json, sys
from celery import Celery
app = Celery(broker=sys.argv[1])
sent = app.send_task("arno.annotate", args=json.loads(sys.argv[2]), kwargs=json.loads(sys.argv[3]), queue="arno.bulk")
assert not any(name.startswith("arno") for name in sys.modules), "Arno was used on the sender's side"
print(sent.id)
"""


def _send_plainly(url: str, args: list, kwargs: dict) -> str:
    """Sends with nothing but Celery, in a process that never imports Arno; the message's id."""
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_SENDER, url, json.dumps(args), json.dumps(kwargs)],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    return done.stdout.strip()


def _send(producer: Producer, args: list, kwargs: dict) -> str:
    return producer.app.send_task("arno.annotate", args=args, kwargs=kwargs, queue=Lane.BULK.queue).id


def _finished(producer: Producer, job_id: str):
    eventually(lambda: producer.redis.exists(f"arno:job:{job_id}"), "the message was begun")
    return eventually(lambda: (status := producer.ledger.status(job_id)).finished and status, "the job is done")


def test_a_plain_celery_message_is_a_job_of_its_own(producer, pictures, settings, tmp_path) -> None:
    uris = pictures(3)
    prefix = (tmp_path / "mine").as_uri()
    job_id = _send_plainly(settings.redis_url, [], {"images": uris, "prompts": ["<OD>"], "output": {"prefix": prefix}})
    status = _finished(producer, job_id)
    assert (status.state, status.ok, status.images, status.chunks) == (JobState.DONE, 3, 3, 1)
    ((_, event),) = TopicReader(producer.redis, "g", "c").read()
    assert event.id == f"{job_id}/0"
    rows = decode_part(producer.store.get(event.data.result_uri), "jsonl")
    assert [row.image.uri for row in rows] == uris
    assert event.data.result_uri.startswith(prefix)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ([], {"images": "{uri}", "prompts": "<OD>"}),
        ([["{uri}"], ["<OD>"]], {}),
        ([{"images": [{"uri": "{uri}"}], "prompts": [{"task": "<OD>"}]}], {}),
        ([["{uri}"]], {"prompts": ["<CAPTION_TO_PHRASE_GROUNDING>a red car"]}),
    ],
)
def test_every_shorthand_is_accepted(producer, pictures, settings, args, kwargs) -> None:
    (uri,) = pictures(1)
    args, kwargs = (json.loads(json.dumps(part).replace("{uri}", uri)) for part in (args, kwargs))
    assert _finished(producer, _send(producer, args, kwargs)).ok == 1


def test_messages_that_share_a_job_but_no_index_are_all_done(producer, pictures, settings) -> None:
    for uri in pictures(3):
        _send(producer, [], {"images": uri, "prompts": "<OD>", "job_id": "shared"})
    eventually(
        lambda: producer.redis.exists("arno:job:shared") and producer.ledger.status("shared").ok == 3, "all are done"
    )
    assert sorted(row.index for row in producer.job("shared").results()) == [0, 1, 2]


WRONG = {
    "a version that nobody speaks": (
        {"images": "s3://a/b", "prompts": "<OD>", "schema_version": 99},
        "a schema_version that nobody speaks",
    ),
    "no prompts": ({"images": "s3://a/b"}, "prompts: is missing"),
    "no images": ({"images": [], "prompts": "<OD>"}, "images:"),
    "a task that is none": ({"images": "s3://a/b", "prompts": "<NOPE>"}, "<NOPE>"),
    "a text where none belongs": ({"images": "s3://a/b", "prompts": "<OD>cars"}, "<OD> takes nothing"),
    "a misspelt field": (
        {"image": "s3://a/b", "images": "s3://a/b", "prompts": "<OD>"},
        "image: there is no such",
    ),
    "an output that is none": ({"images": "s3://a/b", "prompts": "<OD>", "output": "ftp://x/"}, "output"),
    "a job id that is a path": ({"images": "s3://a/b", "prompts": "<OD>", "job_id": "../up"}, "job_id"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_message_goes_to_the_dead_letters_and_the_worker_goes_on(
    producer, pictures, settings, wrong: str
) -> None:
    message, reason = WRONG[wrong]
    _send(producer, [], message)
    (letter,) = eventually(lambda: [filed.letter for filed in producer.dead_letters.list()], "a dead letter")
    assert letter.kind is LetterKind.MESSAGE
    assert letter.code == "invalid_message"
    assert reason in letter.reason
    assert json.loads(letter.raw)["kwargs"] == message
    assert producer.submit(pictures(1), "<OD>").wait(60).ok == 1
    assert producer.redis.llen(Lane.BULK.queue) == 0


def _envelope(producer: Producer, **changes: object) -> dict:
    """A message as Celery puts it into Redis, taken from another database of the same server."""
    elsewhere = Producer(producer.settings.model_copy(update={"redis_url": producer.settings.redis_url[:-1] + "1"}))
    _send(elsewhere, [], {"images": "s3://a/b", "prompts": "<OD>"})
    envelope = json.loads(elsewhere.redis.lpop(Lane.BULK.queue))
    envelope["headers"].update(changes.pop("headers", {}))
    return {**envelope, **changes}


def _base64(text: str) -> str:
    from base64 import b64encode

    return b64encode(text.encode()).decode()


BROKEN = {
    "a task that nobody knows": ({"headers": {"task": "somebody.elses"}}, "unknown_task", "somebody.elses"),
    "a body that is not JSON": ({"body": _base64("{not json")}, "undecodable", "decoded"),
    "a body of another shape": ({"body": _base64('{"images": "x"}')}, "invalid_message", "protocol v2"),
    "an empty body": ({"body": ""}, "invalid_message", "protocol v2"),
    "no task named": ({"headers": {"task": None}}, "unknown_task", "None"),
    "a body that is a number": ({"body": _base64("7")}, "invalid_message", "protocol v2"),
    "args that are no list": ({"body": _base64('[{"a": 1}, {}, {}]')}, "invalid_message", "args"),
    "pickle": ({"content-type": "application/x-python-serialize"}, "undecodable", "pickle"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_envelope_goes_to_the_dead_letters_and_the_worker_goes_on(
    producer, pictures, settings, broken: str
) -> None:
    changes, code, reason = BROKEN[broken]
    envelope = _envelope(producer, **changes)
    producer.redis.lpush(Lane.BULK.queue, json.dumps(envelope))
    (letter,) = eventually(lambda: [filed.letter for filed in producer.dead_letters.list()], "a dead letter")
    assert letter.code == code
    assert reason in letter.reason
    assert producer.submit(pictures(1), "<OD>").wait(60).ok == 1
    eventually(lambda: producer.redis.hlen("unacked") == 0, "everything is acknowledged")


def test_images_that_fail_transiently_are_put_off_then_given_up_then_replayed(
    producer, settings, image_server, tmp_path: Path
) -> None:
    server = image_server
    server.statuses["/flaky.png"] = 503
    uris = [f"{server.url}/good.png", f"{server.url}/flaky.png"]
    job = producer.submit(uris, "<OD>", job_id="flaky")
    status = job.wait(60)
    assert (status.ok, status.failed, status.failed_by_code) == (1, 1, {"unavailable": 1})
    # Three tries in each of two attempts.
    assert server.hits["/flaky.png"] == 6
    assert server.hits["/good.png"] == 1
    failed = {row.image.uri: row for row in job.results()}[uris[1]]
    assert failed.attempts == 2
    assert failed.error is not None
    assert failed.error.code == "unavailable"

    (filed,) = producer.dead_letters.list(job_id="flaky")
    assert (filed.letter.kind, filed.letter.code, filed.letter.images) == (LetterKind.IMAGES, "unavailable", 1)
    server.statuses.clear()
    assert producer.replay(filed)
    status = job.wait(60)
    assert (status.ok, status.failed, status.failed_by_code) == (2, 0, {})
    rows = list(job.results())
    assert sorted((row.image.uri, row.status) for row in rows) == sorted((uri, "ok") for uri in uris)
    assert not list(producer.dead_letters.list())


def test_an_image_that_recovers_in_a_later_attempt_is_ok(producer, image_server) -> None:
    image_server.fails_first["/slow-start.png"] = 4
    job = producer.submit([f"{image_server.url}/slow-start.png"], "<OD>", job_id="recovers")
    status = job.wait(60)
    assert (status.ok, status.failed, status.put_off) == (1, 0, 0)
    (row,) = job.results()
    assert row.attempts == 2


def test_results_that_can_never_be_written_are_dead_lettered_and_replayed(producer, pictures, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the results' folder should be")
    message = {"images": pictures(2), "prompts": "<OD>", "output": f"{blocked.as_uri()}/", "job_id": "blocked"}
    producer.app.send_task("arno.annotate", kwargs=message, queue=Lane.BULK.queue)
    (filed,) = eventually(lambda: list(producer.dead_letters.list()), "a dead letter")
    assert (filed.letter.kind, filed.letter.code) == (LetterKind.CHUNK, "storage_refused")
    assert str(blocked) in filed.letter.reason
    status = producer.job("blocked").wait(10)
    assert (status.ok, status.dead, status.images) == (0, 2, 2)

    blocked.unlink()
    assert producer.replay(filed)
    assert eventually(lambda: (now := producer.ledger.status("blocked")).ok == 2 and now, "replayed").dead == 0
