"""A shell in which a document's commands run one after the other, as its reader's does."""

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

import psutil

from tests.acceptance.arno_worker import eventually


class Ran(NamedTuple):
    code: int
    printed: str


class Shell:
    """One bash: what is exported stays for the commands that follow. A pipeline fails where any part of it does."""

    def __init__(self, folder: Path, logs: Path, env: Mapping[str, str]) -> None:
        """Its working folder is `folder`; what commands print goes to files in `logs`."""
        self.folder, self._logs, self._count = folder, logs, 0
        self._servers: dict[str, int] = {}
        self._bash = subprocess.Popen(
            ["bash", "--norc", "-o", "pipefail"],
            stdin=subprocess.PIPE,
            cwd=folder,
            env=dict(env),
            start_new_session=True,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.communicate()

    def run(self, command: str, timeout_s: float = 60) -> Ran:
        log, code = self._files("code")
        self._type(f"{{ {command}\n}} >{log} 2>&1 </dev/null\necho $? >{code}.new; mv {code}.new {code}")
        eventually(lambda: code.exists() or self._ended(), command, timeout_s)
        return Ran(int(code.read_text()), log.read_text())

    def start(self, command: str) -> Path:
        """In the background, until `stop`; what it prints."""
        log, pid = self._files("pid")
        self._type(f"{command} >{log} 2>&1 </dev/null &\necho $! >{pid}.new; mv {pid}.new {pid}")
        eventually(lambda: pid.exists() or self._ended(), command)
        self._servers[command] = int(pid.read_text())
        return log

    def runs(self, server: str) -> bool:
        return psutil.pid_exists(self._servers[server])

    def stop(self, *servers: str) -> dict[str, int]:
        """SIGTERM to these, or to all that run; the exit code of each."""
        pids = {server: self._servers.pop(server) for server in servers or list(self._servers)}
        self.run(f"kill {' '.join(map(str, pids.values()))}")
        return {server: self.run(f"wait {pid}").code for server, pid in pids.items()}

    def _files(self, suffix: str) -> tuple[Path, Path]:
        self._count += 1
        return self._logs / f"{self._count}.log", self._logs / f"{self._count}.{suffix}"

    def _type(self, line: str) -> None:
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{line}\n")
        self._bash.stdin.flush()

    def _ended(self) -> bool:
        assert self._bash.poll() is None, "the shell has ended"
        return False
