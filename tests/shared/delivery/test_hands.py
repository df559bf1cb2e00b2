"""A message is in its list or in somebody's hands at every moment, whatever happens to those who hold it."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

import pytest
from kombu import Connection

from arno_shared.dead_letters import DeadLetter, DeadLetters, LetterKind
from arno_shared.delivery import hands as hands_module
from arno_shared.delivery.hands import Hands
from arno_shared.errors import HouseError, RedisRefused
from arno_shared.names import (
    DEAD_LETTERS,
    REMOTE_CONTROL,
    REMOTE_CONTROL_ANSWERS,
    UNACKED,
    UNACKED_INDEX,
    WORKERS,
    Lane,
    arrivals,
    queues,
)
from arno_shared.redis_client import RedisClient, connect
from arno_shared.settings import Settings

QUEUES = queues(1)
BULK, INTERACTIVE = Lane.BULK.queue, Lane.INTERACTIVE.queue
LEASE_S = 60

MakeHands = Callable[..., Hands]


@pytest.fixture
def redis(valkey_url: str) -> Iterator[RedisClient]:
    with connect(Settings(redis_url=valkey_url)) as client:
        yield client


@pytest.fixture
def make_hands(redis: RedisClient) -> MakeHands:
    def make(worker: str = "w1", *, client: RedisClient | None = None, lease_max_s: float = 900) -> Hands:
        return Hands(
            client or redis, worker=worker, key_prefix="", lease_s=LEASE_S, lease_max_s=lease_max_s, max_letters=1000
        )

    return make


@pytest.fixture
def hands(make_hands: MakeHands) -> Hands:
    return make_hands()


@pytest.fixture
def other(make_hands: MakeHands) -> Hands:
    return make_hands("w2")


def message(name: str, tag: str | None = None) -> bytes:
    """As kombu lays one out, as far as a claim looks at it."""
    return json.dumps({"body": name, "headers": {}, "properties": {"delivery_tag": tag or f"tag-of-{name}"}}).encode()


def send(redis: RedisClient, *names: str, queue: str = BULK) -> None:
    for name in names:
        redis.lpush(queue, message(name))


def claimed_name(hands: Hands) -> str | None:
    claimed = hands.claim(QUEUES)
    return json.loads(claimed.raw)["body"] if claimed else None


def take(hands: Hands) -> str:
    """Claims a message; its tag."""
    claimed = hands.claim(QUEUES)
    assert claimed
    return claimed.tag


def let_the_lease_run_out(redis: RedisClient, *tags: str) -> None:
    seconds, _ = redis.time()
    for tag in tags:
        redis.zadd(UNACKED_INDEX, {tag: seconds - LEASE_S - 1})


def everything(redis: RedisClient) -> list[str]:
    """The names of all messages, those that wait and those that are held, at one moment."""
    pipeline = redis.pipeline()
    for queue in QUEUES:
        pipeline.lrange(queue, 0, -1).lrange(arrivals(queue), 0, -1)
    *lists, held = pipeline.hvals(UNACKED).execute()
    waiting = [json.loads(raw)["body"] for entries in lists for raw in entries]
    return waiting + [json.loads(record)[0]["body"] for record in held]


@contextmanager
def full_memory(redis: RedisClient) -> Iterator[None]:
    redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(HouseError), hands_module.redis_away():
            redis.set("anything", "more")
        yield
    finally:
        redis.config_set("maxmemory", 0)


# The order of claims


def test_interactive_is_claimed_before_bulk_and_older_before_newer(hands: Hands, redis: RedisClient) -> None:
    send(redis, "b1", "b2")
    send(redis, "i1", "i2", queue=INTERACTIVE)
    assert [claimed_name(hands) for _ in range(5)] == ["i1", "i2", "b1", "b2", None]


def test_arrivals_are_claimed_before_what_waits_in_their_queue(hands: Hands, redis: RedisClient) -> None:
    send(redis, "b2")
    send(redis, "b1", queue=arrivals(BULK))
    send(redis, "i2", queue=INTERACTIVE)
    send(redis, "i1", queue=arrivals(INTERACTIVE))
    assert [claimed_name(hands) for _ in range(4)] == ["i1", "i2", "b1", "b2"]


def test_what_was_claimed_from_arrivals_belongs_to_its_queue(hands: Hands, redis: RedisClient) -> None:
    send(redis, "m", queue=arrivals(BULK))
    claimed = hands.claim(QUEUES)
    assert claimed
    assert claimed.queue == BULK
    hands.give_back([claimed.tag])
    assert (redis.llen(BULK), redis.llen(arrivals(BULK))) == (1, 0)


def test_a_claim_says_what_came_and_holds_it_under_a_lease(hands: Hands, redis: RedisClient) -> None:
    send(redis, "m")
    claimed = hands.claim(QUEUES)
    assert claimed
    assert (claimed.queue, claimed.raw) == (BULK, message("m"))
    assert (hands.held, hands.not_begun, len(hands), hands.claims) == ([claimed.tag], [claimed.tag], 1, 1)
    assert redis.hkeys(UNACKED) == redis.zrange(UNACKED_INDEX, 0, -1) == [claimed.tag.encode()]
    assert not redis.exists(BULK)


def test_every_answer_is_told_of_be_it_that_there_is_nothing(hands: Hands, redis: RedisClient) -> None:
    told: list[int] = []
    hands.on_answer = lambda: told.append(1)
    hands.claim(QUEUES)
    send(redis, "m")
    hands.claim(QUEUES)
    assert len(told) == 2
    assert hands.claims == 1


# Nothing is lost, nothing is twice


def test_a_message_is_somewhere_at_every_moment_though_connections_are_cut(
    make_hands: MakeHands, redis: RedisClient, valkey_url: str
) -> None:
    names = [f"m{number}" for number in range(200)]
    send(redis, *names)
    over = Event()
    claimed: list[str] = []
    cuts: list[str] = []

    def claim_all() -> None:
        with connect(Settings(redis_url=valkey_url)) as own:
            hands = make_hands(client=own)
            while redis.llen(BULK):
                with suppress(HouseError):
                    if name := claimed_name(hands):
                        claimed.append(name)
        over.set()

    def cut() -> None:
        with connect(Settings(redis_url=valkey_url)) as own:
            while len(cuts) < 50 and not over.is_set():
                for client in own.client_list(_type="normal"):
                    if client["cmd"].startswith("evalsha") and own.client_kill_filter(_id=client["id"]):
                        cuts.append(client["id"])

    threads = [Thread(target=claim_all), Thread(target=cut)]
    for thread in threads:
        thread.start()
    while not over.is_set():
        assert Counter(everything(redis)) == Counter(names)
    for thread in threads:
        thread.join()
    assert Counter(everything(redis)) == Counter(names)
    assert max(Counter(claimed).values()) == 1
    assert cuts


def test_two_claims_never_give_the_same_message(make_hands: MakeHands, redis: RedisClient) -> None:
    names = [f"m{number}" for number in range(400)]
    send(redis, *names)
    claimed: list[tuple[str, str]] = []

    def claim_all(hands: Hands) -> None:
        while it := hands.claim(QUEUES):
            claimed.append((it.tag, json.loads(it.raw)["body"]))

    shared = make_hands("shared")
    threads = [Thread(target=claim_all, args=(hands,)) for hands in (shared, shared, make_hands("a"), make_hands("b"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tags, claimed_names = zip(*claimed, strict=True)
    assert sorted(claimed_names) == sorted(names)
    assert len(set(tags)) == 400


@pytest.mark.parametrize("key", [UNACKED, UNACKED_INDEX])
def test_a_claim_that_fails_in_the_middle_leaves_the_message_where_it_was(
    key: str, hands: Hands, redis: RedisClient
) -> None:
    send(redis, "m")
    redis.set(key, "of another type")
    with pytest.raises(RedisRefused, match="WRONGTYPE"):
        hands.claim(QUEUES)
    assert redis.lrange(BULK, 0, -1) == [message("m")]
    assert not hands.held


def test_what_cannot_be_buried_stays_in_its_list(hands: Hands, redis: RedisClient) -> None:
    redis.lpush(BULK, "no message")
    redis.set(DEAD_LETTERS, "of another type")
    with pytest.raises(RedisRefused, match="WRONGTYPE"):
        hands.claim(QUEUES)
    assert redis.lrange(BULK, 0, -1) == [b"no message"]


def test_messages_with_the_same_tag_are_held_apart(hands: Hands, other: Hands, redis: RedisClient) -> None:
    for name in ("a", "b", "c"):
        redis.lpush(BULK, message(name, tag="same"))
    first, second, third = take(hands), take(hands), take(other)
    assert sorted(everything(redis)) == ["a", "b", "c"]
    hands.ack(first)
    other.give_back([third])
    hands.ack(second)
    assert everything(redis) == ["c"]


@pytest.mark.parametrize("tag", ["ä", "a b", "\x00", "\n", '"', "\\", "']", "x" * 100_000, '", "", "else'])
def test_a_message_with_an_odd_tag_is_done_as_any_other(tag: str, hands: Hands, redis: RedisClient) -> None:
    raw = message("odd", tag=tag)
    redis.lpush(BULK, raw)
    hands.give_back([take(hands)])
    assert redis.lrange(BULK, 0, -1) == [raw]
    hands.ack(take(hands))
    assert not redis.keys()


def test_a_worker_that_was_thought_dead_cannot_acknowledge_what_another_holds(
    hands: Hands, other: Hands, redis: RedisClient
) -> None:
    send(redis, "m")
    before = take(hands)
    let_the_lease_run_out(redis, before)
    assert other.sweep() == 1
    again = take(other)
    hands.ack(before)
    assert everything(redis) == ["m"]
    assert other.renew() == 1
    other.ack(again)
    assert not redis.keys()


def test_an_acknowledgement_after_giving_back_takes_the_message_from_nobody(
    hands: Hands, other: Hands, redis: RedisClient
) -> None:
    """Celery acknowledges whatever its task was: also what the task has given back."""
    send(redis, "m")
    tag = take(hands)
    hands.give_back([tag])
    take(other)
    hands.ack(tag)
    assert other.renew() == 1
    assert everything(redis) == ["m"]


def test_what_is_given_back_twice_is_there_once(hands: Hands, other: Hands, redis: RedisClient) -> None:
    send(redis, "m")
    tag = take(hands)
    assert hands.give_back([tag]) == 1
    take(other)
    assert hands.give_back([tag]) == 0
    assert everything(redis) == ["m"]
    assert not redis.llen(BULK)


def test_what_was_acknowledged_is_nowhere(hands: Hands, redis: RedisClient) -> None:
    send(redis, "m")
    hands.ack(take(hands))
    assert not redis.keys()
    assert not hands.held


def test_an_acknowledgement_that_fails_returns_the_credit_and_not_the_message(
    make_hands: MakeHands, redis: RedisClient, valkey_url: str
) -> None:
    with connect(Settings(redis_url=valkey_url)) as own:
        hands = make_hands(client=own)
        send(redis, "m")
        tag = take(hands)
        own.connection_pool.connection_kwargs["port"] = 1
        own.connection_pool.disconnect()
        own.connection_pool.reset()
        with pytest.raises(HouseError):
            hands.ack(tag)
    assert len(hands) == 0
    assert everything(redis) == ["m"]


# What is no message

JUNK = {
    "not JSON": b"not json at all",
    "half of JSON": b'{"properties": {"delivery_tag": "x"',
    "a list": b"[1, 2]",
    "null": b"null",
    "a number": b"17",
    "a string": b'"text"',
    "no properties": b'{"body": "x"}',
    "properties that are a list": b'{"properties": ["delivery_tag"]}',
    "properties that are null": b'{"properties": null}',
    "no tag": b'{"properties": {}}',
    "a tag that is a number": b'{"properties": {"delivery_tag": 7}}',
    "a tag that is null": b'{"properties": {"delivery_tag": null}}',
    "an empty tag": b'{"properties": {"delivery_tag": ""}}',
    "invalid UTF-8": b"\xff\xfe\x80",
    "NUL": b"\x00\x01\x7f",
    "nothing": b"",
    "half of a surrogate pair": rb'{"body": "\ud83d", "properties": {"delivery_tag": "x"}}',
    "nested too deep": b"[" * 100_000,
    "quotes and escapes": b'"\\"\r\n\t',
    "a megabyte": bytes(range(256)) * 4096,
}


@pytest.mark.parametrize("junk", JUNK)
def test_what_is_no_message_is_a_dead_letter_and_the_next_one_is_claimed(
    junk: str, hands: Hands, redis: RedisClient
) -> None:
    redis.lpush(INTERACTIVE, JUNK[junk])
    send(redis, "good", queue=INTERACTIVE)
    assert claimed_name(hands) == "good"
    (filed,) = DeadLetters(redis, 10).list(code="undecodable")
    letter = filed.letter
    assert (letter.kind, letter.lane, letter.worker) == (LetterKind.MESSAGE, Lane.INTERACTIVE, "w1")
    if JUNK[junk].isascii() and not JUNK[junk].startswith(b"\x00"):
        assert letter.raw.encode() == JUNK[junk]
    seconds, _ = redis.time()
    assert abs(letter.at.timestamp() - seconds) < 60
    assert len(hands) == 1


def test_bytes_that_are_no_text_are_escaped_in_the_letter(hands: Hands, redis: RedisClient) -> None:
    redis.lpush(BULK, b"\x00 \xc3\xa4 \xff\x7f")
    assert hands.claim(QUEUES) is None
    (filed,) = DeadLetters(redis, 10).list()
    assert filed.letter.raw == r"\x00 \xc3\xa4 \xff\x7f"


def test_junk_is_filed_from_wherever_it_lies(hands: Hands, redis: RedisClient) -> None:
    lists = [name for queue in QUEUES for name in (queue, arrivals(queue))]
    for name in lists:
        redis.lpush(name, *JUNK.values())
    assert hands.claim(QUEUES) is None
    letters = [filed.letter for filed in DeadLetters(redis, 1000).list()]
    assert Counter(letter.lane for letter in letters) == dict.fromkeys(Lane, 2 * len(JUNK))
    assert redis.keys() == [DEAD_LETTERS.encode()]


def test_junk_in_any_number_is_filed_in_one_call_and_many_steps(hands: Hands, redis: RedisClient) -> None:
    answers: list[int] = []
    hands.on_answer = lambda: answers.append(1)
    redis.rpush(BULK, *[f"junk {number}" for number in range(2500)])
    send(redis, "good")
    assert claimed_name(hands) == "good"
    assert len(answers) == 3
    assert redis.llen(BULK) == 0


# Giving back

ODD_MESSAGES = {
    "unicode": '{"body": "ä€😀\\u00e4\\ud83d\\ude00", "properties": {"delivery_tag": "t"}}',
    "empty lists and objects": '{"a": [], "b": {}, "c": [[], {}], "properties": {"delivery_tag": "t", "x": []}}',
    "large numbers": '{"a": 12345678901234567890, "b": -9007199254740993, "properties": {"delivery_tag": "t"}}',
    "floats": '{"a": 1.0, "b": 0.1, "c": 1e400, "d": 1E-7, "e": -0.0, "properties": {"delivery_tag": "t"}}',
    "spaces and new lines": ' {\n"properties" :\t{ "delivery_tag":"t" } } \n',
    "what looks like the end of a record": '{"a": "\\", \\"\\", \\"q\\"]", "b": ["x", "", "y"], '
    '"properties": {"delivery_tag": "t"}}',
    "keys given twice": '{"a": 1, "a": 2, "properties": {"delivery_tag": "t"}}',
    "null": '{"a": null, "b": [null], "properties": {"delivery_tag": "t", "reply_to": null}}',
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("odd", ODD_MESSAGES)
def test_a_message_is_given_back_byte_for_byte(odd: str, last: bool, hands: Hands, redis: RedisClient) -> None:
    raw = ODD_MESSAGES[odd].encode()
    redis.lpush(BULK, raw)
    assert hands.give_back([take(hands)], last=last) == 1
    assert redis.lrange(BULK, 0, -1) == [raw]


def test_what_is_given_back_is_claimed_next_or_last(hands: Hands, redis: RedisClient) -> None:
    send(redis, "a", "b", "c")
    first, second = take(hands), take(hands)
    hands.give_back([first], last=True)
    hands.give_back([second])
    assert [claimed_name(hands) for _ in range(3)] == ["b", "c", "a"]


def test_several_are_given_back_at_once(hands: Hands, redis: RedisClient) -> None:
    send(redis, "a", "b", "c")
    tags = [take(hands) for _ in range(3)]
    assert hands.give_back([*tags, "never-held"]) == 3
    assert sorted(everything(redis)) == ["a", "b", "c"]
    assert (redis.llen(BULK), redis.exists(UNACKED, UNACKED_INDEX), hands.held) == (3, 0, [])


def test_giving_nothing_back_is_nothing(hands: Hands) -> None:
    assert hands.give_back([]) == 0


def test_a_message_can_be_given_to_another_queue(hands: Hands, redis: RedisClient) -> None:
    send(redis, "m")
    hands.give_back([take(hands)], queue="arno.bulk.v2")
    assert redis.lrange("arno.bulk.v2", 0, -1) == [message("m")]
    assert redis.keys() == [b"arno.bulk.v2"]


def test_a_message_goes_back_to_the_queue_it_came_from(hands: Hands, redis: RedisClient) -> None:
    send(redis, "b")
    send(redis, "i", queue=INTERACTIVE)
    hands.give_back([take(hands), take(hands)])
    assert (redis.llen(BULK), redis.llen(INTERACTIVE)) == (1, 1)


@pytest.mark.parametrize("queue", ["a/b", "a\\b", "ä", "a b"])
def test_queues_may_have_odd_names(queue: str, hands: Hands, redis: RedisClient) -> None:
    redis.lpush(queue, message("m"))
    claimed = hands.claim([queue])
    assert claimed
    assert hands.give_back([claimed.tag]) == 1
    assert redis.lrange(queue, 0, -1) == [message("m")]


def test_a_buried_message_is_a_letter_and_in_nobodys_hands(hands: Hands, redis: RedisClient) -> None:
    send(redis, "m")
    letter = DeadLetter(kind=LetterKind.MESSAGE, code="undecodable", reason="ä", raw="m", worker="w1")
    hands.bury(take(hands), letter)
    assert [filed.letter for filed in DeadLetters(redis, 10).list()] == [letter]
    assert redis.keys() == [DEAD_LETTERS.encode()]
    assert not hands.held


def test_a_message_is_buried_by_whoever_has_it(hands: Hands, other: Hands, redis: RedisClient) -> None:
    send(redis, "m")
    letter = DeadLetter(kind=LetterKind.MESSAGE, code="undecodable", reason="-", raw="m", worker="w1")
    before = take(hands)
    let_the_lease_run_out(redis, before)
    other.sweep()
    again = take(other)
    for held_by, tag in ((hands, before), (other, again), (other, again)):
        held_by.bury(tag, letter)
    assert len(list(DeadLetters(redis, 10).list())) == 1
    assert redis.keys() == [DEAD_LETTERS.encode()]


def test_a_message_that_woke_a_worker_without_room_is_passed_on(hands: Hands, redis: RedisClient) -> None:
    send(redis, "b", "c")
    send(redis, "a", queue=arrivals(BULK))
    hands.pass_on(BULK)
    hands.pass_on(BULK)
    assert [claimed_name(hands) for _ in range(3)] == ["a", "b", "c"]


# Messages that stock kombu recorded


@pytest.fixture
def recorded_by_kombu(valkey_url: str, redis: RedisClient) -> Iterator[str]:
    """The tag of a message that stock kombu took, and has not acknowledged."""
    with Connection(valkey_url) as connection:
        queue = connection.SimpleQueue(BULK)
        queue.put({"text": "ä", "number": 1.5, "list": []})
        queue.get()
        (tag,) = redis.hkeys(UNACKED)
        assert not redis.llen(BULK)
        yield tag.decode()


def body_in(redis: RedisClient, queue: str) -> Any:
    """The body of the only message in the queue, as kombu reads it."""
    (raw,) = redis.lrange(queue, 0, -1)
    with Connection("memory://") as connection:
        return connection.channel().message_to_python(json.loads(raw)).payload


def test_what_stock_kombu_held_is_swept(recorded_by_kombu: str, hands: Hands, redis: RedisClient) -> None:
    assert hands.sweep() == 0
    let_the_lease_run_out(redis, recorded_by_kombu)
    assert hands.sweep() == 1
    assert body_in(redis, BULK) == {"text": "ä", "number": 1.5, "list": []}
    assert not redis.exists(UNACKED, UNACKED_INDEX)


def test_what_stock_kombu_held_is_given_back(recorded_by_kombu: str, hands: Hands, redis: RedisClient) -> None:
    assert hands.give_back([recorded_by_kombu]) == 1
    assert body_in(redis, BULK) == {"text": "ä", "number": 1.5, "list": []}


def test_stock_kombu_restores_what_was_in_hand(hands: Hands, redis: RedisClient, valkey_url: str) -> None:
    with Connection(valkey_url) as connection:
        connection.SimpleQueue(BULK).put("for either")
        take(hands)
        channel = connection.channel()
        channel.qos.restore_by_tag(hands.held[0])
    assert body_in(redis, BULK) == "for either"


# Leases


def test_only_leases_that_have_run_out_are_swept(hands: Hands, other: Hands, redis: RedisClient) -> None:
    send(redis, "a", "b", "c")
    late, renewed, fresh = take(hands), take(hands), take(hands)
    let_the_lease_run_out(redis, late, renewed)
    other._held.update(hands._held)
    assert redis.zrem(UNACKED_INDEX, late)
    assert hands.renew() == 2
    let_the_lease_run_out(redis, late)
    assert other.sweep() == 1
    assert redis.lrange(BULK, 0, -1) == [message("a")]
    assert sorted(redis.hkeys(UNACKED)) == sorted([renewed.encode(), fresh.encode()])


def test_a_lease_is_not_swept_before_its_end(hands: Hands, other: Hands, redis: RedisClient) -> None:
    send(redis, "almost", "over")
    almost, over = take(hands), take(hands)
    seconds, _ = redis.time()
    # The test would have to take that long to be wrong.
    redis.zadd(UNACKED_INDEX, {almost: seconds - LEASE_S + 20, over: seconds - LEASE_S - 1})
    assert other.sweep() == 1
    assert redis.lrange(BULK, 0, -1) == [message("over")]
    assert redis.hkeys(UNACKED) == [almost.encode()]


@pytest.mark.parametrize("ahead_s", [1.5, 60, 3600, 1e9])
def test_a_lease_that_a_clock_ahead_has_given_lasts_from_now_on(
    ahead_s: float, hands: Hands, other: Hands, redis: RedisClient
) -> None:
    """After a fail-over to a server whose clock is behind."""
    send(redis, "dead", "alive")
    dead, alive = take(hands), take(other)
    seconds, _ = redis.time()
    redis.zadd(UNACKED_INDEX, dict.fromkeys((dead, alive), seconds + ahead_s))
    assert other.sweep() == 0
    now, _ = redis.time()
    assert {tag: abs(redis.zscore(UNACKED_INDEX, tag) - now) < 20 for tag in (dead, alive)} == {dead: True, alive: True}
    let_the_lease_run_out(redis, dead, alive)
    other.renew()
    assert other.sweep() == 1
    assert redis.lrange(BULK, 0, -1) == [message("dead")]


def test_many_leases_of_a_clock_ahead_are_of_now_after_some_sweeps(hands: Hands, redis: RedisClient) -> None:
    seconds, _ = redis.time()
    redis.zadd(UNACKED_INDEX, {f"tag-{number}": seconds + 3600 for number in range(250)})
    for _ in range(3):
        hands.sweep()
    assert redis.zcount(UNACKED_INDEX, seconds + 1800, "+inf") == 0


def test_what_is_swept_is_claimed_next(hands: Hands, other: Hands, redis: RedisClient) -> None:
    send(redis, "a", "b")
    let_the_lease_run_out(redis, take(hands))
    other.sweep()
    assert [claimed_name(other) for _ in range(2)] == ["a", "b"]


def test_a_lease_is_by_the_servers_clock(
    hands: Hands, other: Hands, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(redis, "m")
    take(hands)
    real = time.time
    for wrong_by_s in (3600, -3600):
        monkeypatch.setattr(time, "time", lambda wrong_by_s=wrong_by_s: real() + wrong_by_s)
        assert other.sweep() == 0
        assert hands.renew() == 1
        ((_, score),) = redis.zrange(UNACKED_INDEX, 0, -1, withscores=True)
        seconds, _ = redis.time()
        assert abs(score - seconds) < 60


def test_a_renewed_lease_starts_anew(hands: Hands, redis: RedisClient) -> None:
    send(redis, "m")
    tag = take(hands)
    redis.zadd(UNACKED_INDEX, {tag: redis.time()[0] - LEASE_S + 5})
    assert hands.renew() == 1
    seconds, _ = redis.time()
    assert redis.zscore(UNACKED_INDEX, tag) > seconds - 5


def test_a_lease_that_was_lost_is_not_made_again(hands: Hands, other: Hands, redis: RedisClient) -> None:
    send(redis, "a", "b")
    lost, kept = take(hands), take(hands)
    let_the_lease_run_out(redis, lost)
    other.sweep()
    assert hands.renew() == 1
    assert redis.zrange(UNACKED_INDEX, 0, -1) == [kept.encode()]


def test_hundreds_of_leases_are_swept_at_once(hands: Hands, other: Hands, redis: RedisClient) -> None:
    names = [f"m{number}" for number in range(250)]
    send(redis, *names)
    let_the_lease_run_out(redis, *[take(hands) for _ in names])
    assert other.sweep() == 250
    assert Counter(everything(redis)) == Counter(names)


def test_a_lease_without_a_message_is_swept_away(hands: Hands, redis: RedisClient) -> None:
    let_the_lease_run_out(redis, "of nothing")
    assert hands.sweep() == 0
    assert not redis.exists(UNACKED_INDEX)


@pytest.mark.parametrize("record", [b"", b"no record", b"{}", b"[1, 2]", b'["m", "e", 7]', b"\xff\x00"])
def test_a_record_that_is_none_keeps_nobody_from_sweeping(
    record: bytes, hands: Hands, other: Hands, redis: RedisClient
) -> None:
    send(redis, "m")
    tag = take(hands)
    redis.hset(UNACKED, "another", record)
    let_the_lease_run_out(redis, "another", tag)
    assert other.sweep() == 1
    assert redis.lrange(BULK, 0, -1) == [message("m")]


def test_what_nothing_is_heard_of_is_let_go_and_may_be_had_by_others(
    make_hands: MakeHands, other: Hands, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands = make_hands(lease_max_s=100)
    send(redis, "silent", "heard-of", "begun-later")
    silent, heard_of, begun_later = (take(hands) for _ in range(3))
    later_s = time.monotonic() + 90
    monkeypatch.setattr(hands_module, "monotonic", lambda: later_s)
    hands.heard_of(heard_of)
    hands.begin(begun_later)
    assert hands.renew() == 3
    later_s += 20
    assert hands.renew() == 2
    assert sorted(hands.held) == sorted([heard_of, begun_later])
    let_the_lease_run_out(redis, silent)
    assert other.sweep() == 1
    hands.heard_of(silent)
    assert silent not in hands.held
    assert claimed_name(other) == "silent"


def test_what_was_let_go_is_done_with_when_it_ends_after_all(
    make_hands: MakeHands, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands = make_hands(lease_max_s=100)
    send(redis, "m")
    tag = take(hands)
    late_s = time.monotonic() + 200
    monkeypatch.setattr(hands_module, "monotonic", lambda: late_s)
    assert hands.renew() == 0
    hands.ack(tag)
    assert not redis.keys()


def test_what_a_thread_works_on_is_begun(hands: Hands, redis: RedisClient) -> None:
    send(redis, "a", "b")
    first, second = take(hands), take(hands)
    hands.begin(first)
    hands.begin("never held")
    assert hands.not_begun == [second]
    assert hands.held == [first, second]


# A prefix before every key


def test_with_a_prefix_no_other_key_is_touched(valkey_url: str, redis: RedisClient) -> None:
    with connect(Settings(redis_url=valkey_url, key_prefix="p:")) as client:
        hands = Hands(client, worker="w1", key_prefix="p:", lease_s=LEASE_S, lease_max_s=900, max_letters=10)
        send(client, "a", "b")
        send(client, "c", queue=arrivals(BULK))
        client.rpush(BULK, "no message")
        send(redis, "another's")
        first, second, third = take(hands), take(hands), take(hands)
        hands.give_back([first])
        hands.give_back([second], queue="arno.bulk.v2")
        let_the_lease_run_out(client, third)
        assert hands.sweep() == 1
        assert hands.renew() == 0
        send(client, "d", queue=arrivals(BULK))
        hands.pass_on(BULK)
    keys = {key.decode() for key in redis.keys("*")}
    assert keys == {"p:arno.bulk", "p:arno.bulk.v2", "p:arno:dead", "arno.bulk"}
    assert redis.lrange("p:arno.bulk", 0, -1) == [message("c"), message("b"), message("d")]


# A server that is full, or away


def test_work_goes_on_while_memory_is_full(hands: Hands, other: Hands, redis: RedisClient) -> None:
    send(redis, "a", "b", "c", "d")
    redis.rpush(BULK, "no message")
    with full_memory(redis):
        done, back, late, kept = (take(hands) for _ in range(4))
        hands.ack(done)
        assert hands.give_back([back]) == 1
        let_the_lease_run_out_when_full(redis, late)
        assert hands.renew() == 2
        let_the_lease_run_out_when_full(redis, late)
        assert other.sweep() == 1
        assert redis.hkeys(UNACKED) == [kept.encode()]
        assert sorted(everything(redis)) == ["b", "c", "d"]
        letter = DeadLetter(kind=LetterKind.MESSAGE, code="undecodable", reason="-", raw="-", worker="w1")
        hands.bury(kept, letter)
    assert sorted(everything(redis)) == ["b", "c"]
    assert [filed.letter.raw for filed in DeadLetters(redis, 10).list()] == ["no message", "-"]


def let_the_lease_run_out_when_full(redis: RedisClient, tag: str) -> None:
    redis.config_set("maxmemory", 0)
    let_the_lease_run_out(redis, tag)
    redis.config_set("maxmemory", 1)


def test_a_server_that_is_away_is_an_error_of_the_house(make_hands: MakeHands) -> None:
    hands = make_hands(client=connect(Settings(redis_url="redis://127.0.0.1:1/0")))
    letter = DeadLetter(kind=LetterKind.MESSAGE, code="undecodable", reason="-", raw="-", worker="w1")
    calls: list[Callable[[], object]] = [
        lambda: hands.claim(QUEUES),
        lambda: hands.ack("tag"),
        lambda: hands.give_back(["tag"]),
        lambda: hands.bury("tag", letter),
        hands.sweep,
        lambda: hands.pass_on(BULK),
    ]
    for call in calls:
        with pytest.raises(HouseError):
            call()
    assert hands.renew() == 0, "it holds nothing, and asks for nothing"


def test_what_is_held_is_what_was_claimed_and_not_ended_or_let_go(
    make_hands: MakeHands, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands = make_hands(lease_max_s=900)
    send(redis, "done", "back", "buried", "silent", "heard")
    done, back, buried, silent, heard = (take(hands) for _ in range(5))
    letter = DeadLetter(kind=LetterKind.MESSAGE, code="undecodable", reason="-", raw="m", worker="w1")
    assert all(map(hands.holds, (done, back, buried, silent, heard)))
    hands.ack(done)
    hands.give_back([back])
    hands.bury(buried, letter)
    later = time.monotonic() + 901
    monkeypatch.setattr(hands_module, "monotonic", lambda: later)
    hands.heard_of(heard)
    hands.renew()
    assert [tag for tag in (done, back, buried, silent, heard) if hands.holds(tag)] == [heard]
    assert not hands.holds("never")


# A claim that fails is told of


def test_why_a_claim_failed_is_told(hands: Hands, redis: RedisClient) -> None:
    told: list[str] = []
    hands.on_refusal = told.append
    hands.claim(QUEUES)
    assert told == []
    send(redis, "m")
    redis.config_set("min-replicas-to-write", 1)
    try:
        with pytest.raises(HouseError):
            hands.claim(QUEUES)
    finally:
        redis.config_set("min-replicas-to-write", 0)
    assert len(told) == 1
    assert "Not enough good replicas" in told[0]


# What kombu keeps


def listens(worker: str) -> str:
    """The member that kombu keeps of a worker that listens to remote control."""
    return f"\x06\x16\x06\x16{worker}.celery.pidbox"


def test_what_kombu_keeps_of_workers_that_are_not_heard_of_is_forgotten(hands: Hands, redis: RedisClient) -> None:
    redis.zadd(WORKERS, {"alive@host": redis.time()[0], "silent@host": 1})
    # Not Arno's: it stays.
    others = ["\x06\x16\x06\x16something", "routing\x06\x16\x06\x16queue"]
    names = ("alive@host", "silent@host", "killed@host", "killed@other.host")
    redis.sadd(REMOTE_CONTROL, *map(listens, names), *others)
    redis.sadd(REMOTE_CONTROL_ANSWERS, "asker\x06\x16\x06\x16asker.reply.celery.pidbox")
    hands.forget_the_killed()
    assert {member.decode() for member in redis.smembers(REMOTE_CONTROL)} == {
        listens("alive@host"),
        listens("silent@host"),
        *others,
    }
    assert 0 < redis.ttl(REMOTE_CONTROL_ANSWERS) <= 3600


def test_it_is_looked_for_every_few_minutes_and_an_end_is_not_put_off(
    hands: Hands, redis: RedisClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    hands.forget_the_killed()
    redis.sadd(REMOTE_CONTROL, listens("killed@host"))
    redis.sadd(REMOTE_CONTROL_ANSWERS, "member")
    redis.expire(REMOTE_CONTROL_ANSWERS, 100)
    hands.forget_the_killed()
    assert redis.scard(REMOTE_CONTROL) == 1
    later = time.monotonic() + 600
    monkeypatch.setattr(hands_module, "monotonic", lambda: later)
    hands.forget_the_killed()
    assert not redis.exists(REMOTE_CONTROL)
    assert redis.ttl(REMOTE_CONTROL_ANSWERS) <= 100
