"""A job of one chunk that carries itself: sent once, whoever sends it again, and followed like any other."""

from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from arno_producer import Producer
from arno_producer.patience import until_back
from arno_shared.errors import InvalidRequest, JobConflict, LaneFull, RedisRefused
from arno_shared.ledger import JobState
from arno_shared.messages import Output
from arno_shared.names import Lane
from arno_shared.settings import ProducerSettings, Settings
from arno_shared.uris import file_uri
from tests.producer.conftest import Hand

ONE = ["s3://photos/a.jpg"]


def test_it_is_known_at_once_and_done_by_one_commit(producer: Producer, hand: Hand) -> None:
    sent = producer.send(ONE, "<OD>")
    assert not sent.duplicate
    status = sent.job.status()
    assert (status.state, status.images, status.chunks, status.sealed) == (JobState.RUNNING, 1, 1, True)
    chunk = hand.take(Lane.INTERACTIVE)
    assert chunk
    hand.commit(chunk)
    status = sent.job.status()
    assert (status.state, status.images, status.ok, status.chunks_committed) == (JobState.DONE, 1, 1, 1)
    assert [row.image.uri for row in sent.job.results()] == ONE


def test_it_is_not_among_the_latest_jobs_and_has_no_manifest(producer: Producer) -> None:
    job = producer.send(ONE, "<OD>").job
    assert producer.ledger.jobs(10) == []
    assert list(producer.store.list(job.status().output_prefix)) == []


@pytest.mark.parametrize("when", ["waiting", "done"])
def test_sent_again_it_is_a_duplicate(producer: Producer, hand: Hand, when: str) -> None:
    producer.send(ONE, "<OD>", job_id="event-1")
    chunk = hand.take(Lane.INTERACTIVE)
    assert chunk
    if when == "done":
        hand.commit(chunk)
    assert producer.send(ONE, "<OD>", job_id="event-1").duplicate
    assert hand.take(Lane.INTERACTIVE) is None


def test_a_sender_that_died_before_it_sent_sends_again(producer: Producer, hand: Hand) -> None:
    class Killed(BaseException):
        pass

    def die(*_: Any) -> None:
        raise Killed

    dying = Producer(producer.settings)
    dying._sender.send_chunk = die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        dying.send(ONE, "<OD>", job_id="event-1")
    assert producer.redis.ttl("arno:job:event-1") == -1
    assert not producer.send(ONE, "<OD>", job_id="event-1").duplicate
    assert hand.take(Lane.INTERACTIVE)


@pytest.mark.parametrize(
    "other", [{"images": ["s3://photos/b.jpg"]}, {"prompts": "<CAPTION>"}, {"output": "s3://o/x/"}]
)
def test_other_work_under_its_id_is_refused(producer: Producer, other: dict[str, Any]) -> None:
    producer.send(ONE, "<OD>", job_id="event-1")
    with pytest.raises(JobConflict, match="event-1"):
        producer.send(**{"images": ONE, "prompts": "<OD>", "job_id": "event-1", **other})
    producer.submit(ONE, "<OD>", job_id="run-7")
    with pytest.raises(JobConflict, match="run-7"):
        producer.send(ONE, "<OD>", job_id="run-7")


def test_a_place_that_has_results_is_not_sent_to(producer: Producer, hand: Hand, tmp_path: Path) -> None:
    places = [f"{file_uri(tmp_path)}/{name}/" for name in ("sent", "submitted")]
    producer.send(ONE, "<OD>", output=places[0])
    producer.submit(ONE, "<OD>", output=places[1], lane="interactive")
    for place in places:
        with pytest.raises(JobConflict, match="holds another's results"):
            producer.send(["s3://photos/b.jpg"], "<OD>", output=place)
    assert [chunk.images[0].uri for chunk in hand.take_all(Lane.INTERACTIVE)] == ONE * 2


@pytest.mark.parametrize("images", [[], [""], ["s3://photos/a.jpg"] * 1025])
def test_images_that_are_none_are_refused(producer: Producer, images: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="images"):
        producer.send(images, "<OD>")


def test_a_full_lane_takes_nothing_more(settings: Settings, hand: Hand) -> None:
    narrow = settings.model_copy(update={"producer": ProducerSettings(chunk_images=2, high_water_messages=2)})
    producer = Producer(narrow)
    producer.send(ONE, "<OD>", lane=Lane.BULK)
    # What is let in is let in whole.
    job = producer.submit([f"s3://photos/{number}.jpg" for number in range(10)], "<OD>", wait_for_room=False)
    assert job.status().sealed
    with pytest.raises(LaneFull):
        producer.submit(ONE, "<OD>", job_id="too-much", wait_for_room=False)
    with pytest.raises(LaneFull):
        producer.send(ONE, "<OD>", job_id="too-much", lane=Lane.BULK)
    assert not producer.redis.exists("arno:job:too-much")
    assert not producer.send(ONE, "<OD>").duplicate
    assert len(hand.take_all()) == 6


def test_a_server_that_refuses_is_not_waited_for(producer: Producer) -> None:
    """Patience is for what may pass: this stays until somebody mends it."""
    assert producer.settings.producer.patience_s > 60
    producer.redis.execute_command("ACL", "SETUSER", "default", "-@scripting")
    try:
        with pytest.raises(RedisRefused, match="ACL SETUSER") as refused:
            producer.submit(ONE, "<OD>", job_id="refused")
        assert not refused.value.retryable
        with pytest.raises(RedisRefused):
            until_back(lambda: producer.ledger.open("x", "{}", Output(prefix="s3://r/"), Lane.BULK), 3600)
    finally:
        producer.redis.execute_command("ACL", "SETUSER", "default", "+@all")
    producer.submit(ONE, "<OD>", job_id="refused")


@pytest.mark.parametrize("way", ["submit", "send"])
def test_the_server_is_looked_at_before_the_first_use_and_once_it_will_do(
    way: str, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    info, version, asked = Redis.info, "6.0.16", []

    def old(redis: Redis, *args: object) -> dict[str, object]:
        asked.append(version)
        return {**info(redis, *args), "redis_version": version}

    monkeypatch.setattr(Redis, "info", old)
    begin = getattr(producer, way)
    for _ in range(2):
        with pytest.raises(RedisRefused, match="too old"):
            begin(ONE, "<OD>")
    assert not producer.redis.keys()
    version = "7.0.0"
    begin(ONE, "<OD>")
    begin(ONE, "<OD>")
    assert asked == ["6.0.16", "6.0.16", "7.0.0"]
