"""`arno doctor`: what it sees of a sound house, and what it says of each fault."""

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.metadata import packages_distributions
from pathlib import Path

import boto3
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from redis import Redis

from arno_producer import Producer
from arno_producer.cli.doctor import extras
from arno_producer.cli.doctor import workers as doctor_of_workers
from arno_producer.cli.doctor.extras import check_extras
from arno_producer.cli.doctor.findings import Finding, Verdict
from arno_producer.cli.doctor.model import check_model
from arno_producer.cli.doctor.storage import check_conditional_writes, check_storage
from arno_producer.cli.doctor.workers import check_workers
from arno_producer.client import new_job_id
from arno_shared import __version__
from arno_shared.dead_letters import DeadLetter, LetterKind
from arno_shared.errors import InvalidRequest, StorageRefused
from arno_shared.names import UNACKED, WORKERS, Lane
from arno_shared.presence import announce
from arno_shared.settings import WorkerSettings
from arno_shared.storage import ObjectStore
from tests.acceptance.arno_worker import eventually
from tests.checkpoints import change_json, make_adapter, make_original, make_processor
from tests.producer.cli.test_workers import worker_state
from tests.producer.conftest import Ran
from tests.servers import Valkey, make_bucket

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
Arno = Callable[..., Ran]
Configure = Callable[..., None]


@pytest.fixture
def configure(producer: Producer) -> Iterator[Configure]:
    """Changes the server's configuration for the length of a test."""
    before: dict[str, str] = {}

    def change(**values: str) -> None:
        for name, value in values.items():
            before.update(producer.redis.config_get(name))
            producer.redis.config_set(name, value)

    yield change
    for name, value in before.items():
        producer.redis.config_set(name, value)


def findings(ran: Ran) -> dict[str, Finding]:
    return {line["check"]: Finding(**line) for line in ran.lines}


def test_a_sound_house(arno: Arno, producer: Producer, configure: Configure, tmp_path: Path) -> None:
    configure(appendonly="yes")
    producer.submit("s3://b/a.jpg", "<OD>", lane=Lane.INTERACTIVE)
    ran = arno("doctor", "--json")
    found = findings(ran)
    assert ran.code == 0
    assert {name: finding.verdict for name, finding in found.items()} == {
        "redis": "ok",
        "persistence": "ok",
        "eviction": "ok",
        "workers": "note",
        "queues": "ok",
        "dead letters": "ok",
        "storage": "ok",
        "conditional writes": "ok",
        "model": "ok",
        "extra parquet": "ok",
        "extra worker": "ok",
        "extra http": "ok",
        "extra otel": "ok",
        "extra flower": "ok",
        "extra demo": "ok",
    }
    assert "Valkey 9" in found["redis"].says
    assert found["queues"].says == "chunks that wait: 1 in interactive, 0 in bulk; in workers' hands: 0"
    assert "arno-worker" in found["workers"].mend
    assert f"file://{tmp_path}/results/" in found["storage"].says
    assert found["model"].says.startswith("arno-tiny (bundled): transformers' own layout; 3 beams, no 3-gram twice")


def test_the_table_says_the_same(arno: Arno) -> None:
    ran = arno("doctor")
    assert ran.code == 0
    assert all(word in ran.out for word in ("Valkey", "noeviction", "arno-tiny (bundled)", "start one: arno-worker"))


def test_redis_away(arno: Arno, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int) -> None:
    monkeypatch.setenv("ARNO_REDIS_URL", f"redis://me:hush@127.0.0.1:{free_tcp_port}/0")
    ran = arno("doctor", "--json")
    found = findings(ran)
    assert ran.code == 1
    assert found["redis"].verdict == "failed"
    assert f"redis://***@127.0.0.1:{free_tcp_port}/0" in found["redis"].says
    assert "ARNO_REDIS_URL" in found["redis"].mend
    assert "hush" not in ran.out
    # The rest is looked at all the same.
    assert found["storage"].verdict == "ok"
    assert "queues" not in found


def test_a_password_that_is_wrong(arno: Arno, monkeypatch: pytest.MonkeyPatch, valkey_url: str) -> None:
    monkeypatch.setenv("ARNO_REDIS_URL", valkey_url.replace("redis://", "redis://me:hush@"))
    ran = arno("doctor", "--json")
    assert ran.code == 1
    assert "invalid username-password pair" in findings(ran)["redis"].says
    assert "hush" not in ran.out


