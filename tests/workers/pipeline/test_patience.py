"""Waiting out the house: nothing fails while Redis or storage is away, and a stopping worker does not wait for ever."""

import pytest
from structlog.testing import capture_logs

from arno_shared.errors import HouseError
from arno_workers.pipeline import patience
from arno_workers.pipeline.patience import Drain, Drained, until_back


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(patience, "_LONGEST_PAUSE_S", 0.01)


def test_a_call_is_tried_until_the_house_is_back() -> None:
    calls = iter([HouseError("away"), HouseError("away"), HouseError("away"), None])

    def call() -> str:
        if error := next(calls):
            raise error
        return "done"

    with capture_logs() as logs:
        assert until_back(call, "storage", Drain(60)) == "done"
    assert {(line["event"], line["what"], line["error"]) for line in logs} == {("waiting", "storage", "away")}


def test_other_errors_pass_at_once() -> None:
    def call() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        until_back(call, "storage", Drain(60))


def test_a_stopping_worker_gives_up_once_its_time_is_up() -> None:
    drain = Drain(0.05)
    calls = []

    def call() -> None:
        calls.append(1)
        if len(calls) == 3:
            drain.begin()
        raise HouseError("away")

    with pytest.raises(Drained):
        until_back(call, "storage", drain)
    assert len(calls) >= 3


def test_a_worker_that_is_not_stopping_is_never_out_of_time() -> None:
    Drain(0).check()


def test_once_nothing_can_finish_any_more_the_time_is_up_at_once() -> None:
    drain = Drain(60)
    drain.begin()
    drain.end_now()
    with pytest.raises(Drained):
        drain.check()


def test_who_watches_sees_signs_of_life_while_a_pause_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "_SIGN_EVERY_S", 0.001)
    monkeypatch.setattr(patience, "_FIRST_PAUSE_S", 0.05)
    calls = iter([HouseError("away"), None])
    signs: list[int] = []

    def call() -> str:
        if error := next(calls):
            raise error
        return "done"

    assert until_back(call, "storage", Drain(60), lambda: signs.append(1)) == "done"
    assert len(signs) > 3
