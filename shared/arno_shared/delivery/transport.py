"""The transports that Celery is given: kombu's own for Redis, but for how a message is taken, held and given back."""

from typing import Any

from kombu.transport import redis as kombu_redis

from arno_shared.delivery.channel import Channel, SentinelChannel


class _Transport(kombu_redis.Transport):
    loop: Any = None
    """Celery's event loop, in a worker."""

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        self.loop = loop
        super().register_with_event_loop(connection, loop)  # type: ignore[no-untyped-call]


class Transport(_Transport):
    Channel = Channel


class SentinelTransport(_Transport):
    """The transport option `sentinels` lists them: given as one URL, kombu would fall back to its own transport when it
    turns from one to the next."""

    Channel = SentinelChannel
    default_port = 26379  # type: ignore[assignment]

    def __init__(self, client: Any, **kwargs: Any) -> None:
        client.alt = [f"sentinel://{host}" for host in client.transport_options["sentinels"]]
        super().__init__(client, **kwargs)  # type: ignore[no-untyped-call]
