"""Workers die, freeze and come back; what they held is done elsewhere, soon, and once."""

import random
import signal
from collections.abc import Callable
from functools import partial
from threading import Event

import pytest

from arno_producer import Producer
from arno_producer.job import Job
from arno_shared.ledger import JobState
from arno_shared.names import UNACKED, Lane
from tests.acceptance.arno_worker import ArnoWorker, eventually
from tests.faults.afflicted import KILLS
from tests.faults.rig import LEASE_S, SOON_S, Watch, in_chunks_of, nothing_in_hand, reconcile, report, settled, waiting


def kill(worker: ArnoWorker) -> None:
    worker.process.kill()
    worker.process.wait()


def test_workers_killed_at_random_lose_nothing(start, producer, pictures, long) -> None:
    kills = 100 if long else 3
    for transport in ("atomic", "stock") if long else ("atomic",):
        uris = pictures(50) * (kills * 3)
        job = in_chunks_of(1, producer).submit(uris, "<OD>", job_id=f"killed-{transport}")

        def begin(number: int, transport: str = transport) -> ArnoWorker:
            env = {"ARNO_BROKER__TRANSPORT": transport, "AFFLICTED_IMAGE_S": "0.005"}
            name = f"{transport}{number}"
            return start(name, afflicted=True, ready=False, ARNO_WORKER__CHUNKS_IN_FLIGHT="2", **env)

        done, repeats = kill_under_load(begin, job, kills)
        watch = Watch()
        if transport == "atomic":
            settled(job, SOON_S * (5 if long else 1))
            assert done == kills, "too few images for so many kills, or a worker that does nothing"
            line = reconcile(producer, job, uris)
            line = f"{done} kills; {line}; done {watch.seconds:.1f} s after the last; {repeats} repeats"
            report("kill -9 under load", line)
        else:
            lost, words = counted_as_lost(producer, job, len(uris))
            report("kill -9 under load, stock transport", f"{done} kills; {len(uris)} images, lost {lost}{words}")


def kill_under_load(start: Callable[[int], ArnoWorker], job: Job, kills: int) -> tuple[int, int]:
    """Kills two workers in turn, each soon after it began to work, and starts others, until one does nothing; how many
    were killed, and how many repeats there were."""
    dice = random.Random(7)
    workers = [start(0), start(1)]
    done = 0
    while done < kills:
        victim = workers[-2]
        if not comes_true(lambda victim=victim: victim.logged("chunk committed"), 30):
            break
        Event().wait(dice.uniform(0.0, 0.1))
        kill(victim)
        done += not job.status().finished
        workers.append(start(len(workers)))
    return done, sum(len(worker.logged("chunk was committed before")) for worker in workers)


def counted_as_lost(producer: Producer, job: Job, images: int) -> tuple[int, str]:
    """Of one-image messages, those that are neither done nor anywhere to be found, once nothing moves any more."""
    before = -1
    while (now := job.status().settled) != before and not nothing_in_hand(producer):
        before = now
        comes_true(lambda: nothing_in_hand(producer), 20)
    left = waiting(producer) + int(producer.redis.hlen(UNACKED))
    return images - job.status().settled - left, f", {left} left in a queue that nobody takes from" if left else ""


def comes_true(condition: Callable[[], object], timeout_s: float) -> bool:
    try:
        eventually(condition, "it", timeout_s)
    except AssertionError:
        return False
    return True


def waiting_for_redis(producer: Producer, count: int) -> bool:
    blocked: int = producer.redis.info("clients")["blocked_clients"]
    return blocked >= count


def test_messages_that_frozen_workers_were_woken_for_are_done_by_others(start, producer, pictures) -> None:
    for transport in ("atomic", "stock"):
        idle = [start(f"{transport}-idle{number}", ARNO_BROKER__TRANSPORT=transport) for number in range(3)]
        # Frozen before it waits, a worker is woken for nothing.
        eventually(partial(waiting_for_redis, producer, len(idle)), "all of them wait")
        for worker in idle:
            worker.process.send_signal(signal.SIGSTOP)
        uris = pictures(40)
        job = in_chunks_of(1, producer).submit(uris, "<OD>", job_id=f"woken-{transport}")
        for worker in idle:
            kill(worker)
        watch = Watch()
        fresh = start(f"{transport}-fresh", ARNO_BROKER__TRANSPORT=transport)
        if transport == "atomic":
            settled(job)
            line = f"{reconcile(producer, job, uris)}; done {watch.seconds:.1f} s later"
            report("3 idle workers frozen, then killed", line)
        else:
            eventually(lambda: nothing_in_hand(producer), "the queue is empty")
            lost = len(uris) - job.status().settled
            report("3 idle workers frozen, then killed, stock transport", f"{len(uris)} images, lost {lost}")
            assert lost > 0, "what this suite is for can no longer be seen: try without the transport of Arno's own"
        kill(fresh)


