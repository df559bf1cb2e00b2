"""What Prometheus is told of the house."""

import json
from time import monotonic
from typing import Any

import pytest
from celery import Celery
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from arno_shared import house_metrics
from arno_shared.broker import Sender, celery_app
from arno_shared.house_metrics import HouseCollector
from arno_shared.names import Lane
from arno_shared.redis_client import connect
from arno_shared.settings import Settings
from tests.servers import Valkey


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house_metrics, "_FRESH_S", -1)


@pytest.fixture(params=["", "mine:"])
def settings(request: pytest.FixtureRequest, valkey_url: str) -> Settings:
    return Settings(redis_url=valkey_url, key_prefix=request.param)


def scrape(collector: HouseCollector) -> dict[tuple[str, ...], float]:
    registry = CollectorRegistry()
    registry.register(collector)
    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}


def test_an_empty_house_is_all_zeros(settings: Settings) -> None:
    told = scrape(HouseCollector(settings))
    assert told.pop(("arno_house_up", "redis")) == 1
    assert told[("arno_queue_messages", "bulk")] == told[("arno_queue_messages", "interactive")] == 0
    assert set(told.values()) == {0}


def test_all_lists_of_a_lane_are_counted_and_the_oldest_says_how_long(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = Sender(celery_app(settings))
    now = 1_000_000.0
    monkeypatch.setattr("arno_shared.broker.time", lambda: now)
    for _ in range(3):
        sender.send_raw(Lane.BULK, "arno.annotate", [], {})
        now += 10
    redis = connect(settings)
    # As a foreign client with a priority does, and as a message lies that has just woken a worker.
    for name in ("arno.bulk\x06\x163", "arno.bulk.arrivals"):
        redis.lpush(name, "{}")
    monkeypatch.setattr("arno_shared.house_metrics.time", lambda: now)
    told = scrape(HouseCollector(settings))
    assert told[("arno_queue_messages", "bulk")] == 5
    assert told[("arno_queue_oldest_seconds", "bulk")] == pytest.approx(30)
    assert told[("arno_queue_oldest_seconds", "interactive")] == 0


def test_messages_that_do_not_say_when_they_were_sent_age_from_when_they_are_seen(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Celery(broker=settings.redis_url, set_as_current=False) as foreign:
        foreign.conf.broker_transport_options = {"global_keyprefix": settings.key_prefix}
        foreign.send_task("arno.annotate", queue="arno.interactive")
    collector = HouseCollector(settings)
    assert scrape(collector)[("arno_queue_oldest_seconds", "interactive")] < 1
    later_s = monotonic() + 60
    monkeypatch.setattr(house_metrics, "monotonic", lambda: later_s)
    assert scrape(collector)[("arno_queue_oldest_seconds", "interactive")] == pytest.approx(60, abs=5)


@pytest.mark.parametrize("rubbish", ["", "hello", "[1]", '{"headers": 1}', json.dumps({"headers": {"sent_at": "x"}})])
def test_whatever_lies_in_a_queue_a_scrape_goes_on(settings: Settings, rubbish: str) -> None:
    connect(settings).lpush("arno.bulk", rubbish)
    assert scrape(HouseCollector(settings))[("arno_queue_messages", "bulk")] == 1


@pytest.mark.parametrize("how", ["terminate", "freeze"])
def test_a_redis_that_is_away_is_told_of_soon_and_nothing_else_is(how: str) -> None:
    with Valkey() as valkey:
        collector = HouseCollector(Settings(redis_url=valkey.url))
        assert scrape(collector)[("arno_house_up", "redis")] == 1
        getattr(valkey, how)()
        began_s = monotonic()
        told: dict[Any, float] = scrape(collector)
        assert told == {("arno_house_up", "redis"): 0}
        assert monotonic() - began_s < 8
