"""What every process can tell Prometheus of the house: queues, work in hand, dead letters, workers, as Redis has them.

All tell the same: dashboards take the maximum over processes, and not their sum.
"""

import json
from collections.abc import Iterator, Mapping
from threading import Lock
from time import monotonic, time
from typing import Any, NamedTuple

from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from arno_shared.errors import HouseError
from arno_shared.messages import SCHEMA_VERSION
from arno_shared.names import DEAD_LETTERS, DELAYED, TOPIC, UNACKED, Lane, lane_of_queue, lists, queues
from arno_shared.presence import workers
from arno_shared.redis_client import connect, redis_away
from arno_shared.settings import Settings

_TIMEOUT_S = 1.0
_FRESH_S = 2.0
_PHASES = ("loading", "working", "draining", "silent", "unknown")


class _Found(NamedTuple):
    waiting: dict[Lane, int]
    oldest_s: dict[Lane, float]
    in_flight: int
    delayed: int
    dead_letters: int
    events: int
    workers: dict[str, int]


class HouseCollector(Collector):
    """Looks when it is asked, at most every two seconds, and for a few at most: a Redis that is away is told of as
    such, and nothing that was seen before."""

    def __init__(self, settings: Settings) -> None:
        """With a connection of its own, which does not wait as long as others do."""
        quick = settings.broker.model_copy(update={"socket_timeout_s": _TIMEOUT_S, "connect_timeout_s": _TIMEOUT_S})
        self._redis = connect(settings.model_copy(update={"broker": quick}))
        self._lock = Lock()
        self._found: _Found | None = None
        self._looked_s = float("-inf")
        self._first_seen: dict[str, float] = {}

    def describe(self) -> list[GaugeMetricFamily]:
        """Nothing, so that nobody looks before somebody asks."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._lock:
            if monotonic() - self._looked_s > _FRESH_S:
                try:
                    self._found = self._look()
                except HouseError:
                    self._found = None
                self._looked_s = monotonic()
            found = self._found
        yield _gauge("arno_house_up", "Whether Redis answers", {("redis",): float(found is not None)}, "what")
        if found is not None:
            yield from _told(found)

    def _look(self) -> _Found:
        names = [(lane_of_queue(queue), name) for queue in queues(SCHEMA_VERSION) for name in lists(queue)]
        with redis_away():
            asked = self._redis.pipeline(transaction=False)
            for _, name in names:
                # The oldest stands where the next one is claimed.
                asked.llen(name).lindex(name, -1)
            asked.hlen(UNACKED).zcard(DELAYED).xlen(DEAD_LETTERS).xlen(TOPIC)
            *answers, in_flight, delayed, dead_letters, events = asked.execute()
        waiting, oldest_s = dict.fromkeys(Lane, 0), dict.fromkeys(Lane, 0.0)
        seen: dict[str, float] = {}
        for (lane, name), length, oldest in zip(names, answers[::2], answers[1::2], strict=True):
            waiting[lane] += length
            if oldest is not None:
                oldest_s[lane] = max(oldest_s[lane], self._age_s(name, oldest, seen))
        self._first_seen = seen
        return _Found(waiting, oldest_s, in_flight, delayed, dead_letters, events, self._workers())

    def _age_s(self, name: str, message: bytes, seen: dict[str, float]) -> float:
        """Since it was sent, if it says when. Other clients' messages do not: since it was first seen to be the oldest,
        then, which is less."""
        headers, tag = _envelope(message)
        sent_at = headers.get("sent_at")
        if isinstance(sent_at, int | float):
            return max(0.0, time() - sent_at)
        key = f"{name} {tag}"
        seen[key] = self._first_seen.get(key, monotonic())
        return monotonic() - seen[key]

    def _workers(self) -> dict[str, int]:
        phases = dict.fromkeys(_PHASES, 0)
        for one in workers(self._redis):
            phase = "silent" if one.silent else one.state.phase if one.state else "unknown"
            phases[phase if phase in phases else "unknown"] += 1
        return phases


def _envelope(message: bytes) -> tuple[dict[str, Any], str]:
    """A message's headers, and what tells it from others. Who else writes to the queue may have written anything."""
    try:
        envelope = json.loads(message)
        return dict(envelope["headers"]), str(envelope["properties"]["delivery_tag"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}, str(hash(message))


def _told(found: _Found) -> Iterator[GaugeMetricFamily]:
    waiting = {(lane.value,): float(count) for lane, count in found.waiting.items()}
    oldest = {(lane.value,): age_s for lane, age_s in found.oldest_s.items()}
    phases = {(phase,): float(count) for phase, count in found.workers.items()}
    yield _gauge("arno_queue_messages", "Messages that wait", waiting, "lane")
    yield _gauge("arno_queue_oldest_seconds", "How long the oldest message has waited", oldest, "lane")
    yield _gauge("arno_in_flight_messages", "Messages in workers' hands", {(): float(found.in_flight)})
    yield _gauge("arno_delayed_attempts", "Attempts that were put off", {(): float(found.delayed)})
    yield _gauge("arno_dead_letters", "Dead letters", {(): float(found.dead_letters)})
    yield _gauge("arno_topic_events", "Events that the topic holds", {(): float(found.events)})
    yield _gauge("arno_workers", "Workers heard of in the last minutes, by phase", phases, "phase")


def _gauge(name: str, what: str, values: Mapping[Any, float], *labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, what, labels=labels)
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family
