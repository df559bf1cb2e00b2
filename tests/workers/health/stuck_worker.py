"""A process that holds a message, and is stuck in one of several ways: `python stuck_worker.py URL WAY STUCK_S`."""

import ctypes
import os
import signal
import socket
import sys
from threading import Event, Thread

from arno_shared.delivery.hands import Hands
from arno_shared.names import queues
from arno_shared.redis_client import connect
from arno_shared.settings import BrokerSettings, Settings
from arno_workers.health.vitals import Phase, Vitals
from arno_workers.health.watchdog import Watchdog

HARMLESS = ("idle", "at work", "draining")


def stuck(url: str, way: str, stuck_s: float) -> None:
    redis = connect(Settings(redis_url=url, broker=BrokerSettings(socket_timeout_s=60)))
    hands = Hands(redis, worker="stuck", key_prefix="", lease_s=600, lease_max_s=900, max_letters=10)
    while hands.claim(queues(1)):
        pass
    silent = way == "consumer"
    vitals = Vitals()
    vitals.phase = Phase.DRAINING if way == "draining" else Phase.WORKING
    vitals.room_chunks = 4
    watchdog = Watchdog(
        vitals,
        hands,
        stuck_s=stuck_s,
        answer_s=0.0,
        room_chunks=4,
        busy_s=_clock() if way == "at work" else lambda: 0.0,
        waiting=lambda: int(silent or way == "draining"),
    )
    if not silent and way not in ("idle", "draining"):
        Thread(target=_hang, args=(vitals,), name="the-device", daemon=True).start()
    if way == "server frozen":
        _freeze(redis)
    watchdog.start()
    if way == "native code":
        # A function of Python's own lets no other thread in while it runs.
        ctypes.PyDLL(None).sleep(600)
    print("started", flush=True)
    if way in HARMLESS:
        # Whoever looks has looked often enough by then.
        Event().wait(5 * stuck_s)
        os._exit(0)
    signal.pause()


def _hang(vitals: Vitals) -> None:
    with vitals.chunk():
        Event().wait()


def _clock():  # type: ignore[no-untyped-def]
    from time import monotonic

    return monotonic


def _freeze(redis) -> None:  # type: ignore[no-untyped-def]
    """From now on whoever connects is heard by nobody."""
    frozen = socket.create_server(("127.0.0.1", 0))
    redis.connection_pool.connection_kwargs["port"] = frozen.getsockname()[1]
    redis.connection_pool.reset()
    redis.frozen = frozen


if __name__ == "__main__":
    stuck(sys.argv[1], sys.argv[2], float(sys.argv[3]))
