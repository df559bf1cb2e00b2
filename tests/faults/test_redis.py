"""Redis is killed, frozen, cut off, full, fails over, and loses everything; workers wait, and go on by themselves."""

import json
import signal
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
import redis

from arno_producer import Producer
from arno_shared.errors import HouseError
from arno_shared.names import REMOTE_CONTROL, REMOTE_CONTROL_ANSWERS, UNACKED, WORKERS, Lane
from arno_shared.presence import workers
from arno_shared.settings import Settings
from arno_shared.uris import file_uri
from tests.acceptance.arno_worker import ArnoWorker, eventually
from tests.faults.proxy import TcpProxy
from tests.faults.rig import (
    LEASE_S,
    SOON_S,
    Watch,
    host_port,
    in_chunks_of,
    nothing_in_hand,
    reconcile,
    report,
    settled,
)
from tests.servers import Sentinels, Valkey, redis_programs

PROGRAMS = redis_programs()
SLOW = {"afflicted": True, "AFFLICTED_IMAGE_S": "0.005"}


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    """One that keeps what it has acknowledged."""
    with Valkey(appendonly="always") as server:
        yield server


@pytest.fixture
def at(valkey: Valkey, tmp_path: Path) -> Settings:
    return patient(valkey.url, tmp_path)


@pytest.fixture
def own(at: Settings) -> Producer:
    return Producer(at)


def patient(url: str, folder: Path) -> Settings:
    settings = Settings(redis_url=url, output_prefix=file_uri(folder / "results"))
    return settings.model_copy(update={"broker": settings.broker.model_copy(update={"socket_timeout_s": 4.0})})


def ok(producer: Producer, job_id: str) -> int:
    try:
        return producer.ledger.status(job_id).ok
    except HouseError:
        return -1


def goes_on(producer: Producer, job_id: str) -> float:
    """Seconds until more is done than now, or all is."""
    watch = Watch()
    before = ok(producer, job_id)

    def more() -> bool:
        done = ok(producer, job_id)
        return done > max(before, 0) or (done >= 0 and producer.ledger.status(job_id).finished)

    eventually(more, "work goes on")
    return watch.seconds


def test_redis_killed_under_load_and_restarted(start, valkey, at, own, pictures, long) -> None:
    kills = 10 if long else 1
    uris = pictures(50) * (kills * 24)
    own = in_chunks_of(2, own)
    job = own.submit(uris, "<OD>", job_id="restart")
    workers = [start(f"w{number}", at=at, **SLOW) for number in range(2)]
    longest_s = 0.0
    for _ in range(kills):
        eventually(lambda: ok(own, "restart") > 0, "work")
        valkey.kill()
        Event().wait(1.0)
        valkey.start()
        longest_s = max(longest_s, goes_on(own, "restart"))
    settled(job, SOON_S * (5 if long else 1))
    line = reconcile(own, job, uris)
    assert all(worker.process.poll() is None for worker in workers), "the same processes went on"
    assert longest_s < 40, "not before somebody looked after it"
    report("Redis killed -9 under load, AOF", f"{kills} times; {line}; went on within {longest_s:.1f} s")


def test_redis_down_while_the_only_chunk_ends(start, valkey, at, own, pictures) -> None:
    """The acknowledgement fails; with stock kombu the worker never takes a message again."""
    worker = start("one", at=at, afflicted=True, AFFLICTED_IMAGE_S="1.5", ARNO_WORKER__CHUNKS_IN_FLIGHT="1")
    uris = pictures(4)
    job = in_chunks_of(1, own).submit(uris, "<OD>", job_id="down")
    eventually(lambda: own.redis.hlen(UNACKED) == 1, "it has one in hand")
    valkey.terminate()
    Event().wait(3.0)
    valkey.start()
    watch = Watch()
    settled(job)
    assert worker.process.poll() is None
    report("Redis down while the chunk in hand ends", f"{reconcile(own, job, uris)}; done {watch.seconds:.1f} s after")


@pytest.mark.long
def test_bursts_of_client_kill(start, at, own, pictures) -> None:
    uris = pictures(50) * 16
    job = in_chunks_of(2, own).submit(uris, "<OD>", job_id="cut")
    worker = start("w", at=at, **SLOW)
    longest_s = 0.0
    with redis.Redis.from_url(at.redis_url) as client:
        for _ in range(3):
            eventually(lambda: ok(own, "cut") > 0, "work")
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            longest_s = max(longest_s, goes_on(own, "cut"))
    settled(job)
    line = reconcile(own, job, uris)
    assert worker.process.poll() is None
    report("CLIENT KILL of all connections", f"3 times; {line}; went on within {longest_s:.1f} s")


