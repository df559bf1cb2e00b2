"""What a worker counts is what became of its messages and images."""

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from arno_shared.delivery.hands import Hands
from arno_shared.errors import Timeout
from arno_shared.messages import ImageRef, Prompt
from arno_shared.names import Lane
from arno_workers.engine.loop import EngineLoop
from arno_workers.engine.null import NullReplica
from tests.model.clock import pass_time
from tests.workers.pipeline.test_chunk_handler import RAW, Bench, encoded

OUTCOMES = ("committed", "duplicate", "dropped", "parked", "buried", "given_back", "filed")


def counted(bench: Bench, name: str, **labels: str) -> float:
    value = bench.metrics.registry.get_sample_value(name, labels)
    assert value is not None, f"{name}{labels} is not there"
    return value


def chunks(bench: Bench) -> dict[str, float]:
    """By outcome; those that never came are left out."""
    every = {outcome: counted(bench, "arno_chunks_total", outcome=outcome) for outcome in OUTCOMES}
    return {outcome: value for outcome, value in every.items() if value}


def images(bench: Bench) -> dict[str, float]:
    return {
        outcome: counted(bench, "arno_images_total", outcome=outcome)
        for outcome in ("ok", "failed", "put_off", "given_up")
    }


def test_a_chunk_is_counted_with_its_images(valkey_url: str, tmp_path: Path) -> None:
    bench = Bench(valkey_url, tmp_path, images=3)
    bench.handle()
    assert chunks(bench) == {"committed": 1}
    assert images(bench) == {"ok": 3, "failed": 0, "put_off": 0, "given_up": 0}
    assert counted(bench, "arno_chunk_seconds_count") == 1
    assert counted(bench, "arno_answers_total", task="<OD>", outcome="ok") == 3
    for stage in ("fetch", "decode", "wait"):
        assert counted(bench, "arno_stage_seconds_count", stage=stage) == 3
    assert counted(bench, "arno_stage_seconds_sum", stage="wait") == pytest.approx(0.003)


def test_fine_tunes_own_prompts_are_counted_under_one_name(valkey_url: str, tmp_path: Path) -> None:
    """Or a label would have as many values as there are sentences."""

    def read(image: ImageRef) -> bytes:
        return encoded((4, 3)) if image.uri.endswith("a.png") else b"none"

    prompts = [Prompt(raw="<VQA>what is it?"), Prompt(raw="<VQA>where?")]
    with closing(EngineLoop(NullReplica, 1, lambda: None)) as engine:
        bench = Bench(valkey_url, tmp_path, read, engine, images=2, prompts=prompts)
        bench.handle()
    assert counted(bench, "arno_answers_total", task="raw", outcome="ok") == 2
    assert counted(bench, "arno_answers_total", task="raw", outcome="failed") == 2
    (samples,) = [family.samples for family in bench.metrics.registry.collect() if family.name == "arno_answers"]
    assert {sample.labels["task"] for sample in samples} == {"raw"}


def test_messages_of_others_that_went_back_are_counted(valkey_url: str, tmp_path: Path) -> None:
    bench = Bench(valkey_url, tmp_path)
    dead = Hands(bench.redis, worker="dead", key_prefix="", lease_s=60, lease_max_s=900, max_letters=10)
    bench.redis.lpush(Lane.BULK.queue, RAW)
    assert dead.claim([Lane.BULK.queue])
    pass_time(bench.redis, 61)
    with closing(EngineLoop(NullReplica, 1, lambda: None)) as engine:
        bench.metrics.watch(bench.vitals, engine, bench.hands)
        bench.hands.sweep()
        assert counted(bench, "arno_leases_expired_total") == 1


def test_a_chunk_that_another_worker_committed_meanwhile_is_a_duplicate_and_nothing_else(
    valkey_url: str, tmp_path: Path
) -> None:
    def slow(_: ImageRef) -> bytes:
        bench.commit_elsewhere()
        # Else its rows would be read.
        bench.part.unlink()
        return encoded((4, 3))

    bench = Bench(valkey_url, tmp_path, slow)
    bench.handle()
    assert bench.ledger.status("run-7").ok == 1
    assert chunks(bench) == {"duplicate": 1}
    assert set(images(bench).values()) == {0}
    assert counted(bench, "arno_chunk_seconds_count") == 0
    assert counted(bench, "arno_tokens_total") == 0
    assert counted(bench, "arno_stage_seconds_count", stage="decode") == 1, "the work was done"


@pytest.mark.parametrize(
    ("max_attempts", "found"),
    [
        (3, {"ok": 1, "failed": 0, "put_off": 1, "given_up": 0}),
        (1, {"ok": 1, "failed": 0, "put_off": 0, "given_up": 1}),
    ],
)
def test_what_failed_for_now_is_put_off_and_at_the_end_given_up(
    valkey_url: str, tmp_path: Path, max_attempts: int, found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(image: ImageRef) -> bytes:
        if image.uri.endswith("a.png"):
            raise Timeout("took too long")
        return encoded((4, 3))

    bench = Bench(valkey_url, tmp_path, read, images=2)
    retries = bench.handler._settings.retries.model_copy(update={"max_attempts": max_attempts})
    monkeypatch.setattr(bench.handler, "_settings", bench.handler._settings.model_copy(update={"retries": retries}))
    bench.handle()
    assert chunks(bench) == {"committed": 1}
    assert images(bench) == found
