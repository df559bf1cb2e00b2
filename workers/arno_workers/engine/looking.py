"""When the vision tower looks at pictures: before anything else is done, or beside the steps on a stream of its own."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from arno_workers.engine.scheduler import Picture


class Looking(Protocol):
    ahead: bool
    """It is heard of later what has been seen."""

    def at(self, pictures: Sequence[Picture]) -> Any:
        """A context in which they get their features."""
        ...

    def done(self, *, wait: bool) -> list[Picture]:
        """Those that have been seen since it was asked last. With `wait`, at least one batch if there is any."""
        ...

    def forget(self) -> None: ...


class First:
    """What comes after it finds the features there: one stream does everything in order."""

    ahead = False

    @contextmanager
    def at(self, pictures: Sequence[Picture]) -> Iterator[None]:
        yield

    def done(self, *, wait: bool) -> list[Picture]:
        return []

    def forget(self) -> None:
        """Nothing is under way."""


class Beside:
    ahead = True

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        # The model is still being made ready there.
        self._stream.wait_stream(torch.cuda.current_stream())
        self._under_way: deque[tuple[Sequence[Picture], Any]] = deque()

    @contextmanager
    def at(self, pictures: Sequence[Picture]) -> Iterator[None]:
        main, seen = torch.cuda.current_stream(), torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._stream):
            yield
            seen.record()
        for picture in pictures:
            # Its memory is not given to others before the main stream has read it.
            picture.features.record_stream(main)
        self._under_way.append((pictures, seen))

    def done(self, *, wait: bool) -> list[Picture]:
        found: list[Picture] = []
        while self._under_way:
            pictures, seen = self._under_way[0]
            if wait and not found:
                seen.synchronize()
            elif not seen.query():
                break
            torch.cuda.current_stream().wait_event(seen)
            found += pictures
            self._under_way.popleft()
        return found

    def forget(self) -> None:
        if self._under_way:
            self._stream.synchronize()
        self._under_way.clear()