def test_a_frozen_redis_holds_up_and_loses_nothing(start, valkey, at, own, pictures, long) -> None:
    uris = pictures(50) * 16
    own = in_chunks_of(2, own)
    worker = start("w", at=at, **SLOW)
    submitted: list[object] = []
    submission = Thread(target=lambda: submitted.append(own.submit(uris, "<OD>", job_id="frozen")))
    submission.start()
    eventually(lambda: own.redis.exists("arno:job:frozen") and ok(own, "frozen") > 0, "work")
    valkey.freeze()
    Event().wait(30 if long else 6)
    valkey.thaw()
    went_on_s = goes_on(own, "frozen")
    submission.join(60)
    assert submitted, "the producer waited, and went on"
    job = own.job("frozen")
    settled(job)
    assert worker.process.poll() is None
    report("Redis frozen", f"{reconcile(own, job, uris)}; went on within {went_on_s:.1f} s")


@pytest.mark.parametrize("fault", ["cut", pytest.param("half-open", marks=pytest.mark.long)])
def test_a_network_that_fails_between_worker_and_redis(fault: str, start, valkey, at, own, pictures, tmp_path) -> None:
    uris = pictures(50) * 16
    with TcpProxy("127.0.0.1", port_of(valkey.url)) as proxy:
        worker = start("w", at=patient(f"redis://{host_port(proxy)}/0", tmp_path), **SLOW)
        job = in_chunks_of(2, own).submit(uris, "<OD>", job_id=fault)
        eventually(lambda: ok(own, fault) > 0, "work")
        if fault == "cut":
            proxy.refuse()
            proxy.cut()
        else:
            proxy.freeze()
        Event().wait(2 * LEASE_S)
        proxy.heal()
        if fault == "half-open":
            # Connections that nothing came over for so long are not the ones that work goes on with.
            proxy.cut()
        went_on_s = goes_on(own, fault)
        settled(job)
        line = reconcile(own, job, uris)
        assert worker.process.poll() is None
    report(f"network {fault} for two leases", f"{line}; went on within {went_on_s:.1f} s")


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_full_redis_refuses_producers_and_lets_workers_finish(program: str, start, pictures, tmp_path: Path) -> None:
    with Valkey(appendonly="always", program=PROGRAMS[program]) as server:
        _refuses_producers_and_lets_workers_finish(program, server, patient(server.url, tmp_path), start, pictures(40))


