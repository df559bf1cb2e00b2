"""A worker that is stuck is noticed by its own watchdog, and ended; its work is done elsewhere."""

from pathlib import Path

import pytest

from arno_shared.names import UNACKED
from tests.acceptance.arno_worker import eventually
from tests.faults.afflicted import HANGS, HOLDS_THE_LOCK
from tests.faults.rig import Watch, in_chunks_of, reconcile, report, settled, waiting

STUCK_S = 4


@pytest.mark.parametrize(
    ("what", "affliction", "exit_code"),
    [("a device that hangs", HANGS, 75), ("native code that lets no thread in", HOLDS_THE_LOCK, 1)],
)
def test_a_stuck_worker_is_ended_and_its_work_goes_back(
    what: str, affliction: int, exit_code: int, start, producer, pictures, harmful, tmp_path: Path
) -> None:
    ailing = tmp_path / "ailing"
    ailing.touch()
    # While native code hangs, nobody can be asked; how long an answer may take is waited for, too.
    env = {"ARNO_WORKER__STUCK_S": str(STUCK_S), "AFFLICTED_AILING": str(ailing), "ARNO_BROKER__SOCKET_TIMEOUT_S": "1"}
    worker = start("stuck", afflicted=True, **env)
    uris = [*pictures(6), harmful(affliction)]
    job = in_chunks_of(2, producer).submit(uris, "<OD>", job_id="stuck")
    watch = Watch()
    assert worker.process.wait(60) == exit_code
    noticed_s = watch.seconds
    assert noticed_s < 40
    assert "Thread 0x" in worker.log.read_text(), "where everything hangs is in its log"
    ailing.unlink()
    start("next", afflicted=True, **env)
    settled(job)
    report(what, f"{reconcile(producer, job, uris)}; noticed after {noticed_s:.1f} s (stuck_s {STUCK_S})")


@pytest.mark.long
def test_what_a_stuck_worker_held_goes_back_at_once(start, producer, harmful) -> None:
    worker = start("stuck", afflicted=True, ARNO_WORKER__STUCK_S=str(STUCK_S), ARNO_BROKER__LEASE_S="600")
    producer.submit([harmful(HANGS)], "<OD>", job_id="held")
    worker.process.wait(60)
    assert (waiting(producer), producer.redis.hlen(UNACKED)) == (1, 0)
    assert worker.logged("the worker is stuck: it ends, for its supervisor to start another")


def test_a_consumer_that_fell_silent_is_noticed(start, producer, pictures, tmp_path: Path) -> None:
    worker = start("deaf", module="tests.faults.deaf", ARNO_WORKER__STUCK_S=str(STUCK_S))
    uris = pictures(4)
    job = in_chunks_of(1, producer).submit(uris, "<OD>", job_id="deaf")
    watch = Watch()
    assert worker.process.wait(60) == 75
    assert "messages wait, and none was taken" in worker.log.read_text()
    report("a consumer that fell silent", f"noticed after {watch.seconds:.1f} s (stuck_s {STUCK_S})")
    start("next")
    settled(job)
    reconcile(producer, job, uris)


def test_a_slow_worker_and_an_idle_one_are_not_stuck(start, producer, pictures) -> None:
    idle = start("idle", ARNO_WORKER__STUCK_S="2")
    slow = start(
        "slow", afflicted=True, AFFLICTED_IMAGE_S="1.5", ARNO_WORKER__STUCK_S="2", ARNO_WORKER__CHUNKS_IN_FLIGHT="1"
    )
    uris = pictures(4)
    job = in_chunks_of(1, producer).submit(uris, "<OD>", job_id="slow")
    eventually(lambda: job.status().finished, "done")
    reconcile(producer, job, uris)
    assert idle.process.poll() is None
    assert slow.process.poll() is None
