"""The client: from `submit` to what stands in Redis and in storage, and back."""

import json
import re
import threading
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest

from arno_producer import Producer
from arno_producer.client import new_job_id
from arno_shared.dead_letters import DeadLetter, LetterKind
from arno_shared.errors import InvalidRequest, JobConflict, JobNotFound
from arno_shared.ledger import JobState, Verdict
from arno_shared.messages import GenerationOptions, ImageRef, Output
from arno_shared.names import Lane, job_record_uri, manifest_uri
from arno_shared.results import ResultRow, Status
from arno_shared.settings import ProducerSettings, Settings
from arno_shared.uris import file_uri
from tests.producer.conftest import Hand


def images(number: int) -> list[str]:
    return [f"s3://b/{n}.jpg" for n in range(number)]


def small_queue(settings: Settings, **producer: int) -> Settings:
    return settings.model_copy(update={"producer": ProducerSettings(chunk_images=1, **producer)})


# --- submitting -------------------------------------------------------------------------------------------------------


def test_the_golden_wire_form(producer: Producer, hand: Hand, tmp_path: Path) -> None:
    prefix = file_uri(tmp_path / "golden")
    grounding = {"task": "<CAPTION_TO_PHRASE_GROUNDING>", "text": "a red car"}
    region = {"task": "<REGION_TO_OCR>", "region": [1, 2, 30, 40.5]}
    producer.submit(
        [
            "s3://b/é 1.jpg",
            {"uri": "s3://b/2.jpg", "id": "two", "version_id": "v", "etag": "e"},
            ImageRef(uri="s3://b/3.jpg"),
        ],
        ["<OD>", grounding, region],
        output={"prefix": prefix, "format": "jsonl", "inline": True},
        job_id="golden",
    )
    first, second = hand.take_message(), hand.take_message()
    assert first is not None
    assert second is not None
    terms = {
        "prompts": [{"task": "<OD>"}, grounding, {"task": "<REGION_TO_OCR>", "region": [1.0, 2.0, 30.0, 40.5]}],
        "output": {"prefix": f"{prefix}/", "inline": True},
        "job_id": "golden",
        "schema_version": 1,
    }
    two = {"uri": "s3://b/2.jpg", "id": "two", "version_id": "v", "etag": "e"}
    assert first["body"][:2] == [[], {"images": [{"uri": "s3://b/é 1.jpg"}, two], "index": 0, **terms}]
    assert second["body"][:2] == [[], {"images": [{"uri": "s3://b/3.jpg"}], "index": 1, **terms}]
    assert first["headers"]["task"] == "arno.annotate"
    assert first["headers"]["id"] == "golden.0.1"
    assert (first["content-type"], first["properties"]["body_encoding"]) == ("application/json", "base64")
    assert hand.take_message() is None


def test_presigned_uris_are_not_shown_to_flower(producer: Producer, hand: Hand) -> None:
    producer.submit("https://h/a.jpg?X-Amz-Signature=hush", "<OD>")
    message = hand.take_message()
    assert message is not None
    assert "hush" in message["body"][1]["images"][0]["uri"]
    assert "hush" not in json.dumps(message["headers"])


def test_one_image_and_one_prompt_need_no_list(producer: Producer, hand: Hand) -> None:
    job = producer.submit("s3://b/a.jpg", "<OCR>", lane="interactive")
    (chunk,) = hand.take_all(Lane.INTERACTIVE)
    assert chunk.images == (ImageRef(uri="s3://b/a.jpg"),)
    assert chunk.output.prefix == f"{producer.settings.output_prefix}{job.id}/"
    assert hand.take_all() == []
    status = job.status()
    assert (status.images, status.chunks, status.sealed, status.state) == (1, 1, True, JobState.RUNNING)


