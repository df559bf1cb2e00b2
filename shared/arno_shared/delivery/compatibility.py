"""Looks whether the installed kombu is one that the transport was written for.

Finding: what it overrides is not kombu's public interface, and moves without notice. A worker that quietly ran with
half of it would lose messages, so it does not start.
"""

import inspect

import kombu
from kombu.transport import redis as kombu_redis
from kombu.transport import virtual

from arno_shared.errors import IncompatibleKombu

KNOWN = (5, 7)
"""The kombu, major and minor, that the transport was tested with."""

_OVERRIDDEN: dict[type, dict[str, tuple[str, ...]]] = {
    kombu_redis.Channel: {
        "_brpop_start": ("self", "timeout"),
        "_basic_cancel": ("self", "consumer_tag"),
        "_queue_bind": ("self", "exchange", "routing_key", "pattern", "queue"),
        "_size": ("self", "queue"),
        "_put": ("self", "queue", "message", "kwargs"),
        "close": ("self",),
    },
    kombu_redis.MultiChannelPoller: {"_register_BRPOP": ("self", "channel"), "maybe_restore_messages": ("self",)},
    kombu_redis.Transport: {"register_with_event_loop": ("self", "connection", "loop")},
    virtual.QoS: {
        "can_consume": ("self",),
        "append": ("self", "message", "delivery_tag"),
        "ack": ("self", "delivery_tag"),
        "reject": ("self", "delivery_tag", "requeue"),
        "restore_unacked_once": ("self", "stderr"),
    },
    virtual.Transport: {"_deliver": ("self", "message", "queue")},
}


def check_kombu() -> None:
    """Raises IncompatibleKombu, which says what to install."""
    if kombu.VERSION[:2] != KNOWN:
        raise _incompatible("it is not a version that Arno's transport was tested with")
    for owner, methods in _OVERRIDDEN.items():
        for name, parameters in methods.items():
            method = getattr(owner, name, None)
            if method is None or tuple(inspect.signature(method).parameters) != parameters:
                raise _incompatible(f"{owner.__name__}.{name} is not as Arno's transport knows it")


def _incompatible(what: str) -> IncompatibleKombu:
    major, minor = KNOWN
    return IncompatibleKombu(
        f"kombu {kombu.__version__} is installed, and {what}: pip install 'kombu>={major}.{minor},<{major}.{minor + 1}'"
    )
