"""A bell wakes one worker for one message, and what it moved is never out of reach."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Event
from time import monotonic

import pytest

from arno_shared.delivery import bell as bell_module
from arno_shared.delivery.bell import Bell
from arno_shared.delivery.hands import Hands
from arno_shared.names import Lane, arrivals, queues
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import BrokerSettings, Settings

QUEUE = Lane.BULK.queue


@pytest.fixture
def redis(valkey_url: str) -> Iterator[RedisClient]:
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


@pytest.fixture
def make_hands(valkey_url: str) -> Iterator[Callable[[], Hands]]:
    """Each with connections of its own, as every worker has."""
    with ExitStack() as connections:

        def make() -> Hands:
            client = connections.enter_context(connect(Settings(redis_url=valkey_url)))
            return Hands(client, worker="w", key_prefix="", lease_s=60, lease_max_s=900, max_letters=10)

        yield make


@pytest.fixture
def hands(make_hands: Callable[[], Hands]) -> Hands:
    return make_hands()


class Ear:
    """A worker that waits for a bell."""

    def __init__(self, hands: Hands) -> None:
        self.rang = 0
        self.bell = Bell(hands, QUEUE, self._hear)

    def _hear(self) -> None:
        self.rang += 1


@pytest.fixture
def make_ear(make_hands: Callable[[], Hands]) -> Iterator[Callable[[], Ear]]:
    made: list[Ear] = []

    def make() -> Ear:
        made.append(Ear(make_hands()))
        return made[-1]

    yield make
    for ear in made:
        ear.bell.close()


@pytest.fixture
def ear(make_ear: Callable[[], Ear], redis: RedisClient) -> Ear:
    """One that is armed, and waits."""
    ear = make_ear()
    ear.bell.arm()
    until_waiting(redis, 1)
    return ear


def eventually(condition: Callable[[], object], what: str) -> None:
    deadline_s = monotonic() + 30
    while not condition():
        assert monotonic() < deadline_s, f"still not: {what}"
        Event().wait(0.01)


def until_waiting(redis: RedisClient, bells: int) -> None:
    eventually(lambda: redis.info("clients")["blocked_clients"] == bells, f"{bells} bells wait")


def lists(redis: RedisClient) -> tuple[list[bytes], list[bytes]]:
    """What waits in the queue, and what has arrived."""
    waiting, arrived = redis.pipeline().lrange(QUEUE, 0, -1).lrange(arrivals(QUEUE), 0, -1).execute()
    return waiting, arrived


@contextmanager
def server_away(redis: RedisClient) -> Iterator[None]:
    """Whoever is connected is cut off, and nobody can connect; but for the client that is given."""
    port = redis.config_get("port")["port"]
    redis.config_set("port", 0)
    try:
        redis.client_kill_filter(skipme=True, _type="normal")
        yield
    finally:
        redis.config_set("port", port)


def test_each_message_wakes_exactly_one_of_three_hundred(make_ear: Callable[[], Ear], redis: RedisClient) -> None:
    ears = [make_ear() for _ in range(300)]
    for ear in ears:
        ear.bell.arm()
    until_waiting(redis, 300)
    for number in range(1, 11):
        redis.lpush(QUEUE, f"m{number}")
        eventually(lambda number=number: sum(ear.rang for ear in ears) == number, "somebody was woken")
        assert redis.info("clients")["blocked_clients"] == 300 - number
    assert max(ear.rang for ear in ears) == 1
    assert lists(redis) == ([], [f"m{number}".encode() for number in range(10, 0, -1)])


def test_as_many_are_woken_at_once_as_messages_come(make_ear: Callable[[], Ear], redis: RedisClient) -> None:
    ears = [make_ear() for _ in range(20)]
    for ear in ears:
        ear.bell.arm()
    until_waiting(redis, 20)
    redis.lpush(QUEUE, *range(15))
    eventually(lambda: sum(ear.rang for ear in ears) == 15, "15 were woken")
    until_waiting(redis, 5)
    assert max(ear.rang for ear in ears) == 1


def test_a_message_that_is_there_already_rings(make_ear: Callable[[], Ear], redis: RedisClient) -> None:
    redis.lpush(QUEUE, "m")
    ear = make_ear()
    ear.bell.arm()
    eventually(lambda: ear.rang == 1, "it rang")


def test_a_bell_that_was_never_armed_moves_nothing(make_ear: Callable[[], Ear], ear: Ear, redis: RedisClient) -> None:
    unarmed = make_ear()
    redis.lpush(QUEUE, "m")
    eventually(lambda: ear.rang, "the armed one rang")
    redis.lpush(QUEUE, "n")
    until_waiting(redis, 0)
    assert (unarmed.rang, lists(redis)) == (0, ([b"n"], [b"m"]))


def test_what_a_woken_worker_never_claims_is_claimed_by_others(ear: Ear, redis: RedisClient) -> None:
    redis.lpush(QUEUE, '{"properties": {"delivery_tag": "t"}}')
    eventually(lambda: ear.rang, "it rang")
    other = Hands(redis, worker="other", key_prefix="", lease_s=60, lease_max_s=900, max_letters=10)
    claimed = other.claim(queues(1))
    assert claimed
    assert claimed.queue == QUEUE


def test_arrivals_are_claimed_in_the_order_in_which_they_came(ear: Ear, redis: RedisClient, hands: Hands) -> None:
    for number in range(3):
        redis.lpush(QUEUE, f'{{"n": {number}, "properties": {{"delivery_tag": "t"}}}}')
        eventually(lambda number=number: ear.rang == number + 1, "it rang")
        ear.bell.arm()
    raws = [claimed.raw for _ in range(3) if (claimed := hands.claim(queues(1)))]
    assert [raw[6:7] for raw in raws] == [b"0", b"1", b"2"]


def test_a_bell_rings_again_once_it_is_armed_again(ear: Ear, redis: RedisClient) -> None:
    redis.lpush(QUEUE, "a")
    eventually(lambda: ear.rang == 1, "it rang")
    until_waiting(redis, 0)
    redis.lpush(QUEUE, "b")
    assert lists(redis)[0] == [b"b"]
    ear.bell.arm()
    eventually(lambda: ear.rang == 2, "it rang again")


def test_a_muffled_bell_passes_on_what_comes(ear: Ear, make_ear: Callable[[], Ear], redis: RedisClient) -> None:
    ear.bell.muffle()
    redis.lpush(QUEUE, "m")
    until_waiting(redis, 0)
    eventually(lambda: lists(redis) == ([b"m"], []), "it was given away")
    other = make_ear()
    other.bell.arm()
    eventually(lambda: other.rang == 1, "the other rang")
    assert ear.rang == 0


def test_a_bell_that_rang_passes_on_when_it_is_muffled(ear: Ear, redis: RedisClient) -> None:
    redis.lpush(QUEUE, "m")
    eventually(lambda: ear.rang, "it rang")
    ear.bell.muffle()
    assert lists(redis) == ([b"m"], [])
    redis.lpush(arrivals(QUEUE), "somebody else's")
    ear.bell.muffle()
    assert lists(redis) == ([b"m"], [b"somebody else's"])


def test_what_is_passed_on_comes_before_what_came_later(ear: Ear, redis: RedisClient) -> None:
    redis.lpush(QUEUE, "first")
    eventually(lambda: ear.rang, "it rang")
    redis.lpush(QUEUE, "second")
    ear.bell.muffle()
    assert lists(redis)[0] == [b"second", b"first"]


def test_a_muffled_bell_may_be_armed_again(ear: Ear, redis: RedisClient) -> None:
    ear.bell.muffle()
    ear.bell.arm()
    redis.lpush(QUEUE, "m")
    eventually(lambda: ear.rang == 1, "it rang")


def test_a_closed_bell_takes_nothing_that_comes_later(
    valkey_url: str, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Longer than the test waits: a bell that was not cut off would be seen to listen on.
    monkeypatch.setattr(bell_module, "WAIT_S", 200)
    with connect(Settings(redis_url=valkey_url, broker=BrokerSettings(socket_timeout_s=400))) as client:
        ear = Ear(Hands(client, worker="w", key_prefix="", lease_s=60, lease_max_s=900, max_letters=10))
        ear.bell.arm()
        until_waiting(redis, 1)
        ear.bell.close()
        until_waiting(redis, 0)
        redis.lpush(QUEUE, "m")
        ear.bell.arm()
        assert lists(redis) == ([b"m"], [])
        assert ear.rang == 0


def test_a_bell_may_be_closed_before_it_was_armed_and_twice(make_ear: Callable[[], Ear], redis: RedisClient) -> None:
    bell = make_ear().bell
    bell.close()
    bell.close()
    redis.lpush(QUEUE, "m")
    bell.arm()
    assert lists(redis) == ([b"m"], [])


def test_a_bell_rings_when_the_server_has_been_away(ear: Ear, redis: RedisClient) -> None:
    with server_away(redis):
        redis.lpush(QUEUE, "m")
        assert lists(redis) == ([b"m"], [])
    eventually(lambda: ear.rang == 1, "it rang")


def test_muffling_and_closing_are_possible_while_the_server_is_away(ear: Ear, redis: RedisClient) -> None:
    redis.lpush(QUEUE, "m")
    eventually(lambda: ear.rang, "it rang")
    with server_away(redis):
        ear.bell.muffle()
        ear.bell.close()
    assert lists(redis) == ([], [b"m"])


def test_a_bell_listens_at_the_queue_with_its_prefix(valkey_url: str, redis: RedisClient) -> None:
    with connect(Settings(redis_url=valkey_url, key_prefix="p:")) as client:
        ear = Ear(Hands(client, worker="w", key_prefix="p:", lease_s=60, lease_max_s=900, max_letters=10))
        ear.bell.arm()
        until_waiting(redis, 1)
        redis.lpush(QUEUE, "another's")
        redis.lpush(f"p:{QUEUE}", "m")
        eventually(lambda: ear.rang == 1, "it rang")
        assert redis.lrange(f"p:{arrivals(QUEUE)}", 0, -1) == [b"m"]
        ear.bell.muffle()
        assert redis.lrange(f"p:{QUEUE}", 0, -1) == [b"m"]
        assert redis.lrange(QUEUE, 0, -1) == [b"another's"]
        ear.bell.close()


@pytest.mark.parametrize("mishap", ["unblocked with an error", "a list of another type"])
def test_a_bell_outlives_whatever_the_server_answers(mishap: str, ear: Ear, redis: RedisClient) -> None:
    if mishap == "unblocked with an error":
        # So is whoever waits when a master becomes a replica.
        (waiting,) = (client for client in redis.client_list() if "b" in client["flags"])
        redis.client_unblock(int(waiting["id"]), error=True)
    else:
        redis.set(arrivals(QUEUE), "of another type")
        redis.lpush(QUEUE, "m")
        until_waiting(redis, 0)
        redis.delete(arrivals(QUEUE), QUEUE)
    until_waiting(redis, 1)
    redis.lpush(QUEUE, "m")
    eventually(lambda: ear.rang == 1, "it rang")