@pytest.mark.parametrize("generation", [{"num_beams": 1}, GenerationOptions(num_beams=1)])
def test_every_chunk_says_how_its_answers_are_generated(producer: Producer, hand: Hand, generation: Any) -> None:
    producer.submit(images(5), "<OD>", generation=generation)
    assert [chunk.generation for chunk in hand.take_all()] == [GenerationOptions(num_beams=1)] * 3


def test_the_manifest_stands_before_its_chunks_are_enqueued(producer: Producer, hand: Hand, tmp_path: Path) -> None:
    prefix = f"{file_uri(tmp_path)}/out/"
    seen_late: list[str] = []

    def source() -> Iterator[str]:
        for number, uri in enumerate(images(25)):
            if number == 23:  # the first block of 10 chunks of 2 is enqueued by now
                record = json.loads(producer.store.get(job_record_uri(prefix)))
                assert record["chunks"] is None
                assert len(producer.store.get(manifest_uri(prefix, 0)).splitlines()) == 10
                seen_late.extend(chunk.images[0].uri for chunk in hand.take_all())
            yield uri

    producer.submit(source(), "<OD>", output=prefix, job_id="m")
    assert seen_late == images(20)[::2]
    record = json.loads(producer.store.get(job_record_uri(prefix)))
    assert (record["job_id"], record["chunks"], record["images"]) == ("m", 13, 25)
    assert record["terms"]["prompts"][0]["task"] == "<OD>"
    (last,) = islice(producer.store.get(manifest_uri(prefix, 1)).splitlines(), 2, None)
    assert json.loads(last) == {"index": 12, "images": [{"uri": "s3://b/24.jpg"}]}


def test_ids_of_jobs_sort_by_time_and_do_not_meet() -> None:
    first = new_job_id()
    assert re.fullmatch(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{16}", first)
    assert f"{datetime.now(UTC) + timedelta(seconds=1):%Y%m%d-%H%M%S}-" > first


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"images": []}, "no images"),
        ({"images": ["s3://b/a.jpg", 7]}, "image 2"),
        ({"prompts": []}, "prompts"),
        ({"prompts": "<OCD>"}, "not a task"),
        ({"prompts": "<REGION_TO_OCR>"}, "takes a region"),
        ({"lane": "fast"}, "interactive, bulk"),
        ({"job_id": "a/b"}, "job id"),
        ({"output": "https://h/x/"}, "s3:// or file://"),
        ({"output": {"prefix": "s3://b/x/", "format": "xml"}}, "output"),
        ({"generation": {"num_beams": 0}}, "generation: num_beams"),
        ({"generation": {"beams": 1}}, "generation: beams"),
        ({"generation": 1}, "generation"),
    ],
)
def test_what_cannot_be_right_is_refused_and_leaves_nothing(
    producer: Producer, hand: Hand, arguments: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidRequest, match=why):
        producer.submit(**{"images": "s3://b/a.jpg", "prompts": "<OD>", **arguments})
    assert hand.take_all() == []
    assert producer.ledger.jobs(10) == []


def test_submission_pauses_at_the_high_water_mark(settings: Settings, hand: Hand) -> None:
    producer = Producer(small_queue(settings, high_water_messages=3))
    job_id, taken = "pause", []
    submission = threading.Thread(target=producer.submit, args=(images(30), "<OD>"), kwargs={"job_id": job_id})
    submission.start()
    while submission.is_alive() or hand.redis.llen(Lane.BULK.queue):
        assert hand.redis.llen(Lane.BULK.queue) <= 3
        if (chunk := hand.take()) is not None:
            taken.append(chunk.images[0].uri)
        submission.join(0.01)
    assert taken == images(30)


def test_memory_does_not_grow_with_the_job(settings: Settings, hand: Hand) -> None:
    settings = settings.model_copy(update={"producer": ProducerSettings(chunk_images=500, block_chunks=1)})
    producer = Producer(settings)
    producer.submit(images(1000), "<OD>")
    hand.take_all()
    tracemalloc.start()
    producer.submit((f"s3://b/{n:0100}.jpg" for n in range(50_000)), "<OD>")
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # All of them are 25 MB and more; a chunk, its copies on the way to the wire, and servers in other threads are less.
    assert peak_bytes < 15e6


