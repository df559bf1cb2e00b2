"""Settings come from the environment, are named there, and are refused by name when they are wrong."""

import os
from operator import attrgetter
from pathlib import Path

import pytest
from pydantic import ValidationError

from arno_shared.settings import LimitSettings, Settings


@pytest.fixture(autouse=True)
def _no_settings_from_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("ARNO_"):
            monkeypatch.delenv(name)


def refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> str:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as error:
        Settings()
    return str(error.value)


def test_settings_have_defaults_that_reach_no_stranger() -> None:
    settings = Settings()
    assert settings.redis_url == "redis://127.0.0.1:6379/0"
    assert settings.limits.private_addresses is False
    assert "file" not in settings.limits.schemes
    assert settings.limits.file_roots == ()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("key_prefix", ""),
        ("ledger_retention_s", 7 * 24 * 3600),
        ("log_level", "info"),
        ("broker.transport", "atomic"),
        ("broker.lease_s", 60),
        ("broker.lease_max_s", 900),
        ("broker.task_events", False),
        ("broker.socket_timeout_s", 15),
        ("broker.connect_timeout_s", 5),
        ("limits.schemes", ("s3", "https", "http")),
        ("limits.max_bytes", 64 * 1024 * 1024),
        ("limits.max_pixels", 100_000_000),
        ("limits.max_redirects", 5),
        ("limits.connect_timeout_s", 5),
        ("limits.timeout_s", 30),
        ("retries.tries", 3),
        ("retries.backoff_s", 0.5),
        ("retries.max_attempts", 3),
        ("retries.put_off_s", 15),
        ("retries.max_deliveries", 5),
        ("producer.chunk_images", 32),
        ("producer.block_chunks", 1000),
        ("producer.high_water_messages", 10_000),
        ("producer.patience_s", 120),
        ("worker.model", "arno-tiny"),
        ("worker.revision", "main"),
        ("worker.dtype", "auto"),
        ("worker.pixels", "exact"),
        ("worker.kernels", "triton"),
        ("worker.graphs", True),
        ("worker.overlap", False),
        ("worker.cudnn_attention", False),
        ("worker.torch_threads", 0),
        ("worker.engine", "florence"),
        ("worker.chunks_in_flight", None),
        ("worker.fetch_threads", 16),
        ("worker.max_batch_images", None),
        ("worker.slots", None),
        ("worker.max_ready_images", 128),
        ("worker.drain_s", 60),
        ("worker.spot_notice", None),
        ("worker.stuck_s", 300),
        ("worker.health_host", "127.0.0.1"),
        ("worker.health_port", 0),
        ("http.host", "127.0.0.1"),
        ("http.port", 8000),
        ("http.tokens", ()),
        ("http.cors_origins", ()),
        ("http.max_body_bytes", 16 * 1024 * 1024),
        ("http.max_upload_bytes", 32 * 1024 * 1024),
        ("http.annotate_timeout_s", 30),
        ("http.rules", None),
        ("http.output_prefixes", ()),
        ("trigger.metrics_host", "127.0.0.1"),
        ("trigger.metrics_port", 0),
        ("topic.max_events", 100_000),
        ("topic.inline_max_bytes", 32 * 1024),
        ("dead_letters.max_letters", 100_000),
    ],
)
def test_whoever_sets_nothing_has_what_the_documents_say(name: str, value: object) -> None:
    assert attrgetter(name)(Settings()) == value


def test_results_go_below_the_working_folder_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings().output_prefix == f"file://{tmp_path}/arno-results/"


def test_a_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARNO_REDIS_URL", "rediss://:secret@cache:6380/1")
    monkeypatch.setenv("ARNO_OUTPUT_PREFIX", "s3://results/all")
    monkeypatch.setenv("ARNO_LOG_LEVEL", "debug")
    settings = Settings()
    assert settings.redis_url == "rediss://:secret@cache:6380/1"
    assert settings.output_prefix == "s3://results/all/"
    assert settings.log_level == "debug"


def test_a_group_is_joined_to_its_settings_by_two_underscores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARNO_LIMITS__MAX_BYTES", "50000000")
    monkeypatch.setenv("ARNO_LIMITS__SCHEMES", '["s3", "file"]')
    monkeypatch.setenv("ARNO_LIMITS__FILE_ROOTS", '["/data"]')
    monkeypatch.setenv("ARNO_WORKER__CHUNKS_IN_FLIGHT", "9")
    settings = Settings()
    assert settings.limits == LimitSettings(max_bytes=50_000_000, schemes=("s3", "file"), file_roots=(Path("/data"),))
    assert settings.worker.chunks_in_flight == 9


def test_one_setting_of_a_group_leaves_the_others_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARNO_RETRIES__TRIES", "7")
    assert Settings().retries == Settings(retries={"tries": 7}).retries
    assert Settings().retries.max_attempts == 3


def test_values_that_are_passed_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARNO_REDIS_URL", "redis://elsewhere/0")
    assert Settings(redis_url="redis://here/0").redis_url == "redis://here/0"


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        ("ARNO_LOG_LEVEL", "loud", "log_level"),
        ("ARNO_OUTPUT_PREFIX", "results", "output_prefix"),
        ("ARNO_OUTPUT_PREFIX", "https://results/", "output_prefix"),
        ("ARNO_LEDGER_RETENTION_S", "59", "ledger_retention_s"),
        ("ARNO_BROKER__LEASE_S", "1", "broker.lease_s"),
        ("ARNO_BROKER__SOCKET_TIMEOUT_S", "0", "broker.socket_timeout_s"),
        ("ARNO_LIMITS__MAX_BYTES", "many", "limits.max_bytes"),
        ("ARNO_LIMITS__MAX_PIXELS", "0", "limits.max_pixels"),
        ("ARNO_LIMITS__MAX_REDIRECTS", "-1", "limits.max_redirects"),
        ("ARNO_RETRIES__TRIES", "0", "retries.tries"),
        ("ARNO_RETRIES__MAX_ATTEMPTS", "0", "retries.max_attempts"),
        ("ARNO_PRODUCER__CHUNK_IMAGES", "1025", "producer.chunk_images"),
        ("ARNO_WORKER__DTYPE", "int4", "worker.dtype"),
        ("ARNO_WORKER__ENGINE", "steam", "worker.engine"),
        ("ARNO_TOPIC__MAX_EVENTS", "0", "topic.max_events"),
        ("ARNO_DEAD_LETTERS__MAX_LETTERS", "0", "dead_letters.max_letters"),
    ],
)
def test_a_wrong_value_is_refused_and_its_setting_named(
    name: str, value: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert where in refused(monkeypatch, name, value)


@pytest.mark.parametrize("name", ["ARNO_LIMITS__MAX_BYTE", "ARNO_WORKER__GPU"])
def test_a_misspelt_setting_of_a_group_is_refused_and_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert name.rpartition("__")[2].lower() in refused(monkeypatch, name, "1")


def test_a_misspelt_setting_that_is_passed_is_refused() -> None:
    with pytest.raises(ValidationError, match="redis_uri"):
        Settings(redis_uri="redis://here/0")  # type: ignore[call-arg]


def test_settings_do_not_change_once_they_are_read() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.log_level = "debug"
    with pytest.raises(ValidationError, match="frozen"):
        settings.limits.max_bytes = 1
