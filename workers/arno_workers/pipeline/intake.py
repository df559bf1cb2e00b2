"""Fetches and decodes the images of every chunk in flight, in parallel threads, and feeds the engine."""

import hashlib
import heapq
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from queue import SimpleQueue
from threading import Condition, Thread
from time import monotonic, perf_counter

from arno_shared.errors import HouseError, ItemError
from arno_shared.logs import get_logger
from arno_shared.settings import Settings
from arno_workers.decode.picture import decode
from arno_workers.engine import Engine
from arno_workers.fetch.reader import ImageReader
from arno_workers.handover import Handover
from arno_workers.pipeline.chunk_run import ChunkRun, Item

log = get_logger(__name__)

_LONGEST_HOUSE_PAUSE_S = 10.0


class Intake:
    """Fetchers wait for the network, and are many; decoders need the processor, and are as many as its cores but one.

    Local files go straight to the decoders: reading one is not worth the change of threads.
    """

    def __init__(self, reader: ImageReader, engine: Engine, settings: Settings) -> None:
        self._reader, self._engine = reader, engine
        self._retries, self._max_pixels = settings.retries, settings.limits.max_pixels
        self._to_fetch: SimpleQueue[Item] = SimpleQueue()
        self._to_decode: Handover[tuple[Item, bytes | None]] = Handover(settings.worker.fetch_threads)
        self._later = _Later(self._start)
        for number in range(settings.worker.fetch_threads):
            Thread(target=self._fetch, name=f"fetch-{number}", daemon=True).start()
        for number in range(_decoders()):
            Thread(target=self._decode, name=f"decode-{number}", daemon=True).start()

    def add(self, run: ChunkRun) -> None:
        for item in run.items:
            self._start(item)

    def _start(self, item: Item) -> None:
        if item.image.uri.startswith("file:"):
            self._to_decode.put_at_once((item, None))
        else:
            self._to_fetch.put(item)

    def _fetch(self) -> None:
        while True:
            item = self._to_fetch.get()
            with self._settling(item):
                self._to_decode.put((item, self._read(item)))

    def _decode(self) -> None:
        while True:
            for item, data in self._to_decode.take():
                with self._settling(item):
                    self._feed(item, self._read(item) if data is None else data)

    def _read(self, item: Item) -> bytes:
        began_s = perf_counter()
        data = self._reader.read(item.image)
        item.fetch_ms = (perf_counter() - began_s) * 1000
        return data

    def _feed(self, item: Item, data: bytes) -> None:
        began_s = perf_counter()
        item.sha256 = hashlib.sha256(data).hexdigest()
        picture = decode(data, self._max_pixels, self._engine.scaled_to)
        item.width, item.height, item.format = picture.width, picture.height, picture.format
        chunk = item.run.chunk
        asks = [self._engine.ask(prompt, picture.width, picture.height, chunk.generation) for prompt in chunk.prompts]
        pixels = self._engine.prepare(picture.image)
        item.decode_ms = (perf_counter() - began_s) * 1000
        self._engine.submit(pixels, asks, item.run.lane, item.settle, item.run.trace)

    @contextmanager
    def _settling(self, item: Item) -> Iterator[None]:
        """Whatever happens to an image, it settles, or comes again; its thread goes on."""
        try:
            yield
        except HouseError as error:
            item.house_waits += 1
            item.run.heard()
            pause_s = min(0.2 * 2**item.house_waits, _LONGEST_HOUSE_PAUSE_S)
            log.warning("waiting", what="storage", error=str(error), pause_s=round(pause_s, 1))
            self._later.put(item, pause_s * random.uniform(0.7, 1.3))
        except ItemError as error:
            self._failed(item, error)
        except BaseException as error:
            # Whatever a picture does to a library is that picture's failure, never this thread's.
            log.exception("an image failed in a way that nothing foresaw", **_names(item))
            item.settle(ItemError(f"{type(error).__name__}: {error}"))

    def _failed(self, item: Item, error: ItemError) -> None:
        item.tries += 1
        again = error.retryable and item.tries < self._retries.tries
        log.info("image failed", code=error.code, error=str(error), tries=item.tries, again=again, **_names(item))
        if again:
            self._later.put(item, self._retries.backoff_s * 2 ** (item.tries - 1) * random.uniform(0.5, 1.5))
        else:
            item.settle(error)


def _decoders() -> int:
    """A core is left to the thread that owns the device: it is what must never wait."""
    return max(1, (os.cpu_count() or 1) - 1)


class _Later:
    """Items that wait for their next try; one thread gives them back when they are due."""

    def __init__(self, start: Callable[[Item], None]) -> None:
        self._start = start
        self._waiting: list[tuple[float, int, Item]] = []
        self._changed = Condition()
        self._order = count()
        Thread(target=self._work, name="intake-later", daemon=True).start()

    def put(self, item: Item, pause_s: float) -> None:
        with self._changed:
            heapq.heappush(self._waiting, (monotonic() + pause_s, next(self._order), item))
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                pause_s = self._waiting[0][0] - monotonic() if self._waiting else None
                if pause_s is None or pause_s > 0:
                    self._changed.wait(pause_s)
                    continue
                _, _, item = heapq.heappop(self._waiting)
            self._start(item)


def _names(item: Item) -> dict[str, object]:
    chunk = item.run.chunk
    return {"job": chunk.job_id, "chunk": chunk.index, "image": item.image.uri}
