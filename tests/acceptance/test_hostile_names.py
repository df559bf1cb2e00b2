"""Names that strangers give to messages and images: whatever they are, results lie below the prefix alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from arno_producer import Producer
from arno_shared.dead_letters import LetterKind
from arno_shared.names import Lane
from arno_shared.parts import decode_part
from arno_shared.settings import Settings
from arno_shared.topic import TopicReader
from arno_shared.uris import file_uri, path_of
from tests.acceptance.arno_worker import arno_worker, eventually

IDS = [
    "../../up",
    "..",
    ".",
    "/etc/up",
    "a/b",
    r"..\..\up",
    "a\0b",
    "a\nb",
    "\x1b[2J",
    "\u202egpj",
    "画像",
    "%2e%2e%2fup",
    "-rf",
    "x" * 200,
    "x" * 100_000,
]


@pytest.fixture
def producer(valkey_url: str, tmp_path: Path) -> Producer:
    return Producer(Settings(redis_url=valkey_url, output_prefix=file_uri(tmp_path / "a" / "b" / "results")))


@pytest.fixture
def picture(producer: Producer, tmp_path: Path) -> Iterator[str]:
    """The URI of one that a worker, which runs meanwhile, may read."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.new("RGB", (16, 16), "red").save(folder / "a.png")
    env = {
        "ARNO_WORKER__ENGINE": "null",
        "ARNO_LIMITS__SCHEMES": '["file"]',
        "ARNO_LIMITS__FILE_ROOTS": f'["{folder}"]',
    }
    with arno_worker(producer.settings, tmp_path / "pictures", "named", env) as worker:
        yield file_uri(folder / "a.png")
        assert worker.process.poll() is None


def _send(producer: Producer, task_id: str | None = None, **message: Any) -> None:
    producer.app.send_task("arno.annotate", task_id=task_id, kwargs={**message, "prompts": "<OD>"}, queue="arno.bulk")


def _result_uris(producer: Producer, count: int) -> list[str]:
    """Of that many events, once they are there."""
    reader, found = TopicReader(producer.redis, "g", "c"), []

    def all_there() -> bool:
        found.extend(event.data.result_uri for _, event in reader.read())
        return len(found) >= count

    eventually(all_there, f"{count} chunks are committed")
    return found


def _written(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and "pictures" not in path.parts}


def test_whatever_a_message_is_called_its_results_lie_in_a_folder_of_their_own(
    producer: Producer, picture: str, tmp_path: Path
) -> None:
    for name in IDS:
        _send(producer, name, images={"uri": picture, "id": name[:1024]})
        _send(producer, f"{name} ", images={"uri": picture, "id": name[:1024]}, output=file_uri(tmp_path / "mine"))
    uris = _result_uris(producer, 2 * len(IDS))
    paths = [path_of(uri) for uri in uris]
    assert len(set(paths)) == len(paths)
    assert {path.parents[1] for path in paths} == {tmp_path / "a" / "b" / "results", tmp_path / "mine"}
    assert _written(tmp_path) == set(paths)
    ids = [row.image.id for uri in uris for row in decode_part(producer.store.get(uri), "jsonl")]
    assert sorted(ids) == sorted(name[:1024] for name in IDS * 2)
    assert not list(producer.dead_letters.list())


def test_a_hostile_prefix_is_a_dead_letter_and_nothing_is_written(
    producer: Producer, picture: str, tmp_path: Path
) -> None:
    folder = file_uri(tmp_path / "mine")
    hostile = [f"{folder}/../up/", f"{folder}/%2e%2e/up/", f"{folder}/a\x1b[2J/", rf"{folder}\..\up/", f"{folder}//a/"]
    hostile += [f"{folder}/{'a' * 256}/", "s3://results/../up/", "ftp://results/a/"]
    for prefix in hostile:
        _send(producer, images=picture, output=prefix)
        _send(producer, images=picture, output=prefix, job_id="mine")
    _send(producer, images=picture, output=folder, job_id="../up")

    def letters() -> list[Any]:
        return [filed.letter for filed in producer.dead_letters.list()]

    found = eventually(lambda: len(letters()) > 2 * len(hostile) and letters(), "all are dead letters")
    assert {(letter.kind, letter.code) for letter in found} == {(LetterKind.MESSAGE, "invalid_message")}
    assert all("output" in letter.reason or "job_id" in letter.reason for letter in found)
    assert not [letter.reason for letter in found if not letter.reason.isprintable()]
    assert _written(tmp_path) == set()
    assert not producer.redis.keys("*job:*")


def _envelope(producer: Producer, **message: Any) -> dict[str, Any]:
    """A message as it lies in the queue, taken from another database, of which the worker knows nothing."""
    url = producer.settings.redis_url.removesuffix("0") + "1"
    elsewhere = Producer(producer.settings.model_copy(update={"redis_url": url}))
    _send(elsewhere, **message)
    envelope: dict[str, Any] = json.loads(elsewhere.redis.rpop(Lane.BULK.queue) or b"")
    return envelope


def test_a_name_that_is_none_harms_nobody(producer: Producer, picture: str, tmp_path: Path) -> None:
    envelope, names = _envelope(producer, images=picture), [7, None, True, "", "\ud800", 1.5, [1], {}]
    for name in names:
        envelope["headers"]["id"] = name
        producer.redis.lpush(Lane.BULK.queue, json.dumps(envelope))
    assert producer.submit([picture], "<OD>", job_id="next").wait(60).ok == 1
    eventually(lambda: not producer.redis.hlen("unacked"), "nothing is in hand")
    results = tmp_path / "a" / "b" / "results"
    folders = {path.relative_to(results).parts[0] for path in _written(tmp_path)} - {"next"}
    letters = [filed.letter.code for filed in producer.dead_letters.list()]
    assert len(folders) + len(letters) == len(names), (folders, letters)
