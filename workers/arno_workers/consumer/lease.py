"""The lease thread: says again and again that this worker still has what it holds.

Finding: with a visibility timeout alone, work that takes longer is begun anew each time it runs out, and never ends;
while a timeout that is long enough for everything makes a dead worker's messages wait as long. So the lease is short,
and renewed while the worker lives. What nothing is heard of is let go (`Hands.renew`): a thread that hangs for ever
must not keep its chunk for ever.
"""

from threading import Event, Thread

from arno_shared.delivery.hands import Hands
from arno_shared.errors import HouseError
from arno_shared.logs import get_logger

log = get_logger(__name__)

_RENEWALS = 4
"""Tries within one lease: three may fail."""


def keep_leases(hands: Hands, lease_s: float) -> None:
    """Starts the thread. It ends with the process, after whatever may still be in hand."""
    Thread(target=_renew, args=(hands, lease_s / _RENEWALS), name="lease", daemon=True).start()


def _renew(hands: Hands, every_s: float) -> None:
    pause = Event()
    while not pause.wait(every_s):
        try:
            hands.renew()
        except HouseError as error:
            log.warning("waiting", what="Redis, to renew leases", error=str(error))
        except Exception:
            log.exception("leases were not renewed")
