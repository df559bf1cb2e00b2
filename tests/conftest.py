"""Servers that every test may use. Each runs once a session, and only when a test asks for it."""

import gc
import logging
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings

from tests import servers

WAIT = {"acceptance", "bench", "deploy", "documents", "faults", "packaging"}
"""Folders of tests that wait more than they work."""


def pytest_configure(config: pytest.Config) -> None:
    # Until all is collected: nothing of it is garbage, torch least of all, and to look costs a quarter of the time.
    gc.disable()
    if config.getoption("--long"):
        settings.register_profile("long", max_examples=1000)
        settings.load_profile("long")
    # What was started by `nohup`, or in a script's background, ignores these; so would all that tests start and stop.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="long tests too; more faults, images, random input")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        long = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if not item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
    items[:] = _mixed(items)


def _mixed(items: list[pytest.Item]) -> list[pytest.Item]:
    """File by file, those that wait for processes of theirs among those that compute: cores are busy all the time."""
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.nodeid.partition("::")[0], []).append(item)
    waiting = [file for file in files if WAIT & set(file.split("/"))]
    # Those of the engine first: some take minutes.
    computing = [file for file in reversed(files) if not WAIT & set(file.split("/"))]
    turns = {file: n / len(kind) for kind in (waiting, computing) for n, file in enumerate(kind)}
    return [item for file in sorted(files, key=turns.__getitem__) for item in files[file]]


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    from tests.faults.rig import REPORT

    # In one of several processes: the one that they report to prints it.
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["faults"] = REPORT


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    from tests.faults.rig import REPORT

    REPORT.extend(getattr(node, "workeroutput", {}).get("faults", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    from tests.faults.rig import REPORT

    if REPORT:
        terminalreporter.section("faults")
        for line in REPORT:
            terminalreporter.write_line(line)


def _configure_logs(configure: Callable[..., None], **options: Any) -> None:
    # A logger that was first used in one test would keep that test's configuration for all others.
    configure(**{**options, "cache_logger_on_first_use": False})


structlog.configure = partial(_configure_logs, structlog.configure)


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """Commands that run in this process configure logging, for good."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    if structlog.is_configured():
        root.handlers[:], root.level = handlers, level
        structlog.reset_defaults()


@pytest.fixture(scope="session")
def _valkey() -> Iterator[str]:
    with servers.valkey_server() as url:
        yield url


@pytest.fixture
def valkey_url(_valkey: str) -> str:
    """The URL of a Valkey that is empty when the test starts."""
    import redis

    with redis.Redis.from_url(_valkey) as client:
        client.flushall()
    return _valkey


@pytest.fixture(scope="session")
def _moto() -> Iterator[str]:
    with servers.moto_server() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def _rclone_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rclone")


@pytest.fixture(scope="session")
def _rclone(_rclone_folder: Path) -> Iterator[str]:
    with servers.rclone_server(_rclone_folder) as endpoint:
        yield endpoint


@pytest.fixture
def moto_s3(_moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint of moto, to which this test's S3 clients go. Buckets stay for the session: name them apart."""
    _use(_moto, monkeypatch)
    return _moto


@pytest.fixture
def rclone_s3(_rclone: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The endpoint of rclone, to which this test's S3 clients go. Buckets stay for the session: name them apart."""
    _use(_rclone, monkeypatch)
    return _rclone


def _use(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.SECRET_KEY)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
