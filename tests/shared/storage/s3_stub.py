"""An S3 server in memory that can be told to do what real ones cannot be made to do."""

import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import NamedTuple, Self


class Request(NamedTuple):
    method: str
    if_none_match: str | None
    client: str
    """`boto3` or `obstore`."""


class S3Stub:
    """Has every bucket, takes any signature, and honours `If-None-Match: *` unless it is told otherwise."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        """By path, `/bucket/key`."""
        self.requests: list[Request] = []
        self.condition_status: int | None = None
        """The answer to a put with a condition."""
        self.put_status: int | None = None
        """The answer to every put."""
        self.read_status: int | None = None
        """The answer to GET and HEAD."""
        self.stalls = False
        """Half of an object is sent, and no more."""
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


def _handler_of(stub: S3Stub) -> type[BaseHTTPRequestHandler]:
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            self._record()
            body = self.rfile.read(int(self.headers["Content-Length"]))
            condition = self.headers["If-None-Match"]
            if status := stub.put_status or (condition and stub.condition_status):
                return self._answer(status)
            with lock:
                if condition and self.path in stub.objects:
                    return self._answer(412)
                stub.objects[self.path] = body
            return self._answer(200, etag=hashlib.md5(body).hexdigest())

        def do_GET(self) -> None:
            self._record()
            data = stub.objects.get(self.path.partition("?")[0])
            if stub.read_status or data is None:
                return self._answer(stub.read_status or 404)
            return self._answer(200, data, hashlib.md5(data).hexdigest())

        do_HEAD = do_GET

        def _record(self) -> None:
            client = "obstore" if "object_store" in self.headers["User-Agent"] else "boto3"
            stub.requests.append(Request(self.command, self.headers["If-None-Match"], client))

        def _answer(self, status: int, body: bytes = b"", etag: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{etag}"')
            self.send_header("Last-Modified", "Mon, 05 Jan 2026 00:00:00 GMT")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if stub.stalls else body)
                if stub.stalls and body:
                    self.rfile.read(1)  # until the client is gone
                    self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    return Handler
