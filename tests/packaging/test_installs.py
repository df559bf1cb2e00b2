"""What users install is whole: each extra brings all that it promises into an environment that was empty."""

import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from PIL import Image

from arno_shared.uris import file_uri
from tests.acceptance.arno_worker import eventually, logged_lines
from tests.acceptance.collector import collector
from tests.acceptance.fork_server import ROOT
from tests.packaging.distribution import Environment, build
from tests.servers import free_port

NEEDS = {
    "arno_producer.demo": "demo",
    "arno_producer.http": "http",
    "arno_shared.scenes": "worker",
    "arno_shared.storage.s3_bulk": "worker",
    "arno_workers": "worker",
}
"""The modules that are for those alone who have an extra; all others are for everybody."""
HOLDS = {"demo": {"demo", "worker", "flower"}}
"""Extras that hold others."""

IMPORT_ALL = """
import importlib, importlib.metadata, json
names = [".".join(file.with_suffix("").parts) for file in importlib.metadata.files("arno") if file.suffix == ".py"]
found = {}
for name in (name.removesuffix(".__init__") for name in names):
    try:
        importlib.import_module(name)
        found[name] = None
    except Exception as error:
        found[name] = repr(error)
print(json.dumps(found))
"""
TRACE = """
from arno_shared import tracing
tracing.configure("packaged")
with tracing.span("a span"):
    pass
tracing.stop()
"""
PARQUET = """
import sys
import pyarrow as pa, pyarrow.parquet as pq
from arno_shared.parts import decode_part, encode_part
from arno_shared.results import ResultRow
pq.write_table(pa.table({"uri": ["s3://b/a.jpg", "s3://b/b.jpg"]}), "images.parquet")
rows = [ResultRow.model_validate_json(line) for line in open(sys.argv[1], encoding="utf-8")]
assert decode_part(encode_part(rows, "parquet"), "parquet") == rows
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path: Path) -> Iterator[Environment]:
    """Removed afterwards: torch alone is as large as all that tests otherwise leave behind."""
    environment = Environment(tmp_path, wheel, request.param)
    yield environment
    environment.remove()


def has(extra: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("installed", [extra], indirect=True)


@pytest.fixture
def redis(valkey_url: str) -> dict[str, str]:
    return {"ARNO_REDIS_URL": valkey_url}


def extra_of(module: str) -> str:
    return next((extra for name, extra in NEEDS.items() if f"{module}.".startswith(f"{name}.")), "")


def imports(environment: Environment) -> dict[str, str | None]:
    """What came of importing each module that is installed: None, or the error."""
    done = environment.run("python", "-I", "-c", IMPORT_ALL)
    assert done.returncode == 0, done.stderr
    found: dict[str, str | None] = json.loads(done.stdout)
    return found


def is_whole(environment: Environment, extra: str, **env: str) -> set[str]:
    """Its modules import, the commands say who they are, and the doctor agrees. The modules that are for others."""
    held = {"", *HOLDS.get(extra, {extra})}
    found = imports(environment)
    assert {name: error for name, error in found.items() if error and extra_of(name) in held} == {}
    assert environment.run("arno", "--version").stdout.startswith("arno ")
    assert "Commands:" in environment.run("arno", "--help").stdout
    assert "Usage:" in environment.run("arno-worker", "--help").stdout
    done = environment.run("arno", "doctor", "--json", **env)
    assert done.returncode == 0, done.stdout + done.stderr
    verdicts = {line["check"]: line["verdict"] for line in map(json.loads, done.stdout.splitlines())}
    for name in held - {""}:
        assert verdicts[f"extra {name}"] == "ok"
    return {name for name, error in found.items() if error}


def pictures(folder: Path) -> str:
    folder.mkdir()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(folder / "red.png")
    return str(folder)


def answers(url: str) -> bool:
    try:
        return urllib3.request("GET", url, timeout=5, retries=False).status == 200
    except urllib3.exceptions.HTTPError:
        return False


# What is built


def test_a_wheel_built_from_the_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    again = build("wheel", source, tmp_path / "again")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(again) as other:
        # Of bytes, too: RECORD holds the hash of each file.
        assert {info.filename: info.CRC for info in one.infolist()} == {
            info.filename: info.CRC for info in other.infolist()
        }
        names = set(one.namelist())
    assert {"arno_shared/py.typed", "arno_shared/ledger/scripts/commit.lua"} <= names
    assert "arno_workers/models/arno-tiny/model.safetensors" in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "arno",
        "arno_shared",
        "arno_producer",
        "arno_workers",
    }


# Without any extra


@has("")
def test_the_producer_is_whole_without_any_extra_and_names_those_that_it_lacks(
    installed: Environment, redis: dict[str, str], tmp_path: Path
) -> None:
    # One test: several would each install, or wait for each other where pytest runs in several processes.
    is_whole(installed, "", **redis)
    assert (
        installed.run("python", "-I", "-c", "from arno_producer import Producer; Producer()", **redis).returncode == 0
    )
    submits_images(installed, redis, pictures(tmp_path / "pictures"))
    for extra, command in {
        "http": ("arno", "serve"),
        "demo": ("arno", "demo"),
        "parquet": ("arno", "submit", "images.parquet", "-p", "OD"),
        "worker": ("arno-worker", "--device", "cpu"),
    }.items():
        names_the_extra(installed, extra, command, redis)


def submits_images(environment: Environment, redis: dict[str, str], folder: str) -> None:
    done = environment.run("arno", "submit", folder, "http://photos.internal/a.jpg", "-p", "OD", **redis)
    assert done.returncode == 0, done.stderr
    status = environment.run("arno", "status", done.stdout.strip(), "--json", **redis)
    assert json.loads(status.stdout)["images"] == 2


def names_the_extra(environment: Environment, extra: str, command: tuple[str, ...], redis: dict[str, str]) -> None:
    (environment.home / "images.parquet").touch()
    done = environment.run(*command, **redis)
    assert done.returncode == 1
    assert f"pip install 'arno[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr


# With one


@pytest.mark.long
@pytest.mark.timeout(900)
@has("http")
def test_the_door_opens(installed: Environment, redis: dict[str, str], tmp_path: Path) -> None:
    is_whole(installed, "http", **redis)
    log = tmp_path / "log"
    with installed.started(log, "arno", "serve", "--port", "0", **redis):
        opened = eventually(lambda: [line for line in logged_lines(log) if line["event"] == "the door is open"], "open")
        assert answers(f"{opened[0]['address']}/healthz")


@pytest.mark.long
@pytest.mark.timeout(900)
@has("parquet")
def test_parquet_is_read_and_written(installed: Environment, redis: dict[str, str]) -> None:
    is_whole(installed, "parquet", **redis)
    done = installed.run("python", "-I", "-c", PARQUET, str(ROOT / "tests/shared/contracts/result-rows.jsonl"))
    assert done.returncode == 0, done.stderr
    done = installed.run("arno", "submit", "images.parquet", "-p", "OD", "--format", "parquet", "--json", **redis)
    assert json.loads(done.stdout)["images"] == 2


@pytest.mark.long
@pytest.mark.timeout(900)
@has("flower")
def test_flower_answers(installed: Environment, redis: dict[str, str], tmp_path: Path) -> None:
    is_whole(installed, "flower", **redis)
    port = free_port()
    arguments = ("-A", "arno_producer.flower_app", "flower", "--address=127.0.0.1", f"--port={port}")
    with installed.started(tmp_path / "log", "celery", *arguments, **redis):
        eventually(lambda: answers(f"http://127.0.0.1:{port}/healthcheck"), "Flower answers")


@pytest.mark.long
@pytest.mark.timeout(900)
@has("otel")
def test_traces_are_sent(installed: Environment, redis: dict[str, str]) -> None:
    is_whole(installed, "otel", **redis)
    with collector() as collected:
        done = installed.run("python", "-I", "-c", TRACE, OTEL_EXPORTER_OTLP_ENDPOINT=collected.url)
        assert done.returncode == 0, done.stderr
        assert [span.service for span in collected.named("a span")] == ["packaged"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Settings of a worker that may read this machine's files."""
    return {
        "ARNO_LIMITS__SCHEMES": '["file"]',
        "ARNO_LIMITS__FILE_ROOTS": f'["{tmp_path}"]',
        "ARNO_OUTPUT_PREFIX": file_uri(tmp_path / "out"),
    }


