"""`arno workers`: what an operator sees of those who work, and of one that fell silent."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from arno_producer import Producer
from arno_producer.cli.workers import workers
from arno_shared import __version__
from arno_shared.messages import SCHEMA_VERSION
from arno_shared.names import WORKERS, worker_key
from arno_shared.presence import WorkerState, announce
from arno_shared.settings import Settings


def worker_state(worker: str = "gpu0@a", **fields: Any) -> WorkerState:
    given = {
        "worker": worker,
        "device": "cuda",
        "model": "arno-tiny",
        "revision": "sha256:0123456789abcdef",
        "dtype": "bfloat16",
        "phase": "working",
        "pid": 12,
        "version": __version__,
        "schema_version": SCHEMA_VERSION,
        "health": "127.0.0.1:8080",
        "started_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "chunks_in_flight": 0,
        "chunks_committed": 0,
        "images_done": 0,
    }
    return WorkerState(**{**given, **fields})


@pytest.fixture
def show(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("ARNO_REDIS_URL", settings.redis_url)
    app = typer.Typer()
    app.command()(workers)
    return lambda *arguments: CliRunner().invoke(app, arguments, catch_exceptions=False)


def cells(result: Result, worker: str) -> list[str]:
    """What the table says of a worker, column by column; empty cells left out."""
    line = next(line for line in result.stdout.splitlines() if worker in line)
    return [cell for part in line.split("  ") if (cell := part.strip())]


def test_the_table_says_what_each_worker_does(show: Callable[..., Result], producer: Producer) -> None:
    busy = {"chunks_in_flight": 3, "images_done": 12345, "last_commit_at": datetime(2026, 1, 2, 4, 5, 6, tzinfo=UTC)}
    announce(producer.redis, worker_state("gpu0@a", execution="triton, graphs", **busy))
    announce(producer.redis, worker_state("gpu1@a", phase="loading", health="127.0.0.1:8081"))
    result = show()
    assert result.exit_code == 0
    *told, seen, health = cells(result, "gpu0@a")
    assert told == [
        *("gpu0@a", "cuda", "arno-tiny 0123456789ab bfloat16", "triton, graphs", "working"),
        *("3", "12,345", "2026-01-02 04:05:06Z"),
    ]
    assert (seen.endswith("s ago"), health) == (True, "127.0.0.1:8080")
    assert "loading" in cells(result, "gpu1@a")
    assert result.stderr == ""


def test_what_was_read_of_a_model_stands_under_the_table_once(show: Callable[..., Result], producer: Producer) -> None:
    said = "Microsoft's original layout, float16, head tied; 3 beams, no 3-gram twice, from text_config of config.json"
    adapter = {"adapter": "s3://models/mine", "adapter_revision": "sha256:fedcba9876543210"}
    for name in ("gpu0@a", "gpu1@a"):
        announce(producer.redis, worker_state(name, provenance=said, **adapter))
    announce(producer.redis, worker_state("gpu2@a", phase="loading"))
    result = show()
    assert result.stderr.splitlines() == [f"arno-tiny (gpu0@a, gpu1@a): {said}"]
    assert cells(result, "gpu0@a")[2] == "arno-tiny 0123456789ab + s3://models/mine fedcba987654 bfloat16"
    assert json.loads(show("--json").stdout.splitlines()[0])["provenance"] == said


@pytest.mark.parametrize(
    ("execution", "short"),
    [
        ("plain, without graphs: ('look', 64): OutOfMemoryError: CUDA out of memory", "plain …"),
        ("triton but for candidates, mix, graphs", "triton …"),
    ],
)
def test_what_a_worker_does_without_stands_under_the_table(
    show: Callable[..., Result], producer: Producer, execution: str, short: str
) -> None:
    announce(producer.redis, worker_state("gpu0@a", execution=execution))
    announce(producer.redis, worker_state("gpu1@a", execution="triton, graphs"))
    result = show()
    assert short in cells(result, "gpu0@a")
    assert result.stderr == f"gpu0@a computes with less than it was asked for: {execution}\n"
    assert json.loads(show("--json").stdout.splitlines()[0])["execution"] == execution


def test_one_that_fell_silent_is_shown_with_its_last_words(show: Callable[..., Result], producer: Producer) -> None:
    announce(producer.redis, worker_state(ailment="nothing moved for 300 s"))
    producer.redis.zincrby(WORKERS, -90, "gpu0@a")
    assert "silent, was working: nothing moved for 300 s" in cells(show(), "gpu0@a")
    (line,) = map(json.loads, show("--json").stdout.splitlines())
    assert (line["silent"], line["seen_s_ago"] > 89) == (True, True)


def test_programs_get_all_of_it(show: Callable[..., Result], producer: Producer) -> None:
    state = worker_state(model="s3://key:hush@bucket/model")
    announce(producer.redis, state)
    result = show("--json")
    (line,) = map(json.loads, result.stdout.splitlines())
    assert line.keys() == {*WorkerState.model_fields, "seen_s_ago", "silent"}
    assert (line["worker"], line["pid"], line["silent"]) == ("gpu0@a", 12, False)
    assert line["model"] == "s3://***@bucket/model"


def test_one_that_cannot_be_read_is_shown_all_the_same(show: Callable[..., Result], producer: Producer) -> None:
    announce(producer.redis, worker_state())
    producer.redis.set(worker_key("gpu0@a"), "{}")
    assert "not to be read by this version of Arno" in cells(show(), "gpu0@a")
    (line,) = map(json.loads, show("--json").stdout.splitlines())
    assert line.keys() == {"worker", "seen_s_ago", "silent"}


def test_nobody_there(show: Callable[..., Result]) -> None:
    result = show()
    assert (result.exit_code, result.stdout) == (0, "")
    assert "arno-worker" in result.stderr
    assert show("--json").stdout == ""