def _refuses_producers_and_lets_workers_finish(program: str, valkey, at, start, uris) -> None:
    own = Producer(at)
    own = in_chunks_of(2, own)
    job = own.submit(uris, "<OD>", job_id="full")
    used = own.redis.info("memory")["used_memory"]
    valkey.config_set("maxmemory", str(used // 2))
    impatient = own.settings.model_copy(
        update={"producer": own.settings.producer.model_copy(update={"patience_s": 0.5})}
    )
    with pytest.raises(HouseError, match="Redis cannot be used"):
        Producer(impatient).submit(uris, "<OD>", job_id="refused")
    with pytest.raises(HouseError, match="Redis cannot be used"):
        own._sender.send_raw(Lane.BULK, "arno.annotate", [], {"images": uris, "prompts": ["<OD>"]})
    worker = start("w", at=at, ready=False)
    settled(job)
    valkey.config_set("maxmemory", "0")
    line = reconcile(own, job, uris)
    assert not own.redis.exists("arno:job:refused"), "nothing was half submitted"
    again = own.submit(uris, "<OD>", job_id="refused")
    settled(again)
    reconcile(own, again, uris)
    assert worker.process.poll() is None
    report(f"{program} full (noeviction)", f"producers are told, workers finish; {line}")


@contextmanager
def owner_of(server: Valkey) -> Iterator[redis.Redis]:
    """A user who may do anything, whatever becomes of the others."""
    with redis.Redis.from_url(server.url) as first:
        first.execute_command("ACL", "SETUSER", "owner", "on", ">admin", "~*", "&*", "+@all")
    with redis.Redis.from_url(server.url, username="owner", password="admin") as owner:
        yield owner


@pytest.mark.parametrize(
    "rule",
    [
        "-@scripting",
        *(
            pytest.param(rule, marks=pytest.mark.long)
            for rule in ("-@all", "-hdel", "-zrem", "-zadd -hset", "-rpush -lpush", "resetkeys ~arno:*", "resetkeys")
        ),
    ],
)
def test_a_user_whose_rights_come_and_go_under_load(rule: str, start, valkey, at, own, pictures, long) -> None:
    """What cannot be committed, buried or given back meanwhile is done later, and nothing of it is acknowledged."""
    uris, jobs = pictures(50) * 6, []
    own = in_chunks_of(2, own)
    workers = [start(f"w{number}", at=at, **SLOW) for number in range(2)]
    with owner_of(valkey) as owner:
        for flip in range(8 if long else 2):
            jobs.append(own.submit(uris, "<OD>", job_id=f"rights-{flip}"))
            eventually(lambda: ok(own, jobs[-1].id) > 0, "work")
            owner.execute_command("ACL", "SETUSER", "default", *rule.split())
            Event().wait(1.5 * LEASE_S)
            owner.execute_command("ACL", "SETUSER", "default", "reset", "on", "nopass", "~*", "&*", "+@all")
    for job in jobs:
        settled(job)
        line = reconcile(own, job, uris)
    assert all(worker.process.poll() is None for worker in workers)
    report(f"ACL SETUSER default {rule}, under load", f"{len(jobs)} times; of each {line}")


def unready(port: int) -> dict[str, str]:
    """What /readyz of the worker on this port finds wrong; nothing while it does not answer."""
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz").close()
    except urllib.error.HTTPError as answer:
        checks = json.loads(answer.read())["checks"]
        return {name: check["reason"] for name, check in checks.items() if not check["ok"]}
    except OSError:
        pass
    return {}


@pytest.mark.parametrize("when", ["before it starts", "while it waits"])
def test_a_worker_that_may_take_nothing_waits_and_says_why(
    when: str, start, valkey, at, own, pictures, free_tcp_port: int
) -> None:
    """Too few replicas: messages can be counted, and none can be claimed."""
    stuck_s = 3.0
    env = {"ARNO_WORKER__STUCK_S": str(stuck_s), "ARNO_WORKER__HEALTH_PORT": str(free_tcp_port)}
    uris = pictures(8)
    own = in_chunks_of(2, own)
    worker = start("w", at=at, **env) if when == "while it waits" else None
    if worker:
        worker.process.send_signal(signal.SIGSTOP)
    job = own.submit(uris, "<OD>", job_id="replicas")
    valkey.config_set("min-replicas-to-write", 1)
    if worker:
        worker.process.send_signal(signal.SIGCONT)
    else:
        worker = start("w", at=at, ready=False, **env)
    eventually(lambda: "enough good replicas" in unready(free_tcp_port).get("consumer", ""), "it says why")
    # Whoever looks has looked often enough by then.
    Event().wait(4 * stuck_s)
    assert worker.process.poll() is None, "it is not stuck"
    assert "enough good replicas" in unready(free_tcp_port)["consumer"]
    valkey.config_set("min-replicas-to-write", 0)
    settled(job)
    line = reconcile(own, job, uris)
    assert worker.process.poll() is None
    report(f"too few replicas, {when}", f"the worker waits, and is not ended; {line}")


def test_a_worker_refuses_a_cluster_before_it_loads_anything(start, tmp_path: Path) -> None:
    with Valkey(cluster_enabled="yes") as server:
        worker = start("w", at=patient(server.url, tmp_path), ready=False)
        assert worker.process.wait(60) == 1
    assert "arno-worker: Redis cannot be used: it is a Redis Cluster" in worker.log.read_text()
    assert not worker.logged("worker starts")


def test_a_worker_waits_for_a_server_that_is_away_when_it_starts(start, valkey, at, own, pictures) -> None:
    uris = pictures(4)
    job = own.submit(uris, "<OD>", job_id="early")
    valkey.terminate()
    worker = start("w", at=at, ready=False)
    eventually(lambda: worker.logged("worker starts"), "it starts")
    valkey.start()
    settled(job)
    reconcile(own, job, uris)


def test_what_kombu_keeps_of_killed_workers_is_forgotten(start, at, own) -> None:
    killed = start("killed", at=at)
    killed.process.kill()
    killed.process.wait()
    assert listening(own) == ["killed"]
    # As after some minutes in which nothing was heard of it.
    own.redis.delete(WORKERS)
    own.redis.sadd(REMOTE_CONTROL_ANSWERS, "killed\x06\x16\x06\x16killed.reply.celery.pidbox")
    start("next", at=at)
    eventually(lambda: listening(own) == ["next"], "the killed one is forgotten")
    assert 0 < own.redis.ttl(REMOTE_CONTROL_ANSWERS) <= 3600


def listening(producer: Producer) -> list[str]:
    """The names of workers that kombu keeps as listening to remote control."""
    return sorted(
        member.decode().rpartition("\x16")[2].partition("@")[0] for member in producer.redis.smembers(REMOTE_CONTROL)
    )


def test_sentinel_fails_over_and_workers_follow(start, pictures, tmp_path: Path) -> None:
    uris = pictures(50) * 20
    with Sentinels() as sentinels:
        at = patient(sentinels.url, tmp_path)
        own = in_chunks_of(2, Producer(at))
        worker = start("w", at=at, **SLOW)
        job = own.submit(uris, "<OD>", job_id="failover")
        eventually(lambda: ok(own, "failover") > 0, "work")
        sentinels.wait_until_replicated()
        old = sentinels.master()
        sentinels.kill_master()
        went_on_s = goes_on(own, "failover")
        assert sentinels.master() != old
        # Replication is asynchronous: what the dead master had acknowledged alone is sent again.
        eventually(lambda: nothing_in_hand(own), "what the new master knows of is done")
        own.resume("failover")
        settled(job)
        line = reconcile(own, job, uris)
        assert worker.process.poll() is None
    report("fail-over by Sentinel", f"{line}; went on within {went_on_s:.1f} s")


def test_all_data_of_redis_is_lost_in_mid_job(start, own, at, pictures) -> None:
    uris = pictures(50) * 20
    own = in_chunks_of(2, own)
    worker = start("w", at=at, **SLOW)
    own.submit(uris, "<OD>", job_id="lost")
    eventually(lambda: ok(own, "lost") > 200, "a good part is done")
    own.redis.flushall()
    # What it says of itself is gone as well: an entry is of a worker that has said it anew.
    eventually(lambda: in_hand(own) == [0], "what was in hand is done")
    written = written_chunks(own, "lost")
    events = len(worker.logged("chunk committed"))
    assert 0 < len(written) < len(uris) // 2
    job = own.resume("lost")
    settled(job)
    status = job.status()
    assert (status.ok, status.failed, status.dead) == (len(uris), 0, 0)
    assert sorted(row.image.uri for row in job.results()) == sorted(uris)
    again = [line["chunk"] for line in worker.logged("chunk committed")[events:]]
    assert sorted([*again, *written]) == list(range(len(uris) // 2)), "what was committed is not run again"
    report(
        "all data of Redis lost, then arno resume",
        f"{len(uris)} images, lost 0; {len(written)} chunks were not run again",
    )


def in_hand(producer: Producer) -> list[int]:
    return [seen.state.chunks_in_flight for seen in workers(producer.redis) if seen.state]


def written_chunks(producer: Producer, job_id: str) -> list[int]:
    objects = producer.store.list(f"{producer.settings.output_prefix}{job_id}/")
    names = [stored.uri.rpartition("/part-")[2] for stored in objects if "/part-" in stored.uri]
    return [int(name.removesuffix(".jsonl")) for name in names]


@pytest.mark.parametrize("skew_s", [3600, pytest.param(-3600, marks=pytest.mark.long)])
def test_a_worker_whose_clock_is_an_hour_off_disturbs_nobody(
    skew_s: int, start: Callable[..., ArnoWorker], own, at, pictures
) -> None:
    uris = pictures(6)
    slow = start("right", at=at, afflicted=True, AFFLICTED_IMAGE_S="1", ARNO_WORKER__CHUNKS_IN_FLIGHT="1")
    wrong = start("wrong", at=at, module="tests.faults.skewed", SKEW_S=str(skew_s))
    job = in_chunks_of(3, own).submit(uris, "<OD>", job_id=f"skew{skew_s}")
    settled(job)
    line = reconcile(own, job, uris)
    repeats = [line for worker in (slow, wrong) for line in worker.logged("chunk was committed before")]
    assert not repeats
    assert not slow.logged("chunk dropped")
    assert not wrong.logged("leases ran out")
    report(f"a worker's clock {skew_s:+} s off", f"{line}; repeats 0")


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1].split("/")[0])
