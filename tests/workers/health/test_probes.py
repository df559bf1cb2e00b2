"""The health pages, over real sockets: what probes are told while a worker loads, works, ails and stops."""

import http.client
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from threading import Event
from typing import Any

import psutil
import pytest

from arno_shared.errors import HouseError, InvalidRequest
from arno_shared.redis_client import connect
from arno_shared.settings import Settings, WorkerSettings
from arno_shared.storage import ObjectStore
from arno_shared.uris import file_uri
from arno_workers.health import pages
from arno_workers.health import probes as probes_module
from arno_workers.health.checks import house_checks
from arno_workers.health.probes import Probes
from arno_workers.health.vitals import Phase, Vitals
from tests.acceptance.arno_worker import eventually
from tests.servers import make_bucket, valkey_server

Checks = dict[str, Callable[[], None]]
Answer = tuple[int, dict[str, Any]]

METRICS = b"arno_things_total 1.0\n"


@pytest.fixture
def vitals() -> Vitals:
    return Vitals()


@pytest.fixture
def serve(vitals: Vitals) -> Iterator[Callable[..., str]]:
    """Serves the pages with these checks, on any free port unless one is given; the address."""
    running = []

    def start(checks: Checks | None = None, **settings: Any) -> str:
        probes = Probes(WorkerSettings(**settings), vitals, checks or {}, lambda: METRICS)
        address = probes.start()
        running.append(probes)
        return address

    yield start
    for probes in running:
        probes.stop()


