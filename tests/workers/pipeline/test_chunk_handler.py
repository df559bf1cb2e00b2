"""What a worker does with a chunk, step by step, on a real ledger and real files."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from threading import Event, Thread
from time import monotonic

import pytest
from PIL import Image

from arno_shared.dead_letters import DeadLetter, DeadLetters, LetterKind
from arno_shared.delivery import hands as hands_module
from arno_shared.delivery.hands import Hands
from arno_shared.errors import HouseError, Timeout
from arno_shared.ledger import Begun, JobState, Ledger, Message, Outcome, Suspect, Verdict
from arno_shared.messages import Chunk, GenerationOptions, ImageRef, Output, Prompt
from arno_shared.names import UNACKED, Lane, job_keys
from arno_shared.parts import decode_part
from arno_shared.redis_client import connect
from arno_shared.results import Generation, ModelFacts, ResultRow, Status
from arno_shared.settings import RetrySettings, Settings
from arno_shared.storage import ObjectStore
from arno_shared.topic import ChunkCompleted, ChunkEvent, Counts
from arno_workers.engine import Answer, Answered, Ask, Deliver, Engine, Parsed, Pixels
from arno_workers.health import vitals as vitals_module
from arno_workers.health.vitals import Vitals
from arno_workers.pipeline.chunk_handler import ChunkHandler
from arno_workers.pipeline.delivery import Delivery
from arno_workers.pipeline.intake import Intake
from arno_workers.pipeline.metrics import WorkerMetrics
from arno_workers.pipeline.patience import Drain, Drained, LetGo
from arno_workers.pipeline.result_writer import ResultWriter

NOTHING_SAID = Answer(ids=(), logprobs=(), forced=0, truncated=False)
NOTHING_FOUND = Parsed(raw="", value=None, confidences=None, repetitive=False)
AS_EVER = GenerationOptions()

RAW = '{"body": "ä", "properties": {"delivery_tag": "t"}}'
PATIENCE_S = 30


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

    def submit(
        self, pixels: Pixels, asks: Sequence[Ask], lane: Lane, deliver: Deliver, trace: str | None = None
    ) -> None:
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
    """A handler whose images are read by a function of the test, and a message in its worker's hands."""

    def __init__(
        self,
        redis_url: str,
        folder: Path,
        read: Callable[[ImageRef], bytes] = lambda _: encoded((4, 3)),
        engine: Engine | None = None,
        generation: GenerationOptions = AS_EVER,
        images: int = 1,
        drain: Drain | None = None,
        prompts: Sequence[Prompt] = (Prompt(task="<OD>"),),
    ) -> None:
        settings = Settings(redis_url=redis_url, retries=RetrySettings(tries=1, max_deliveries=5))
        self.redis = connect(settings)
        self.ledger = Ledger(self.redis, settings)
        self.dead_letters = DeadLetters(self.redis, 10)
        self.vitals = Vitals()
        self.hands = Hands(self.redis, worker="cpu0@here", key_prefix="", lease_s=60, lease_max_s=900, max_letters=10)
        self.part = folder / "part-000000000.jsonl"
        self.chunk = Chunk(
            images=tuple(ImageRef(uri=f"s3://b/{name}.png") for name in "abcdefgh"[:images]),
            prompts=tuple(prompts),
            output=Output(prefix=folder.as_uri()),
            generation=generation,
            job_id="run-7",
            index=0,
        )
        engine = engine or FakeEngine()
        self.drain = drain or Drain(60)
        self.metrics = WorkerMetrics()
        self.handler = ChunkHandler(
            ledger=self.ledger,
            dead_letters=self.dead_letters,
            writer=ResultWriter(ObjectStore(), 3),
            engine=engine,
            intake=Intake(Reader(read), engine, settings),  # type: ignore[arg-type]
            drain=self.drain,
            vitals=self.vitals,
            metrics=self.metrics,
            settings=settings,
            worker="cpu0@here",
        )

    def delivery(self, lane: Lane = Lane.BULK, message_id: str = "message-1") -> Delivery:
        """Of a message that was sent by that lane, and claimed."""
        self.redis.lpush(lane.queue, RAW)
        claimed = self.hands.claim([lane.queue])
        assert claimed
        return Delivery(message_id, lane, claimed.tag, self.hands, self.vitals)

    def handle(self, lane: Lane = Lane.BULK) -> None:
        self.handler.handle([], self.chunk.to_wire(), self.delivery(lane))

    def begun_elsewhere(self, times: int) -> None:
        """Other workers have begun the chunk, and died."""
        for number in range(times):
            said = Message("message-1", self.chunk.digest, f"gone-{number}")
            self.ledger.begin("run-7", 0, 1, said, self.chunk.output)

    def begins_again(self) -> Begun:
        return self.ledger.begin("run-7", 0, 1, Message("message-1", self.chunk.digest, "next"), self.chunk.output)

    def died_of(self, what: Suspect, times: int) -> None:
        """Other workers have had it alone in hand, and died."""
        for number in range(times):
            self.ledger.suspect(self.chunk, what, f"gone-{number}")

    @property
    def begun(self) -> dict[str, str]:
        """What the ledger says was begun without an end: how often."""
        found = {}
        for field, value in self.redis.hgetall(job_keys("run-7").begun).items():
            gone, *tags = value.decode().split()
            found[field.decode()] = str(int(gone) + len(tags))
        return found

    def rows(self) -> list[ResultRow]:
        return decode_part(self.part.read_bytes(), "jsonl")

    def letters(self) -> list[DeadLetter]:
        return [filed.letter for filed in self.dead_letters.list()]

    def row(self) -> ResultRow:
        """The row of the only image, once it is done."""
        self.handle()
        (row,) = self.rows()
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


