"""What the producer's tests share: settings, storage, and a worker without a model."""

import base64
import io
import json
import secrets
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from arno_producer import Producer
from arno_producer.cli import main
from arno_shared.broker import Sender, celery_app
from arno_shared.dead_letters import DeadLetter, LetterKind
from arno_shared.delayed import release_due
from arno_shared.ledger import Ledger, Outcome, Verdict
from arno_shared.messages import Chunk, ImageRef, parse_message
from arno_shared.names import Lane, event_id, part_uri
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
        self._sender = Sender(celery_app(settings))

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
        return Chunk(**{name: getattr(fields, name) for name in Chunk.model_fields})

    def take_all(self, lane: Lane = Lane.BULK) -> list[Chunk]:
        return list(iter(lambda: self.take(lane), None))

    def begin(self, chunk: Chunk) -> Verdict:
        return self.ledger.begin(
            chunk.job_id, chunk.index, chunk.attempt, "message", chunk.output, secrets.token_hex(4)
        ).verdict

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
        rows = [_row(chunk, image, failed.get(image.uri)) for image in chunk.images if image.uri not in put_off]
        uri = part_uri(chunk.output.prefix, chunk.index, chunk.attempt, chunk.output.format)
        self.store.put(uri, encode_part(rows, chunk.output.format), "application/octet-stream")
        later = [image for image in chunk.images if image.uri in put_off]
        codes = {code: list(failed.values()).count(code) for code in failed.values()}
        lost = chunk.model_copy(update={"images": tuple(image for image in chunk.images if image.uri in failed)})
        letter = {"code": "timeout", "reason": "too late", "failed_by_code": codes, "worker": "hand"}
        assert self.ledger.commit(
            chunk,
            Outcome(
                event=_event(chunk, uri, Counts(ok=len(rows) - len(failed), failed=len(failed), put_off=len(later))),
                failed_by_code=codes,
                put_off=chunk.retry_of(later) if later else None,
                letter=DeadLetter.of_chunk(LetterKind.IMAGES, lost, **letter) if give_up else None,
            ),
        )

    def bury(self, chunk: Chunk) -> None:
        letter = DeadLetter.of_chunk(
            LetterKind.CHUNK, chunk, code="worker_lost", reason="at s3://b/?key=hush", worker="hand"
        )
        assert self.ledger.bury(chunk, letter)

    def release_due(self) -> int:
        return release_due(self.ledger, self._sender)


def _row(chunk: Chunk, image: ImageRef, code: str | None) -> ResultRow:
    return ResultRow(
        job_id=chunk.job_id,
        index=chunk.index,
        attempts=chunk.attempt,
        image=ImageFacts.asked(image),
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
