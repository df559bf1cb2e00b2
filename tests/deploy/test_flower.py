"""Flower as it is deployed, looked at with a browser. ARNO_FLOWER_PICTURE=docs/images/flower.png keeps the picture."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from arno_producer import Producer
from arno_shared.names import Lane
from arno_shared.settings import Settings
from tests.acceptance.arno_worker import ArnoWorker, eventually
from tests.acceptance.fork_server import ROOT
from tests.programs import program
from tests.servers import free_port

CONFIG = ROOT / "deploy" / "flower" / "flowerconfig.py"
SECRET = "hush-hush"


@contextmanager
def flower(
    settings: Settings, folder: Path, *arguments: str, **env: str
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    with (folder / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "celery", "-A", "arno_producer.flower_app", "flower"),
                *(f"--conf={CONFIG}", f"--port={port}", f"--db={folder / 'flower.db'}", *arguments),
            ],
            stdout=log,
            stderr=log,
            env={**os.environ, "ARNO_REDIS_URL": settings.redis_url, "ARNO_KEY_PREFIX": settings.key_prefix, **env},
        )
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def get(url: str, **given: str) -> urllib3.BaseHTTPResponse:
    return urllib3.request("GET", url, timeout=10, retries=False, **given)  # type: ignore[arg-type]


def is_up(url: str) -> bool:
    try:
        return get(f"{url}/healthcheck").status == 200
    except urllib3.exceptions.HTTPError:
        return False


def browser(url: str, folder: Path, *what: str) -> str:
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
    shown = subprocess.run(
        [
            *(program("chromium"), *options, f"--user-data-dir={folder / 'browser'}", "--window-size=1500,900"),
            *("--virtual-time-budget=8000", *what, url),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return shown.stdout


def test_tasks_are_shown_in_words_and_without_secrets(
    settings: Settings,
    producer: Producer,
    pictures: Callable[[int], list[str]],
    start_worker: Callable[..., ArnoWorker],
    tmp_path: Path,
) -> None:
    start_worker("gpu0", ARNO_BROKER__TASK_EVENTS="true", ARNO_RETRIES__TRIES="1", ARNO_RETRIES__MAX_ATTEMPTS="1")
    with flower(settings, tmp_path) as (_, url):
        eventually(lambda: is_up(url), "Flower is up")
        # Told by the worker's events, as its tasks will be.
        eventually(lambda: 'flower_worker_online{worker="gpu0@' in get(f"{url}/metrics").data.decode(), "it is seen")
        secret = f"http://absent.invalid/a.jpg?X-Amz-Signature={SECRET}"
        jobs = [
            producer.submit([*pictures(40), "file:///etc/passwd"], ["<OD>", "<CAPTION>"], job_id="run-7"),
            producer.submit([secret], "<CAPTION_TO_PHRASE_GROUNDING>a red car", job_id="presigned"),
        ]
        for job in jobs:
            job.wait(60)

        rows = (
            "/tasks/datatable?draw=1&start=0&length=10&order[0][column]=0&order[0][dir]=asc&search[value]=state:SUCCESS"
        )
        eventually(lambda: get(f"{url}{rows}").json()["recordsFiltered"] == 3, "Flower has seen all tasks")

        def shown() -> str:
            return browser(f"{url}/tasks", tmp_path, "--dump-dom")

        page = eventually(lambda: (found := shown()).count(">SUCCESS<") >= 3 and found, "the tasks are shown", 30)
        picture = Path(os.environ.get("ARNO_FLOWER_PICTURE", tmp_path / "flower.png")).absolute()
        browser(f"{url}/tasks", tmp_path, f"--screenshot={picture}")
        assert picture.stat().st_size > 10_000
        for words in ("Job", "Chunk", "Images", "Prompts", "Outcome", "run-7", "presigned", "gpu0@"):
            assert words in page
        for words in ("32 ok", "8 ok, 1 failed: forbidden_path", "0 ok, 1 failed: connection_failed"):
            assert f">{words}</td>" in page, words
        assert "&lt;OD&gt; &lt;CAPTION&gt;" in page
        every_page = [page, *(get(f"{url}{path}").data.decode() for path in ("/task/run-7.0.1", "/workers", "/broker"))]
        assert not any(SECRET in text or "red car" in text for text in every_page)


@pytest.mark.parametrize("prefix", ["", "mine:"])
def test_queues_are_as_long_as_they_are(settings: Settings, tmp_path: Path, prefix: str) -> None:
    settings = settings.model_copy(update={"key_prefix": prefix})
    producer = Producer(settings)
    producer.submit([f"s3://photos/{number}.jpg" for number in range(96)], "<OD>")
    # As other Celery clients send it, with a priority.
    producer.redis.lpush(f"{Lane.BULK.queue}\x06\x166", "{}")
    with flower(settings, tmp_path) as (_, url):
        eventually(lambda: is_up(url), "Flower is up")
        page = get(f"{url}/broker").data.decode()
    cells = page.replace(" ", "").replace("\n", "")
    for queue, messages in (("arno.bulk", 4), ("arno.interactive", 0)):
        assert f"{queue}</td><td>{messages}</td>" in cells or f">{queue}<" in cells, cells[-3000:]
        assert cells.partition(f">{queue}<")[2].partition("</tr>")[0].count(f">{messages}<") == 1


def test_it_looks_and_does_not_touch(settings: Settings, tmp_path: Path) -> None:
    with flower(settings, tmp_path, "--basic_auth=me:secret") as (_, url):
        eventually(lambda: is_up(url), "Flower is up")
        assert get(f"{url}/tasks").status == 401
        known = urllib3.make_headers(basic_auth="me:secret")
        assert get(f"{url}/tasks", headers=known).status == 200  # type: ignore[arg-type]
        for action in ("task/send-task/arno.annotate", "worker/shutdown/gpu0", "task/revoke/1"):
            answer = urllib3.request(
                "POST", f"{url}/api/{action}", headers=known, body=json.dumps({"args": []}), retries=False
            )
            assert answer.status in (403, 405), action


@pytest.mark.parametrize("where", ["command line", "environment"])
def test_nobody_else_may_look_without_a_password(settings: Settings, tmp_path: Path, where: str) -> None:
    arguments = ("--address=0.0.0.0",) if where == "command line" else ()
    env = {"FLOWER_ADDRESS": "0.0.0.0"} if where == "environment" else {}
    with flower(settings, tmp_path, *arguments, **env) as (process, _):
        assert process.wait(60) != 0
    assert "set FLOWER_BASIC_AUTH" in (tmp_path / "flower.log").read_text()
