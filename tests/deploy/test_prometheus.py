"""The dashboard and the alerts ask for what there is: every expression is one, and all it names is in a real scrape."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from arno_producer import Producer
from arno_producer.http.app import door
from arno_shared.presence import workers
from arno_shared.settings import HttpSettings
from tests.acceptance.arno_worker import ArnoWorker
from tests.acceptance.fork_server import ROOT
from tests.producer.sources.test_events import event
from tests.programs import program

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "arno.json").read_text())
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"

LABELS = {
    *("outcome", "code", "task", "stage", "kind", "lane", "phase", "what", "source", "method", "route", "status", "le"),
    *("device", "model", "adapter", "dtype", "version"),
}
"""All that any metric has: each has as many values as the code says, however much work there is."""


def promtool(*arguments: str) -> None:
    ran = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
    for rule in yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"]


def test_every_expression_is_one(tmp_path: Path) -> None:
    promtool("check", "rules", str(ALERTS))
    promtool("test", "rules", str(ALERTS.with_name("alerts.test.yml")))
    promtool("check", "config", str(ROOT / "deploy" / "prometheus" / "prometheus.yml"))
    rules = [{"record": f"charted:{number}", "expr": expr} for number, (_, expr) in enumerate(expressions())]
    assert len(rules) > 30
    (tmp_path / "dashboard.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "dashboard.yml"))


@pytest.fixture
def scraped(
    producer: Producer, pictures: Callable[[int], list[str]], start_worker: Callable[..., ArnoWorker], tmp_path: Path
) -> dict[str, set[str]]:
    """What a worker with a real model and a door say after some work: the labels of each sample's name."""
    start_worker(ARNO_WORKER__ENGINE="florence", ARNO_RETRIES__TRIES="1", ARNO_RETRIES__MAX_ATTEMPTS="1")
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nname = "all"\nprompts = "<OD>"\noutput = "s3://results/"\nbucket = "none"')
    settings = producer.settings.model_copy(update={"http": HttpSettings(rules=rules)})
    with TestClient(door(Producer(settings)), base_url="http://localhost") as client:
        job = {"images": [*pictures(3), "file:///outside/a.png"], "prompts": ["<CAPTION>"]}
        view = client.post("/v1/jobs", json=job).json()
        client.post("/v1/events/s3", json=event("minio"))
        producer.job(view["job_id"]).wait(60)
        texts = [client.get("/metrics").text]
    (seen,) = workers(producer.redis)
    assert seen.state
    texts.append(urllib3.request("GET", f"http://{seen.state.health}/metrics", timeout=10).data.decode())
    found: dict[str, set[str]] = {}
    for text in texts:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_all_that_is_charted_and_watched_is_in_a_real_scrape(scraped: dict[str, set[str]]) -> None:
    for title, expr in expressions():
        names = set(re.findall(r"\b(?:arno|process)_[a-z_]+", expr))
        assert names, title
        assert names <= scraped.keys(), (title, names - scraped.keys())
        wanted = set(re.findall(r'([a-z]+)=~?"', expr)) | labels_grouped_by(expr)
        known = set().union(*(scraped[name] for name in names)) | {"instance"}
        assert wanted <= known, (title, wanted - known)


def labels_grouped_by(expr: str) -> set[str]:
    return {label.strip() for group in re.findall(r"by \(([^)]*)\)", expr) for label in group.split(",")}


def test_no_label_has_as_many_values_as_there_is_work(scraped: dict[str, set[str]]) -> None:
    ours: dict[str, Any] = {name: labels for name, labels in scraped.items() if name.startswith("arno_")}
    assert len(ours) > 40
    for name, labels in ours.items():
        assert labels <= LABELS, name
