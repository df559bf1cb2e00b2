"""Turns S3 events into work: for each new object and each rule that it matches, a job of one image, once."""

import hashlib
import json
from collections import Counter as Tally
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter

from arno_producer.client import Producer
from arno_producer.sources.events import SOURCES, UNKNOWN_SOURCE, Record, records_of
from arno_producer.triggers.rules import LoopGuard, Rule
from arno_shared.errors import InvalidRequest, JobConflict, JobNotFound
from arno_shared.logs import get_logger
from arno_shared.messages import ImageRef
from arno_shared.uris import split_s3

log = get_logger(__name__)

_OUTCOMES = ("enqueued", "duplicate", "ignored", "unparseable", "conflict")


class Handled(NamedTuple):
    """What became of an event: of its records, times the rules that each matches."""

    enqueued: int
    duplicates: int
    ignored: int
    """Records that say nothing of a new object, that no rule matches, or that are of Arno's own results."""


class _Outcome(NamedTuple):
    name: str
    """One of _OUTCOMES."""
    error: InvalidRequest | None = None
    """Why the event may not be forgotten."""


class Trigger:
    """Thread-safe."""

    def __init__(self, producer: Producer, rules: Sequence[Rule], registry: CollectorRegistry) -> None:
        self._producer, self._rules = producer, rules
        settings = producer.settings
        self._guard = LoopGuard([settings.output_prefix, *(rule.output.prefix for rule in rules)])
        self._records = Counter(
            "arno_trigger_records", "Records of S3 events, for each rule", ["source", "outcome"], registry=registry
        )
        for source in SOURCES:
            for outcome in _OUTCOMES:
                self._records.labels(source, outcome)
        for rule in rules:
            if rule.watches_its_output:
                log.warning("a rule watches the place of its own results, which are left out", rule=rule.name)

    def handle(self, event: Any) -> Handled:
        """Enqueues all of an event; when this returns, whoever sent it may forget it.

        Called again with the same event, or another one for the same version of an object, it enqueues nothing.
        Raises InvalidRequest when the event, or some record of it, cannot be read, and JobConflict when another job has
        the place of its results: all others are enqueued by then.
        Raises LaneFull and HouseError when the event is to be sent again; what was enqueued is then found.
        """
        try:
            records = records_of(event)
        except InvalidRequest:
            self._records.labels(UNKNOWN_SOURCE, "unparseable").inc()
            raise
        handled: Tally[str] = Tally()
        errors: list[InvalidRequest] = []
        for record in records:
            for outcome, error in self._outcomes(record):
                self._records.labels(record.source, outcome).inc()
                handled[outcome] += 1
                errors += [error] if error else []
        if errors:
            raise errors[0]
        return Handled(handled["enqueued"], handled["duplicate"], handled["ignored"])

    def _outcomes(self, record: Record) -> Iterator[_Outcome]:
        image = record.image
        if record.error is not None:
            yield _Outcome("unparseable", record.error)
        elif image is None or not (rules := self._rules_for(image)):
            yield _Outcome("ignored")
        else:
            for rule in rules:
                yield self._enqueue(image, _job_id(image, record.sequencer, rule), rule)

    def _rules_for(self, image: ImageRef) -> list[Rule]:
        bucket, key = split_s3(image.uri)
        return [] if self._guard.holds_back(bucket, key) else [r for r in self._rules if r.matches(bucket, key)]

    def _enqueue(self, image: ImageRef, job_id: str, rule: Rule) -> _Outcome:
        output = rule.output.model_copy(update={"prefix": f"{rule.output.prefix}{job_id}/"})
        try:
            duplicate = self._producer.send(
                [image], rule.prompts, output=output, generation=rule.generation, job_id=job_id, lane=rule.lane
            ).duplicate
        except JobConflict as error:
            if not self._is_known(job_id, output.prefix):
                refused = JobConflict(f"rule {rule.name!r}, results of {image.uri} at {output.prefix}: {error}")
                log.error("event refused", code=refused.code, rule=rule.name, job=job_id, image=image.uri)
                return _Outcome("conflict", refused)
            # Told of by senders of which one says more than the other: the ETag beside the version, for example.
            duplicate = True
        log.info("event", rule=rule.name, job=job_id, image=image.uri, duplicate=duplicate)
        return _Outcome("duplicate" if duplicate else "enqueued")

    def _is_known(self, job_id: str, prefix: str) -> bool:
        """Whether the job is the very work that its id stands for, and not somebody else's with that id or place."""
        try:
            return self._producer.job(job_id).status().output_prefix == prefix
        except JobNotFound:
            return self._producer.ledger.owner_of(prefix) == job_id


def _job_id(image: ImageRef, sequencer: str | None, rule: Rule) -> str:
    """The same for all events that tell of the same version of an object, under a rule that asks the same.

    Where a bucket has versions, these tell objects apart, and else what is in them does. A sender that says neither, as
    some do of uploads in parts, tells of one upload after the other: `sequencer` is that upload's.
    """
    asked = rule.model_dump_json(include={"prompts", "output", "generation"})
    what = json.dumps([asked, image.uri, image.version_id or image.etag or sequencer])
    return f"{rule.name}-{hashlib.sha256(what.encode()).hexdigest()[:32]}"
