"""What is built of Arno and given to users, and an environment that holds nothing else."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build(kind: str, source: Path, folder: Path) -> Path:
    """Builds the `wheel` or the `sdist` of a source tree into an empty folder."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)]
    subprocess.run(command, cwd=source, check=True)
    (built,) = folder.iterdir()
    return built


class Environment:
    """A virtual environment with one wheel, some of its extras, and what those require. `home` is where it works."""

    def __init__(self, folder: Path, wheel: Path, extra: str = "") -> None:
        self.home = folder / "home"
        self.home.mkdir()
        self._bin = folder / "venv" / "bin"
        # This environment's own pip installs into it: one in each would take as long as all else.
        venv.create(self._bin.parent, with_pip=False, symlinks=True)
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "--python", str(self._bin / "python"), "--disable-pip-version-check"),
                *("install", "--quiet", "--no-compile", "--only-binary", ":all:"),
                *("--constraint", str(ROOT / "constraints.txt")),
                f"{wheel}[{extra}]" if extra else str(wheel),
            ],
            check=True,
        )

    def remove(self) -> None:
        shutil.rmtree(self._bin.parent)

    def run(self, program: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._bin / program, *arguments],
            cwd=self.home,
            env=self._env(env),
            capture_output=True,
            text=True,
            timeout=200,
        )

    @contextmanager
    def started(self, log: Path, program: str, *arguments: str, **env: str) -> Iterator[subprocess.Popen[bytes]]:
        """A process that writes to `log`, and is killed at the end."""
        command = [self._bin / program, *arguments]
        with log.open("wb") as stream:
            process = subprocess.Popen(command, cwd=self.home, env=self._env(env), stdout=stream, stderr=stream)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def _env(self, env: Mapping[str, str]) -> dict[str, str]:
        """Nothing of the one around it: neither PYTHONPATH nor any setting."""
        path = f"{self._bin}:{os.defpath}"
        return {"PATH": path, "HOME": str(self.home), "OMP_NUM_THREADS": "1", "PYTHONNOUSERSITE": "1", **env}
