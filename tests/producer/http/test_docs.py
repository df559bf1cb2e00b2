"""The page that shows the OpenAPI document, looked at with a browser. ARNO_DOCS_PICTURE=docs.png keeps the picture."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from arno_shared.settings import Settings
from tests.acceptance.arno_worker import eventually, logged_lines
from tests.producer.http.browser import Page, browser
from tests.producer.http.conftest import Open

SHOWN = "[...document.querySelectorAll('.opblock-summary-path')].map(place => place.textContent)"


@contextmanager
def served(settings: Settings, folder: Path, **env: str) -> Iterator[str]:
    """The address of an `arno serve`."""
    log = folder / "door.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", "from arno_producer.cli import main; main()", "serve", "--port", "0"],
            stderr=stream,
            env={**os.environ, "ARNO_REDIS_URL": settings.redis_url, **env},
        )

    def address() -> str | None:
        assert process.poll() is None, log.read_text()
        return next((line["address"] for line in logged_lines(log) if line["event"] == "the door is open"), None)

    try:
        yield eventually(address, "the door is open")
    finally:
        process.kill()
        process.wait()


def shows_operations(page: Page, url: str) -> list[str]:
    page.open(url)
    found: list[str] = eventually(lambda: page(SHOWN), "operations are shown")
    return [place.replace("\u200b", "") for place in found]


def test_a_browser_is_shown_every_operation_and_asks_nobody_else(settings: Settings, tmp_path: Path) -> None:
    with served(settings, tmp_path) as url, browser(tmp_path) as page:
        # Without a path: it leads there.
        places = shows_operations(page, url)
        assert {"/v1/jobs", "/v1/jobs/{job_id}/results", "/v1/annotate", "/v1/events/s3"} <= set(places)
        picture = Path(os.environ.get("ARNO_DOCS_PICTURE", tmp_path / "docs.png"))
        page.photograph(picture)
        assert picture.stat().st_size > 20_000
        paths = {urlsplit(asked).path for asked in page.requested if asked.startswith(f"{url}/")}
        assert {"/", "/docs", "/docs/swagger-ui-bundle.js", "/docs/start.js", "/openapi.json"} <= paths
        elsewhere = [asked for asked in page.requested if not asked.startswith((f"{url}/", "data:"))]
        assert elsewhere == []
        assert page.complaints == []


def test_what_is_typed_under_authorize_goes_with_what_is_tried(settings: Settings, tmp_path: Path) -> None:
    with served(settings, tmp_path, ARNO_HTTP__TOKENS='["sesame"]') as url, browser(tmp_path) as page:
        shows_operations(page, f"{url}/docs")
        tried = "document.querySelector('#operations-tasks-catalogue_v1_tasks_get')"
        page("document.querySelector('.btn.authorize').click()")
        eventually(lambda: page("!!document.querySelector('.auth-container input')"), "a token is asked for")
        # As a person types it: React looks at its own copy of the value.
        page(
            "(field => {"
            "Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(field, 'sesame');"
            "field.dispatchEvent(new Event('input', {bubbles: true})) })"
            "(document.querySelector('.auth-container input'))"
        )
        page("document.querySelector('.auth-btn-wrapper .authorize').click()")
        page("document.querySelector('.btn-done').click()")
        page(f"{tried}.querySelector('.opblock-summary-control').click()")
        eventually(lambda: page(f"!!{tried}.querySelector('.try-out__btn')"), "it can be tried")
        page(f"{tried}.querySelector('.try-out__btn').click()")
        eventually(lambda: page(f"!!{tried}.querySelector('.execute')"), "it can be sent")
        page(f"{tried}.querySelector('.execute').click()")
        answer = f"{tried}.querySelector('.live-responses-table .response .response-col_status')?.textContent"
        assert eventually(lambda: page(answer), "it is answered").startswith("200")


def test_the_page_is_open_to_everybody_and_nothing_else_is(open_door: Open) -> None:
    client = open_door(tokens=["sesame"], host="0.0.0.0")
    assert client.get("/", follow_redirects=False).headers["location"] == "docs"
    for path in ("/docs", "/docs/start.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/openapi.json"):
        assert client.get(path).status_code == 200, path
    for path in ("/docs/README.md", "/docs/../app.py", "/docs/", "/v1/tasks"):
        assert client.get(path).status_code == 401, path
    loopback = open_door()
    assert loopback.get("/docs", headers={"Host": "evil.example"}).status_code == 200
    assert loopback.get("/v1/tasks", headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.parametrize("path", ["/docs", "/docs/start.js", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"])
def test_the_browser_is_told_to_load_nothing_from_elsewhere(open_door: Open, path: str) -> None:
    policy = dict(
        rule.strip().partition(" ")[::2] for rule in open_door().get(path).headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert {policy[kind] for kind in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert "unsafe" not in str(policy)
