"""What the producer's tests share: settings, storage, and a worker without a model."""

import base64
import io
import json
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from arno_producer import Producer
from arno_producer.cli import main
from arno_shared.broker import Sender, celery_app
from arno_shared.dead_letters import DeadLetter, DeadLetters, LetterKind
from arno_shared.delayed import release_due
from arno_shared.ledger import Found, Ledger, Message, Outcome, Verdict
from arno_shared.messages import Chunk, ImageRef, Output, Prompt, parse_message
from arno_shared.names import Lane, attempt_field, event_id, job_keys, part_uri, task_id
from arno_shared.parts import encode_part
from arno_shared.redis_client import connect
from arno_shared.results import Failure, ImageFacts, ModelFacts, ResultRow, Status
from arno_shared.settings import ProducerSettings, Settings
from arno_shared.storage import ObjectStore
from arno_shared.topic import ChunkCompleted, ChunkEvent, Counts
from arno_shared.uris import file_uri
from tests.servers import make_bucket


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of the machine's own settings."""
    for name in ("ARNO_REDIS_URL", "ARNO_OUTPUT_PREFIX", "ARNO_WORKER__MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ARNO_OUTPUT_PREFIX", file_uri(tmp_path / "results"))


@pytest.fixture
def settings(valkey_url: str, environment: None) -> Settings:
    return Settings(redis_url=valkey_url, producer=ProducerSettings(chunk_images=2))


@pytest.fixture
def producer(settings: Settings) -> Producer:
    return Producer(settings)


@pytest.fixture
def hand(settings: Settings) -> "Hand":
    return Hand(settings)


@pytest.fixture
def bucket(moto_s3: str) -> str:
    """An empty bucket of the test's own."""
    return make_bucket()


class Hand:
    """A worker by hand: takes chunks off the queues, and says what became of their images."""

    def __init__(self, settings: Settings) -> None:
        self.redis = connect(settings)
        self.ledger = Ledger(self.redis, settings)
        self.store = ObjectStore()
        self._output_prefix = settings.output_prefix
        self._sender = Sender(celery_app(settings))

    def open(self, *chunks: Sequence[Any], job_id: str = "run-7", sealed: bool = True) -> list[Chunk]:
        """A producer's job of chunks of these images, none of which is in a queue; its output is the house's."""
        output = Output(prefix=f"{self._output_prefix}{job_id}/")
        self.ledger.revive(job_id, "{}", output, Lane.BULK)
        images = sum(map(len, chunks))
        self.ledger.announce(job_id, len(chunks), images)
        if sealed:
            self.ledger.seal(job_id, len(chunks), images, "")
        return [self.chunk(job_id, index, *images) for index, images in enumerate(chunks)]

    def chunk(self, job_id: str, index: int, *images: Any) -> Chunk:
        output = Output(prefix=f"{self._output_prefix}{job_id}/")
        prompts = (Prompt(task="<OD>"),)
        asked = tuple(map(ImageRef.model_validate, images))
        return Chunk(images=asked, prompts=prompts, output=output, job_id=job_id, index=index)

    def begin_foreign(self, chunk: Chunk) -> Chunk:
        """What came in a message of somebody else's."""
        message = Message(f"theirs-{chunk.index}", chunk.digest, secrets.token_hex(4))
        begun = self.ledger.begin(chunk.job_id, chunk.index, chunk.attempt, message, chunk.output)
        assert begun.verdict is Verdict.GO
        return chunk

    def replay_all(self) -> list[Chunk]:
        """Replays every dead letter; what is to be done for it."""
        for filed in list(DeadLetters(self.redis, 1000).list()):
            assert self.ledger.replay(filed)
        self.release_due()
        return self.take_all()

    def take_message(self, lane: Lane = Lane.BULK) -> dict[str, Any] | None:
        """The next message as it stands in Redis, its body decoded."""
        raw = self.redis.rpop(lane.queue)
        if raw is None:
            return None
        message: dict[str, Any] = json.loads(raw)
        message["body"] = json.loads(base64.b64decode(message["body"]))
        return message

    def take(self, lane: Lane = Lane.BULK) -> Chunk | None:
        message = self.take_message(lane)
        if message is None:
            return None
        args, kwargs, _ = message["body"]
        fields = parse_message(args, kwargs)
        assert fields.output
        assert fields.job_id
        assert fields.index is not None
        chunk = Chunk(**{name: getattr(fields, name) for name in Chunk.model_fields if name != "positions"})
        noted = self.redis.hget(job_keys(chunk.job_id).put_off, attempt_field(chunk.index, chunk.attempt))
        return chunk.model_copy(update={"positions": tuple(json.loads(noted).get("positions", ())) if noted else ()})

    def take_all(self, lane: Lane = Lane.BULK) -> list[Chunk]:
        return list(iter(lambda: self.take(lane), None))

    def begin(self, chunk: Chunk) -> Verdict:
        own = task_id(chunk.job_id, chunk.index, chunk.attempt)
        message = Message(own, chunk.digest, secrets.token_hex(4))
        return self.ledger.begin(chunk.job_id, chunk.index, chunk.attempt, message, chunk.output).verdict

    def commit(
        self,
        chunk: Chunk,
        failed: Mapping[str, str] | None = None,
        put_off: tuple[str, ...] = (),
        *,
        give_up: bool = False,
    ) -> None:
        """`failed`: code by URI. `give_up`: they failed transiently for the last time, so a letter is filed."""
        failed = failed or {}
        places = range(len(chunk.images))
        self.settle(
            chunk,
            {place: failed[chunk.images[place].uri] for place in places if chunk.images[place].uri in failed},
            [place for place in places if chunk.images[place].uri in put_off],
            give_up=give_up,
        )

    def settle(
        self, chunk: Chunk, failed: Mapping[int, str], put_off: Sequence[int] = (), *, give_up: bool = False
    ) -> None:
        """As `commit`, by the images' places in this attempt."""
        assert self.ledger.commit(chunk, self.write(chunk, failed, put_off, give_up=give_up))

    def write(
        self, chunk: Chunk, failed: Mapping[int, str], put_off: Sequence[int] = (), *, give_up: bool = False
    ) -> Outcome:
        """Writes the chunk's rows; what is to be committed."""
        rows = [_row(chunk, place, failed.get(place)) for place in range(len(chunk.images)) if place not in put_off]
        uri = part_uri(chunk.output.prefix, chunk.index, chunk.attempt, chunk.output.format)
        self.store.put(uri, encode_part(rows, chunk.output.format), "application/octet-stream")
        later, lost = chunk.only(sorted(put_off)), chunk.only(sorted(failed))
        codes = dict(Counter(failed.values()))
        letter = {"code": "timeout", "reason": "too late", "failed_by_code": codes, "worker": "hand"}
        return Outcome(
            event=_event(chunk, uri, Counts(ok=len(rows) - len(failed), failed=len(failed), put_off=len(put_off))),
            failed_by_code=codes,
            put_off=later.retry_of(later.images, later.positions) if put_off else None,
            letter=DeadLetter.of_chunk(LetterKind.IMAGES, lost, **letter) if give_up else None,
        )

    def found(self, chunk: Chunk, failed: Mapping[int, str], put_off: Sequence[int] = ()) -> Found:
        """What is restored of a chunk whose rows stand in storage."""
        codes, later = Counter(failed.values()), chunk.only(sorted(put_off))
        ok = len(chunk.images) - len(failed) - len(put_off)
        return Found(ok, codes, later.retry_of(later.images, later.positions) if put_off else None)

    def bury(self, chunk: Chunk) -> None:
        letter = DeadLetter.of_chunk(
            LetterKind.CHUNK, chunk, code="worker_lost", reason="at s3://b/?key=hush", worker="hand"
        )
        assert self.ledger.bury(chunk, letter)

    def release_due(self) -> int:
        return release_due(self.ledger, self._sender)