def test_storage_that_is_away_for_a_while_is_waited_for_and_no_try_of_the_image(
    valkey_url: str, tmp_path: Path
) -> None:
    away = iter([HouseError("storage is away"), HouseError("storage is away")])

    def read(_: ImageRef) -> bytes:
        if error := next(away, None):
            raise error
        return encoded((4, 3))

    bench = Bench(valkey_url, tmp_path, read)
    row = bench.row()
    assert (row.status, row.attempts) == (Status.OK, 1)
    assert bench.ledger.status("run-7").put_off == 0


class IllegibleEngine(FakeEngine):
    def parse(self, prompt: Prompt, answer: Answer, width: int, height: int) -> Parsed:
        raise ValueError("half a box")


def test_a_picture_whose_answer_cannot_be_read_fails_and_says_why(valkey_url: str, tmp_path: Path) -> None:
    row = Bench(valkey_url, tmp_path, engine=IllegibleEngine()).row()
    assert row.error
    assert (row.error.code, row.error.message) == (
        "item_failed",
        "the model's answer cannot be read: ValueError: half a box",
    )
    assert row.prompts == ()


class SlowEngine(FakeEngine):
    def prepare(self, image: Image.Image) -> Pixels:
        Event().wait(0.04)
        return super().prepare(image)


def test_a_row_says_how_long_its_picture_took_on_its_way(valkey_url: str, tmp_path: Path) -> None:
    def read(_: ImageRef) -> bytes:
        Event().wait(0.05)
        return encoded((4, 3))

    bench = Bench(valkey_url, tmp_path, read, SlowEngine())
    began_s = monotonic()
    timings = bench.row().timings
    assert timings.fetch_ms is not None
    assert timings.decode_ms is not None
    assert timings.fetch_ms >= 50
    assert timings.decode_ms >= 40
    assert timings.fetch_ms + timings.decode_ms <= 1000 * (monotonic() - began_s)


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


# What workers have died of


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline_s = monotonic() + PATIENCE_S
    while not condition():
        assert monotonic() < deadline_s, f"still not: {what}"
        Event().wait(0.01)


