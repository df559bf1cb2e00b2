"""When memory is full, what workers do goes on, for it is what frees memory; what producers do is refused."""

from collections.abc import Callable, Iterator

import pytest

from arno_shared.dead_letters import DeadLetters
from arno_shared.errors import HouseError
from arno_shared.ledger import Ledger, Verdict
from arno_shared.names import DELAYED, LIVE, Lane
from arno_shared.redis_client import RedisClient
from tests.shared.ledger.hand import TERMS, begin, bury, chunk_of, open_job, outcome, output_of


@pytest.fixture
def fill(redis: RedisClient) -> Iterator[Callable[[], None]]:
    redis.config_set("maxmemory-policy", "noeviction")
    yield lambda: redis.config_set("maxmemory", 1)
    redis.config_set("maxmemory", 0)


def test_what_workers_do_goes_on(
    fill: Callable[[], None], ledger: Ledger, letters: DeadLetters, redis: RedisClient
) -> None:
    first, second, third, fourth = open_job(ledger, 2, 2, 2, 2)
    silent = chunk_of(1, job_id="silent")
    ledger.expect(silent, Lane.BULK)
    redis.zadd(LIVE, {"silent": 1})
    fill()
    assert begin(ledger, first) is Verdict.GO
    assert ledger.suspect(first, 0, "tag") == 1
    ledger.hand_back(first, "tag", 0)
    assert ledger.commit(first, outcome(first, put_off=1))
    (due,) = ledger.due()
    ledger.sent(due)
    assert redis.zscore(DELAYED, "run-7/0.2") is None
    assert bury(ledger, second)
    assert ledger.commit(third, outcome(third, failed=1, gives_up=True))
    assert len(list(letters.list())) == 2
    redis.config_set("maxmemory", 0)
    ledger.pause("run-7")
    fill()
    assert begin(ledger, fourth) is Verdict.PAUSED
    assert ledger.park(fourth, Lane.BULK)
    assert ledger.abandon() == 1


def test_what_producers_do_is_refused(fill: Callable[[], None], ledger: Ledger) -> None:
    open_job(ledger, 2, sealed=False)
    fill()
    for call in (
        lambda: ledger.open("run-8", TERMS, output_of("run-8"), Lane.BULK),
        lambda: ledger.announce("run-7", 2, 4),
        lambda: ledger.expect(chunk_of(1, job_id="run-9"), Lane.BULK),
    ):
        with pytest.raises(HouseError, match="maxmemory"):
            call()
