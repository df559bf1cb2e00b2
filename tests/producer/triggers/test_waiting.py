"""Triggers wait for room and for the house, in pauses; they give nothing up, and stop when they are told to."""

import pytest
from structlog.testing import capture_logs

from arno_producer import Producer
from arno_producer.triggers.waiting import Pauses, Waiting
from arno_shared.errors import HouseError, InvalidRequest, LaneFull
from arno_shared.names import Lane
from arno_shared.settings import ProducerSettings, Settings
from tests.producer.triggers.conftest import Hasty


@pytest.fixture
def hasty() -> Hasty:
    return Hasty()


def test_pauses_grow_up_to_the_longest_and_begin_anew_once_it_is_over(hasty: Hasty) -> None:
    pauses = Pauses(hasty)
    for _ in range(8):
        pauses.pause("away")
    pauses.over()
    pauses.pause("away")
    assert hasty.waited_s == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 0.2]


def test_what_is_away_is_asked_again_until_it_is_back_and_then_patience_is_new(
    producer: Producer, hasty: Hasty
) -> None:
    waiting = Waiting(producer, [Lane.BULK], hasty)
    answers: list[Exception | None] = [HouseError("away"), LaneFull("full"), HouseError("away"), None]
    answers += [HouseError("away"), None]

    def call() -> None:
        if answer := answers.pop(0):
            raise answer

    with capture_logs() as logs:
        assert waiting.until_taken(call)
        assert waiting.until_taken(call)
    assert not answers
    assert hasty.waited_s == [0.2, 1.0, 0.4, 0.2]
    assert [log["error"] for log in logs] == ["away"] * 3


def test_what_is_wrong_with_a_call_is_not_waited_for(producer: Producer, hasty: Hasty) -> None:
    def call() -> None:
        raise InvalidRequest("no")

    with pytest.raises(InvalidRequest):
        Waiting(producer, [Lane.BULK], hasty).until_taken(call)
    assert not hasty.waited_s


def test_it_stops_when_it_is_told_to_or_when_what_was_to_be_taken_is_given_up(producer: Producer, hasty: Hasty) -> None:
    waiting = Waiting(producer, [Lane.BULK], hasty)
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        raise LaneFull("full")

    assert not waiting.until_taken(call, given_up=lambda: calls == 3)
    assert calls == 3
    hasty.stop_after_waits = 5
    assert not waiting.until_taken(call)
    assert calls == 5
    assert not waiting.until_taken(call)
    assert calls == 5


@pytest.mark.parametrize("full", Lane)
def test_there_is_room_when_there_is_in_every_lane(settings: Settings, hasty: Hasty, full: Lane) -> None:
    narrow = Producer(settings.model_copy(update={"producer": ProducerSettings(high_water_messages=1)}))
    waiting = Waiting(narrow, list(Lane), hasty)
    assert waiting.for_room()
    narrow.send(["s3://b/a.jpg"], "<OD>", output="s3://results/", lane=full)
    hasty.stop_after_waits = 2
    assert not waiting.for_room()
    assert hasty.waited_s == [1.0, 1.0]
