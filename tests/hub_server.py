"""A hub on loopback, with one repository: as much of its API as downloads need, and what may go wrong there."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import NamedTuple, Self
from urllib.parse import unquote, urlsplit


class Request(NamedTuple):
    method: str
    path: str
    range: str | None


class HubServer:
    """The repository `name` with `files`, at one commit that branches stand for."""

    def __init__(self, name: str, files: dict[str, bytes]) -> None:
        self.name, self.files = name, files
        self.commit = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
        self.branches = ["main"]
        self.token = ""
        """Without it, or with another, the repository is not shown."""
        self.gated = False
        """Lists are for everyone, files for nobody."""
        self.breaks: dict[str, int] = {}
        """By file: how often half of what is asked for is sent, and no more."""
        self.wrong: set[str] = set()
        """Files of which other bytes are sent than are listed, as many."""
        self.busy: dict[str, int] = {}
        """By file: how often it is answered 503."""
        self.expired: dict[str, int] = {}
        """By file: how often the signed address of another server, to which this one leads, is refused there."""
        self.status = 0
        """The answer to everything."""
        self.requests: list[Request] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._thread = Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fetched(self) -> list[str]:
        """The files that were asked for, once for each GET."""
        return [
            request.path.partition("/resolve/")[2].partition("/")[2]
            for request in self.requests
            if request.method == "GET" and "/resolve/" in request.path
        ]


def _lfs(file: str, data: bytes) -> dict[str, object]:
    """What is said of large files."""
    if not file.endswith((".safetensors", ".bin")):
        return {}
    return {"lfs": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}}


def _handler_of(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer_it()

        def do_GET(self) -> None:
            self._answer_it()

        def _answer_it(self) -> None:
            path = unquote(urlsplit(self.path).path)
            with lock:
                hub.requests.append(Request(self.command, path, self.headers["Range"]))
            api, file = f"/api/models/{hub.name}/", f"/{hub.name}/resolve/"
            given = self.headers["Authorization"]
            if hub.status:
                self._send(hub.status)
            elif path.startswith("/signed/"):
                self._signed(path.removeprefix("/signed/"))
            elif not path.startswith((api, file)):
                self._send(404, {"X-Error-Code": "RepoNotFound"})
            elif hub.token and given is None:
                self._send(401, {"X-Error-Code": "RepoNotFound"})
            elif hub.token and given != f"Bearer {hub.token}":
                self._send(401, {"X-Error-Message": "Invalid credentials in Authorization header"})
            elif path.startswith(api):
                self._list(*path.removeprefix(api).split("/", 1))
            else:
                self._resolve(*path.removeprefix(file).split("/", 1))

        def _list(self, what: str, revision: str) -> None:
            if not self._known(revision):
                return
            blobs = {file: hashlib.sha1(data, usedforsecurity=False).hexdigest() for file, data in hub.files.items()}
            if what == "tree":
                found: object = [
                    {"type": "file", "path": file, "size": len(data), "oid": blobs[file]}
                    for file, data in hub.files.items()
                ]
            else:
                siblings = [
                    {"rfilename": file, "size": len(data), "blobId": blobs[file], **_lfs(file, data)}
                    for file, data in hub.files.items()
                ]
                found = {"id": hub.name, "sha": hub.commit, "siblings": siblings}
            self._send(200, {"Content-Type": "application/json"}, json.dumps(found).encode())

        def _resolve(self, revision: str, file: str) -> None:
            if not self._known(revision):
                return
            if hub.gated:
                self._send(403, {"X-Error-Code": "GatedRepo"})
                return
            if file not in hub.files:
                self._send(404, {"X-Error-Code": "EntryNotFound"})
                return
            if self.command == "GET" and hub.busy.get(file, 0) > 0:
                hub.busy[file] -= 1
                self._send(503)
                return
            if self.command == "GET" and file in hub.expired:
                self._send(302, {"Location": f"http://localhost:{self.server.server_address[1]}/signed/{file}"})
                return
            data = hub.files[file]
            digest = hashlib.sha256(data).hexdigest()
            headers = {"X-Repo-Commit": hub.commit, "ETag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if (wanted := self.headers["Range"]) else 0
            if start:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            with lock:
                broken = self.command == "GET" and hub.breaks.get(file, 0) > 0
                if broken:
                    hub.breaks[file] -= 1
            rest = bytes(len(data) - start) if file in hub.wrong else data[start:]
            self._send(206 if start else 200, headers, rest, len(rest) // 2 if broken else None)

        def _signed(self, file: str) -> None:
            hub.expired[file] -= 1
            if hub.expired[file] >= 0:
                self._send(403)
            else:
                self._send(200, {}, hub.files[file])

        def _known(self, revision: str) -> bool:
            known = revision in (hub.commit, *hub.branches)
            if not known:
                self._send(404, {"X-Error-Code": "RevisionNotFound"})
            return known

        def _send(
            self, status: int, headers: dict[str, str] | None = None, body: bytes = b"", only_bytes: int | None = None
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[:only_bytes])
                self.close_connection = only_bytes is not None

        def log_message(self, *_: object) -> None:
            pass

    return Handler
