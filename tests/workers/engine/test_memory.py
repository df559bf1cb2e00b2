"""Slots and batches are as large as free memory allows, and a container's limit counts."""

import os
import platform
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arno_workers.engine import memory
from arno_workers.engine.memory import fitting_pictures, fitting_slots, free_bytes
from tests.acceptance.fork_server import FLORENCE, fork_server

GB = 2**30

V2 = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")
V1 = ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes")
NO_LIMIT_V1 = 9223372036854771712

MEMINFO = {"/proc/meminfo": "MemTotal:       65536000 kB\nMemFree:         1000000 kB\nMemAvailable:   16777216 kB\n"}
"""16 GB available."""


def machine(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> None:
    """A machine that has these files and no others."""
    monkeypatch.setattr(memory, "_lines", lambda path: files.get(path, "").splitlines())


def limit(paths: tuple[str, str], limit: object, used: object) -> dict[str, str]:
    return {paths[0]: f"{limit}\n", paths[1]: f"{used}\n"}


devices = pytest.mark.parametrize(
    ("device", "slots", "pictures"), [("cpu", 64, 16), ("cuda", 512, 64), ("cuda:1", 512, 64)]
)
"""With the most that is worth it."""


@devices
def test_a_full_device_still_has_one_slot_and_sees_one_picture(
    monkeypatch: pytest.MonkeyPatch, device: str, slots: int, pictures: int
) -> None:
    for free in (0, 1, 1000):
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        assert fitting_slots(device, 10**9) == 1
        assert fitting_pictures(device, 10**9) == 1


@devices
def test_an_empty_device_has_no_more_than_makes_it_faster(
    monkeypatch: pytest.MonkeyPatch, device: str, slots: int, pictures: int
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda _: 10**15)
    assert fitting_slots(device, 10**6) == slots
    assert fitting_pictures(device, 10**6) == pictures


@given(free=st.integers(0, 2**40), each=st.integers(1, 2**32), device=st.sampled_from(["cpu", "cuda", "cuda:3"]))
def test_in_between_there_are_as_many_as_fit_into_their_share(free: int, each: int, device: str) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(memory, "free_bytes", lambda asked: free if asked == device else 0)
        slots, pictures = fitting_slots(device, each), fitting_pictures(device, each)
    for count, share, most in (
        (slots * each, 0.6, 64 if device == "cpu" else 512),
        (pictures * 12 * each, 0.2, 16 if device == "cpu" else 64),
    ):
        one = each if share == 0.6 else 12 * each
        assert one <= count <= most * one
        assert count <= free * share or count == one
        assert count + one > free * share or count == most * one


def test_twice_the_memory_is_twice_the_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for free in (10 * GB, 20 * GB, 40 * GB):
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        found.append((fitting_slots("cuda", GB), fitting_pictures("cuda", GB // 12)))
    assert found == [(6, 2), (12, 4), (24, 8)]


def test_what_the_machine_has_available_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, MEMINFO)
    assert free_bytes("cpu") == 16 * GB


@pytest.mark.parametrize("paths", [V2, V1])
def test_what_a_container_has_left_is_free(monkeypatch: pytest.MonkeyPatch, paths: tuple[str, str]) -> None:
    machine(monkeypatch, MEMINFO | limit(paths, 8 * GB, 5 * GB))
    assert free_bytes("cpu") == 3 * GB


@pytest.mark.parametrize(
    ("paths", "stat", "cached"),
    [
        (V2, "/sys/fs/cgroup/memory.stat", "inactive_file"),
        (V1, "/sys/fs/cgroup/memory/memory.stat", "total_inactive_file"),
    ],
)
def test_files_that_a_container_has_read_take_no_room(
    monkeypatch: pytest.MonkeyPatch, paths: tuple[str, str], stat: str, cached: str
) -> None:
    machine(monkeypatch, MEMINFO | limit(paths, 8 * GB, 7 * GB) | {stat: f"anon 5\n{cached} {3 * GB}\n"})
    assert free_bytes("cpu") == 4 * GB


@pytest.mark.parametrize("paths", [V2, V1])
def test_a_container_cannot_have_more_than_the_machine(monkeypatch: pytest.MonkeyPatch, paths: tuple[str, str]) -> None:
    machine(monkeypatch, MEMINFO | limit(paths, 100 * GB, 5 * GB))
    assert free_bytes("cpu") == 16 * GB


@pytest.mark.parametrize("files", [limit(V2, "max", 5 * GB), limit(V1, NO_LIMIT_V1, 5 * GB)])
def test_a_container_without_a_limit_has_what_the_machine_has(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, str]
) -> None:
    machine(monkeypatch, MEMINFO | files)
    assert free_bytes("cpu") == 16 * GB


def test_the_limit_of_the_first_version_counts_where_the_second_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, MEMINFO | limit(V2, "max", 5 * GB) | limit(V1, 8 * GB, 6 * GB))
    assert free_bytes("cpu") == 2 * GB


@pytest.mark.parametrize("paths", [V2, V1])
def test_a_container_over_its_limit_has_nothing_free_and_one_slot(
    monkeypatch: pytest.MonkeyPatch, paths: tuple[str, str]
) -> None:
    machine(monkeypatch, MEMINFO | limit(paths, 4 * GB, 5 * GB))
    assert free_bytes("cpu") == 0
    assert fitting_slots("cpu", 1) == 1


@pytest.mark.parametrize("paths", [V2, V1])
def test_a_limit_without_a_usage_is_no_reason_to_stop(monkeypatch: pytest.MonkeyPatch, paths: tuple[str, str]) -> None:
    machine(monkeypatch, MEMINFO | {paths[0]: f"{8 * GB}\n"})
    assert free_bytes("cpu") == 16 * GB


def test_a_machine_that_says_nothing_is_taken_to_be_half_full(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, {})
    assert free_bytes("cpu") == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="not Linux")
def test_this_machine_has_some_memory_free_and_not_all_of_it() -> None:
    assert 0 < free_bytes("cpu") < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_files_are_read_by_the_line_and_missing_ones_are_empty(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._lines(str(tmp_path / "memory.max")) == ["max"]
    assert memory._lines(str(tmp_path / "none")) == []
    assert memory._lines(str(tmp_path)) == []


FAULTS = """
import resource, sys, threading, torch
from arno_shared.settings import WorkerSettings
from arno_workers.engine.checkpoint.load import Sources, load_checkpoint
from arno_workers.engine.checkpoint.locate import BUNDLED, Located
from arno_workers.engine.florence import FlorenceReplica
from arno_workers.engine.memory import keep_freed_memory

def device():
    if sys.argv[1] == "keep":
        keep_freed_memory()
    settings = WorkerSettings()
    located = Located("arno-tiny", BUNDLED / "arno-tiny", None)
    replica = FlorenceReplica(load_checkpoint(Sources(located)), settings, "cpu")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        replica.answer_all([replica.picture(replica._blank(), ["what?", "where is it?"], 16) for _ in range(48)])
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(faults)

torch.set_num_threads(1)
thread = threading.Thread(target=device)
thread.start()
thread.join()
"""
"""How many pages are mapped anew while the engine's thread does what it has done before."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_memory_that_is_freed_is_kept_and_not_mapped_anew(tmp_path: Path) -> None:
    script = tmp_path / "faults.py"
    script.write_text(FAULTS)
    given_back, kept = (
        int(fork_server(*FLORENCE).run(str(script), way, env={}, timeout_s=120).stdout.splitlines()[-1])
        for way in ("give back", "keep")
    )
    assert 4 * kept < given_back
