"""Who works, and who should but does not?"""

from collections.abc import Iterable, Iterator, Sequence

from arno_producer.cli.doctor.findings import Finding, Verdict
from arno_producer.client import Producer
from arno_shared import __version__
from arno_shared.broker import node_names
from arno_shared.messages import SCHEMA_VERSION
from arno_shared.presence import SeenWorker, WorkerState, workers

_ANSWER_S = 1.0


def check_workers(producer: Producer) -> Iterator[Finding]:
    """Raises HouseError."""
    answered = node_names(producer.app, _ANSWER_S)
    seen = workers(producer.redis)
    heard = {one.worker: one.state for one in seen if not one.silent}
    states = [state for state in heard.values() if state]
    yield _there(answered, heard)
    yield from _models(states)
    mute = (state.worker for state in states if state.phase == "working" and state.worker not in answered)
    yield from _noted(
        "mute workers",
        [f"{worker} takes part, but answers no ping within {_ANSWER_S:g} s" for worker in mute],
        "ask once more; if it stays mute, its log and its /readyz (arno workers) say why",
    )
    yield from _noted(
        "ailing workers",
        [f"{state.worker}: {state.ailment}" for state in states if state.ailment],
        "its watchdog ends it, and what it holds goes back to the queues; its log says what came before",
    )
    yield from _noted(
        "slowed workers",
        [state.worker for state in states if state.computes != state.execution],
        "arno workers says what each does without, and its log why; fewer ARNO_WORKER__SLOTS leave graphs more memory",
    )
    yield from _noted(
        "silent workers",
        [_last_words(one) for one in seen if one.silent],
        "its log says whether it died or cannot reach Redis; what it holds goes back to the queues by itself",
    )
    yield from _differing(
        "worker versions",
        __version__,
        ((state.version, state.worker) for state in states),
        "for the time of an upgrade this is well; then install one version everywhere",
    )
    yield from _differing(
        "schema versions",
        str(SCHEMA_VERSION),
        ((str(state.schema_version), state.worker) for state in states),
        "upgrade workers before producers: a message waits until a worker speaks its version",
    )


def _there(answered: Sequence[str], heard: dict[str, WorkerState | None]) -> Finding:
    names = sorted({*answered, *heard})
    if not names:
        return Finding("workers", Verdict.NOTE, f"none answered within {_ANSWER_S:g} s", "start one: arno-worker")
    phases = {name: state.phase for name, state in heard.items() if state}
    there = (f"{name} ({phases[name]})" if name in phases else name for name in names)
    return Finding("workers", Verdict.OK, f"{len(names)} there, {len(answered)} answered: {', '.join(there)}")


def _models(states: Sequence[WorkerState]) -> Iterator[Finding]:
    """What they have read, and from where."""
    readers: dict[str, list[str]] = {}
    for state in states:
        if state.provenance:
            readers.setdefault(f"{state.model}: {state.provenance}", []).append(state.worker)
    if readers:
        says = "; ".join(f"{read} ({', '.join(workers)})" for read, workers in sorted(readers.items()))
        yield Finding("models that work", Verdict.OK, says)


def _last_words(seen: SeenWorker) -> str:
    words = f"{seen.worker} for {seen.seen_s_ago:.0f} s"
    if state := seen.state:
        words += f" (was {state.phase}, {state.chunks_in_flight:,} chunks in hand)"
        words += f": {state.ailment}" if state.ailment else ""
    return words


def _noted(check: str, findings: Sequence[str], mend: str) -> Iterator[Finding]:
    if findings:
        yield Finding(check, Verdict.NOTE, "; ".join(findings), mend)


def _differing(check: str, here: str, spoken: Iterable[tuple[str, str]], mend: str) -> Iterator[Finding]:
    """A note when the workers' versions are not all the one that is installed `here`."""
    by_version = {here: ["here"]}
    for version, worker in spoken:
        by_version.setdefault(version, []).append(worker)
    if len(by_version) > 1:
        says = "; ".join(f"{version}: {', '.join(where)}" for version, where in sorted(by_version.items()))
        yield Finding(check, Verdict.NOTE, says, mend)
