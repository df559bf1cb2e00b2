"""Traces: off unless they are wanted, and what others say of theirs."""

import pytest

from arno_shared import tracing

WELL = "00-5759e988bd862e3fe1be46a994272793-53995c3f42cd8ad8-01"


@pytest.fixture(autouse=True)
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_tracer", None)
    monkeypatch.setattr(tracing, "_provider", None)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_nothing_is_traced_unless_somebody_wants_it(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    tracing.configure("test")
    assert not tracing.is_on()
    with tracing.span("x", parent="rubbish", links=["rubbish"], a__b=1) as span:
        span.say(c="d")
        assert tracing.traceparent() is None
    tracing.stop()


@pytest.mark.parametrize("parent", [None, "", "rubbish", "00-0-0-01", "00-" + "0" * 32 + "-" + "0" * 16 + "-01"])
def test_a_parent_that_is_none_begins_a_trace(monkeypatch: pytest.MonkeyPatch, parent: str | None) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    tracing.configure("test")
    with tracing.span("x", parent=parent):
        assert (tracing.traceparent() or "").startswith("00-")
    with tracing.span("y", parent=WELL):
        assert (tracing.traceparent() or "").startswith(WELL[:36])


@pytest.mark.parametrize(
    ("header", "traceparent"),
    [
        ("Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1", WELL),
        ("Sampled=0;Parent=53995c3f42cd8ad8;Root=1-5759e988-bd862e3fe1be46a994272793", WELL[:-1] + "0"),
        ("Root=1-5759e988-bd862e3fe1be46a994272793", None),
        ("", None),
        ("=;=;;", None),
    ],
)
def test_what_aws_hands_on_is_understood(header: str, traceparent: str | None) -> None:
    assert tracing.of_x_ray(header) == traceparent
