"""The log says how far a download is."""

import threading
from typing import Any

import pytest
from structlog.testing import capture_logs

from arno_workers.engine.checkpoint import progress


def _log_of(total_bytes: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is said of a download that has come so far each time that it is looked at."""
    monkeypatch.setattr(progress, "SAID_EVERY_S", 0.01)
    left, looked = iter(sizes), threading.Event()

    def so_far() -> int:
        size = next(left, None)
        if size is None:
            looked.set()
        return size if size is not None else sizes[-1]

    with capture_logs() as log, progress.logged("a model", 3, total_bytes, so_far):
        assert looked.wait(20)
    return log


def test_a_download_is_said_at_its_beginning_meanwhile_and_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *meanwhile, last = _log_of(1000, [0, 255, 999], monkeypatch)
    assert (first["event"], first["model"], first["files"], first["bytes"]) == ("downloading", "a model", 3, 1000)
    assert [(line["bytes_so_far"], line["percent"]) for line in meanwhile[:3]] == [(0, 0), (255, 25), (999, 99)]
    assert (last["event"], last["files"], last["bytes"]) == ("downloaded", 3, 1000)


@pytest.mark.parametrize(("total_bytes", "percent"), [(100, 100), (0, None)])
def test_more_than_was_listed_is_never_more_than_all(
    total_bytes: int, percent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _log_of(total_bytes, [300], monkeypatch)[1]["percent"] == percent


def test_of_a_download_that_fails_no_end_is_said() -> None:
    with capture_logs() as log, pytest.raises(ValueError, match="broken"), progress.logged("a model", 1, 10, int):
        raise ValueError("broken")
    assert [line["event"] for line in log] == ["downloading"]
