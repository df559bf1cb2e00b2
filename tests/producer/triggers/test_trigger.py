"""Events become work by rules, once; what Arno wrote itself never does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from arno_producer import Producer
from arno_producer.http.app import door
from arno_producer.sources.events import images_of_event
from arno_producer.triggers.rules import Rule, load_rules
from arno_producer.triggers.trigger import Handled, Trigger
from arno_shared.errors import InvalidRequest, JobConflict, LaneFull
from arno_shared.names import Lane, job_keys
from arno_shared.settings import HttpSettings, ProducerSettings, Settings
from arno_shared.uris import file_uri
from tests.producer.conftest import Hand
from tests.producer.sources.test_events import FLOWER, changed, event

OUTPUT = "s3://results/flowers/"


def rule(**fields: Any) -> Rule:
    return Rule.model_validate({"name": "flowers", "prompts": "<OD>", "output": OUTPUT, **fields})


@pytest.fixture
def trigger(producer: Producer) -> Callable[..., Trigger]:
    return lambda *rules: Trigger(producer, rules or (rule(),), CollectorRegistry())


def wrapped(name: str) -> list[Any]:
    """As MinIO appends it to a list in Redis."""
    return [{"Event": event(name)["Records"], "EventTime": "2026-03-01T10:20:30Z"}]


@pytest.mark.parametrize("name", ["aws", "eventbridge", "minio", "ceph", "sns", "sqs", "sqs_of_sns"])
def test_each_sender_is_understood_and_its_duplicates_are_done_once(
    trigger: Callable[..., Trigger], hand: Hand, name: str
) -> None:
    once = trigger()
    assert once.handle(event(name)).enqueued >= 1
    again = once.handle(event(name))
    assert (again.enqueued, again.duplicates >= 1) == (0, True)
    chunks = hand.take_all()
    assert [image for chunk in chunks for image in chunk.images] == images_of_event(event(name))
    assert {chunk.output.prefix for chunk in chunks} == {f"{OUTPUT}{chunk.job_id}/" for chunk in chunks}


def test_the_list_that_minio_writes_to_redis_is_understood(trigger: Callable[..., Trigger], hand: Hand) -> None:
    assert trigger().handle(wrapped("minio")) == Handled(1, 0, 0)
    assert [image.uri for chunk in hand.take_all() for image in chunk.images] == [FLOWER.uri]


@pytest.mark.parametrize(
    ("path", "value"),
    [("Records/0/s3/object/versionId", "another"), ("Records/0/s3/object/key", "another.jpg")],
)
def test_another_version_or_object_is_other_work(trigger: Callable[..., Trigger], path: str, value: str) -> None:
    once = trigger()
    once.handle(event("aws"))
    assert once.handle(changed("aws", path, value)).enqueued == 1


def test_other_content_is_other_work_where_there_are_no_versions(trigger: Callable[..., Trigger]) -> None:
    once = trigger()
    once.handle(event("minio"))
    assert once.handle(changed("minio", "Records/0/s3/object/eTag", "another")) == Handled(1, 0, 0)


@pytest.mark.parametrize(
    "other",
    [{"prompts": "<OCR>"}, {"output": "s3://elsewhere/"}, {"generation": {"num_beams": 1}}, {"name": "others"}],
)
def test_a_rule_that_asks_something_else_has_its_own_work(trigger: Callable[..., Trigger], other: Any) -> None:
    trigger().handle(event("minio"))
    assert trigger(rule(**other)).handle(event("minio")) == Handled(1, 0, 0)


def test_a_rule_that_finds_the_same_objects_in_another_way_asks_the_same(trigger: Callable[..., Trigger]) -> None:
    trigger().handle(event("minio"))
    assert trigger(rule(bucket="photos", suffix=".jpg", lane="interactive")).handle(event("minio")).duplicates == 1


def test_work_is_asked_for_as_its_rule_says(trigger: Callable[..., Trigger], hand: Hand) -> None:
    asked = rule(
        prompts=["<OCR>", "<CAPTION_TO_PHRASE_GROUNDING>a stamp"],
        output={"prefix": OUTPUT, "format": "parquet"},
        generation={"num_beams": 1, "max_new_tokens": 20},
        lane="interactive",
    )
    trigger(asked).handle(event("minio"))
    (chunk,) = hand.take_all(Lane.INTERACTIVE)
    assert (chunk.prompts, chunk.generation, chunk.output.format) == (asked.prompts, asked.generation, "parquet")
    assert chunk.job_id.startswith("flowers-")


def test_the_same_version_is_the_same_work_whoever_tells_of_it(trigger: Callable[..., Trigger], hand: Hand) -> None:
    once = trigger()
    whole = event("eventbridge")
    once.handle(whole)
    whole["detail"]["object"].pop("etag", None)
    assert once.handle(whole) == Handled(0, 1, 0)
    assert len(hand.take_all()) == 1


def without_an_etag(sequencer: str | None) -> dict[str, Any]:
    """As some senders tell of an upload in parts."""
    whole = event("ceph")
    whole["Records"][0]["s3"]["object"] |= {"eTag": "", "versionId": "", "sequencer": sequencer}
    return whole


def test_the_same_version_is_the_same_work_after_the_ledger_has_let_its_job_go(
    trigger: Callable[..., Trigger], hand: Hand, tmp_path: Path
) -> None:
    once = trigger(rule(output=f"{file_uri(tmp_path)}/"))
    whole = event("eventbridge")
    once.handle(whole)
    (chunk,) = hand.take_all()
    hand.commit(chunk)
    hand.redis.delete(job_keys(chunk.job_id).job)
    whole["detail"]["object"].pop("etag", None)
    assert once.handle(whole) == Handled(0, 1, 0)


def test_uploads_of_which_neither_version_nor_etag_is_known_are_told_apart_by_their_sequencer(
    trigger: Callable[..., Trigger], hand: Hand
) -> None:
    once = trigger()
    assert once.handle(without_an_etag("1")) == once.handle(without_an_etag("2")) == Handled(1, 0, 0)
    assert once.handle(without_an_etag("1")) == Handled(0, 1, 0)
    assert once.handle(without_an_etag(None)) == Handled(1, 0, 0)
    assert len(hand.take_all()) == 3


def test_what_is_in_an_object_tells_it_apart_whatever_its_sequencer(trigger: Callable[..., Trigger]) -> None:
    once = trigger()
    once.handle(event("ceph"))
    assert once.handle(changed("ceph", "Records/0/s3/object/sequencer", "another")) == Handled(0, 1, 0)


@pytest.fixture
def taken_job_id(trigger: Callable[..., Trigger], hand: Hand) -> str:
    """The id of the job that Ceph's event would become, which nobody has any more."""
    trigger().handle(event("ceph"))
    (chunk,) = hand.take_all()
    hand.redis.flushdb()
    return chunk.job_id


