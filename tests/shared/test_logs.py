"""Logs are JSON lines, whoever writes them, and hold no passwords and no presigned query strings."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from arno_shared.logs import configure, get_logger

PRESIGNED = "https://host/a.jpg?X-Amz-Signature=hunter2"
REDIS = "redis://me:hunter2@cache:6379/0"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure("info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_a_json_object_with_time_level_logger_and_fields(stream: io.StringIO) -> None:
    get_logger("arno.test").warning("storage away", job="run-7", chunk=12, where="Zürich")
    (line,) = lines(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "storage away",
        "level": "warning",
        "logger": "arno.test",
        "job": "run-7",
        "chunk": 12,
        "where": "Zürich",
    }
    assert "Zürich" in stream.getvalue()


def test_libraries_that_use_plain_logging_write_the_same_lines(stream: io.StringIO) -> None:
    logging.getLogger("celery.worker").error("lost %s of %d", "connection", 3)
    (line,) = lines(stream)
    assert (line["event"], line["level"], line["logger"]) == ("lost connection of 3", "error", "celery.worker")


def test_a_line_stays_one_line_whatever_is_logged(stream: io.StringIO) -> None:
    get_logger("arno.test").info("two\nlines", text="a\r\nb")
    assert [line["event"] for line in lines(stream)] == ["two\nlines"]


def test_what_is_below_the_level_is_not_written(stream: io.StringIO) -> None:
    get_logger("arno.test").debug("quiet")
    logging.getLogger("other").debug("quiet")
    assert not stream.getvalue()


def test_chatty_libraries_stay_above_debug_even_when_everything_else_does_not(stream: io.StringIO) -> None:
    configure("debug", stream)
    logging.getLogger("botocore.auth").debug("headers and keys")
    logging.getLogger("urllib3.connectionpool").debug("GET %s", PRESIGNED)
    assert not stream.getvalue()
    logging.getLogger("arno.test").debug("loud")
    assert [line["event"] for line in lines(stream)] == ["loud"]


def test_context_that_was_bound_stands_on_every_line(stream: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(worker="gpu0"):
        get_logger("arno.test").info("hello")
    assert lines(stream)[0]["worker"] == "gpu0"


class Client:
    def __repr__(self) -> str:
        return f"<Client {REDIS}>"


@pytest.mark.parametrize(
    "value",
    [
        PRESIGNED,
        PRESIGNED.replace("https", "HTTPS"),
        REDIS,
        {"uri": PRESIGNED},
        {PRESIGNED: 1},
        [PRESIGNED, REDIS],
        (PRESIGNED,),
        {PRESIGNED},
        [{"images": [{"uri": PRESIGNED}]}],
        PRESIGNED.encode(),
        ValueError(PRESIGNED),
        Client(),
        [Client()],
        # A path folds the two slashes into one, so that it is no URI any more and needs no redaction to be safe.
        {"path": Path("/data"), "uri": PRESIGNED},
    ],
    ids=repr,
)
def test_no_secret_is_written_whatever_it_is_wrapped_in(value: Any, stream: io.StringIO) -> None:
    get_logger("arno.test").info("looked at", value=value)
    assert "hunter2" not in stream.getvalue()
    assert "value" in lines(stream)[0]


def test_values_keep_their_shape_when_they_are_redacted(stream: io.StringIO) -> None:
    get_logger("arno.test").info("x", value={"uri": PRESIGNED, "n": [1, 2.5, None, True, REDIS]})
    assert lines(stream)[0]["value"] == {
        "uri": "https://host/a.jpg?***",
        "n": [1, 2.5, None, True, "redis://***@cache:6379/0"],
    }


def test_no_secret_is_written_in_the_sentence_itself(stream: io.StringIO) -> None:
    get_logger("arno.test").info(f"fetching {PRESIGNED}")
    get_logger("arno.test").info("fetching %s", PRESIGNED)
    logging.getLogger("library").info("fetching %s from %r", PRESIGNED, {"url": REDIS})
    assert "hunter2" not in stream.getvalue()
    assert [line["event"] for line in lines(stream)][:2] == ["fetching https://host/a.jpg?***"] * 2


def fail_twice() -> None:
    try:
        raise ConnectionError(f"cannot reach {REDIS}")
    except ConnectionError as error:
        raise ValueError(f"cannot fetch {PRESIGNED}") from error


def test_no_secret_is_written_in_an_exception_or_its_causes(stream: io.StringIO) -> None:
    for logger in (get_logger("arno.test"), logging.getLogger("library")):
        try:
            fail_twice()
        except ValueError:
            logger.exception("failed")
    first, second = lines(stream)
    for line in (first, second):
        assert "ValueError: cannot fetch https://host/a.jpg?***" in line["exception"]
        assert "ConnectionError: cannot reach redis://***@cache:6379/0" in line["exception"]
    assert "hunter2" not in stream.getvalue()


def test_an_exception_handed_over_is_written_with_its_trace(stream: io.StringIO) -> None:
    get_logger("arno.test").error("failed", exc_info=ValueError(PRESIGNED))
    assert "ValueError: https://host/a.jpg?***" in lines(stream)[0]["exception"]


def test_no_secret_is_written_in_bound_context(stream: io.StringIO) -> None:
    get_logger("arno.test").bind(uri=PRESIGNED).info("hello")
    with structlog.contextvars.bound_contextvars(redis=REDIS):
        get_logger("arno.test").info("hello")
    assert len(lines(stream)) == 2
    assert "hunter2" not in stream.getvalue()


def test_configuring_twice_writes_each_line_once(stream: io.StringIO) -> None:
    configure("info", stream)
    get_logger("arno.test").info("once")
    assert len(lines(stream)) == 1