def test_what_a_dead_worker_held_runs_elsewhere_when_its_lease_is_over(start, producer, pictures) -> None:
    holder = start("holder", afflicted=True, AFFLICTED_IMAGE_S="30", ARNO_WORKER__CHUNKS_IN_FLIGHT="4")
    uris = pictures(8)
    job = in_chunks_of(2, producer).submit(uris, "<OD>", job_id="held")
    eventually(lambda: producer.redis.hlen(UNACKED) == 4, "the worker holds all")
    start("other")
    kill(holder)
    watch = Watch()
    settled(job)
    assert watch.seconds < LEASE_S + 30, "the lease, a quarter of it, and what a busy machine takes"
    report(
        "a dead worker's chunks",
        f"{reconcile(producer, job, uris)}; done {watch.seconds:.1f} s after (lease {LEASE_S} s)",
    )


@pytest.mark.long
def test_a_chunk_that_takes_three_leases_is_begun_once(start, producer, pictures) -> None:
    slow = start("slow", afflicted=True, AFFLICTED_IMAGE_S=str(1.5 * LEASE_S), ARNO_WORKER__CHUNKS_IN_FLIGHT="1")
    start("idle")
    uris = pictures(2)
    eventually(lambda: slow.logged("worker starts"), "it runs")
    idle_before = len(slow.logged("chunk committed"))
    job = in_chunks_of(2, producer).submit(uris, "<OD>", job_id="slow")
    settled(job)
    reconcile(producer, job, uris)
    assert idle_before == 0
    assert producer.redis.hget("arno:job:slow", "ok") == b"2"
    assert not slow.logged("chunk was committed before")


def test_a_worker_that_was_frozen_for_two_leases_commits_nothing_twice(start, producer, pictures) -> None:
    zombie = start("zombie", afflicted=True, AFFLICTED_IMAGE_S="0.5", ARNO_WORKER__CHUNKS_IN_FLIGHT="2")
    uris = pictures(8)
    job = in_chunks_of(4, producer).submit(uris, "<OD>", job_id="zombie")
    eventually(lambda: producer.redis.hlen(UNACKED) == 2, "it holds both chunks")
    zombie.process.send_signal(signal.SIGSTOP)
    watch = Watch()
    start("other")
    settled(job)
    recovered_s = watch.seconds
    before = {row.image.uri: row.finished_at for row in job.results()}
    zombie.process.send_signal(signal.SIGCONT)
    eventually(lambda: zombie.logged("chunk was committed before") or zombie.logged("chunk dropped"), "it wakes")
    eventually(lambda: nothing_in_hand(producer), "it lets go")
    assert {row.image.uri: row.finished_at for row in job.results()} == before, "an object was written again"
    report(
        "a worker frozen for two leases", f"{reconcile(producer, job, uris)}; done elsewhere after {recovered_s:.1f} s"
    )


def test_poison_is_given_up_alone_after_max_deliveries(start, producer, pictures, harmful) -> None:
    uris = pictures(40)
    poison = harmful(KILLS)
    uris.insert(17, poison)
    job = in_chunks_of(8, producer).submit(uris, "<OD>", job_id="poison")
    deaths = supervised(lambda number: start(f"p{number}", afflicted=True, ready=False), lambda: job.status().finished)
    assert deaths <= 5, "as many as max_deliveries"
    line = reconcile(producer, job, uris, failed={poison: "worker_lost"})
    (filed,) = producer.dead_letters.list(job_id="poison")
    assert (filed.letter.code, filed.letter.images) == ("worker_lost", 1)
    report("a picture that kills its process", f"{line}; {deaths} workers died of it")


@pytest.mark.long
def test_a_single_poisonous_image_costs_max_deliveries_and_no_more(start, producer, harmful) -> None:
    poison = harmful(KILLS)
    job = producer.submit([poison], "<OD>", job_id="single", lane=Lane.INTERACTIVE)
    limit = {"ARNO_RETRIES__MAX_DELIVERIES": "2"}
    deaths = supervised(
        lambda number: start(f"s{number}", afflicted=True, ready=False, **limit), lambda: job.status().finished
    )
    assert deaths == 2
    reconcile(producer, job, [poison], failed={poison: "worker_lost"})
    assert job.status().state is JobState.DONE
    assert not waiting(producer, Lane.INTERACTIVE)


def supervised(start: Callable[[int], ArnoWorker], done: Callable[[], bool]) -> int:
    """Starts a worker whenever the last one has ended, until it is done; how many ended."""
    deaths = 0
    worker = start(0)

    def step() -> bool:
        nonlocal worker, deaths
        if worker.process.poll() is not None:
            deaths += 1
            worker = start(deaths)
        return done()

    eventually(step, "it is done", 2 * SOON_S)
    return deaths
