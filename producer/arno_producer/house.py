"""What a producer works with: the house, which may be away."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from arno_producer.patience import until_back
from arno_shared.broker import Sender
from arno_shared.ledger import Ledger
from arno_shared.redis_client import RedisClient
from arno_shared.settings import Settings
from arno_shared.storage import ObjectStore

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class House:
    settings: Settings
    redis: RedisClient
    store: ObjectStore
    ledger: Ledger
    sender: Sender

    def until_back(self, call: Callable[[], T]) -> T:
        """What `call` returns, waited for as long as the producer's patience lasts; see `patience.until_back`."""
        return until_back(call, self.settings.producer.patience_s)