@pytest.mark.parametrize("command", [("doctor",), ("submit", "s3://b/a.jpg", "-p", "OD"), ("status",)])
@pytest.mark.parametrize("option", ["socket_timeout=abc", "max_connections=2", "ssl_cert_reqs=none"])
def test_an_option_of_redis_that_cannot_be_honoured_is_refused_by_all(
    command: tuple[str, ...], option: str, arno: Arno, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = producer.settings.redis_url.replace("redis://", "redis://:hush@")
    monkeypatch.setenv("ARNO_REDIS_URL", f"{url}?{option}")
    ran = arno(*command)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("arno: settings: ARNO_REDIS_URL: ")
    assert f"the option {option.partition('=')[0]} " in ran.err
    assert "hush" not in ran.err
    assert not producer.redis.keys()


def test_redis_whose_user_may_not_ask_how_it_is(arno: Arno, producer: Producer) -> None:
    producer.redis.execute_command("ACL", "SETUSER", "default", "-info")
    try:
        ran = arno("doctor", "--json")
    finally:
        producer.redis.execute_command("ACL", "SETUSER", "default", "+@all")
    found = findings(ran)
    assert ran.code == 0
    assert found["redis"].verdict == "ok"
    assert "+info" in found["persistence and eviction"].mend
    assert "queues" in found, "the rest is looked at"


@pytest.fixture(scope="module")
def cluster() -> Iterator[list[Valkey]]:
    """Three servers with the slots between them."""
    with ExitStack() as stack:
        servers = [stack.enter_context(Valkey(cluster_enabled="yes", cluster_node_timeout=2000)) for _ in range(3)]
        clients = [stack.enter_context(Redis.from_url(server.url)) for server in servers]
        for number, client in enumerate(clients):
            client.execute_command("CLUSTER", "ADDSLOTS", *range(number * 5462, min((number + 1) * 5462, 16384)))
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port)
        for client in clients:
            eventually(lambda client=client: client.cluster("INFO")["cluster_state"] == "ok", "the cluster is up")
        yield servers


