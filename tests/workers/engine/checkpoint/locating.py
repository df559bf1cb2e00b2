"""What a worker does first, in a process of its own: the hub's library reads the environment when it is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from arno_shared.checkpoint.files import Wanted

ROOT = Path(__file__).parents[4]


class Outcome(NamedTuple):
    folder: Path
    commit: str | None
    error: str
    log: list[dict[str, Any]]

    def said(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event]


def start(name: str, cache: Path, *arguments: str, revision: str = "main", **environment: str) -> subprocess.Popen[str]:
    """`arguments` are what is wanted, and Python that runs first."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.workers.engine.checkpoint.locating", name, str(cache), revision, *arguments],
        cwd=ROOT,
        env={**inherited, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> Outcome:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    lines = err.splitlines()
    # All that is written is the log: no progress bar, no lines of the library's own.
    log = [json.loads(line) for line in lines]
    said = json.loads(out.splitlines()[-1])
    return Outcome(Path(said["folder"]), said["commit"], said["error"], log)


def located(name: str, cache: Path, *arguments: str, revision: str = "main", **environment: str) -> Outcome:
    return ended(start(name, cache, *arguments, revision=revision, **environment))


def _main(name: str, cache: str, revision: str, wanted: str = "model", first: str = "") -> None:
    from arno_shared.errors import ModelUnusable
    from arno_shared.logs import configure
    from arno_shared.storage import ObjectStore
    from arno_workers.engine.checkpoint.locate import locate

    configure("info")
    exec(first, {"ObjectStore": ObjectStore, "cache": Path(cache)})
    said: dict[str, Any] = {"folder": "", "commit": None, "error": ""}
    try:
        found = locate(name, revision, Wanted(wanted), Path(cache), ObjectStore())
    except ModelUnusable as error:
        said["error"] = str(error)
    else:
        said |= {"folder": str(found.folder), "commit": found.commit}
    print(json.dumps(said))


if __name__ == "__main__":
    _main(*sys.argv[1:])
