"""What a worker does with a chunk, step by step, on a real ledger and real files."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image

from arno_shared.dead_letters import DeadLetters
from arno_shared.errors import Timeout
from arno_shared.ledger import Ledger, Outcome
from arno_shared.messages import Chunk, ImageRef, Output, Prompt
from arno_shared.names import Lane
from arno_shared.redis_client import connect
from arno_shared.settings import RetrySettings, Settings
from arno_shared.storage import ObjectStore
from arno_shared.topic import ChunkCompleted, ChunkEvent, Counts
from arno_workers.engine.null import NullReplica
from arno_workers.engine.plain import PlainEngine
from arno_workers.intake import Intake
from arno_workers.patience import Drain
from arno_workers.pipeline import Pipeline


class Reader:
    """Reads what `read` returns or raises."""

    def __init__(self, read: Callable[[ImageRef], bytes]) -> None:
        self.read = read


class Bench:
    """A pipeline whose images are read by a function of the test."""

    def __init__(self, redis_url: str, folder: Path, read: Callable[[ImageRef], bytes]) -> None:
        settings = Settings(redis_url=redis_url, retries=RetrySettings(tries=1))
        redis = connect(settings)
        self.ledger = Ledger(redis, settings)
        self.part = folder / "part-000000000.jsonl"
        self.chunk = Chunk(
            images=(ImageRef(uri="s3://b/a.png"),),
            prompts=(Prompt(task="<OD>"),),
            output=Output(prefix=folder.as_uri()),
            job_id="run-7",
            index=0,
        )
        engine = PlainEngine(NullReplica(), 8, 8, lambda: pytest.fail("the replica is not broken"))
        self.pipeline = Pipeline(
            ledger=self.ledger,
            dead_letters=DeadLetters(redis, 10),
            store=ObjectStore(),
            engine=engine,
            intake=Intake(Reader(read), engine, settings),  # type: ignore[arg-type]
            drain=Drain(60),
            settings=settings,
            worker="cpu0@here",
        )

    def handle(self) -> None:
        self.pipeline.handle([], self.chunk.to_wire(), "message-1", Lane.BULK)

    def commit_elsewhere(self) -> None:
        """Another worker got the same message, and every image of it was well."""
        self.part.write_text("the other worker's rows")
        event = ChunkEvent(
            id="run-7/0",
            source="arno/cpu1@there",
            subject="run-7/0",
            time=datetime.now(UTC),
            data=ChunkCompleted(
                job_id="run-7", index=0, attempt=1, result_uri="-", counts=Counts(ok=1, failed=0, put_off=0)
            ),
        )
        assert self.ledger.commit(self.chunk, Outcome(event))


def test_a_run_that_fails_late_leaves_the_rows_of_one_that_was_committed(valkey_url: str, tmp_path: Path) -> None:
    def slow_and_then_too_late(_: ImageRef) -> bytes:
        bench.commit_elsewhere()
        raise Timeout("took too long")

    bench = Bench(valkey_url, tmp_path, slow_and_then_too_late)
    bench.handle()
    assert bench.part.read_text() == "the other worker's rows"
    status = bench.ledger.status("run-7")
    assert (status.ok, status.put_off) == (1, 0)


def test_a_chunk_that_is_committed_is_not_done_again(valkey_url: str, tmp_path: Path) -> None:
    bench = Bench(valkey_url, tmp_path, lambda _: pytest.fail("an image was read again"))
    bench.commit_elsewhere()
    bench.handle()
    assert bench.part.read_text() == "the other worker's rows"


def test_an_image_that_fails_in_a_way_nobody_foresaw_fails_alone(valkey_url: str, tmp_path: Path) -> None:
    def unforeseen(_: ImageRef) -> bytes:
        raise MemoryError("no room")

    bench = Bench(valkey_url, tmp_path, unforeseen)
    bench.handle()
    assert bench.ledger.status("run-7").failed_by_code == {"item_failed": 1}
    assert "MemoryError: no room" in bench.part.read_text()


def test_a_picture_is_answered_stored_and_committed(valkey_url: str, tmp_path: Path) -> None:
    picture = tmp_path / "a.bmp"
    Image.new("RGB", (4, 3)).save(picture)
    bench = Bench(valkey_url, tmp_path, lambda _: picture.read_bytes())
    bench.handle()
    assert bench.ledger.status("run-7").ok == 1
    assert '"width":4,"height":3,"format":"BMP"' in bench.part.read_text()
