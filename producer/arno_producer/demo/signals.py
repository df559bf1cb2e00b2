"""Signals that ask for the end: raised while there is something to interrupt, ignored while cleaning up."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(KeyboardInterrupt):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def ignored() -> Iterator[Sequence[int]]:
    """The outermost scope, so that impatience cannot interrupt the cleaning up.

    Yields the signals to heed: not those that were ignored before, as `nohup` does.
    """
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _ENDING}
    try:
        yield [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def raised(heeded: Sequence[int]) -> Iterator[None]:
    """Inside `ignored`: the first of these signals raises Ended here."""

    def end(number: int, _: FrameType | None) -> None:
        ignore()
        raise Ended(number)

    def ignore() -> None:
        for number in heeded:
            signal.signal(number, signal.SIG_IGN)

    for number in heeded:
        signal.signal(number, end)
    try:
        yield
    finally:
        ignore()