def test_a_source_is_read_no_further_than_its_block(settings: Settings, hand: Hand) -> None:
    producer = Producer(small_queue(settings, high_water_messages=1, block_chunks=10))
    read = count()
    endless = (f"s3://b/{next(read)}.jpg" for _ in iter(int, 1))
    submission = threading.Thread(target=producer.submit, args=(endless, "<OD>"), kwargs={"job_id": "endless"})
    submission.start()
    while (chunk := hand.take()) is None or chunk.index < 12:
        submission.join(0.01)
    assert next(read) <= 1 + 30
    producer.job("endless").cancel()
    submission.join(10)
    assert not submission.is_alive()


def test_a_job_cancelled_while_it_is_submitted_ends_its_submission(settings: Settings, hand: Hand) -> None:
    producer = Producer(small_queue(settings, high_water_messages=2))
    submission = threading.Thread(target=producer.submit, args=(images(10), "<OD>"), kwargs={"job_id": "stop"})
    submission.start()
    while hand.redis.llen(Lane.BULK.queue) < 2:
        submission.join(0.01)
    job = producer.job("stop")
    job.cancel()
    submission.join(10)
    assert not submission.is_alive()
    assert (job.status().state, job.status().sealed) == (JobState.CANCELLED, False)
    assert [hand.begin(chunk) for chunk in hand.take_all()] == [Verdict.CANCELLED] * 2


# --- submitting again -------------------------------------------------------------------------------------------------


def test_a_broken_source_can_be_mended_and_submitted_again(producer: Producer, hand: Hand) -> None:
    broken: list[Any] = [*images(30), 7]
    with pytest.raises(InvalidRequest, match="image 31"):
        producer.submit(iter(broken), "<OD>", job_id="mend")
    job = producer.submit(images(31), "<OD>", job_id="mend")
    for chunk in hand.take_all():
        if hand.begin(chunk) is Verdict.GO:
            hand.commit(chunk)
    assert job.wait(timeout_s=0).ok == 31


@pytest.mark.parametrize(
    "other",
    [
        {"images": images(3)},
        {"images": images(4)[::-1]},
        {"prompts": "<OCR>"},
        {"output": "elsewhere"},
        {"generation": {"num_beams": 1}},
        {"job_id": "other"},
    ],
)
def test_other_work_is_refused(producer: Producer, hand: Hand, tmp_path: Path, other: dict[str, Any]) -> None:
    call = {"images": images(4), "prompts": "<OD>", "output": "out", "job_id": "mine"}

    def submit(**changes: Any) -> None:
        arguments = {**call, **changes}
        producer.submit(**{**arguments, "output": file_uri(tmp_path / arguments["output"])})

    def terms() -> Any:
        return json.loads(producer.store.get(job_record_uri(f"{file_uri(tmp_path)}/out/")))["terms"]

    submit()
    before, terms_before = producer.job("mine").status(), terms()
    with pytest.raises(JobConflict):
        submit(**other)
    assert terms() == terms_before
    status = producer.job("mine").status()
    assert (status.images, status.chunks) == (before.images, before.chunks)
    submit()


def test_other_chunk_sizes_are_refused(settings: Settings, producer: Producer) -> None:
    producer.submit(images(4), "<OD>", job_id="mine")
    with pytest.raises(JobConflict):
        Producer(small_queue(settings)).submit(images(4), "<OD>", job_id="mine")


