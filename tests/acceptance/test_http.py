"""`arno serve` as a process of its own, beside a real worker with the bundled model."""

import io
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import urllib3
from PIL import Image

from arno_producer import Producer
from arno_shared.ledger import JobState
from arno_shared.names import uploads_prefix
from arno_shared.settings import Settings
from tests.acceptance.arno_worker import ArnoWorker, eventually, logged_lines
from tests.acceptance.fork_server import LIGHT, Fork, fork_server
from tests.servers import make_bucket

PICTURE = io.BytesIO()
Image.new("RGB", (64, 48), (200, 30, 30)).save(PICTURE, "PNG")


@pytest.fixture
def upload() -> dict[str, Any]:
    return {"image": ("red.png", PICTURE.getvalue(), "image/png"), "prompts": "<CAPTION>"}


class Door:
    def __init__(self, process: Fork, url: str) -> None:
        self.process, self.url = process, url

    def ask(self, method: str, path: str, **given: Any) -> urllib3.BaseHTTPResponse:
        return urllib3.request(method, self.url + path, retries=False, timeout=60, **given)


@contextmanager
def open_door(settings: Settings, log: Path, **env: str) -> Iterator[Door]:
    whole = {
        **os.environ,
        "ARNO_REDIS_URL": settings.redis_url,
        "ARNO_OUTPUT_PREFIX": settings.output_prefix,
        **env,
    }
    process = fork_server(*LIGHT).start("tests.acceptance.arno_command", ["serve", "--port", "0"], whole, log)

    def address() -> str | None:
        assert process.poll() is None, log.read_text()
        return next((line["address"] for line in logged_lines(log) if line["event"] == "the door is open"), None)

    try:
        yield Door(process, eventually(address, "the door is open"))
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def door(settings: Settings, tmp_path: Path) -> Iterator[Door]:
    with open_door(settings, tmp_path / "door.log") as opened:
        yield opened


@pytest.mark.parametrize("storage", ["file", "s3"])
def test_one_picture_is_answered_in_the_response(
    storage: str,
    request: pytest.FixtureRequest,
    settings: Settings,
    tmp_path: Path,
    upload: dict[str, Any],
    start_worker: Callable[..., ArnoWorker],
) -> None:
    if storage == "s3":
        request.getfixturevalue("moto_s3")
        settings = settings.model_copy(update={"output_prefix": f"s3://{make_bucket()}/out/"})
    env = {"ARNO_OUTPUT_PREFIX": settings.output_prefix, "ARNO_LIMITS__SCHEMES": '["s3", "https"]'}
    start_worker(ARNO_WORKER__ENGINE="florence", **env)
    with open_door(settings, tmp_path / "door.log") as door:
        answer = door.ask("POST", "/v1/annotate", fields=upload)
        assert answer.status == 200, answer.data
        row = answer.json()
        assert (row["status"], row["image"]["width"], row["image"]["height"]) == ("ok", 64, 48)
        assert row["prompts"][0]["parsed"]
        store = Producer(settings).store
        assert list(store.list(uploads_prefix(settings.output_prefix))) == []

        # What was uploaded may be read without `file` among the schemes; nothing else may.
        for uri in (
            "file:///etc/passwd",
            f"{uploads_prefix('file:///x/')}../../etc/passwd",
            f"{uploads_prefix(settings.output_prefix)}absent",
        ):
            answer = door.ask("POST", "/v1/annotate", json={"image": uri, "prompts": ["<CAPTION>"]})
            assert answer.status == 422
            assert answer.json()["code"] in ("scheme_not_allowed", "not_found")
        broken = {**upload, "image": ("a.png", PICTURE.getvalue()[:60], "image/png")}
        answer = door.ask("POST", "/v1/annotate", fields=broken)
        assert (answer.status, answer.json()["code"]) == (422, "broken_image")


def test_what_nobody_answers_in_time_is_cancelled_and_its_upload_removed(
    door: Door, producer: Producer, upload: dict[str, Any]
) -> None:
    began_s = monotonic()
    answer = door.ask("POST", "/v1/annotate", fields={**upload, "timeout_s": "0.5"})
    assert (answer.status, answer.json()["code"]) == (504, "not_in_time")
    assert monotonic() - began_s < 20
    assert producer.job(answer.json()["job_id"]).status().state is JobState.CANCELLED
    assert list(producer.store.list(uploads_prefix(producer.settings.output_prefix))) == []


def test_who_goes_away_leaves_no_work_behind(door: Door, producer: Producer) -> None:
    with pytest.raises(urllib3.exceptions.TimeoutError):
        urllib3.request(
            "POST",
            f"{door.url}/v1/annotate",
            json={"image": "s3://photos/a.png", "prompts": ["<CAPTION>"]},
            timeout=1,
            retries=False,
        )

    def cancelled() -> bool:
        (key,) = producer.redis.keys("arno:job:annotate-*")
        return bool(producer.redis.hget(key, "state") == b"cancelled")

    eventually(cancelled, "its job is cancelled")


def test_a_job_is_followed_to_its_end_and_sigterm_ends_the_door(
    door: Door, pictures: Callable[[int], list[str]], start_worker: Callable[..., ArnoWorker]
) -> None:
    start_worker()
    view = door.ask("POST", "/v1/jobs", json={"images": pictures(80), "prompts": ["<OD>"]}).json()
    stream = door.ask("GET", view["links"]["events"]).data.decode()
    assert stream.rstrip().rpartition("event: ")[2].startswith("done\n")
    assert len(door.ask("GET", view["links"]["results"]).data.splitlines()) == 80
    assert 'arno_submitted_images_total{lane="bulk"} 80.0' in door.ask("GET", "/metrics").data.decode()

    waiting = door.ask("POST", "/v1/jobs", json={"images": ["http://absent.invalid/a"], "prompts": ["<OD>"]}).json()
    with ThreadPoolExecutor(1) as threads:
        following = threads.submit(door.ask, "GET", waiting["links"]["events"])
        told = "arno_http_requests_in_progress 2.0"
        eventually(lambda: told in door.ask("GET", "/metrics").data.decode(), "the stream is open")
        door.process.send_signal(signal.SIGTERM)
        assert door.process.wait(20) == 0
        assert b"event: progress" in following.result(5).data
