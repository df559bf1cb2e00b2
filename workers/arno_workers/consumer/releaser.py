"""Sends the attempts that were put off, when their time has come, and ends the jobs of which nothing was heard for too
long; every worker looks."""

import random
from threading import Event, Thread

from arno_shared.broker import Sender
from arno_shared.delayed import release_due
from arno_shared.errors import HouseError
from arno_shared.ledger import Ledger
from arno_shared.logs import get_logger

log = get_logger(__name__)

_EVERY_S = 1.0
_ABANDON_EVERY_S = 60.0


def keep_releasing(ledger: Ledger, sender: Sender) -> None:
    """Starts the thread, which ends with the process."""
    Thread(target=_release, args=(ledger, sender), name="release-due", daemon=True).start()


def _release(ledger: Ledger, sender: Sender) -> None:
    pause = Event()
    # Hundreds of workers that were started together do not look together.
    while not pause.wait(_EVERY_S * random.uniform(0.5, 1.5)):
        try:
            look(ledger, sender)
        except HouseError as error:
            log.warning("waiting", what="chunks put off", error=str(error))
        except Exception:
            log.exception("a chunk that was put off cannot be sent")


def look(ledger: Ledger, sender: Sender) -> None:
    """Once. Raises HouseError."""
    release_due(ledger, sender)
    if random.random() < _EVERY_S / _ABANDON_EVERY_S and (jobs := ledger.abandon()):
        log.warning("jobs ended incomplete: nothing was heard of them for too long", jobs=jobs)
