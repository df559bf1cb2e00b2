"""Jobs over HTTP: taken in once and whole, followed, read page by page, paused, cancelled."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from httpx import Response

from arno_producer import Producer
from arno_shared.names import Lane, job_keys, job_record_uri
from arno_shared.settings import ProducerSettings, Settings
from tests.producer.conftest import Hand, lose_redis
from tests.producer.http.conftest import Open

JOB = {"images": [f"s3://photos/{number}.jpg" for number in range(5)], "prompts": ["<OD>"]}


def submitted(client: TestClient, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/jobs", json={**JOB, **more})
    assert answer.status_code == 201, answer.text
    view: dict[str, Any] = answer.json()
    return view


def read_all(client: TestClient, job_id: str, limit: int, until_empty: bool = True) -> tuple[list[str], str | None]:
    """Follows the pages until there is none, or none has rows; the URIs, and where the next page begins."""
    uris: list[str] = []
    place: str | None = f"/v1/jobs/{job_id}/results?limit={limit}"
    while place:
        page = client.get(place)
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("application/x-ndjson")
        rows = page.text.splitlines()
        assert len(rows) <= limit
        uris += [row.partition('"uri":"')[2].partition('"')[0] for row in rows]
        link = page.links.get("next", {}).get("url")
        if not rows and link:
            return uris, link
        place = link
    return uris, None


def test_a_job_is_durable_and_enqueued_when_it_is_answered(client: TestClient, producer: Producer, hand: Hand) -> None:
    answer = client.post("/v1/jobs", json=JOB)
    assert answer.status_code == 201
    view = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{view['job_id']}" == view["links"]["self"]
    assert (view["state"], view["sealed"], view["images"], view["chunks"]) == ("running", True, 5, 3)
    assert producer.store.exists(job_record_uri(view["output_prefix"]))
    assert [image.uri for chunk in hand.take_all() for image in chunk.images] == JOB["images"]
    assert client.get(answer.headers["location"]).json()["job_id"] == view["job_id"]
    assert [job["job_id"] for job in client.get("/v1/jobs").json()["jobs"]] == [view["job_id"]]


def test_the_same_idempotency_key_finds_the_same_job(client: TestClient, hand: Hand) -> None:
    key = {"Idempotency-Key": "order-66"}
    first = client.post("/v1/jobs", json=JOB, headers=key)
    again = client.post("/v1/jobs", json=JOB, headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["job_id"] == again.json()["job_id"]
    for chunk in hand.take_all():
        if str(hand.begin(chunk)) == "go":
            hand.commit(chunk)
    assert client.get(first.headers["location"]).json()["ok"] == 5
    other = client.post("/v1/jobs", json={**JOB, "images": ["s3://photos/other.jpg"]}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_a_key_is_not_said_to_be_used_where_the_output_is_another_s(client: TestClient, producer: Producer) -> None:
    output = f"{producer.settings.output_prefix}shared/"
    first = client.post("/v1/jobs", json={**JOB, "output": output}, headers={"Idempotency-Key": "one"})
    second = client.post("/v1/jobs", json={**JOB, "output": output}, headers={"Idempotency-Key": "two"})
    assert (first.status_code, second.status_code, second.json()["code"]) == (201, 409, "job_conflict")


def test_a_key_finds_its_job_after_the_ledger_has_let_it_go(client: TestClient, producer: Producer, hand: Hand) -> None:
    key = {"Idempotency-Key": "order-66"}
    first = client.post("/v1/jobs", json=JOB, headers=key)
    for chunk in hand.take_all():
        hand.commit(chunk, {image.uri: "not_found" for image in chunk.images})
    job_id = first.json()["job_id"]
    producer.redis.delete(job_keys(job_id).job)
    again = client.post("/v1/jobs", json=JOB, headers=key)
    assert (again.status_code, again.json()["state"]) == (200, "done")
    producer.redis.hset(job_keys(job_id).tombstone, "state", "cancelled")
    producer.redis.delete(job_keys(job_id).job)
    cancelled = client.post("/v1/jobs", json=JOB, headers=key)
    assert (cancelled.status_code, cancelled.json()["code"]) == (409, "job_conflict")
    assert f"arno resume {job_id}" in cancelled.json()["detail"]
    assert hand.take_all() == []


def post(client: TestClient, key: dict[str, str], body: dict[str, Any]) -> Response:
    return client.post("/v1/jobs", json=body, headers=key)


def test_a_key_stands_for_the_whole_request(client: TestClient, producer: Producer, hand: Hand) -> None:
    """Its first 320 images are the same: whole blocks of the manifest."""
    key = {"Idempotency-Key": "order-66"}
    uris = [f"s3://photos/{number}.jpg" for number in range(321)]
    first = client.post("/v1/jobs", json={**JOB, "images": uris[:320]}, headers=key)
    hand.take_all()
    elsewhere = f"{producer.settings.output_prefix}elsewhere/"
    for other in ({"images": uris}, {"lane": "interactive"}, {"images": uris[:20]}, {"output": elsewhere}):
        answer = client.post("/v1/jobs", json={**JOB, "images": uris[:320], **other}, headers=key)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_key_reused")
    again = client.post("/v1/jobs", json={**JOB, "images": uris[:320]}, headers=key)
    assert (again.status_code, again.json()) == (200, first.json())
    assert [*hand.take_all(), *hand.take_all(Lane.INTERACTIVE)] == []
    assert list(producer.store.list(elsewhere)) == []
    hand.redis.flushall()
    assert client.post("/v1/jobs", json={**JOB, "images": uris}, headers=key).status_code == 422


def test_of_four_requests_with_one_key_at_once_one_is_taken_in(client: TestClient, hand: Hand) -> None:
    for number in range(10):
        lists = [[f"s3://{of}/{image}.jpg" for image in range(25)] for of in range(4)]
        key = {"Idempotency-Key": f"order-{number}"}
        with ThreadPoolExecutor(4) as callers:
            bodies = [{**JOB, "images": uris} for uris in lists]
            answers = list(callers.map(partial(post, client, key), bodies))
        assert Counter(answer.status_code for answer in answers) == {201: 1, 422: 3}
        accepted = next(uris for uris, answer in zip(lists, answers, strict=True) if answer.status_code == 201)
        assert [image.uri for chunk in hand.take_all() for image in chunk.images] == accepted


def test_the_same_request_at_once_is_queued_once(client: TestClient, hand: Hand) -> None:
    key = {"Idempotency-Key": "order-66"}
    with ThreadPoolExecutor(6) as callers:
        answers = list(callers.map(lambda _: client.post("/v1/jobs", json=JOB, headers=key), range(6)))
    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 5}
    assert all(answer.json()["sealed"] for answer in answers)
    assert [image.uri for chunk in hand.take_all() for image in chunk.images] == JOB["images"]


@pytest.mark.parametrize(("move", "state"), [("cancel", "cancelled"), ("pause", "paused")])
def test_a_late_retry_wakes_nothing(client: TestClient, hand: Hand, move: str, state: str) -> None:
    key = {"Idempotency-Key": "order-66"}
    place = client.post("/v1/jobs", json=JOB, headers=key).headers["location"]
    hand.take_all()
    client.post(f"{place}/{move}")
    again = client.post("/v1/jobs", json=JOB, headers=key)
    assert (again.status_code, again.json()["state"]) == (200, state)
    assert hand.take_all() == []


def test_another_job_under_its_id_is_a_conflict(client: TestClient) -> None:
    submitted(client, job_id="run-7")
    answer = client.post("/v1/jobs", json={**JOB, "prompts": ["<CAPTION>"], "job_id": "run-7"})
    assert (answer.status_code, answer.json()["code"]) == (409, "job_conflict")


def test_a_full_lane_takes_nothing(settings: Settings, open_door: Open, hand: Hand) -> None:
    client = open_door()
    producer: Producer = Producer(
        settings.model_copy(update={"producer": ProducerSettings(chunk_images=2, high_water_messages=3)})
    )
    from arno_producer.http.app import door

    narrow = TestClient(door(producer), base_url="http://localhost")
    submitted(client)
    answer = narrow.post("/v1/jobs", json={**JOB, "job_id": "too-much"})
    assert (answer.status_code, answer.json()["code"]) == (429, "lane_full")
    assert int(answer.headers["retry-after"]) > 0
    assert narrow.get("/v1/jobs/too-much").status_code == 404
    assert len(hand.take_all()) == 3
    assert narrow.post("/v1/jobs", json={**JOB, "job_id": "too-much"}).status_code == 201


@pytest.mark.parametrize("limit", [1, 2, 1000])
def test_pages_give_each_image_once_in_order_whatever_their_size(client: TestClient, hand: Hand, limit: int) -> None:
    view = submitted(client)
    chunks = hand.take_all()
    hand.commit(chunks[2])
    assert read_all(client, view["job_id"], limit)[0] == []
    hand.commit(chunks[0], put_off=(chunks[0].images[1].uri,))
    uris, place = read_all(client, view["job_id"], limit)
    assert uris == ["s3://photos/0.jpg"]
    hand.commit(chunks[1])
    hand.redis.zadd("arno:delayed", {f"{view['job_id']}/0.2": 0})
    hand.release_due()
    (later,) = hand.take_all()
    hand.commit(later)
    assert place
    rest = []
    while place:
        page = client.get(place)
        rest += [row.partition('"uri":"')[2].partition('"')[0] for row in page.text.splitlines()]
        place = page.links.get("next", {}).get("url")
    assert uris + rest == [f"s3://photos/{number}.jpg" for number in (0, 2, 3, 4, 1)]
    assert Counter(read_all(client, view["job_id"], limit)[0]) == Counter(JOB["images"])


def test_what_was_given_up_or_cancelled_ends_the_pages(client: TestClient, hand: Hand) -> None:
    view = submitted(client)
    chunks = hand.take_all()
    hand.bury(chunks[0])
    hand.commit(chunks[1])
    assert read_all(client, view["job_id"], 10)[0] == ["s3://photos/2.jpg", "s3://photos/3.jpg"]
    assert client.post(f"/v1/jobs/{view['job_id']}/cancel").json()["state"] == "cancelled"
    assert read_all(client, view["job_id"], 10) == (["s3://photos/2.jpg", "s3://photos/3.jpg"], None)


def test_a_cursor_that_is_none_is_refused(client: TestClient) -> None:
    view = submitted(client)
    answer = client.get(f"/v1/jobs/{view['job_id']}/results?cursor=x")
    assert (answer.status_code, answer.json()["errors"][0]["pointer"]) == (422, "cursor")


def test_a_cursor_that_a_rebuilt_ledger_does_not_know_is_gone(client: TestClient, hand: Hand) -> None:
    view = submitted(client)
    place = f"/v1/jobs/{view['job_id']}/results"
    first, second, third = hand.take_all()
    hand.bury(first)
    hand.commit(second)
    cursor = client.get(place, params={"limit": 1}).headers["arno-next-cursor"]
    assert client.get(place, params={"cursor": cursor}).text.count("\n") == 1
    lose_redis(hand)
    for chunk in (first, second, third):
        hand.commit(chunk)
    answer = client.get(place, params={"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (410, "cursor_stale")
    assert "begin again without a cursor" in answer.json()["detail"]
    assert read_all(client, view["job_id"], 2) == (JOB["images"], None)


def test_jobs_pause_go_on_and_are_cancelled(client: TestClient, hand: Hand) -> None:
    place = f"/v1/jobs/{submitted(client)['job_id']}"
    for move, state in (("pause", "paused"), ("pause", "paused"), ("resume", "running"), ("resume", "running")):
        assert client.post(f"{place}/{move}").json()["state"] == state
    assert client.post(f"{place}/cancel").json()["state"] == "cancelled"
    assert client.post(f"{place}/cancel").json()["state"] == "cancelled"
    for move in ("pause", "resume"):
        answer = client.post(f"{place}/{move}")
        assert (answer.status_code, answer.json()["code"]) == (409, "job_conflict")
    assert client.post("/v1/jobs/unknown/pause").status_code == 404


def test_rate_and_time_left_are_of_what_was_seen(client: TestClient, hand: Hand) -> None:
    place = f"/v1/jobs/{submitted(client)['job_id']}"
    view = client.get(place).json()
    assert (view["rate_images_per_s"], view["eta_s"]) == (None, None)
    hand.commit(hand.take_all()[0])
    view = client.get(place).json()
    assert view["eta_s"] == pytest.approx(3 / view["rate_images_per_s"], rel=0.2, abs=0.1)


@pytest.mark.parametrize(
    ("output", "status"),
    [
        ("file:///etc/", 403),
        ("file:///tmp/../etc/", 403),
        ("s3://", 422),
        ("http://somewhere/", 422),
    ],
)
def test_results_go_where_they_may(client: TestClient, output: str, status: int) -> None:
    answer = client.post("/v1/jobs", json={**JOB, "output": output})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"


def test_results_may_go_below_the_houses_prefix_and_where_it_is_said(open_door: Open, tmp_path: Path) -> None:
    assert submitted(open_door(), output=f"file://{tmp_path}/results/mine/")
    listed = open_door(output_prefixes=["s3://only-here/"])
    answer = listed.post("/v1/jobs", json={**JOB, "output": f"file://{tmp_path}/results/mine/"})
    assert (answer.status_code, "ARNO_HTTP__OUTPUT_PREFIXES" in answer.json()["detail"]) == (403, True)


def test_events_tell_of_chunks_and_of_the_end(client: TestClient, hand: Hand) -> None:
    view = submitted(client)
    chunks = hand.take_all()
    hand.commit(chunks[0])
    (first,) = hand.redis.xrange("arno:topic")
    hand.commit(chunks[1])
    hand.commit(chunks[2])
    stream = client.get(f"/v1/jobs/{view['job_id']}/events", headers={"Last-Event-ID": first[0].decode()})
    assert stream.headers["content-type"].startswith("text/event-stream")
    events = [event.split("\n") for event in stream.text.strip().split("\n\n")]
    names = [next(line[7:] for line in event if line.startswith("event: ")) for event in events]
    assert names == ["progress", "chunk", "chunk", "done"]
    assert [event[0].startswith("id: ") for event in events] == [False, True, True, False]
    assert client.get("/v1/jobs/unknown/events").status_code == 404


def test_the_events_of_a_job_that_is_given_up_end(client: TestClient, hand: Hand) -> None:
    view = submitted(client)
    hand.redis.zadd("arno:live", {view["job_id"]: 0})
    assert hand.ledger.abandon() == 1
    stream = client.get(f"/v1/jobs/{view['job_id']}/events")
    assert [line for line in stream.text.splitlines() if line.startswith("event: ")] == [
        "event: progress",
        "event: done",
    ]
    assert '"state":"incomplete"' in stream.text
    assert client.get(f"/v1/jobs/{view['job_id']}/results").links == {}