class SilentEngine(FakeEngine):
    """Never answers, until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[tuple[int, Deliver]] = []

    def submit(
        self, pixels: Pixels, asks: Sequence[Ask], lane: Lane, deliver: Deliver, trace: str | None = None
    ) -> None:
        self.waiting.append((len(asks), deliver))

    def answer_all(self) -> None:
        for asks, deliver in self.waiting:
            deliver(Answered((NOTHING_SAID,) * asks, wait_ms=1.0, model_ms=2.0))


def test_a_chunk_that_two_workers_died_of_runs_one_image_at_a_time(valkey_url: str, tmp_path: Path) -> None:
    begun: dict[str, dict[str, str]] = {}

    def look(image: ImageRef) -> bytes:
        begun[image.uri] = bench.begun
        return encoded((4, 3))

    bench = Bench(valkey_url, tmp_path, look, images=3)
    bench.begun_elsewhere(2)
    bench.handle()
    assert begun == {f"s3://b/{name}.png": {"0.1": "3", f"0.1/{position}": "1"} for position, name in enumerate("abc")}
    assert [row.status for row in bench.rows()] == ["ok"] * 3
    assert bench.begun == {}
    assert not bench.letters()


def test_a_chunk_that_one_worker_died_of_runs_as_any_other(valkey_url: str, tmp_path: Path) -> None:
    begun: list[dict[str, str]] = []

    def look(_: ImageRef) -> bytes:
        begun.append(bench.begun)
        return encoded((4, 3))

    bench = Bench(valkey_url, tmp_path, look, images=3)
    bench.begun_elsewhere(1)
    bench.handle()
    assert begun == [{"0.1": "2"}] * 3
    assert bench.begun == {}


def test_who_has_the_chunk_in_hand_is_no_death_in_another_s_eyes(valkey_url: str, tmp_path: Path) -> None:
    seen = []

    def read(_: ImageRef) -> bytes:
        seen.append(bench.begins_again().times)
        return encoded((4, 3))

    bench = Bench(valkey_url, tmp_path, read)
    bench.handle()
    assert seen == [1]


def test_an_image_that_max_deliveries_died_of_is_given_up_and_its_neighbours_are_well(
    valkey_url: str, tmp_path: Path
) -> None:
    def read(image: ImageRef) -> bytes:
        assert image.uri != "s3://b/b.png", "poison was touched again"
        return encoded((4, 3))

    bench = Bench(valkey_url, tmp_path, read, images=3)
    bench.begun_elsewhere(5)
    bench.died_of(1, times=3)
    bench.handle()
    assert [(row.image.uri, row.status) for row in bench.rows()] == [
        ("s3://b/a.png", "ok"),
        ("s3://b/b.png", "failed"),
        ("s3://b/c.png", "ok"),
    ]
    status = bench.ledger.status("run-7")
    assert (status.state, status.ok, status.failed_by_code) == (JobState.DONE, 2, {"worker_lost": 1})
    (letter,) = bench.letters()
    assert (letter.kind, letter.code, letter.images) == (LetterKind.IMAGES, "worker_lost", 1)
    assert "s3://b/b.png" in letter.raw
    assert "s3://b/a.png" not in letter.raw
    assert "3 workers died" in letter.reason
    assert bench.begun == {}


def test_an_image_gets_every_try_that_max_deliveries_leaves_it(valkey_url: str, tmp_path: Path) -> None:
    bench = Bench(valkey_url, tmp_path, images=3)
    bench.begun_elsewhere(4)
    bench.died_of(1, times=2)
    bench.handle()
    assert [row.status for row in bench.rows()] == ["ok"] * 3
    assert not bench.letters()
    assert bench.begun == {}


def test_all_images_may_be_poison(valkey_url: str, tmp_path: Path) -> None:
    bench = Bench(valkey_url, tmp_path, lambda _: pytest.fail("poison was touched again"), images=2)
    bench.begun_elsewhere(8)
    bench.died_of(0, times=3)
    bench.died_of(1, times=3)
    bench.handle()
    assert bench.ledger.status("run-7").failed_by_code == {"worker_lost": 2}
    (letter,) = bench.letters()
    assert letter.images == 2


def test_poison_beside_what_failed_for_now_leaves_no_image_without_an_end(valkey_url: str, tmp_path: Path) -> None:
    def read(image: ImageRef) -> bytes:
        raise Timeout("took too long")

    bench = Bench(valkey_url, tmp_path, read, images=3)
    bench.begun_elsewhere(5)
    bench.died_of(1, times=3)
    bench.handle()
    status = bench.ledger.status("run-7")
    assert (status.failed_by_code, status.put_off) == ({"worker_lost": 1, "timeout": 2}, 0)
    (letter,) = bench.letters()
    assert letter.images == 3


def test_a_chunk_that_dies_whole_is_buried(valkey_url: str, tmp_path: Path) -> None:
    bench = Bench(valkey_url, tmp_path, images=2)
    bench.begun_elsewhere(5)
    bench.died_of("whole", times=3)
    bench.handle()
    assert not bench.part.exists()
    (letter,) = bench.letters()
    assert (letter.kind, letter.code, letter.images) == (LetterKind.CHUNK, "worker_lost", 2)
    status = bench.ledger.status("run-7")
    assert (status.state, status.dead, status.ok) == (JobState.DONE, 2, 0)
    assert bench.begun == {}


@pytest.fixture
def crowded(valkey_url: str, tmp_path: Path) -> Iterator["Crowded"]:
    crowded = Crowded(valkey_url, tmp_path)
    yield crowded
    crowded.bench.drain.end_now()
    for thread in crowded.threads:
        thread.join(PATIENCE_S)


class Crowded:
    """A chunk is at work, on a device that is silent, and a suspect waits for its turn."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self.engine, self.drain = SilentEngine(), CountingDrain(60)
        self.bench = bench = Bench(redis_url, folder, engine=self.engine, drain=self.drain)
        self.threads: list[Thread] = []
        self.neighbour = self._handle(bench.chunk)
        eventually(lambda: self.engine.waiting, "the neighbour is at work")
        elsewhere = Output(prefix=f"{bench.chunk.output.prefix}suspect/")
        chunk = bench.chunk.model_copy(update={"job_id": "suspect", "output": elsewhere})
        for number in range(2):
            bench.ledger.begin("suspect", 0, 1, Message("message-1", chunk.digest, f"gone-{number}"), elsewhere)
        self.suspect = self._handle(chunk)
        eventually(lambda: bench.handler._quarantine._suspects_waiting, "the suspect waits")

    def _handle(self, chunk: Chunk) -> Delivery:
        delivery = self.bench.delivery()

        def handle() -> None:
            with suppress(Drained):
                self.bench.handler.handle([], chunk.to_wire(), delivery)

        self.threads.append(Thread(target=handle))
        self.threads[-1].start()
        return delivery


