"""S3 events as a source of images: what object storage says when objects are created.

It says so in its own form (AWS S3, MinIO, Ceph RGW) or in that of EventBridge, and SNS and SQS put an envelope around
either. Keys are written differently by each: AWS and MinIO encode them as a web form does, with `+` for a space;
EventBridge and Ceph write them as they are, so that a `+` there is a `+`. In Redis, MinIO writes a list of events where
others write one.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from pydantic import ValidationError

from arno_shared.errors import InvalidRequest
from arno_shared.messages import ImageRef, describe_invalid

_FORM_ENCODED = {"aws:s3": True, "minio:s3": True, "ceph:s3": False}
"""Whether keys are, by `eventSource`."""

UNKNOWN_SOURCE = "unknown"
SOURCES = ("aws", "eventbridge", "minio", "ceph", UNKNOWN_SOURCE)

_CREATED = "ObjectCreated:"
_BRIDGE_CREATED = "Object Created"
_MAX_ENVELOPES = 4
_CALLED: Mapping[type, str] = {str: "a string", list: "a list", Mapping: "an object"}


@dataclass(frozen=True, slots=True)
class Record:
    """What an event says of one object."""

    source: str
    """One of SOURCES."""
    image: ImageRef | None = None
    """The object that was created; None when that is not what the record says, or when it is a folder."""
    sequencer: str | None = None
    """The storage's own number of that creation: the same each time that it is told of."""
    error: InvalidRequest | None = None
    """Why the record cannot be read."""


def is_event(value: Any) -> bool:
    """Whether a line's JSON is an S3 event, or the envelope of one, rather than an image."""
    return isinstance(value, Mapping) and (
        "Records" in value or "detail-type" in value or _is_test(value) or _enclosed(value) is not None
    )


def images_of_event(event: Mapping[str, Any]) -> list[ImageRef]:
    """The images that an event says were created, pinned by version and ETag where it names them.

    None for S3's test event, for events of any other kind, as deletions, and for folders, whose keys end in a slash.
    Raises InvalidRequest, which says what is wrong with the event.
    """
    images = []
    for record in records_of(event):
        if record.error is not None:
            raise record.error
        if record.image is not None:
            images.append(record.image)
    return images


def records_of(event: Any) -> list[Record]:
    """The records of an event, each read by itself; none for S3's test event.

    Raises InvalidRequest when there is nothing in it that could be a record.
    """
    if isinstance(event, list):
        # As MinIO appends it to a list in Redis.
        return [
            _read_record(record, f"{number}.Event.{place}")
            for number, entry in enumerate(event)
            for place, record in enumerate(_field(_mapping(entry, str(number)), "Event", list, str(number)))
        ]
    opened = _opened(_mapping(event, "the event"))
    if _is_test(opened):
        return []
    if "Records" in opened:
        records = _field(opened, "Records", list)
        return [_read_record(record, f"Records.{number}") for number, record in enumerate(records)]
    if "detail-type" in opened:
        try:
            return [_of_bridge(opened)]
        except InvalidRequest as error:
            return [Record("eventbridge", error=error)]
    raise InvalidRequest("not an S3 event: it has neither Records nor a detail-type")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{where} is not an object")
    return value


def _read_record(record: Any, where: str) -> Record:
    named = record.get("eventSource") if isinstance(record, Mapping) else None
    source = named.removesuffix(":s3") if isinstance(named, str) and named in _FORM_ENCODED else UNKNOWN_SOURCE
    try:
        return _of_record(record, source, where)
    except InvalidRequest as error:
        return Record(source, error=error)


def _is_test(event: Mapping[str, Any]) -> bool:
    return event.get("Event") == "s3:TestEvent"


def _enclosed(event: Mapping[str, Any]) -> str | None:
    """The text that an envelope of SNS or SQS holds; None if it is none."""
    text = event.get("Message") if event.get("Type") == "Notification" else event.get("Body", event.get("body"))
    return text if isinstance(text, str) else None


def _opened(event: Mapping[str, Any]) -> Mapping[str, Any]:
    # The last look finds that nothing is left to be opened.
    for _ in range(_MAX_ENVELOPES + 1):
        enclosed = _enclosed(event)
        if enclosed is None:
            return event
        try:
            event = json.loads(enclosed)
        except (ValueError, RecursionError):
            raise InvalidRequest("the Message or Body of the event is not JSON") from None
        if not isinstance(event, Mapping):
            raise InvalidRequest("the Message or Body of the event is not a JSON object")
    raise InvalidRequest(f"the event lies in more than {_MAX_ENVELOPES} envelopes")


def _of_record(record: Any, source: str, where: str) -> Record:
    named = _field(_mapping(record, where), "eventSource", str, where)
    if named not in _FORM_ENCODED:
        raise InvalidRequest(f"{where}.eventSource is {named[:80]!r}; known are {', '.join(_FORM_ENCODED)}")
    version = record.get("eventVersion", "2.0")
    if not (isinstance(version, str) and version.startswith("2.")):
        raise InvalidRequest(f"{where}.eventVersion is {str(version)[:80]!r}; 2 is known, whatever follows the point")
    if not _field(record, "eventName", str, where).removeprefix("s3:").startswith(_CREATED):
        return Record(source)
    s3 = _field(record, "s3", Mapping, where)
    return _created(source, s3, f"{where}.s3", "versionId", form_encoded=_FORM_ENCODED[named])


def _of_bridge(event: Mapping[str, Any]) -> Record:
    if event.get("source") != "aws.s3":
        raise InvalidRequest(f"source is {str(event.get('source'))[:80]!r}, and not 'aws.s3'")
    if event["detail-type"] != _BRIDGE_CREATED:
        return Record("eventbridge")
    return _created("eventbridge", _field(event, "detail", Mapping), "detail", "version-id", form_encoded=False)


def _created(source: str, entity: Mapping[str, Any], where: str, version_field: str, *, form_encoded: bool) -> Record:
    bucket = _field(_field(entity, "bucket", Mapping, where), "name", str, f"{where}.bucket")
    stored = _field(entity, "object", Mapping, where)
    key = _field(stored, "key", str, f"{where}.object")
    if form_encoded:
        key = _decoded(key, f"{where}.object.key")
    if key.endswith("/"):
        return Record(source)
    if not bucket or "/" in bucket or not key:
        raise InvalidRequest(f"{where} names no bucket or no key")
    version, sequencer = stored.get(version_field), stored.get("sequencer")
    try:
        image = ImageRef(
            uri=f"s3://{bucket}/{key}",
            # Objects from before a bucket had versions are of the version "null".
            version_id=None if version in ("null", "") else version,
            etag=stored.get("eTag") or stored.get("etag") or None,
        )
    except ValidationError as error:
        raise InvalidRequest(f"{where}: {describe_invalid(error)}") from None
    return Record(source, image, sequencer if isinstance(sequencer, str) else None)


def _decoded(key: str, where: str) -> str:
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError:
        raise InvalidRequest(f"{where} is not UTF-8 once it is decoded, as keys must be") from None


def _field(holder: Mapping[str, Any], name: str, kind: type, where: str = "") -> Any:
    value = holder.get(name)
    if not isinstance(value, kind):
        path = f"{where}.{name}" if where else name
        raise InvalidRequest(f"{path} is missing" if value is None else f"{path} is not {_CALLED[kind]}")
    return value
