"""S3 events of every sender as sources of images: keys as they are, versions and ETags pinned, the rest passed over."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arno_producer.sources import Columns, images_from
from arno_producer.sources.events import SOURCES, UNKNOWN_SOURCE, images_of_event, is_event, records_of
from arno_shared.errors import InvalidRequest
from arno_shared.messages import ImageRef
from arno_shared.storage import ObjectStore
from tests.producer.conftest import Hand, Ran

EVENTS = Path(__file__).parent / "events"
ETAG = "d41d8cd98f00b204e9800998ecf8427e"
FLOWER = ImageRef(uri="s3://photos/2026/red flower+1 é.jpg", version_id="096fKKXTRTtl3on89fVO.nfljtsv6qko", etag=ETAG)


def event(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((EVENTS / f"{name}.json").read_text())
    return read


def changed(name: str, path: str, value: Any) -> dict[str, Any]:
    """The event with something else at that place."""
    whole: Any = event(name)
    *places, last = [int(place) if place.isdigit() else place for place in path.split("/")]
    held = whole
    for place in places:
        held = held[place]
    held[last] = value
    assert isinstance(whole, dict)
    return whole


def read(path: Path, columns: Columns | None = None) -> list[ImageRef]:
    return list(images_from([str(path)], ObjectStore(), columns))


@pytest.mark.parametrize(
    ("name", "images"),
    [
        ("aws", [FLOWER, ImageRef(uri="s3://photos/2026/b.jpg", etag="9b2cf535f27731c974343645a3985328-4")]),
        ("aws_suspended_versions", [ImageRef(uri="s3://photos/a.jpg", etag=ETAG)]),
        ("sns", [FLOWER]),
        ("sqs", [FLOWER]),
        ("sqs_of_sns", [FLOWER]),
        ("sqs_of_lambda", [FLOWER]),
        (
            "eventbridge",
            [
                ImageRef(
                    uri="s3://photos/2026/red+flower%2B1 é.jpg",
                    version_id="IYV3p45BT0ac8hjHg1houSdS1a.Mro8e",
                    etag=ETAG,
                )
            ],
        ),
        ("minio", [ImageRef(uri="s3://photos/2026/red flower+1 é.jpg", etag=ETAG)]),
        (
            "ceph",
            [ImageRef(uri="s3://photos/2026/red flower+1 é%2B.jpg", etag="37b51d194a7513e45b56f6524f2d51f2")],
        ),
        ("aws_others", []),
        ("aws_test_event", []),
        ("sqs_of_sns_test_event", []),
        ("eventbridge_deleted", []),
    ],
)
def test_every_sender_names_its_images_in_its_own_way(name: str, images: list[ImageRef]) -> None:
    assert is_event(event(name))
    assert images_of_event(event(name)) == images


def test_what_is_no_event_is_not_taken_for_one() -> None:
    for value in ({"uri": "s3://b/a.jpg"}, {"id": 7}, {}, [], "s3://b/a.jpg", {"Type": "Notification"}, {"Body": {}}):
        assert not is_event(value)


def test_the_etag_of_an_event_bridge_is_found_however_it_is_spelled() -> None:
    spelled = event("eventbridge")
    spelled["detail"]["object"]["eTag"] = spelled["detail"]["object"].pop("etag")
    assert images_of_event(spelled) == images_of_event(event("eventbridge"))


@pytest.mark.parametrize(
    ("name", "path", "value", "said"),
    [
        ("aws", "Records", {}, "Records is not a list"),
        ("aws", "Records/1", 7, "Records.1 is not an object"),
        ("aws", "Records/1/eventSource", None, "Records.1.eventSource is missing"),
        ("aws", "Records/0/eventSource", "aws:ses", "Records.0.eventSource is 'aws:ses'; known are aws:s3"),
        ("aws", "Records/0/eventVersion", "3.0", "Records.0.eventVersion is '3.0'"),
        ("aws", "Records/0/eventName", 7, "Records.0.eventName is not a string"),
        ("aws", "Records/0/s3", [], "Records.0.s3 is not an object"),
        ("aws", "Records/0/s3/bucket", {}, "Records.0.s3.bucket.name is missing"),
        ("aws", "Records/0/s3/bucket/name", "", "Records.0.s3 names no bucket"),
        ("aws", "Records/0/s3/bucket/name", "a/b", "Records.0.s3 names no bucket"),
        ("aws", "Records/0/s3/object/key", "", "Records.0.s3 names no bucket or no key"),
        ("aws", "Records/0/s3/object/key", "%FF.jpg", "Records.0.s3.object.key is not UTF-8"),
        ("aws", "Records/0/s3/object/key", "\ud83d.jpg", "Records.0.s3: uri"),
        ("aws", "Records/0/s3/object/key", "k" * 9000, "Records.0.s3: uri"),
        ("aws", "Records/0/s3/object/versionId", 7, "Records.0.s3: version_id"),
        ("sqs", "Body", "hello", "not JSON"),
        ("sqs", "Body", "[" * 100_000, "not JSON"),
        ("sqs", "Body", "[]", "not a JSON object"),
        ("sqs", "Body", '{"hello": 1}', "neither Records nor a detail-type"),
        ("sns", "Message", "Object arrived", "not JSON"),
        ("eventbridge", "source", "aws.ec2", "source is 'aws.ec2'"),
        ("eventbridge", "detail", None, "detail is missing"),
        ("eventbridge", "detail/object/key", 7, "detail.object.key is not a string"),
    ],
)
def test_what_is_wrong_with_an_event_is_said_with_its_line(
    tmp_path: Path, name: str, path: str, value: Any, said: str
) -> None:
    lines = tmp_path / "events.jsonl"
    lines.write_text("\n".join(map(json.dumps, (event("minio"), changed(name, path, value)))))
    with pytest.raises(InvalidRequest) as refused:
        read(lines)
    assert str(refused.value).startswith(f"{lines}, line 2: ")
    assert said in str(refused.value)


def test_an_event_in_ever_more_envelopes_is_refused() -> None:
    wrapped = event("aws")
    for _ in range(4):
        wrapped = {"Body": json.dumps(wrapped)}
    assert images_of_event(wrapped) == images_of_event(event("aws"))
    wrapped = {"Body": json.dumps(wrapped)}
    with pytest.raises(InvalidRequest, match="more than 4 envelopes"):
        images_of_event(wrapped)


@pytest.mark.parametrize(("named", "version"), [("", None), ("null", None), ("v1", "v1")])
def test_objects_without_a_version_have_none_however_that_is_written(named: str, version: str | None) -> None:
    (image,) = images_of_event(changed("ceph", "Records/0/s3/object/versionId", named))
    assert image.version_id == version


def test_an_etag_that_is_empty_is_none() -> None:
    (image,) = images_of_event(changed("ceph", "Records/0/s3/object/eTag", ""))
    assert image.etag is None


def test_a_record_without_its_version_is_read_as_the_second_is() -> None:
    whole = event("minio")
    del whole["Records"][0]["eventVersion"]
    assert images_of_event(whole) == images_of_event(event("minio"))


@pytest.mark.parametrize(("sequencer", "read"), [("00A1", "00A1"), (None, None), (7, None), ({}, None)])
def test_the_sequencer_is_what_the_sender_wrote(sequencer: Any, read: str | None) -> None:
    for name, path in (("ceph", "Records/0/s3/object/sequencer"), ("eventbridge", "detail/object/sequencer")):
        (record,) = records_of(changed(name, path, sequencer))
        assert record.sequencer == read


@pytest.mark.parametrize("named", ["minio:s3", "aws:s3", "ceph:s3", "unheard:s3", None, 7])
def test_a_record_says_who_sent_it_if_it_is_one_that_is_known(named: Any) -> None:
    (record,) = records_of(changed("minio", "Records/0/eventSource", named))
    known = {"minio:s3": "minio", "aws:s3": "aws", "ceph:s3": "ceph"}
    assert record.source == known.get(named, UNKNOWN_SOURCE)
    assert record.source in SOURCES
    assert (record.error is None) == (named in known)


def test_a_message_that_is_no_notification_is_no_envelope() -> None:
    with pytest.raises(InvalidRequest, match="neither Records nor a detail-type"):
        records_of({"Type": "SubscriptionConfirmation", "Message": json.dumps(event("aws"))})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([7], "0 is not an object"),
        ([{"Event": {}}], "0.Event is not a list"),
        ([{"EventTime": "2026"}], "0.Event is missing"),
        (7, "the event is not an object"),
    ],
)
def test_what_is_wrong_with_a_list_of_events_is_said(value: Any, said: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        records_of(value)
    assert str(refused.value) == said


def test_a_row_with_a_uri_is_an_image_whatever_else_it_has(tmp_path: Path) -> None:
    rows = tmp_path / "rows.ndjson"
    rows.write_text(json.dumps({"uri": "s3://b/a.jpg", "body": "words", "Records": []}) + "\n")
    assert read(rows) == [ImageRef(uri="s3://b/a.jpg")]
    rows.write_text(json.dumps({"body": "s3://b/a.jpg", "etag": "e"}) + "\n")
    assert read(rows, Columns("body")) == [ImageRef(uri="s3://b/a.jpg", etag="e")]


def test_a_line_that_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    lines = tmp_path / "events.jsonl"
    lines.write_text('{"Records": ' + "[" * 100_000)
    with pytest.raises(InvalidRequest, match="line 1: not JSON"):
        read(lines)


def test_events_and_images_are_submitted_from_standard_input(arno: Callable[..., Ran], hand: Hand) -> None:
    names = ("sqs_of_sns", "aws_test_event", "aws_others", "ceph", "eventbridge_deleted")
    lines = [*(json.dumps(event(name)) for name in names), "s3://b/plain.jpg", '{"uri": "s3://b/row.jpg"}']
    ran = arno("submit", "-", "-p", "OD", typed="\n".join(lines))
    assert ran.code == 0, ran.err
    images = [image for chunk in hand.take_all() for image in chunk.images]
    assert [image.uri for image in images] == [
        FLOWER.uri,
        "s3://photos/2026/red flower+1 é%2B.jpg",
        "s3://b/plain.jpg",
        "s3://b/row.jpg",
    ]
    assert (images[0].version_id, images[0].etag) == (FLOWER.version_id, ETAG)


def test_an_event_that_cannot_be_read_ends_the_command_with_its_line(arno: Callable[..., Ran]) -> None:
    ran = arno("submit", "-", "-p", "OD", typed='s3://b/a.jpg\n{"Records": 7}\n')
    assert ran.code == 2
    assert "standard input, line 2: Records is not a list" in ran.err