def test_other_generation_options_are_refused_even_where_the_record_is_lost(producer: Producer, tmp_path: Path) -> None:
    prefix = f"{file_uri(tmp_path)}/out/"
    producer.submit(images(4), "<OD>", output=prefix, job_id="mine", generation={"num_beams": 1})
    for generation in (None, {"num_beams": 2}):
        (tmp_path / "out/_arno/job.json").unlink(missing_ok=True)
        with pytest.raises(JobConflict):
            producer.submit(images(4), "<OD>", output=prefix, job_id="mine", generation=generation)


def test_a_job_from_before_there_were_generation_options_is_continued(producer: Producer, tmp_path: Path) -> None:
    prefix = f"{file_uri(tmp_path)}/out/"
    output = f'{{"prefix":"{prefix}","format":"jsonl","inline":false}}'
    terms = f'{{"prompts":[{{"task":"<OD>","text":null,"region":null}}],"output":{output},"chunk_images":2}}'
    record = f'{{"job_id":"old","terms":{terms},"created_at":"2026-01-01T00:00:00Z","chunks":null,"images":null}}'
    producer.store.put(job_record_uri(prefix), record.encode(), "application/json")
    producer.ledger.open("old", terms, Output(prefix=prefix), Lane.BULK)
    with pytest.raises(JobConflict):
        producer.submit(images(2), "<OD>", output=prefix, job_id="old", generation={"num_beams": 1})
    assert producer.submit(images(2), "<OD>", output=prefix, job_id="old").status().images == 2


# --- following --------------------------------------------------------------------------------------------------------


def answers(rows: list[ResultRow]) -> list[tuple[str, Status]]:
    return [(row.image.uri, row.status) for row in rows]


def test_results_stream_as_chunks_commit(producer: Producer, hand: Hand) -> None:
    job = producer.submit(images(5), "<OD>")
    first, second, third = hand.take_all()
    hand.commit(second, failed={"s3://b/2.jpg": "not_found"})
    rows = job.results()
    assert answers(list(islice(rows, 2))) == [("s3://b/2.jpg", Status.FAILED), ("s3://b/3.jpg", Status.OK)]
    hand.commit(first)
    assert answers(list(islice(rows, 2))) == [("s3://b/0.jpg", Status.OK), ("s3://b/1.jpg", Status.OK)]
    hand.commit(third)
    assert answers(list(rows)) == [("s3://b/4.jpg", Status.OK)]


def test_results_hold_images_that_were_put_off(producer: Producer, hand: Hand) -> None:
    job = producer.submit(images(2), "<OD>")
    (chunk,) = hand.take_all()
    hand.commit(chunk, put_off=("s3://b/1.jpg",))
    rows = job.results()
    assert next(rows).image.uri == "s3://b/0.jpg"
    assert job.status().put_off == 1
    assert hand.release_due() == 1
    (later,) = hand.take_all()
    hand.commit(later)
    assert [(row.image.uri, row.attempts) for row in rows] == [("s3://b/1.jpg", 2)]


def test_what_is_replayed_supersedes_what_was_given_up(producer: Producer, hand: Hand) -> None:
    job = producer.submit(images(2), "<OD>")
    (chunk,) = hand.take_all()
    hand.commit(chunk, failed={"s3://b/1.jpg": "timeout"}, give_up=True)
    assert answers(list(job.results())) == [("s3://b/0.jpg", Status.OK), ("s3://b/1.jpg", Status.FAILED)]
    (filed,) = producer.dead_letters.list()
    assert producer.replay(filed)
    (later,) = hand.take_all()
    hand.commit(later)
    assert answers(list(job.results())) == [("s3://b/0.jpg", Status.OK), ("s3://b/1.jpg", Status.OK)]


def test_the_same_image_twice_in_a_job_comes_twice(producer: Producer, hand: Hand) -> None:
    job = producer.submit(["s3://b/0.jpg", "s3://b/0.jpg"], "<OD>")
    for chunk in hand.take_all():
        hand.commit(chunk)
    assert answers(list(job.results())) == [("s3://b/0.jpg", Status.OK)] * 2