@pytest.mark.long
@pytest.mark.timeout(900)
@has("worker")
def test_a_worker_works(installed: Environment, redis: dict[str, str], files: dict[str, str], tmp_path: Path) -> None:
    is_whole(installed, "worker", **redis)
    folder = pictures(tmp_path / "pictures")
    for engine, raw in (("null", ""), ("florence", "red")):
        with installed.started(
            tmp_path / engine, "arno-worker", "--device", "cpu", **redis, **files, ARNO_WORKER__ENGINE=engine
        ):
            done = installed.run("arno", "submit", folder, "-p", "CAPTION", "--watch", **redis, **files)
            assert done.returncode == 0, done.stderr + (tmp_path / engine).read_text()
        (row,) = map(
            json.loads, installed.run("arno", "results", done.stdout.split()[0], **redis, **files).stdout.splitlines()
        )
        assert row["status"] == "ok"
        assert raw in row["prompts"][0]["raw"]


@pytest.mark.long
@pytest.mark.timeout(900)
@has("demo")
def test_the_demo_runs(installed: Environment, redis: dict[str, str]) -> None:
    is_whole(installed, "demo", **redis)
    assert "Usage:" in installed.run("arno", "demo", "--help").stdout
    done = installed.run("arno", "demo", "--scenes", "20", "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (installed.home / "demo-report" / "index.html").is_file()
