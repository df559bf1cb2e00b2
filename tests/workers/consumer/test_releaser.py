"""Every worker looks for what is due, and for jobs that nobody does anything about any more."""

import pytest

from arno_shared.broker import Sender, celery_app
from arno_shared.ledger import JobState, Ledger
from arno_shared.messages import Output
from arno_shared.names import LIVE, Lane
from arno_shared.redis_client import connect
from arno_shared.settings import Settings
from arno_workers.consumer import releaser

OUTPUT = Output(prefix="s3://results/run-7/")


@pytest.fixture
def ledger(valkey_url: str) -> Ledger:
    return Ledger(connect(Settings(redis_url=valkey_url)), Settings())


def test_a_job_of_which_nothing_was_heard_for_too_long_ends(
    ledger: Ledger, valkey_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.open("run-7", "terms", OUTPUT, Lane.BULK)
    ledger.open("run-8", "terms", Output(prefix="s3://results/run-8/"), Lane.BULK)
    connect(Settings(redis_url=valkey_url)).zadd(LIVE, {"run-7": 1})
    monkeypatch.setattr(releaser, "_ABANDON_EVERY_S", releaser._EVERY_S)
    with celery_app(Settings(redis_url=valkey_url)) as app:
        releaser.look(ledger, Sender(app))
    assert ledger.status("run-7").state is JobState.INCOMPLETE
    assert ledger.status("run-8").state is JobState.RUNNING