class CountingDrain(Drain):
    checks = 0

    def check(self) -> None:
        self.checks += 1
        super().check()


def test_a_suspect_waits_for_its_neighbours(crowded: Crowded) -> None:
    assert len(crowded.engine.waiting) == 1
    crowded.engine.answer_all()
    eventually(lambda: len(crowded.engine.waiting) == 2, "the suspect runs")
    assert crowded.bench.ledger.status("run-7").ok == 1
    crowded.engine.answer_all()
    eventually(lambda: crowded.bench.ledger.status("suspect").ok == 1, "the suspect is done")


def test_waiting_for_a_turn_keeps_the_lease_and_is_no_sign_that_anything_moves(
    crowded: Crowded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else no watchdog would end a worker whose device hangs, as long as somebody waits for a turn."""
    later_s = monotonic() + 1000
    for module in (vitals_module, hands_module):
        monkeypatch.setattr(module, "monotonic", lambda: later_s)
    checks = crowded.drain.checks
    eventually(lambda: crowded.drain.checks > checks + 10, "it has looked again")
    crowded.bench.hands.renew()
    assert crowded.bench.hands.held == [crowded.suspect.tag]
    assert crowded.bench.vitals.progress_age_s > 900


# What is left to others


@pytest.mark.parametrize("lane", Lane)
def test_a_newer_message_is_left_to_newer_workers_as_it_came(valkey_url: str, tmp_path: Path, lane: Lane) -> None:
    bench = Bench(valkey_url, tmp_path)
    bench.handler.handle([], {"schema_version": 3, "of": "a newer kind"}, bench.delivery(lane))
    assert bench.redis.lrange(f"{lane.queue}.v3", 0, -1) == [RAW.encode()]
    assert bench.redis.keys("*") == [f"{lane.queue}.v3".encode()]
    assert not bench.hands.held


def test_a_message_that_nobody_will_ever_understand_is_a_dead_letter(valkey_url: str, tmp_path: Path) -> None:
    bench = Bench(valkey_url, tmp_path)
    bench.handler.handle([], {"schema_version": 1000}, bench.delivery())
    (letter,) = bench.letters()
    assert letter.code == "invalid_message"


def test_with_the_stock_transport_a_newer_message_is_a_dead_letter(valkey_url: str, tmp_path: Path) -> None:
    bench = Bench(valkey_url, tmp_path)
    delivery = Delivery("message-1", Lane.INTERACTIVE, "tag", None, bench.vitals)
    bench.handler.handle([], {"schema_version": 3}, delivery)
    (letter,) = bench.letters()
    assert (letter.code, letter.lane) == ("newer_schema", Lane.INTERACTIVE)


def test_a_chunk_that_is_drained_was_not_begun(valkey_url: str, tmp_path: Path) -> None:
    engine = SilentEngine()
    bench = Bench(valkey_url, tmp_path, engine=engine)

    def drain_when_at_work() -> None:
        eventually(lambda: engine.waiting, "it is at work")
        assert bench.begun == {"0.1": "1"}
        bench.drain.end_now()

    Thread(target=drain_when_at_work, daemon=True).start()
    with pytest.raises(Drained):
        bench.handle()
    assert bench.begun == {}
    assert bench.begins_again().times == 1
    assert bench.redis.hlen(UNACKED) == 1, "whoever calls gives it back"
    assert not bench.part.exists()


def test_a_chunk_whose_lease_was_let_go_is_no_death(valkey_url: str, tmp_path: Path) -> None:
    engine = SilentEngine()
    bench = Bench(valkey_url, tmp_path, engine=engine)
    delivery = bench.delivery()

    def others_may_have_it() -> None:
        eventually(lambda: engine.waiting, "it is at work")
        bench.hands._held[delivery.tag].heard_s = float("-inf")
        bench.hands.renew()

    Thread(target=others_may_have_it, daemon=True).start()
    with pytest.raises(LetGo):
        bench.handler.handle([], bench.chunk.to_wire(), delivery)
    assert bench.begun == {}
    bench.redis.hdel(UNACKED, delivery.tag)
    assert bench.begins_again().times == 1


def test_a_suspect_that_is_drained_is_suspected_no_more_than_before(valkey_url: str, tmp_path: Path) -> None:
    engine = SilentEngine()
    bench = Bench(valkey_url, tmp_path, engine=engine, images=2)
    bench.begun_elsewhere(3)
    bench.died_of(0, times=1)

    def drain_when_at_work() -> None:
        eventually(lambda: engine.waiting, "it is at work")
        assert bench.begun == {"0.1": "4", "0.1/0": "2"}
        bench.drain.end_now()

    Thread(target=drain_when_at_work, daemon=True).start()
    with pytest.raises(Drained):
        bench.handle()
    assert bench.begun == {"0.1": "3", "0.1/0": "1"}


def test_a_chunk_that_is_drained_while_the_house_is_away_goes_back(
    valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(valkey_url, tmp_path)

    def away(*_: object) -> None:
        bench.drain.end_now()
        raise HouseError("away")

    for method in ("commit", "hand_back"):
        monkeypatch.setattr(bench.ledger, method, away)
    with pytest.raises(Drained):
        bench.handle()
    assert bench.begins_again().verdict is Verdict.GO


def test_a_chunk_in_hand_is_counted_among_the_signs_of_life(valkey_url: str, tmp_path: Path) -> None:
    in_flight: list[int] = []

    def look(_: ImageRef) -> bytes:
        in_flight.append(bench.vitals.chunks_in_flight)
        return encoded((4, 3))

    bench = Bench(valkey_url, tmp_path, look)
    bench.handle()
    assert (in_flight, bench.vitals.chunks_in_flight) == ([1], 0)
    assert (bench.vitals.chunks_committed, bench.vitals.images_done) == (1, 1)