def lose_redis(hand: Hand) -> None:
    hand.redis.flushall()


@contextmanager
def forgotten_later(hand: Hand) -> Iterator[None]:
    """Redis is in the end as it was in the beginning: as after a fail-over to a replica that was behind."""
    before = {key: hand.redis.dump(key) for key in hand.redis.scan_iter()}
    yield
    lose_redis(hand)
    for key, value in before.items():
        hand.redis.restore(key, 0, value)


def _row(chunk: Chunk, place: int, code: str | None) -> ResultRow:
    return ResultRow(
        job_id=chunk.job_id,
        index=chunk.index,
        position=chunk.position(place),
        attempts=chunk.attempt,
        image=ImageFacts.asked(chunk.images[place]),
        status=Status.FAILED if code else Status.OK,
        error=Failure(code=code, message="no") if code else None,
        model=ModelFacts(id="none", revision="1", dtype="float32"),
        worker="hand",
        finished_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def _event(chunk: Chunk, uri: str, counts: Counts) -> ChunkEvent:
    identity = {"job_id": chunk.job_id, "index": chunk.index, "attempt": chunk.attempt}
    return ChunkEvent(
        id=event_id(**identity),
        source="hand",
        subject=chunk.job_id,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        data=ChunkCompleted(**identity, result_uri=uri, counts=counts),
    )


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def arno(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs the command, as the entry point does, with the test's Valkey and output prefix."""
    monkeypatch.setenv("ARNO_REDIS_URL", settings.redis_url)
    monkeypatch.setenv("ARNO_PRODUCER__CHUNK_IMAGES", "2")

    def run(*arguments: str, typed: str = "") -> Ran:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["arno", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
        with pytest.raises(SystemExit) as left:
            main()
        return Ran(int(left.value.code or 0), *capsys.readouterr())

    return run