def test_an_event_whose_job_id_is_somebody_elses_is_no_duplicate_and_is_not_forgotten(
    producer: Producer, hand: Hand, taken_job_id: str
) -> None:
    producer.send(["s3://b/other.jpg"], "<OD>", output="s3://results/others/", job_id=taken_job_id)
    registry = CollectorRegistry()
    rules = (rule(), rule(name="others"))
    with pytest.raises(JobConflict, match=rf"rule 'flowers', results of s3://photos/.* at {OUTPUT}{taken_job_id}/: "):
        Trigger(producer, rules, registry).handle(event("ceph"))
    outcomes = {
        outcome: registry.get_sample_value("arno_trigger_records_total", {"source": "ceph", "outcome": outcome})
        for outcome in ("enqueued", "duplicate", "conflict")
    }
    assert outcomes == {"enqueued": 1, "duplicate": 0, "conflict": 1}
    assert [chunk.job_id.partition("-")[0] for chunk in hand.take_all()] == ["others"]


def test_an_event_whose_results_have_no_place_is_no_duplicate_and_is_not_forgotten(
    trigger: Callable[..., Trigger], hand: Hand, taken_job_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = trigger()

    def refuse(*_: Any, **__: Any) -> None:
        raise JobConflict("another job has its results there")

    with monkeypatch.context() as patched:
        patched.setattr(once._producer, "send", refuse)
        with pytest.raises(JobConflict, match="another job has its results there"):
            once.handle(event("ceph"))
    assert once.handle(event("ceph")).enqueued == 1


def test_every_rule_that_matches_has_its_own_work(trigger: Callable[..., Trigger], hand: Hand) -> None:
    rules = (
        rule(name="all"),
        rule(name="urgent", lane="interactive", suffix=[".PNG", ".JPG"], prefix="2026/"),
        rule(name="elsewhere", bucket="others"),
        rule(name="pngs", suffix=".png"),
    )
    assert trigger(*rules).handle(event("minio")) == Handled(2, 0, 0)
    assert len(hand.take_all(Lane.BULK)) == len(hand.take_all(Lane.INTERACTIVE)) == 1


@pytest.mark.parametrize("name", ["aws_test_event", "sqs_of_sns_test_event", "aws_others", "eventbridge_deleted"])
def test_what_is_no_new_object_is_passed_over(trigger: Callable[..., Trigger], hand: Hand, name: str) -> None:
    handled = trigger().handle(event(name))
    assert (handled.duplicates, hand.take_all()[handled.enqueued :]) == (0, [])
    if name != "aws_others":
        assert handled.enqueued == 0


@pytest.mark.parametrize(
    "key",
    [
        "part-000000012.jsonl",
        "a/part-000000012.2.parquet",
        "a/_arno/job.json",
        "mine/x.jpg",
        "_arno/manifest-000000.jsonl",
    ],
)
def test_results_never_become_work(trigger: Callable[..., Trigger], hand: Hand, key: str) -> None:
    watching_itself = rule(bucket="photos", output="s3://photos/mine/")
    assert watching_itself.watches_its_output
    assert trigger(watching_itself).handle(changed("ceph", "Records/0/s3/object/key", key)) == Handled(0, 0, 1)
    assert hand.take_all() == []


def test_what_lies_where_results_go_by_default_never_becomes_work(settings: Settings) -> None:
    producer = Producer(settings.model_copy(update={"output_prefix": "s3://photos/2026/"}))
    assert Trigger(producer, [rule()], CollectorRegistry()).handle(event("minio")) == Handled(0, 0, 1)


def test_that_a_rule_watches_its_own_results_is_said_at_the_start(trigger: Callable[..., Trigger]) -> None:
    with capture_logs() as logs:
        trigger(rule(), rule(name="itself", bucket="results"))
    assert [(log["log_level"], log["rule"]) for log in logs] == [("warning", "itself")]


def test_every_outcome_of_every_sender_is_counted_from_the_start(producer: Producer) -> None:
    registry = CollectorRegistry()

    def counted(source: str, outcome: str) -> float | None:
        return registry.get_sample_value("arno_trigger_records_total", {"source": source, "outcome": outcome})

    once = Trigger(producer, [rule()], registry)
    for source in ("aws", "eventbridge", "minio", "ceph", "unknown"):
        for outcome in ("enqueued", "duplicate", "ignored", "unparseable", "conflict"):
            assert counted(source, outcome) == 0
    for wrong in ({"hello": 1}, changed("minio", "Records/0/eventSource", "unheard:of")):
        with pytest.raises(InvalidRequest):
            once.handle(wrong)
    assert counted("unknown", "unparseable") == 2
    with pytest.raises(InvalidRequest):
        once.handle(changed("minio", "Records/0/eventVersion", "9"))
    assert counted("minio", "unparseable") == 1
    once.handle(event("eventbridge"))
    once.handle(event("eventbridge"))
    assert (counted("eventbridge", "enqueued"), counted("eventbridge", "duplicate")) == (1, 1)


def test_a_record_that_cannot_be_read_does_not_hide_its_neighbours(trigger: Callable[..., Trigger], hand: Hand) -> None:
    whole = event("aws")
    whole["Records"] = [{"eventSource": "unheard:of"}, whole["Records"][0]]
    with pytest.raises(InvalidRequest, match=r"Records\.0\.eventSource"):
        trigger().handle(whole)
    assert len(hand.take_all()) == 1


def test_a_full_lane_leaves_the_event_to_its_sender(settings: Settings) -> None:
    narrow = Producer(settings.model_copy(update={"producer": ProducerSettings(high_water_messages=1)}))
    once = Trigger(narrow, [rule()], CollectorRegistry())
    once.handle(event("ceph"))
    with pytest.raises(LaneFull):
        once.handle(changed("ceph", "Records/0/s3/object/key", "another.jpg"))


RULES = """
[[rule]]
name = "receipts"
bucket = "uploads"
prefix = "receipts/"
suffix = [".jpg", ".png"]
prompts = ["<OCR>", "<CAPTION_TO_PHRASE_GROUNDING>a stamp"]
output = "s3://results/receipts/"
lane = "interactive"

[[rule]]
name = "rest"
prompts = "<OD>"
output = {prefix = "s3://results/rest/", format = "parquet"}
"""


def test_rules_are_read_from_toml(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(RULES)
    receipts, rest = load_rules(file)
    assert (receipts.lane, receipts.suffix, receipts.prompts[1].text) == (Lane.INTERACTIVE, (".jpg", ".png"), "a stamp")
    assert (rest.bucket, rest.output.format, rest.lane) == (None, "parquet", Lane.BULK)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no rules"),
        ("rule = 1", "has no rules"),
        ("[rule", "is not TOML"),
        ("[[rules]]", "'rules' is not known"),
        (RULES.replace('name = "rest"', 'name = "receipts"'), "two rules have the name 'receipts'"),
        (RULES.replace('"<OD>"', '"<NO>"'), "rule 2 (rest): prompts"),
        (RULES.replace("bucket =", "buckett ="), "rule 1 (receipts): buckett"),
        (RULES.replace('lane = "interactive"', 'lane = "express"'), "rule 1 (receipts): lane"),
        ('[[rule]]\nprompts = "<OD>"\noutput = "s3://r/"', "rule 1: name"),
    ],
)
def test_what_is_wrong_with_rules_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "rules.toml"
    file.write_text(text)
    with pytest.raises(InvalidRequest) as refused:
        load_rules(file)
    assert said in str(refused.value)
    assert str(file) in str(refused.value)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        load_rules(tmp_path / "absent.toml")


