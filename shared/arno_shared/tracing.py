"""Traces by OpenTelemetry, where it is installed and told where to send them; else nothing, at next to no cost.

One trace leads from whoever asked, over HTTP or by an event, through the queue to the commit: its context travels as a
`traceparent` (W3C Trace Context) in the headers of messages. OTEL_EXPORTER_OTLP_ENDPOINT, and OpenTelemetry's other
variables, say where spans go and how many are kept.
"""

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from arno_shared.logs import get_logger
from arno_shared.uris import redact

log = get_logger(__name__)

_WELL_FORMED = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
_MOST_LINKS = 64
_EXPORT_TIMEOUT_S = 5

_provider: Any = None
_tracer: Any = None
"""None while nothing is traced."""


def configure(service: str) -> None:
    """Begins to trace, where the environment says where to. What cannot be sent is dropped: no work waits for it."""
    global _provider, _tracer
    if not _wanted():
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("nothing is traced: pip install 'arno[otel]'")
        return
    name = os.environ.get("OTEL_SERVICE_NAME") or service
    # Ended by `stop`, and not at exit, where it would wait for as long as it likes.
    _provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}), shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=_EXPORT_TIMEOUT_S)))
    _tracer = _provider.get_tracer("arno")
    # Whoever collects may be away for long: a line for each try would be most of the log.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)


def stop() -> None:
    """Sends what is left. Waits for a few seconds at most."""
    if _provider is not None:
        _provider.force_flush(_EXPORT_TIMEOUT_S * 1000)


def is_on() -> bool:
    return _tracer is not None


@contextmanager
def span(
    name: str,
    kind: Literal["internal", "server", "producer", "consumer"] = "internal",
    *,
    parent: str | None = None,
    links: Iterable[str] = (),
    **attributes: str | int | float | bool,
) -> Iterator["Span"]:
    """A span around what is done in the context. `parent` and `links` are traceparents; without `parent`, it is a child
    of the span around it. In names of attributes, `__` stands for a dot."""
    if _tracer is None:
        yield _NOTHING
        return
    from opentelemetry import trace

    with _tracer.start_as_current_span(
        name,
        context=_context(parent),
        kind=trace.SpanKind[kind.upper()],
        links=[trace.Link(one) for one in map(_span_context, list(links)[:_MOST_LINKS]) if one is not None],
        record_exception=False,
        set_status_on_exception=True,
    ) as own:
        traced = Span(own)
        traced.say(**attributes)
        yield traced


class Span:
    def __init__(self, own: Any) -> None:
        self._own = own

    def say(self, **attributes: str | int | float | bool) -> None:
        """Attributes of it, without secrets."""
        if self._own is not None:
            for name, value in attributes.items():
                shown = redact(value) if isinstance(value, str) else value
                self._own.set_attribute(name.replace("__", "."), shown)

    def rename(self, name: str) -> None:
        if self._own is not None:
            self._own.update_name(name)


_NOTHING = Span(None)


def traceparent() -> str | None:
    """Of the span around the caller; None when there is none."""
    if _tracer is None:
        return None
    from opentelemetry import trace

    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def of_x_ray(header: str) -> str | None:
    """`Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`, as AWS hands traces on, as a
    traceparent; None when it is none."""
    fields = dict(part.split("=", 1) for part in header.split(";") if "=" in part)
    root = re.fullmatch(r"1-([0-9a-f]{8})-([0-9a-f]{24})", fields.get("Root", ""))
    parent = fields.get("Parent", "")
    if root is None or not re.fullmatch(r"[0-9a-f]{16}", parent):
        return None
    return f"00-{root[1]}{root[2]}-{parent}-{'01' if fields.get('Sampled') == '1' else '00'}"


def _wanted() -> bool:
    env = os.environ
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true" or env.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    return bool(env.get("OTEL_EXPORTER_OTLP_ENDPOINT") or env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))


def _context(parent: str | None) -> Any:
    from opentelemetry import trace

    context = _span_context(parent) if parent else None
    return None if context is None else trace.set_span_in_context(trace.NonRecordingSpan(context))


def _span_context(given: str) -> Any:
    """None when it is no traceparent: others may have written anything."""
    from opentelemetry import trace

    if not isinstance(given, str) or not _WELL_FORMED.fullmatch(given):
        return None
    _, trace_id, span_id, flags = given.split("-")[:4]
    context = trace.SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=trace.TraceFlags(int(flags, 16))
    )
    return context if context.is_valid else None
