"""`/docs`: the OpenAPI document in a browser. All that the page loads travels in this package."""

from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, RedirectResponse

PATH = "/docs"

_FOLDER = Path(__file__).with_name("docs_page")
_FILES = {PATH: "index.html"} | {
    f"{PATH}/{name}": name for name in ("start.js", "swagger-ui-bundle.js", "swagger-ui.css")
}
_HEADERS = {
    # Nothing from elsewhere, nothing that stands in the page itself; pictures are in the style sheet.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

PATHS = frozenset({"/", *_FILES})


def docs() -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    def start() -> RedirectResponse:
        return RedirectResponse(PATH.removeprefix("/"), HTTPStatus.TEMPORARY_REDIRECT)

    for path, name in _FILES.items():
        router.add_api_route(path, _serves(_FOLDER / name), methods=["GET", "HEAD"])
    return router


def _serves(file: Path) -> Callable[[], FileResponse]:
    def serve() -> FileResponse:
        return FileResponse(file, headers=_HEADERS)

    return serve