def ask(address: str, page: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, page)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def connection_to(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def get(address: str, page: str) -> Answer:
    status, body = ask(address, page)
    return status, json.loads(body)


def failing(answer: Answer) -> dict[str, str]:
    """The checks that failed, with their reasons."""
    return {name: verdict["reason"] for name, verdict in answer[1]["checks"].items() if not verdict["ok"]}


def becomes(address: str, status: int) -> Answer:
    """The readiness page once it answers with this status."""
    answer: Answer = eventually(lambda: (now := get(address, "/readyz"))[0] == status and now, f"/readyz says {status}")
    return answer


# --- phases -----------------------------------------------------------------------------------------------------------


def test_a_worker_that_loads_is_alive_and_not_ready(serve: Callable[..., str]) -> None:
    address = serve()
    assert get(address, "/healthz")[0] == 200
    status, page = get(address, "/readyz")
    assert (status, page["status"]) == (503, "loading")
    assert failing((status, page)) == {"replica": "loading"}


def test_a_worker_that_works_is_alive_and_ready(serve: Callable[..., str], vitals: Vitals) -> None:
    address = serve()
    vitals.phase = Phase.WORKING
    with vitals.chunk():
        alive = get(address, "/healthz")
    vitals.committed(7)
    assert (alive[0], alive[1]["status"], alive[1]["phase"], alive[1]["chunks_in_flight"]) == (
        200,
        "alive",
        "working",
        1,
    )
    assert get(address, "/healthz")[1]["images_done"] == 7
    assert get(address, "/readyz") == (
        200,
        {"status": "ready", "checks": {name: {"ok": True, "reason": ""} for name in ("replica", "consumer")}},
    )


def test_a_worker_whose_consumer_is_refused_is_alive_and_says_why_it_is_not_ready(
    serve: Callable[..., str], vitals: Vitals
) -> None:
    address = serve()
    vitals.phase = Phase.WORKING
    vitals.consumer_refused("Redis cannot be used: https://host/?sig=hush NOREPLICAS")
    assert get(address, "/healthz")[0] == 200
    answer = get(address, "/readyz")
    assert answer[0] == 503
    assert "NOREPLICAS" in failing(answer)["consumer"]
    assert "hush" not in failing(answer)["consumer"]
    vitals.consumer_beat()
    assert get(address, "/readyz")[0] == 200


def test_a_worker_that_drains_is_alive_and_not_ready(serve: Callable[..., str], vitals: Vitals) -> None:
    address = serve()
    vitals.phase = Phase.DRAINING
    assert get(address, "/healthz")[0] == 200
    answer = get(address, "/readyz")
    assert (answer[0], answer[1]["status"], failing(answer)) == (503, "draining", {"replica": "draining"})


def test_a_worker_that_ails_is_neither(serve: Callable[..., str], vitals: Vitals) -> None:
    address = serve()
    vitals.phase = Phase.WORKING
    vitals.ailment = "stuck at redis://:hush@house/0"
    status, page = get(address, "/healthz")
    assert (status, page["status"], page["ailment"]) == (503, "ailing", "stuck at redis://***@house/0")
    answer = get(address, "/readyz")
    assert (answer[0], answer[1]["status"]) == (503, "unready")
    assert failing(answer) == {"replica": "stuck at redis://***@house/0"}


def test_a_consumer_that_hears_nothing_is_not_ready(
    serve: Callable[..., str], vitals: Vitals, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = serve()
    vitals.phase = Phase.WORKING
    monkeypatch.setattr(probes_module, "_CONSUMER_SILENT_S", 0.2)
    assert "have not answered" in failing(becomes(address, 503))["consumer"]
    monkeypatch.setattr(probes_module, "_CONSUMER_SILENT_S", 30)
    vitals.consumer_beat()
    becomes(address, 200)


# --- checks -----------------------------------------------------------------------------------------------------------


def test_a_check_that_fails_is_named_with_its_reason_and_without_secrets(
    serve: Callable[..., str], vitals: Vitals
) -> None:
    def away() -> None:
        raise HouseError("cannot reach https://me:hush@house/?key=hush")

    def broken() -> None:
        raise RuntimeError("unforeseen, of redis://:hush@house")

    address = serve({"away": away, "broken": broken, "sound": lambda: None})
    vitals.phase = Phase.WORKING
    answer = eventually(
        lambda: (now := get(address, "/readyz"))[1]["checks"]["sound"]["ok"] and now, "all were looked at"
    )
    assert (answer[0], answer[1]["status"]) == (503, "unready")
    eventually(lambda: "unforeseen" in failing(get(address, "/readyz"))["broken"], "the last was looked at")
    assert failing(get(address, "/readyz"))["away"] == "cannot reach https://***@house/?***"
    assert b"hush" not in ask(address, "/readyz")[1]


def test_a_check_that_nobody_has_made_yet_is_no_good_news(serve: Callable[..., str], vitals: Vitals) -> None:
    done = Event()
    try:
        address = serve({"slow": lambda: done.wait(60) and None})
        vitals.phase = Phase.WORKING
        assert failing(get(address, "/readyz")) == {"slow": "not looked at yet"}
    finally:
        done.set()
    becomes(address, 200)


def test_a_sound_house_is_ready_and_nothing_is_written(
    serve: Callable[..., str], vitals: Vitals, valkey_url: str, moto_s3: str
) -> None:
    bucket, store = make_bucket(), ObjectStore()
    vitals.phase = Phase.WORKING
    with connect(Settings(redis_url=valkey_url)) as redis:
        answer = becomes(serve(house_checks(redis, store, f"s3://{bucket}/out/")), 200)
        assert set(answer[1]["checks"]) == {"replica", "consumer", "redis", "storage"}
        assert redis.dbsize() == 0
    assert list(store.list(f"s3://{bucket}/")) == []


def test_redis_that_freezes_is_told_while_probes_are_answered_and_comes_back(
    serve: Callable[..., str], vitals: Vitals, tmp_path: Any
) -> None:
    vitals.phase = Phase.WORKING
    with valkey_server() as url, connect(Settings(redis_url=url)) as redis:
        address = serve(house_checks(redis, ObjectStore(), file_uri(tmp_path)))
        becomes(address, 200)
        valkey = psutil.Process(int(redis.info()["process_id"]))
        valkey.suspend()
        try:
            # A request that waited for Redis, whose socket's timeout is 15 s, would not be answered in its own 10 s.
            answer = becomes(address, 503)
            assert list(failing(answer)) == ["redis"]
            assert failing(answer)["redis"].startswith("no answer for")
            assert get(address, "/healthz")[0] == 200
        finally:
            valkey.resume()
        becomes(address, 200)


def test_redis_that_is_gone_is_told(serve: Callable[..., str], vitals: Vitals, tmp_path: Any) -> None:
    vitals.phase = Phase.WORKING
    with valkey_server() as url, connect(Settings(redis_url=url)) as redis:
        address = serve(house_checks(redis, ObjectStore(), file_uri(tmp_path)))
        becomes(address, 200)
        redis.shutdown(nosave=True)
        assert failing(becomes(address, 503))["redis"].startswith("Redis cannot be used")


def test_storage_that_is_away_is_told(
    serve: Callable[..., str], vitals: Vitals, valkey_url: str, moto_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    vitals.phase = Phase.WORKING
    with connect(Settings(redis_url=valkey_url)) as redis:
        address = serve(house_checks(redis, ObjectStore(), "s3://bucket/out/"))
        eventually(
            lambda: "cannot be reached" in failing(get(address, "/readyz")).get("storage", ""), "the reason is told"
        )


def test_credentials_that_storage_refuses_are_told(
    serve: Callable[..., str], vitals: Vitals, valkey_url: str, rclone_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = make_bucket()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-somebody-else")
    vitals.phase = Phase.WORKING
    with connect(Settings(redis_url=valkey_url)) as redis:
        address = serve(house_checks(redis, ObjectStore(), f"s3://{bucket}/out/"))
        eventually(lambda: "refuses" in failing(get(address, "/readyz")).get("storage", ""), "the reason is told")


# --- the server -------------------------------------------------------------------------------------------------------


def test_the_pages_are_on_loopback_unless_asked_otherwise(serve: Callable[..., str]) -> None:
    assert serve().startswith("127.0.0.1:")


def test_the_port_that_was_asked_for_is_taken(serve: Callable[..., str], free_tcp_port: int) -> None:
    address = serve(health_port=free_tcp_port)
    assert address == f"127.0.0.1:{free_tcp_port}"
    assert get(address, "/healthz")[0] == 200


def test_a_port_that_another_has_is_an_error_that_names_the_setting(serve: Callable[..., str]) -> None:
    taken = int(serve().rpartition(":")[2])
    with pytest.raises(InvalidRequest, match=rf"port {taken}.*in use.*ARNO_WORKER__HEALTH_PORT"):
        serve(health_port=taken)


def test_a_host_that_is_not_this_machine_is_an_error_that_names_the_setting(serve: Callable[..., str]) -> None:
    with pytest.raises(InvalidRequest, match="ARNO_WORKER__HEALTH_HOST"):
        serve(health_host="192.0.2.1")


def test_the_pages_can_be_on_ipv6(serve: Callable[..., str]) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    address = serve(health_host="::1")
    assert address.startswith("[::1]:")
    assert get(address, "/healthz")[0] == 200


@pytest.mark.parametrize(("page", "status"), [("/healthz", b"200"), ("/readyz", b"503"), ("/other", b"404")])
def test_head_has_the_same_status_and_no_body(serve: Callable[..., str], page: str, status: bytes) -> None:
    with connection_to(serve()) as probe, probe.makefile("rb") as answer:
        probe.sendall(f"HEAD {page} HTTP/1.0\r\n\r\n".encode())
        head, _, body = answer.read().partition(b"\r\n\r\n")
    assert (head.split()[1], body) == (status, b"")


def test_a_query_changes_nothing(serve: Callable[..., str]) -> None:
    assert get(serve(), "/healthz?from=probe")[0] == 200


@pytest.mark.parametrize("page", ["/", "/health", "/healthz/x", "/../etc/passwd"])
def test_other_pages_are_not_there(serve: Callable[..., str], page: str) -> None:
    status, body = get(serve(), page)
    assert (status, body["pages"]) == (404, ["/healthz", "/readyz", "/metrics"])


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_but_reading_is_allowed(serve: Callable[..., str], method: str) -> None:
    assert ask(serve(), "/healthz", method)[0] == 501


def test_a_client_that_says_nothing_keeps_nobody_waiting(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages._Request, "timeout", None)
    address = serve()
    with connection_to(address):
        assert get(address, "/healthz")[0] == 200


def test_a_client_that_says_nothing_is_not_kept_for_ever(
    serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pages._Request.timeout
    monkeypatch.setattr(pages._Request, "timeout", 0.05)
    with connection_to(serve()) as silent:
        assert silent.recv(1) == b""


def test_a_probe_that_breaks_off_leaves_nothing_in_the_log(
    serve: Callable[..., str], capfd: pytest.CaptureFixture[str]
) -> None:
    address = serve()
    others = set(threading.enumerate())
    capfd.readouterr()
    for _ in range(5):
        with connection_to(address) as probe:
            # Closed with a reset, as by who gave up.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            probe.sendall(b"GET /healthz HTTP/1.0\r\n")
    assert get(address, "/healthz")[0] == 200
    eventually(
        lambda: not any("process_request_thread" in thread.name for thread in set(threading.enumerate()) - others),
        "all were heard",
    )
    assert capfd.readouterr() == ("", "")


def test_nobody_answers_after_the_stop(vitals: Vitals) -> None:
    probes = Probes(WorkerSettings(), vitals, {"sound": lambda: None}, lambda: METRICS)
    address = probes.start()
    probes.stop()
    with pytest.raises(ConnectionRefusedError):
        get(address, "/healthz")


def test_metrics_are_served_as_prometheus_reads_them(serve: Callable[..., str]) -> None:
    connection = http.client.HTTPConnection(serve())
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, METRICS)
    assert (answer.getheader("Content-Type") or "").startswith("text/plain; version=")
