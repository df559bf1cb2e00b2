"""`arno workers`: who works, on what, and who fell silent."""

import json
from typing import TYPE_CHECKING

from arno_producer.cli.terminal import JsonOption, emit, say, show_table
from arno_shared.uris import redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from arno_shared.presence import SeenWorker, WorkerState

_HEADINGS = (
    "worker",
    "device",
    "model",
    "computes",
    "phase",
    "in flight",
    "images done",
    "last commit",
    "seen",
    "health",
)


def workers(json_lines: JsonOption = False) -> None:
    """Show the workers, what each is doing, and those that fell silent in the last minutes."""
    from arno_producer.cli.connection import connect
    from arno_shared.presence import workers as seen_workers

    seen = seen_workers(connect().redis)
    if json_lines:
        for one in seen:
            emit(_as_json(one))
    elif seen:
        show_table(_HEADINGS, map(_summary, seen))
        for line in (*_provenances(seen), *_shortfalls(seen)):
            say(line)
    else:
        say("no worker was heard of in the last minutes; start one: arno-worker")


def _summary(seen: "SeenWorker") -> tuple[str, ...]:
    age = f"{seen.seen_s_ago:.0f} s ago"
    state = seen.state
    if state is None:
        return (seen.worker, "", "", "", "not to be read by this version of Arno", "", "", "", age, "")
    return (
        seen.worker,
        state.device,
        _model(state),
        _computes(state),
        _phase(seen, state),
        f"{state.chunks_in_flight:,}",
        f"{state.images_done:,}",
        _time(state.last_commit_at),
        age,
        state.health,
    )


def _short(revision: str) -> str:
    """Enough of a hash to tell it from others."""
    return revision.removeprefix("sha256:")[:12]


def _model(state: "WorkerState") -> str:
    adapter = f" + {state.adapter} {_short(state.adapter_revision)}" if state.adapter else ""
    return f"{state.model} {_short(state.revision)}{adapter} {state.dtype}"


def _computes(state: "WorkerState") -> str:
    """Short; what is left out stands under the table."""
    return state.computes if state.computes == state.execution else f"{state.computes} …"


def _provenances(seen: "Iterable[SeenWorker]") -> "Iterator[str]":
    """What was read of each model, once for all the workers that read the same."""
    readers: dict[tuple[str, str], list[str]] = {}
    for one in seen:
        if one.state and one.state.provenance:
            readers.setdefault((one.state.model, one.state.provenance), []).append(one.worker)
    for (model, provenance), names in readers.items():
        yield f"{model} ({', '.join(names)}): {provenance}"


def _shortfalls(seen: "Iterable[SeenWorker]") -> "Iterator[str]":
    for one in seen:
        if one.state and one.state.computes != one.state.execution:
            yield f"{one.worker} computes with less than it was asked for: {one.state.execution}"


def _phase(seen: "SeenWorker", state: "WorkerState") -> str:
    phase = f"silent, was {state.phase}" if seen.silent else state.phase
    return f"{phase}: {state.ailment}" if state.ailment else phase


def _time(at: "datetime | None") -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}Z" if at else ""


def _as_json(seen: "SeenWorker") -> str:
    fields = seen.state.model_dump(mode="json") if seen.state else {"worker": seen.worker}
    return redact(json.dumps({**fields, "seen_s_ago": round(seen.seen_s_ago, 3), "silent": seen.silent}))
