"""What a real worker tells Prometheus of the work that it did."""

from collections.abc import Callable

import pytest
import urllib3
from prometheus_client.parser import text_string_to_metric_families

from arno_producer import Producer
from arno_shared.presence import workers
from tests.acceptance.arno_worker import ArnoWorker, eventually

ABSENT = "http://absent.invalid/a.png"


class Scrape:
    """The samples of one look at a worker."""

    def __init__(self, text: str) -> None:
        self.samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples[name, tuple(sorted(labels.items()))]


@pytest.fixture
def scrape(producer: Producer) -> Callable[[], Scrape]:
    def look() -> Scrape:
        (seen,) = workers(producer.redis)
        assert seen.state
        answer = urllib3.request("GET", f"http://{seen.state.health}/metrics", timeout=10, retries=False)
        assert answer.status == 200
        return Scrape(answer.data.decode())

    return look


def test_images_answers_stages_and_slots_of_a_real_model(
    producer: Producer,
    pictures: Callable[[int], list[str]],
    start_worker: Callable[..., ArnoWorker],
    scrape: Callable[[], Scrape],
) -> None:
    start_worker(
        ARNO_WORKER__ENGINE="florence",
        ARNO_RETRIES__TRIES="1",
        ARNO_RETRIES__MAX_ATTEMPTS="2",
        ARNO_RETRIES__PUT_OFF_S="0.05",
    )
    before = scrape()
    assert before("arno_images_total", outcome="ok") == 0
    uris = [*pictures(5), "file:///outside/a.png", ABSENT]
    job = producer.submit(uris, ["<CAPTION>", "<OD>"])
    status = job.wait(60)
    assert (status.ok, status.failed) == (5, 2)
    now = eventually(lambda: (found := scrape())("arno_chunks_in_flight") == 0 and found, "the worker is idle")

    outcomes = {
        outcome: now("arno_images_total", outcome=outcome) for outcome in ("ok", "failed", "put_off", "given_up")
    }
    assert outcomes == {"ok": 5, "failed": 1, "put_off": 1, "given_up": 1}
    assert now("arno_image_failures_total", code="forbidden_path") == 1
    assert now("arno_image_failures_total", code="connection_failed") == 1
    rows = [row for row in job.results() if row.prompts]
    for task in ("<CAPTION>", "<OD>"):
        assert now("arno_answers_total", task=task, outcome="ok") == 5
        assert now("arno_answers_total", task=task, outcome="failed") == 2
    assert now("arno_tokens_total") == sum(answer.tokens for row in rows for answer in row.prompts) > 0
    assert now("arno_chunks_total", outcome="committed") == now("arno_chunk_seconds_count") == 2
    for stage, times in (("decode", 5), ("wait", 5), ("write", 2), ("commit", 2)):
        assert now("arno_stage_seconds_count", stage=stage) == times
    assert now("arno_batch_size_sum", stage="vision") == 5
    assert now("arno_batch_size_sum", stage="encode") == 10
    assert now("arno_batch_size_count", stage="step") == now("arno_stage_seconds_count", stage="step") > 0
    assert now("arno_slots_in_use") == 0
    assert now("arno_slots") > 0
    on_device_s = sum(now("arno_stage_seconds_sum", stage=stage) for stage in ("vision", "encode", "step"))
    assert 0 < on_device_s <= now("arno_device_busy_seconds_total")
    assert 0 < now("arno_device_memory_bytes", kind="used") < now("arno_device_memory_bytes", kind="total")
    assert now("arno_leases_expired_total") == 0
    assert now("process_resident_memory_bytes") > 0