def test_results_of_a_cancelled_job_end(producer: Producer, hand: Hand) -> None:
    job = producer.submit(images(4), "<OD>")
    hand.commit(hand.take_all()[0])
    assert job.cancel() is JobState.CANCELLED
    assert [row.image.uri for row in job.results()] == images(2)


def test_waiting_ends_in_time(producer: Producer) -> None:
    job = producer.submit(images(4), "<OD>")
    with pytest.raises(TimeoutError, match="0 of 4 images"):
        job.wait(timeout_s=0)


def test_an_unknown_job(producer: Producer) -> None:
    for ask in (producer.job("no").status, producer.job("no").cancel, lambda: list(producer.job("no").results())):
        with pytest.raises(JobNotFound, match="'no'"):
            ask()


# --- replaying --------------------------------------------------------------------------------------------------------


def test_replaying_a_chunk(producer: Producer, hand: Hand) -> None:
    job = producer.submit(images(2), "<OD>")
    (chunk,) = hand.take_all()
    hand.bury(chunk)
    assert (job.status().state, job.status().dead) == (JobState.DONE, 2)
    (filed,) = producer.dead_letters.list()
    assert producer.replay(filed)
    assert not producer.replay(filed)
    assert (job.status().state, job.status().dead) == (JobState.RUNNING, 0)
    (again,) = hand.take_all()
    assert again == chunk
    hand.commit(again)
    assert (job.status().state, job.status().ok) == (JobState.DONE, 2)
    assert list(producer.dead_letters.list()) == []


def test_replaying_the_images_of_a_chunk(producer: Producer, hand: Hand) -> None:
    job = producer.submit(images(2), "<OD>", lane="interactive")
    (chunk,) = hand.take_all(Lane.INTERACTIVE)
    hand.commit(chunk, failed={"s3://b/1.jpg": "timeout"}, give_up=True)
    assert job.status().failed_by_code == {"timeout": 1}
    (filed,) = producer.dead_letters.list(code="timeout")
    assert producer.replay(filed)
    status = job.status()
    assert (status.state, status.failed, status.put_off, status.failed_by_code) == (JobState.RUNNING, 0, 1, {})
    (later,) = [*hand.take_all(), *hand.take_all(Lane.INTERACTIVE)]
    assert (later.attempt, [image.uri for image in later.images]) == (2, ["s3://b/1.jpg"])


def message_letter(raw: str) -> DeadLetter:
    return DeadLetter(
        kind=LetterKind.MESSAGE,
        message_id="theirs-7",
        code="invalid_message",
        reason="no",
        raw=raw,
        task="arno.later",
        lane=Lane.INTERACTIVE,
        worker="hand",
    )


def test_replaying_a_message(producer: Producer, hand: Hand) -> None:
    producer.dead_letters.add(message_letter('{"args": [["s3://b/a.jpg"]], "kwargs": {"prompts": "<OD>", "é": [1]}}'))
    (filed,) = producer.dead_letters.list()
    assert producer.replay(filed)
    message = hand.take_message(Lane.INTERACTIVE)
    assert message is not None
    assert (message["headers"]["task"], message["headers"]["id"]) == ("arno.later", "theirs-7")
    assert message["body"][:2] == [[["s3://b/a.jpg"]], {"prompts": "<OD>", "é": [1]}]
    assert list(producer.dead_letters.list()) == []


@pytest.mark.parametrize("raw", ["\x00 not json", "[]", '{"args": 1, "kwargs": {}}', '{"kwargs": {}}'])
def test_a_message_that_cannot_be_read_stays_a_letter(producer: Producer, hand: Hand, raw: str) -> None:
    producer.dead_letters.add(message_letter(raw))
    (filed,) = producer.dead_letters.list()
    with pytest.raises(InvalidRequest, match="purge"):
        producer.replay(filed)
    assert hand.take_message(Lane.INTERACTIVE) is None
    assert list(producer.dead_letters.list()) == [filed]
