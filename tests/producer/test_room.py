"""A lane takes so many messages, and so many bytes, however they are asked for."""

import json
import threading
from typing import Any

import pytest

from arno_producer import Producer
from arno_producer.http.app import door
from arno_shared.broker import message_bytes, queue_bytes
from arno_shared.errors import InvalidRequest, LaneFull
from arno_shared.messages import MAX_PROMPTS_BYTES
from arno_shared.names import JOBS, Lane, job_keys
from arno_shared.settings import ProducerSettings, Settings
from tests.acceptance.arno_worker import eventually
from tests.producer.conftest import Hand

MIB = 2**20
GROUNDING = "<CAPTION_TO_PHRASE_GROUNDING>"


def long_uris(number: int) -> list[str]:
    return [f"s3://b/{n:01000}.jpg" for n in range(number)]


def with_marks(settings: Settings, **marks: Any) -> Producer:
    own = ProducerSettings(**{"chunk_images": 10, **marks})
    return Producer(settings.model_copy(update={"producer": own}))


def prompts_of(size_bytes: int) -> list[dict[str, str]]:
    """As JSON."""
    prompts = [{"task": GROUNDING, "text": "x" * 3000} for _ in range(size_bytes // 3100)]
    left = size_bytes - len(json.dumps([*prompts, {"task": GROUNDING, "text": ""}]))
    return [*prompts, {"task": GROUNDING, "text": "x" * left}]


def test_prompts_are_repeated_in_each_chunk_and_so_are_small_together(producer: Producer, hand: Hand) -> None:
    assert producer.submit(["s3://b/0.jpg"], prompts_of(MAX_PROMPTS_BYTES)).status().sealed
    too_many = prompts_of(MAX_PROMPTS_BYTES + 1)
    for call in (producer.submit, producer.send):
        with pytest.raises(InvalidRequest, match=r"prompts: take 16,385 bytes of JSON; .* may take 16,384"):
            call(["s3://b/0.jpg"], too_many)  # type: ignore[operator]
    assert len(hand.take_all()) == 1


def test_a_small_request_does_not_fill_redis(settings: Settings, hand: Hand) -> None:
    """What repeats in each chunk makes of it many times what was sent."""
    from fastapi.testclient import TestClient

    client = TestClient(door(with_marks(settings)), base_url="http://localhost")
    images = [f"s3://b/{number}" for number in range(10_000)]
    flood = {"images": images, "prompts": [{"task": GROUNDING, "text": "x" * 4000}] * 64}
    answer = client.post("/v1/jobs", json=flood)
    assert (answer.status_code, "all prompts of a job together" in answer.json()["detail"]) == (422, True)
    narrow = with_marks(settings, high_water_bytes=10 * MIB)
    client = TestClient(door(narrow), base_url="http://localhost")
    asked = {"images": images, "prompts": prompts_of(MAX_PROMPTS_BYTES)}
    answer = client.post("/v1/jobs", json={**asked, "job_id": "flood"})
    assert answer.status_code == 422
    assert "more than one request may put on a lane (10,485,760): send several" in answer.json()["detail"]
    assert (hand.take_all(), hand.redis.zcard(JOBS)) == ([], 0)
    half = {**asked, "images": images[:4000]}
    assert client.post("/v1/jobs", json={**half, "job_id": "first"}).status_code == 201
    waiting = queue_bytes(hand.redis, Lane.BULK)
    assert 8 * MIB < waiting < 10 * MIB
    answer = client.post("/v1/jobs", json={**half, "job_id": "second"})
    assert (answer.status_code, answer.json()["code"]) == (429, "lane_full")
    assert not hand.redis.exists(job_keys("second").job)
    # What was let in is found, however full the lane is.
    assert client.post("/v1/jobs", json={**half, "job_id": "first"}).status_code == 200
    hand.take_all()
    assert client.post("/v1/jobs", json={**half, "job_id": "second"}).status_code == 201


def test_what_messages_will_take_is_reckoned_about_right(settings: Settings, hand: Hand) -> None:
    producer = with_marks(settings)
    producer.submit(long_uris(2000), "<OD>")
    taken = queue_bytes(hand.redis, Lane.BULK)
    reckoned = sum(message_bytes(chunk.to_wire()) for chunk in hand.take_all())
    assert reckoned == pytest.approx(taken, rel=0.2)
    assert queue_bytes(hand.redis, Lane.BULK) == 0


def test_submission_pauses_at_the_mark_of_bytes_and_goes_on(settings: Settings, hand: Hand) -> None:
    producer = with_marks(settings, high_water_bytes=MIB)
    uris, taken = long_uris(3000), []
    submission = threading.Thread(target=producer.submit, args=(uris, "<OD>"))
    submission.start()
    eventually(lambda: queue_bytes(hand.redis, Lane.BULK) >= MIB, "the mark is reached")
    with pytest.raises(LaneFull, match="bytes wait in the lane bulk, which takes 1,048,576"):
        producer.check_room(Lane.BULK)
    with pytest.raises(LaneFull):
        producer.send(uris[:1], "<OD>", lane="bulk")
    while submission.is_alive() or hand.redis.llen(Lane.BULK.queue):
        # Looked at before each tenth of it.
        assert queue_bytes(hand.redis, Lane.BULK) < 1.3 * MIB
        if (chunk := hand.take()) is not None:
            taken += [image.uri for image in chunk.images]
        submission.join(0.001)
    assert taken == uris


def test_a_message_that_is_larger_than_the_mark_is_let_into_an_empty_lane(settings: Settings, hand: Hand) -> None:
    producer = with_marks(settings, high_water_bytes=10)
    submission = threading.Thread(target=producer.submit, args=(long_uris(30), "<OD>"))
    submission.start()
    taken = []
    while submission.is_alive() or hand.redis.llen(Lane.BULK.queue):
        taken += hand.take_all()
        submission.join(0.01)
    assert len(taken) == 3


def test_where_the_server_does_not_say_messages_alone_are_counted(settings: Settings, hand: Hand) -> None:
    hand.redis.acl_setuser("default", enabled=True, commands=["-memory"])
    try:
        producer = with_marks(settings, high_water_bytes=10, high_water_messages=2)
        assert producer.submit(long_uris(20), "<OD>").status().sealed
        assert queue_bytes(hand.redis, Lane.BULK) == 0
        with pytest.raises(LaneFull, match="2 messages"):
            producer.check_room(Lane.BULK)
    finally:
        hand.redis.acl_setuser("default", enabled=True, commands=["+memory"])
