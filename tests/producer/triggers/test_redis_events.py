"""Where MinIO's Redis may be: one server, with the options that Arno's own URL may have."""

from collections.abc import Callable
from threading import Event

import pytest
from prometheus_client import CollectorRegistry

from arno_producer import Producer
from arno_producer.triggers.redis_events import RedisTrigger
from arno_producer.triggers.rules import Rule
from arno_producer.triggers.trigger import Trigger
from arno_shared.errors import InvalidRequest
from arno_shared.names import Lane


@pytest.fixture
def trigger(producer: Producer) -> Callable[[str], RedisTrigger]:
    rule = Rule.model_validate({"name": "a", "prompts": "<OD>", "output": "s3://results/"})
    events = Trigger(producer, (rule,), CollectorRegistry())
    return lambda url: RedisTrigger(url, "minio", events, producer, [Lane.BULK], Event())


def test_the_server_may_be_given_with_options(trigger: Callable[[str], RedisTrigger], valkey_url: str) -> None:
    taking = trigger(f"{valkey_url}?client_name=minio&socket_timeout=2")
    assert taking._redis.client_getname() == "minio"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("redis://:hush@h/0?decode_responses=true", "--redis-url: the option decode_responses"),
        ("http://:hush@h", "--redis-url: it starts with redis://"),
        ("sentinel://:hush@h:26379/m", "--redis-url: MinIO writes to one server"),
    ],
)
def test_what_is_no_such_server_is_refused_in_words(
    url: str, words: str, trigger: Callable[[str], RedisTrigger]
) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        trigger(url)
    assert "hush" not in str(refused.value)
