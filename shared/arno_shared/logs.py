"""Structured logs: one JSON object a line, without secrets."""

import logging
import sys
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from arno_shared.controls import escape_controls
from arno_shared.uris import redact


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Log with keyword fields: `log.warning("storage away", job=job_id, chunk=index)`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def redact_values(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Passwords and query strings (presigned URLs) are removed from every text, however deep it lies."""
    return {key: _redacted(value) for key, value in event.items()}


def _redacted(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(key)): _redacted(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(inner) for inner in value]
    # JSON has no such value; it is written as it shows itself.
    return redact(repr(value))


def configure(level: str, stream: TextIO = sys.stderr) -> None:
    """Sends everything that is logged, by Arno and by the libraries below it, to `stream`."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact_values,
                structlog.processors.JSONRenderer(ensure_ascii=False),
                # JSON leaves some of them raw, which turn a terminal's text about.
                lambda _, __, line: escape_controls(str(line)),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # One line when a task comes and one when it went, of which Arno's own lines say more.
    for chatty in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
    # Their debug lines hold headers, keys and every request.
    for chatty in ("botocore", "boto3", "urllib3", "s3transfer", "kombu", "amqp"):
        logging.getLogger(chatty).setLevel(max(logging.INFO, root.level))
