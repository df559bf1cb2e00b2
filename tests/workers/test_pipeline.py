"""What a worker does with a chunk, step by step, on a real ledger and real files."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from arno_shared.dead_letters import DeadLetters
from arno_shared.errors import Timeout
from arno_shared.ledger import Ledger, Outcome
from arno_shared.messages import Chunk, GenerationOptions, ImageRef, Output, Prompt
from arno_shared.names import Lane
from arno_shared.parts import decode_part
from arno_shared.redis_client import connect
from arno_shared.results import Generation, ModelFacts, ResultRow
from arno_shared.settings import RetrySettings, Settings
from arno_shared.storage import ObjectStore
from arno_shared.topic import ChunkCompleted, ChunkEvent, Counts
from arno_workers.engine import Answer, Answered, Ask, Deliver, Engine, Parsed, Pixels
from arno_workers.intake import Intake
from arno_workers.patience import Drain
from arno_workers.pipeline import Pipeline

NOTHING_SAID = Answer(ids=(), logprobs=(), forced=0, truncated=False)
NOTHING_FOUND = Parsed(raw="", value=None, confidences=None, repetitive=False)
AS_EVER = GenerationOptions()


class Reader:
    """Reads what `read` returns or raises."""

    def __init__(self, read: Callable[[ImageRef], bytes]) -> None:
        self.read = read


class FakeEngine:
    """Gives every ask the same answer at once, and remembers what came to it."""

    model = ModelFacts(id="fake", revision="0", dtype="none")
    busy_s = 0.0
    appetite_images = 1

    def __init__(
        self,
        answer: Answer = NOTHING_SAID,
        parsed: Parsed = NOTHING_FOUND,
        scaled_to: tuple[int, int] | None = None,
    ) -> None:
        self.answer, self.parsed, self.scaled_to = answer, parsed, scaled_to
        self.sizes: list[tuple[int, int]] = []
        self.asks: list[Ask] = []
        self.lanes: list[Lane] = []

    def generation(self, options: GenerationOptions) -> Generation:
        return Generation(
            num_beams=options.num_beams or 3, no_repeat_ngram_size=3, length_penalty=1.0, early_stopping=True
        )

    def prepare(self, image: Image.Image) -> Pixels:
        self.sizes.append(image.size)
        return image

    def ask(self, prompt: Prompt, width: int, height: int, options: GenerationOptions) -> Ask:
        return Ask(f"{prompt.task} {width}x{height}", options.max_new_tokens or 64, options.num_beams or 3)

    def submit(self, pixels: Pixels, asks: Sequence[Ask], lane: Lane, deliver: Deliver) -> None:
        self.asks += asks
        self.lanes.append(lane)
        deliver(Answered((self.answer,) * len(asks), wait_ms=1.0, model_ms=2.0))

    def parse(self, prompt: Prompt, answer: Answer, width: int, height: int) -> Parsed:
        return self.parsed

    def close(self) -> None:
        pass


def encoded(size: tuple[int, int], format: str = "BMP") -> bytes:
    buffer = BytesIO()
    Image.new("RGB", size).save(buffer, format)
    return buffer.getvalue()


class Bench:
    """A pipeline whose images are read by a function of the test."""

    def __init__(
        self,
        redis_url: str,
        folder: Path,
        read: Callable[[ImageRef], bytes] = lambda _: encoded((4, 3)),
        engine: Engine | None = None,
        generation: GenerationOptions = AS_EVER,
    ) -> None:
        settings = Settings(redis_url=redis_url, retries=RetrySettings(tries=1))
        redis = connect(settings)
        self.ledger = Ledger(redis, settings)
        self.part = folder / "part-000000000.jsonl"
        self.chunk = Chunk(
            images=(ImageRef(uri="s3://b/a.png"),),
            prompts=(Prompt(task="<OD>"),),
            output=Output(prefix=folder.as_uri()),
            generation=generation,
            job_id="run-7",
            index=0,
        )
        engine = engine or FakeEngine()
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

    def handle(self, lane: Lane = Lane.BULK) -> None:
        self.pipeline.handle([], self.chunk.to_wire(), "message-1", lane)

    def row(self) -> ResultRow:
        """The row of the only image, once it is done."""
        self.handle()
        (row,) = decode_part(self.part.read_bytes(), "jsonl")
        return row

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
    answer = Answer(ids=(0, 5, 2), logprobs=(0.0, -0.1, -0.3), forced=1, truncated=False)
    bench = Bench(
        valkey_url,
        tmp_path,
        engine=FakeEngine(answer, Parsed("</s><s>car</s>", {"labels": ["car"]}, None, repetitive=False)),
    )
    row = bench.row()
    assert bench.ledger.status("run-7").ok == 1
    assert (row.image.width, row.image.height, row.image.format) == (4, 3, "BMP")
    (result,) = row.prompts
    assert (result.raw, result.parsed, result.tokens) == ("</s><s>car</s>", {"labels": ["car"]}, 3)
    assert (row.timings.wait_ms, row.timings.model_ms) == (1.0, 2.0)


def test_a_job_is_answered_in_the_way_it_asks_for_and_its_rows_say_so(valkey_url: str, tmp_path: Path) -> None:
    engine = FakeEngine()
    row = Bench(valkey_url, tmp_path, engine=engine, generation=GenerationOptions(num_beams=1, max_new_tokens=20)).row()
    assert engine.asks == [Ask("<OD> 4x3", max_new_tokens=20, num_beams=1)]
    assert row.generation
    assert row.generation.num_beams == 1
    assert row.prompts[0].prompt == "<OD> 4x3"


@pytest.mark.parametrize("lane", Lane)
def test_a_picture_goes_to_the_engine_in_the_lane_that_its_message_came_by(
    valkey_url: str, tmp_path: Path, lane: Lane
) -> None:
    engine = FakeEngine()
    Bench(valkey_url, tmp_path, engine=engine).handle(lane)
    assert engine.lanes == [lane]


def test_a_row_says_how_sure_the_model_was_of_each_object_and_never_that_it_was_not_at_all(
    valkey_url: str, tmp_path: Path
) -> None:
    answer = Answer(ids=(7,), logprobs=(-0.123456,), forced=0, truncated=True)
    parsed = Parsed("", {}, confidences=(0.99999, 0.123456, 1e-9), repetitive=True)
    (result,) = Bench(valkey_url, tmp_path, engine=FakeEngine(answer, parsed)).row().prompts
    assert (result.score, result.confidences) == (-0.1235, (1.0, 0.1235, 0.0001))
    assert (result.truncated, result.repetitive) == (True, True)


def test_an_answer_without_choices_and_objects_has_no_score_and_no_confidences(valkey_url: str, tmp_path: Path) -> None:
    (result,) = Bench(valkey_url, tmp_path).row().prompts
    assert (result.score, result.confidences) == (None, None)
    assert (result.truncated, result.repetitive) == (False, False)


def test_a_score_that_rounds_to_nothing_has_no_sign(valkey_url: str, tmp_path: Path) -> None:
    bench = Bench(
        valkey_url, tmp_path, engine=FakeEngine(Answer(ids=(7,), logprobs=(-1e-9,), forced=0, truncated=False))
    )
    bench.handle()
    assert '"score":0.0' in bench.part.read_text()


def test_a_picture_that_was_decoded_smaller_is_described_at_its_full_size(valkey_url: str, tmp_path: Path) -> None:
    engine = FakeEngine(scaled_to=(64, 48))
    row = Bench(valkey_url, tmp_path, lambda _: encoded((512, 384), "JPEG"), engine).row()
    ((width, height),) = engine.sizes
    assert 64 <= width < 512
    assert 48 <= height < 384
    assert (row.image.width, row.image.height) == (512, 384)
    assert [ask.sentence for ask in engine.asks] == [row.prompts[0].prompt] == ["<OD> 512x384"]