@pytest.mark.parametrize(
    "command", [("submit", "s3://b/a.jpg", "-p", "OD"), ("doctor", "--json"), ("status",), ("status", "run-7")]
)
def test_a_cluster_is_refused_in_one_sentence(
    command: tuple[str, ...], cluster: list[Valkey], arno: Arno, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for server in cluster:
        monkeypatch.setenv("ARNO_REDIS_URL", server.url)
        ran = arno(*command)
        if command[0] == "doctor":
            assert ran.code == 1
            assert findings(ran)["redis"].verdict == "failed"
            assert "it is a Redis Cluster" in findings(ran)["redis"].says
            assert "use one server, or Sentinel" in findings(ran)["redis"].says
        elif command[0] == "submit":
            assert (ran.code, ran.out) == (1, "")
            assert re.fullmatch(r"arno: Redis cannot be used: it is a Redis Cluster, .*\n", ran.err)
            assert not list(tmp_path.rglob("job.json")), "nothing of it was written"
        else:
            # Some keys are on this server.
            assert "Traceback" not in ran.err


def test_a_server_that_is_too_old(arno: Arno, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    info = Redis.info
    monkeypatch.setattr(Redis, "info", lambda *args: {**info(*args), "redis_version": "6.0.16"})
    ran = arno("doctor", "--json")
    assert ran.code == 1
    assert "Redis 6.0.16 is too old: use Redis 6.2, Valkey or newer" in findings(ran)["redis"].says
    ran = arno("submit", "s3://b/a.jpg", "-p", "OD")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("arno: Redis 6.0.16 is too old")
    assert not list(tmp_path.rglob("job.json")), "nothing of it was written"


def test_redis_that_forgets(arno: Arno, configure: Configure) -> None:
    configure(**{"maxmemory-policy": "allkeys-lru"})
    ran = arno("doctor", "--json")
    found = findings(ran)
    assert ran.code == 1
    assert (found["persistence"].verdict, found["eviction"].verdict) == ("note", "failed")
    assert "noeviction" in found["eviction"].mend
    assert "appendonly" in found["persistence"].mend


def test_dead_letters_are_noted(arno: Arno, producer: Producer) -> None:
    producer.dead_letters.add(DeadLetter(kind=LetterKind.MESSAGE, code="x", reason="x", raw="", worker="hand"))
    assert "1 wait" in findings(arno("doctor", "--json"))["dead letters"].says


def test_messages_in_workers_hands_are_counted(arno: Arno, producer: Producer) -> None:
    producer.redis.hset(UNACKED, mapping={"a": "[]", "b": "[]"})
    assert "in workers' hands: 2" in findings(arno("doctor", "--json"))["queues"].says


def test_messages_of_a_newer_schema_wait_for_workers_that_speak_it(arno: Arno, producer: Producer) -> None:
    producer.redis.lpush(Lane.BULK.queue_for(2), "{}", "{}")
    producer.redis.lpush(Lane.INTERACTIVE.queue_for(9), "{}")
    announce(producer.redis, worker_state(schema_version=1))
    found = findings(arno("doctor", "--json"))
    two, nine = found["messages of schema version 2"], found["messages of schema version 9"]
    assert (two.verdict, two.says, two.mend) == ("note", "2 wait in bulk", "start workers that speak schema version 2")
    assert (nine.says, nine.mend) == ("1 wait in interactive", "start workers that speak schema version 9")
    announce(producer.redis, worker_state(schema_version=2))
    found = findings(arno("doctor", "--json"))
    assert found["messages of schema version 2"].mend == ""
    assert "version 9" in found["messages of schema version 9"].mend


# --- workers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Says which workers answer pings."""

    def answer(*names: str) -> None:
        monkeypatch.setattr(doctor_of_workers, "node_names", lambda app, timeout_s: sorted(names))

    answer()
    return answer


def test_workers_that_are_there_and_answer(arno: Arno, producer: Producer, answering: Callable[..., None]) -> None:
    announce(producer.redis, worker_state("gpu0@a"))
    announce(producer.redis, worker_state("gpu1@a", phase="loading"))
    answering("gpu0@a", "old@b")
    found = findings(arno("doctor", "--json"))
    assert found["workers"].verdict == "ok"
    assert found["workers"].says == "3 there, 2 answered: gpu0@a (working), gpu1@a (loading), old@b"
    assert not [check for check in found if check.endswith((" workers", "versions"))]


def test_a_worker_that_is_there_and_answers_no_ping(
    arno: Arno, producer: Producer, answering: Callable[..., None]
) -> None:
    announce(producer.redis, worker_state("gpu0@a"))
    announce(producer.redis, worker_state("gpu1@a"))
    answering("gpu1@a")
    mute = findings(arno("doctor", "--json"))["mute workers"]
    assert (mute.verdict, mute.says) == ("note", "gpu0@a takes part, but answers no ping within 1 s")


def test_a_worker_that_ails(arno: Arno, producer: Producer, answering: Callable[..., None]) -> None:
    announce(producer.redis, worker_state("gpu0@a", ailment="nothing moved for 300 s"))
    answering("gpu0@a")
    ailing = findings(arno("doctor", "--json"))["ailing workers"]
    assert (ailing.verdict, ailing.says) == ("note", "gpu0@a: nothing moved for 300 s")


def test_a_worker_that_computes_with_less_than_was_asked_for(
    arno: Arno, producer: Producer, answering: Callable[..., None]
) -> None:
    announce(producer.redis, worker_state("gpu0@a", execution="triton, without graphs: out of memory"))
    announce(producer.redis, worker_state("gpu1@a", execution="triton, graphs"))
    answering("gpu0@a", "gpu1@a")
    slowed = findings(arno("doctor", "--json"))["slowed workers"]
    assert (slowed.verdict, slowed.says) == ("note", "gpu0@a")


def test_a_worker_that_fell_silent(arno: Arno, producer: Producer, answering: Callable[..., None]) -> None:
    announce(producer.redis, worker_state("gpu0@a", chunks_in_flight=3, ailment="stuck", version="0"))
    producer.redis.zincrby(WORKERS, -90, "gpu0@a")
    ran = arno("doctor", "--json")
    found = findings(ran)
    assert ran.code == 0
    assert re.fullmatch(r"gpu0@a for 9\d s \(was working, 3 chunks in hand\): stuck", found["silent workers"].says)
    # It is nobody's fellow any more.
    assert found["workers"].says.startswith("none answered")
    assert not {"ailing workers", "mute workers", "worker versions"} & set(found)


def test_versions_that_differ(arno: Arno, producer: Producer, answering: Callable[..., None]) -> None:
    announce(producer.redis, worker_state("gpu0@a"))
    announce(producer.redis, worker_state("gpu1@a", version="99.1", schema_version=3))
    answering("gpu0@a", "gpu1@a")
    found = findings(arno("doctor", "--json"))
    assert (found["worker versions"].verdict, found["schema versions"].verdict) == ("note", "note")
    assert found["worker versions"].says == f"{__version__}: here, gpu0@a; 99.1: gpu1@a"
    assert found["schema versions"].says == "2: here, gpu0@a; 3: gpu1@a"


def test_workers_that_are_all_of_one_other_version(
    arno: Arno, producer: Producer, answering: Callable[..., None]
) -> None:
    announce(producer.redis, worker_state("gpu0@a", version="99.1"))
    assert findings(arno("doctor", "--json"))["worker versions"].says == f"{__version__}: here; 99.1: gpu0@a"


# --- storage ----------------------------------------------------------------------------------------------------------


def test_storage_that_cannot_be_written(arno: Arno, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ARNO_OUTPUT_PREFIX", f"file://{tmp_path}/file/")
    ran = arno("doctor", "--json")
    assert ran.code == 1
    assert findings(ran)["storage"].verdict == "failed"
    assert "ARNO_OUTPUT_PREFIX" in findings(ran)["storage"].mend


def test_a_bucket(bucket: str, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int) -> None:
    assert check_storage(ObjectStore(), f"s3://{bucket}/out/").verdict is Verdict.OK
    keys = [entry["Key"] for entry in boto3.client("s3").list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys == ["out/_arno/doctor.txt"]
    missing = check_storage(ObjectStore(), "s3://there-is-none/out/")
    assert (missing.verdict, "there-is-none" in missing.says) == (Verdict.FAILED, True)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_tcp_port}")
    away = check_storage(ObjectStore(), f"s3://{bucket}/out/")
    assert (away.verdict, "AWS_ENDPOINT_URL_S3" in away.mend) == (Verdict.FAILED, True)


def test_a_prefix_without_room_for_jobs_is_not_called_sound(bucket: str, producer: Producer) -> None:
    full = f"s3://{bucket}/{'x' * 950}/"
    with pytest.raises(InvalidRequest, match="at most 960 bytes"):
        producer.submit(["s3://b/a.jpg"], "<OD>", output=f"{full}{new_job_id()}/")
    found = check_storage(ObjectStore(), full)
    assert found.verdict is Verdict.FAILED
    assert "at most 960 bytes" in found.says
    assert check_storage(ObjectStore(), f"s3://{bucket}/{'x' * 900}/").verdict is Verdict.OK


class Unconditional(ObjectStore):
    """Storage that refuses conditional writes to this account."""

    def conditional_writes(self, prefix_uri: str) -> bool:
        raise StorageRefused("no")


def test_storage_that_would_refuse_the_record_of_a_job_is_not_called_sound(tmp_path: Path) -> None:
    assert check_conditional_writes(Unconditional(), f"file://{tmp_path}/").verdict is Verdict.FAILED


def test_storage_without_conditional_writes_is_told_what_stands_in_for_them(rclone_s3: str) -> None:
    found = check_conditional_writes(ObjectStore(), f"s3://{make_bucket()}/out/")
    assert found.verdict is Verdict.NOTE
    assert "locks in Redis" in found.says


class Forgetful(ObjectStore):
    """Storage that takes everything and keeps the first of it."""

    def put(self, uri: str, data: bytes, content_type: str) -> None:
        if not self.exists(uri):
            super().put(uri, data, content_type)


def test_storage_that_gives_back_something_else(tmp_path: Path) -> None:
    prefix = f"file://{tmp_path}/"
    assert check_storage(Forgetful(), prefix).verdict is Verdict.OK
    assert "read back" in check_storage(Forgetful(), prefix).says


def test_what_workers_have_read_of_their_models(producer: Producer) -> None:
    said = "Microsoft's original layout, float16, head tied; 3 beams, no 3-gram twice, from text_config of config.json"
    for name in ("gpu0@a", "gpu1@a"):
        announce(producer.redis, worker_state(name, provenance=said))
    announce(producer.redis, worker_state("gpu2@a", phase="loading"))
    found = {finding.check: finding for finding in check_workers(producer)}
    assert found["models that work"] == Finding("models that work", Verdict.OK, f"arno-tiny: {said} (gpu0@a, gpu1@a)")


def model(name: str, **parts: Path) -> Finding:
    named = {part: str(path) for part, path in parts.items()}
    return check_model(WorkerSettings.model_validate({"model": name, **named}), ObjectStore())


def test_a_model_in_a_folder(tmp_path: Path) -> None:
    assert "it lacks config.json and weights" in model(str(tmp_path)).says
    folder = make_original(tmp_path / "model")
    assert model(str(folder)) == Finding(
        "model",
        Verdict.OK,
        f"{folder}: Microsoft's original layout; 3 beams, no 3-gram twice, from text_config of config.json",
    )
    change_json(folder / "preprocessor_config.json", image_seq_length=577)
    assert model(str(folder)).verdict is Verdict.FAILED
    assert "a picture is 577 tokens; of config.json it is 5" in model(str(folder)).says


def test_a_model_with_an_adapter_and_a_processor(tmp_path: Path) -> None:
    folder, adapter = make_original(tmp_path / "model"), make_adapter(tmp_path / "adapter")
    for name in ("tokenizer.json", "preprocessor_config.json"):
        (folder / name).unlink()
    assert "ARNO_WORKER__PROCESSOR names the folder" in model(str(folder)).says
    processor = make_processor(tmp_path / "processor")
    found = model(str(folder), processor=processor, adapter=adapter)
    assert found.verdict is Verdict.OK
    assert found.says.endswith(f"; adapter {adapter} (lora of rank 4, 33 weights)")
    change_json(adapter / "adapter_config.json", use_dora=True)
    refused = model(str(folder), processor=processor, adapter=adapter)
    assert refused.verdict is Verdict.FAILED
    assert "uses DoRA" in refused.says


def test_what_lies_on_the_hub_is_noted_and_the_rest_is_looked_at(tmp_path: Path) -> None:
    folder, adapter = make_original(tmp_path / "model"), make_adapter(tmp_path / "adapter", use_dora=True)
    (folder / "tokenizer.json").unlink()
    noted = model(str(folder), processor=Path("owner/base"), adapter=Path("owner/adapter"))
    assert noted.verdict is Verdict.NOTE
    assert "owner/base and owner/adapter cannot be checked from here" in noted.says
    assert model("owner/base").verdict is Verdict.NOTE
    refused = model("owner/base", adapter=adapter)
    assert (refused.verdict, "uses DoRA" in refused.says) == (Verdict.FAILED, True)


def test_a_greedy_model_is_noted(tmp_path: Path) -> None:
    folder = make_original(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_beams"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    assert model(str(folder)).verdict is Verdict.NOTE
    assert "greedy" in model(str(folder)).says


def test_a_model_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    uri, store = f"s3://{bucket}/model/", ObjectStore()
    assert "it lacks config.json" in model(uri).says
    for file in make_original(tmp_path / "model").iterdir():
        store.put(f"{uri}{file.name}", file.read_bytes(), "application/octet-stream")
    assert model(uri).says.startswith(f"s3://{bucket}/model/: Microsoft's original layout; 3 beams")
    store.delete(f"{uri}tokenizer.json")
    assert model(uri).verdict is Verdict.FAILED


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("arno-tiny", Verdict.OK),
        ("florence-community/Florence-2-base-ft", Verdict.NOTE),
        ("arno-huge", Verdict.FAILED),
        ("./nowhere/model", Verdict.FAILED),
        ("a/b/c", Verdict.FAILED),
        ("s3://no-such-bucket-of-ours/model", Verdict.FAILED),
    ],
)
def test_what_a_model_may_be(name: str, verdict: Verdict) -> None:
    assert model(name).verdict is verdict


def test_an_extra_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "_MODULES", {"parquet": ("json", "no_such_module")})
    (finding,) = check_extras()
    assert (finding.verdict, finding.says) == (Verdict.NOTE, "not installed: no_such_module")
    assert "arno[parquet]" in finding.mend


def test_an_extra_that_is_installed_in_part_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    there = extras._is_there
    monkeypatch.setattr(extras, "_is_there", lambda module: module not in ("uvicorn", "torch") and there(module))
    found = {finding.check: finding for finding in check_extras() if finding.verdict is Verdict.NOTE}
    assert {check: finding.says for check, finding in found.items()} == {
        "extra worker": "not installed: torch",
        "extra http": "not installed: uvicorn",
        "extra demo": "not installed: torch",
    }
    assert found["extra http"].mend == "for arno serve: pip install 'arno[http]'"


def requirements_of(extra: str) -> set[str]:
    """The names of what an extra requires, through other extras of Arno."""
    named = map(Requirement, PROJECT["optional-dependencies"][extra])
    return {
        name
        for one in named
        for name in (set().union(*map(requirements_of, one.extras)) if one.name == "arno" else {one.name})
    }


@pytest.mark.parametrize("extra", sorted(set(PROJECT["optional-dependencies"]) - {"dev", "fuzz"}))
def test_the_doctor_looks_for_all_that_an_extra_requires(extra: str) -> None:
    looked_for = {module.partition(".")[0] for module in extras._MODULES[extra]}
    holders = packages_distributions()
    required = requirements_of(extra)
    assert {
        name for name in required if not any(name in map(canonicalize_name, holders[module]) for module in looked_for)
    } == set()
    assert {module for module in looked_for if not required & set(map(canonicalize_name, holders[module]))} == set()
    assert extra in extras._PURPOSES
