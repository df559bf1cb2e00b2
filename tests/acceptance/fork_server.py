"""Starts `python -m MODULE …` and `python FILE …` as forks of a process that has imported what they import.

A cold start of a worker costs seconds of a core, and most of it is imports. What runs is the same: a process of its
own, whose module runs as `__main__`, with its own environment and arguments.
"""

import gc
import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from time import monotonic, sleep
from typing import IO, Any

ROOT = Path(__file__).parents[2]

LIGHT = (
    *("arno_workers.node", "celery.worker.worker", "celery.concurrency.thread", "celery.bin.celery"),
    *("arno_producer.http.serve", "arno_producer.cli.trigger", "arno_producer.triggers.sqs", "boto3.session"),
)
FLORENCE = (*LIGHT, "arno_workers.engine.florence", "transformers.models.florence2.modeling_florence2")
"""What is imported beforehand: torch only for those who need it."""

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


@cache
def fork_server(*modules: str) -> "ForkServer":
    """One for all tests of this process; it ends with it."""
    return ForkServer(modules)


class ForkServer:
    def __init__(self, modules: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *modules],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._one_at_a_time = Lock()

    def start(
        self, program: str, arguments: Sequence[str], env: Mapping[str, str], out: Path, err: Path | None = None
    ) -> "Fork":
        """`program`: a module's name, or a file's path. What it says goes to `out`, its errors to `err` where given."""
        files = {"out": str(out), "err": str(err or out)}
        for file in files.values():
            # There when this returns, however long the fork takes to come to itself.
            Path(file).touch()
        pid = self._ask(program=program, arguments=list(arguments), env=dict(env), **files)
        assert pid is not None
        return Fork(pid, self)

    def run(
        self, program: str, *arguments: str, env: Mapping[str, str], timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        """Raises TimeoutExpired."""
        with TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            process = self.start(program, arguments, {**os.environ, **env}, out, err)
            try:
                code = process.wait(timeout_s)
            finally:
                process.kill()
            return subprocess.CompletedProcess([program, *arguments], code, out.read_text(), err.read_text())

    def ended(self, pid: int) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        return self._ask(ended=pid)

    def _ask(self, **request: object) -> int | None:
        asks, answers = self._process.stdin, self._process.stdout
        assert asks
        assert answers
        with self._one_at_a_time:
            asks.write(json.dumps(request).encode() + b"\n")
            asks.flush()
            answer: int | None = json.loads(answers.readline())
        return answer


@dataclass
class Fork:
    """As `subprocess.Popen` has it."""

    pid: int
    _server: ForkServer
    returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.ended(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        give_up_s = monotonic() + timeout if timeout is not None else None
        while (code := self.poll()) is None:
            if give_up_s is not None and monotonic() > give_up_s:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _serve(asks: IO[bytes], answers: int) -> dict[str, Any] | None:
    """In the server None, once nobody asks any more; in each fork what it is to run."""
    children: set[int] = set()
    for line in asks:
        request = json.loads(line)
        answer: int | None
        if "ended" in request:
            pid, status = os.waitpid(request["ended"], os.WNOHANG)
            children.discard(pid)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if not answer:
                return request
            children.add(answer)
        os.write(answers, json.dumps(answer).encode() + b"\n")
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    return None


def _become(program: str, arguments: Sequence[str], env: Mapping[str, str], out: str, err: str) -> None:
    for number, (path, flags) in enumerate([(os.devnull, os.O_RDONLY), (out, _APPEND), (err, _APPEND)]):
        os.dup2(os.open(path, flags), number)
    os.closerange(3, 64)
    os.environ.clear()
    os.environ.update(env)
    sys.path[1:1] = filter(None, env.get("PYTHONPATH", "").split(":"))
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        sys.path[0] = str(Path(program).parent)
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        __import__(name)
    # What was imported stays: no collection in a fork need look at it, and so copy it.
    gc.freeze()
    # What a module says must not be taken for an answer.
    answers = os.dup(1)
    os.dup2(2, 1)
    if fork := _serve(sys.stdin.buffer, answers):
        _become(**fork)
