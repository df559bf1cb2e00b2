"""A worker that dies when it is about to commit a chunk, whose result object is written."""

import os
import signal

from arno_shared.ledger import Ledger
from arno_workers import cli


def _die(*_: object) -> bool:
    os.kill(os.getpid(), signal.SIGKILL)
    return False


if __name__ == "__main__":
    Ledger.commit = _die  # type: ignore[method-assign]
    cli.main()
