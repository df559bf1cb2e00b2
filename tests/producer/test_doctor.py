"""`arno doctor`: what it sees of a sound house, and what it says of each fault."""

from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from arno_producer import Producer
from arno_producer.cli.doctor import extras
from arno_producer.cli.doctor.extras import check_extras
from arno_producer.cli.doctor.findings import Finding, Verdict
from arno_producer.cli.doctor.model import check_model
from arno_producer.cli.doctor.storage import check_storage
from arno_shared.dead_letters import DeadLetter, LetterKind
from arno_shared.names import Lane
from arno_shared.storage import ObjectStore
from tests.producer.conftest import Ran

Arno = Callable[..., Ran]
Configure = Callable[..., None]


@pytest.fixture
def configure(producer: Producer) -> Iterator[Configure]:
    """Changes the server's configuration for the length of a test."""
    before: dict[str, str] = {}

    def change(**values: str) -> None:
        for name, value in values.items():
            before.update(producer.redis.config_get(name))
            producer.redis.config_set(name, value)

    yield change
    for name, value in before.items():
        producer.redis.config_set(name, value)


def findings(ran: Ran) -> dict[str, Finding]:
    return {line["check"]: Finding(**line) for line in ran.lines}


def test_a_sound_house(arno: Arno, producer: Producer, configure: Configure, tmp_path: Path) -> None:
    configure(appendonly="yes")
    producer.submit("s3://b/a.jpg", "<OD>", lane=Lane.INTERACTIVE)
    ran = arno("doctor", "--json")
    found = findings(ran)
    assert ran.code == 0
    assert {name: finding.verdict for name, finding in found.items()} == {
        "redis": "ok",
        "persistence": "ok",
        "eviction": "ok",
        "workers": "note",
        "queues": "ok",
        "dead letters": "ok",
        "storage": "ok",
        "model": "ok",
        "extra parquet": "ok",
        "extra worker": "ok",
    }
    assert "Valkey 9" in found["redis"].says
    assert "1 in interactive, 0 in bulk" in found["queues"].says
    assert "arno-worker" in found["workers"].mend
    assert f"file://{tmp_path}/results/" in found["storage"].says
    assert found["model"].says == "arno-tiny (bundled)"


def test_the_table_says_the_same(arno: Arno) -> None:
    ran = arno("doctor")
    assert ran.code == 0
    assert all(word in ran.out for word in ("Valkey", "noeviction", "arno-tiny (bundled)", "start one: arno-worker"))


def test_redis_away(arno: Arno, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int) -> None:
    monkeypatch.setenv("ARNO_REDIS_URL", f"redis://me:hush@127.0.0.1:{free_tcp_port}/0")
    ran = arno("doctor", "--json")
    found = findings(ran)
    assert ran.code == 1
    assert found["redis"].verdict == "failed"
    assert f"redis://***@127.0.0.1:{free_tcp_port}/0" in found["redis"].says
    assert "ARNO_REDIS_URL" in found["redis"].mend
    assert "hush" not in ran.out
    # The rest is looked at all the same.
    assert found["storage"].verdict == "ok"
    assert "queues" not in found


def test_a_password_that_is_wrong(arno: Arno, monkeypatch: pytest.MonkeyPatch, valkey_url: str) -> None:
    monkeypatch.setenv("ARNO_REDIS_URL", valkey_url.replace("redis://", "redis://me:hush@"))
    ran = arno("doctor", "--json")
    assert ran.code == 1
    assert "invalid username-password pair" in findings(ran)["redis"].says
    assert "hush" not in ran.out


def test_redis_that_forgets(arno: Arno, configure: Configure) -> None:
    configure(**{"maxmemory-policy": "allkeys-lru"})
    ran = arno("doctor", "--json")
    found = findings(ran)
    assert ran.code == 1
    assert (found["persistence"].verdict, found["eviction"].verdict) == ("note", "failed")
    assert "noeviction" in found["eviction"].mend
    assert "appendonly" in found["persistence"].mend


def test_dead_letters_are_noted(arno: Arno, producer: Producer) -> None:
    producer.dead_letters.add(DeadLetter(kind=LetterKind.MESSAGE, code="x", reason="x", raw="", worker="hand"))
    assert "1 wait" in findings(arno("doctor", "--json"))["dead letters"].says


def test_storage_that_cannot_be_written(arno: Arno, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ARNO_OUTPUT_PREFIX", f"file://{tmp_path}/file/")
    ran = arno("doctor", "--json")
    assert ran.code == 1
    assert findings(ran)["storage"].verdict == "failed"
    assert "ARNO_OUTPUT_PREFIX" in findings(ran)["storage"].mend


def test_a_bucket(bucket: str, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int) -> None:
    assert check_storage(ObjectStore(), f"s3://{bucket}/out/").verdict is Verdict.OK
    keys = [entry["Key"] for entry in boto3.client("s3").list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys == ["out/_arno/doctor.txt"]
    missing = check_storage(ObjectStore(), "s3://there-is-none/out/")
    assert (missing.verdict, "there-is-none" in missing.says) == (Verdict.FAILED, True)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_tcp_port}")
    away = check_storage(ObjectStore(), f"s3://{bucket}/out/")
    assert (away.verdict, "AWS_ENDPOINT_URL_S3" in away.mend) == (Verdict.FAILED, True)


class Forgetful(ObjectStore):
    """Storage that takes everything and keeps the first of it."""

    def put(self, uri: str, data: bytes, content_type: str) -> None:
        if not self.exists(uri):
            super().put(uri, data, content_type)


def test_storage_that_gives_back_something_else(tmp_path: Path) -> None:
    prefix = f"file://{tmp_path}/"
    assert check_storage(Forgetful(), prefix).verdict is Verdict.OK
    assert "read back" in check_storage(Forgetful(), prefix).says


def test_a_model_in_a_folder(tmp_path: Path) -> None:
    model = str(tmp_path)
    assert "lacks config.json and weights" in check_model(model, ObjectStore()).says
    (tmp_path / "config.json").write_text("{}")
    assert "lacks weights" in check_model(model, ObjectStore()).says
    (tmp_path / "model.safetensors").write_text("")
    assert check_model(model, ObjectStore()) == Finding("model", Verdict.OK, model)


def test_a_model_in_a_bucket(bucket: str) -> None:
    model, store = f"s3://{bucket}/model/", ObjectStore()
    assert "no config.json" in check_model(model, store).says
    store.put(f"{model}config.json", b"{}", "application/json")
    assert check_model(model, store).verdict is Verdict.OK


@pytest.mark.parametrize(
    ("model", "verdict"),
    [
        ("arno-tiny", Verdict.OK),
        ("florence-community/Florence-2-base-ft", Verdict.NOTE),
        ("arno-huge", Verdict.FAILED),
        ("./nowhere/model", Verdict.FAILED),
        ("a/b/c", Verdict.FAILED),
    ],
)
def test_what_a_model_may_be(model: str, verdict: Verdict) -> None:
    assert check_model(model, ObjectStore()).verdict is verdict


def test_an_extra_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_MODULES", {"parquet": ("json", "no_such_module")})
    (finding,) = check_extras()
    assert (finding.verdict, finding.says) == (Verdict.NOTE, "not installed: no_such_module")
    assert "arno[parquet]" in finding.mend