def webhook(settings: Settings, tmp_path: Path, rules: str | None) -> TestClient:
    file = tmp_path / "rules.toml"
    file.write_text(rules or "")
    own = HttpSettings(rules=file if rules else None)
    return TestClient(door(Producer(settings.model_copy(update={"http": own}))), base_url="http://localhost")


def test_the_webhook_takes_events_of_every_sender(settings: Settings, tmp_path: Path, hand: Hand) -> None:
    client = webhook(settings, tmp_path, '[[rule]]\nname = "a"\nprompts = "<OD>"\noutput = "s3://results/"')
    assert client.head("/v1/events/s3").status_code == 200
    for name in ("minio", "ceph"):
        answer = client.post("/v1/events/s3", json=event(name))
        assert (answer.status_code, answer.json()["ignored"]) == (200, 0)
    assert client.post("/v1/events/s3", json=event("minio")).json() == {"enqueued": 0, "duplicates": 1, "ignored": 0}
    answer = client.post("/v1/events/s3", json={"hello": 1})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_event")
    assert 'arno_trigger_records_total{outcome="duplicate",source="minio"} 1.0' in client.get("/metrics").text
    assert hand.take_all()


def test_without_rules_the_webhook_says_what_is_missing(settings: Settings, tmp_path: Path) -> None:
    answer = webhook(settings, tmp_path, None).post("/v1/events/s3", json=event("minio"))
    assert (answer.status_code, "ARNO_HTTP__RULES" in json.dumps(answer.json())) == (404, True)
