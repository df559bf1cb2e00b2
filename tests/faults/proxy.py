"""A TCP proxy that does to connections what networks do, and to requests what servers do, when it is told to."""

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from threading import Thread
from typing import Any, NoReturn, Self

PIECE_BYTES = 64 * 1024

_RST = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class _Rule:
    """Which requests a fault happens to."""

    match: bytes | None
    times: int | None
    canned: bytes = b""

    def takes(self, request: bytes) -> bool:
        if self.times == 0 or (self.match is not None and self.match not in request):
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass(eq=False)
class _Pair:
    """A connection of a client's, and the one to the server that stands behind it."""

    client: socket.socket
    server: socket.socket
    begins: bool = True
    """What the client says next is the beginning of a request: the server has answered all before."""
    asked: bytes = b""
    """The end of what it said since then, in which a pattern may begin."""
    dropping: _Rule | None = None


class _Cut(Exception):
    """Both ends are reset."""


class TcpProxy:
    """Stands on a free loopback port before a server. Faults are switched from any thread, and hold when the call
    returns, for connections that are there and those that come, until `heal`.

    Requests are told apart by who speaks: one begins with what a client says first, or after an answer. That is true
    of HTTP and of Redis as long as nothing is pipelined.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self.connections = 0
        """Accepted so far."""
        self.matched = 0
        """Requests that `drop_answers` or `answer` happened to so far."""
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._serving: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._calm()
        # Keeps the port while nobody listens on it.
        self._placeholder = _bound(0)
        self.address: tuple[str, int] = self._placeholder.getsockname()

    def __enter__(self) -> Self:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._placeholder.close()

    def cut(self) -> None:
        """Resets all connections that there are, at both ends."""

        async def cut() -> None:
            for task in (tasks := list(self._serving)):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._do(cut())

    def refuse(self) -> None:
        """New connections are refused, as they are where nobody listens."""

        async def refuse() -> None:
            if self._accepting:
                self._accepting.cancel()
                await asyncio.gather(self._accepting, return_exceptions=True)
                self._accepting = None

        self._do(refuse())

    def accept(self) -> None:
        """New connections are accepted, which is how it begins."""

        async def accept() -> None:
            if not self._accepting:
                listener = _bound(self.address[1])
                listener.listen(1024)
                self._accepting = self._loop.create_task(self._accept(listener))

        self._do(accept())

    def freeze(self) -> None:
        """Connections stay, new ones are accepted, and nothing passes in either direction, not even their end."""
        self._switch(self._flowing.clear)

    def thaw(self) -> None:
        """What waited meanwhile passes."""
        self._switch(self._flowing.set)

    def delay(self, seconds: float) -> None:
        """Each piece of up to `PIECE_BYTES` takes that much longer, in each direction."""
        self._switch(lambda: setattr(self, "_delay_s", seconds))

    def slow(self, bytes_per_s: float) -> None:
        """In each direction of each connection."""
        self._switch(lambda: setattr(self, "_bytes_per_s", bytes_per_s))

    def drop_answers(self, match: bytes | None = None, times: int | None = None) -> None:
        """Requests that contain `match` reach the server; instead of its answer the client gets a reset, as often as
        `times` says. `100 Continue` passes: it is asked for by what is to be answered."""
        self._switch(lambda: setattr(self, "_drop", _Rule(match, times)))

    def answer(self, canned: bytes, match: bytes | None = None, times: int | None = None) -> None:
        """HTTP requests whose first line contains `match` get these bytes and the end of the connection, and never
        reach the server, as often as `times` says."""
        self._switch(lambda: setattr(self, "_canned", _Rule(match, times, canned)))

    def heal(self) -> None:
        """No faults any more."""
        self._switch(self._calm)
        self.accept()

    _accepting: asyncio.Task[None] | None = None

    def _calm(self) -> None:
        self._delay_s = 0.0
        self._bytes_per_s = float("inf")
        self._drop: _Rule | None = None
        self._canned: _Rule | None = None
        self._flowing.set()

    def _switch(self, how: Callable[[], None]) -> None:
        async def switch() -> None:
            how()

        self._do(switch())

    def _do(self, step: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(step, self._loop).result(timeout=30)

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                try:
                    client, _ = await self._loop.sock_accept(listener)
                except OSError:  # no descriptors left, or the client is gone again
                    await asyncio.sleep(0.01)
                    continue
                self.connections += 1
                client.setblocking(False)
                task = self._loop.create_task(self._serve(client))
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)

    async def _serve(self, client: socket.socket) -> None:
        with client, socket.socket() as server:
            ends = (client, server)
            server.setblocking(False)
            try:
                await self._loop.sock_connect(server, self._server)
                for end in ends:
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                pair = _Pair(client, server)
                async with asyncio.TaskGroup() as both:
                    both.create_task(self._ask(pair))
                    both.create_task(self._tell(pair))
            except BaseException:  # cut, or one end is gone: the other learns of it
                for end in ends:
                    with suppress(OSError):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)

    async def _ask(self, pair: _Pair) -> None:
        """From the client to the server."""
        while piece := await self._next(pair.client):
            if pair.begins:
                pair.asked = b""
                if self._canned:
                    piece = await self._with_its_first_line(pair.client, piece)
                if (rule := self._canned) and rule.takes(piece.partition(b"\r\n")[0]):
                    self.matched += 1
                    await self._answer(pair, rule.canned)
            pair.begins = False
            pair.asked += piece
            if (rule := self._drop) and pair.dropping is not rule and rule.takes(pair.asked):
                self.matched += 1
                pair.dropping = rule
            pair.asked = pair.asked[-1024:]
            await self._loop.sock_sendall(pair.server, piece)
        _end(pair.server)

    async def _tell(self, pair: _Pair) -> None:
        """From the server to the client."""
        while piece := await self._next(pair.server):
            if not piece.startswith(b"HTTP/1.1 100"):
                if pair.dropping and pair.dropping is self._drop:
                    raise _Cut
                pair.begins, pair.dropping = True, None
            await self._loop.sock_sendall(pair.client, piece)
        _end(pair.client)

    async def _answer(self, pair: _Pair, canned: bytes) -> NoReturn:
        # Its last bytes and the end arrive as one: nobody sends another request in between.
        pair.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        await self._loop.sock_sendall(pair.client, canned)
        _end(pair.client)
        # The rest of its request is taken: a reset could overtake the answer.
        while await self._loop.sock_recv(pair.client, PIECE_BYTES):
            pass
        raise _Cut

    async def _with_its_first_line(self, client: socket.socket, piece: bytes) -> bytes:
        while b"\r\n" not in piece and len(piece) < PIECE_BYTES and (more := await self._next(client)):
            piece += more
        return piece

    async def _next(self, end: socket.socket) -> bytes:
        """The next piece, when it may pass; empty when the end has no more to say."""
        try:
            piece = await self._loop.sock_recv(end, int(max(1, min(PIECE_BYTES, self._bytes_per_s / 20))))
        except OSError:
            await self._flowing.wait()
            raise
        await asyncio.sleep(self._delay_s + len(piece) / self._bytes_per_s)
        await self._flowing.wait()
        return piece


def _bound(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setblocking(False)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def _end(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_WR)
