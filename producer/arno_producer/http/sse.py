"""Server-sent events of one job (WHATWG HTML, "Server-sent events"). No thread is held while nothing happens."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from time import monotonic

from anyio.to_thread import run_sync

from arno_producer.client import Producer
from arno_shared.errors import ArnoError
from arno_shared.ledger import JobStatus
from arno_shared.topic import entries_after, latest_entry_id

_LOOK_EVERY_S = 0.5
_HEARTBEAT_S = 15.0


async def job_events(
    producer: Producer, job_id: str, last_event_id: str, stopping: Callable[[], bool]
) -> AsyncIterator[str]:
    """Raises JobNotFound and HouseError at once, and not in the stream, which ends when the job does or the door."""
    status = await run_sync(producer.ledger.status, job_id)
    since = last_event_id or await run_sync(latest_entry_id, producer.redis)
    return _stream(producer, status, since, stopping)


async def _stream(
    producer: Producer, status: JobStatus, since: str, stopping: Callable[[], bool]
) -> AsyncIterator[str]:
    yield _event("progress", status.model_dump_json())
    said_s = monotonic()
    while not stopping():
        try:
            # Asked for before the events are: a finished job has announced everything.
            now = await run_sync(producer.ledger.status, status.job_id)
            entries = await run_sync(entries_after, producer.redis, since)
        except ArnoError as error:
            # Whoever follows comes back, with the id of the last event.
            yield _event("error", json.dumps({"code": error.code}))
            return
        for entry_id, event in entries:
            since = entry_id
            if event.data.job_id == status.job_id:
                yield _event("chunk", event.model_dump_json(exclude_none=True), entry_id)
                said_s = monotonic()
        if entries:
            continue
        if now != status:
            status = now
            yield _event("progress", status.model_dump_json())
            said_s = monotonic()
        if status.finished:
            yield _event("done", status.model_dump_json())
            return
        if monotonic() - said_s > _HEARTBEAT_S:
            yield ":\n\n"
            said_s = monotonic()
        await asyncio.sleep(_LOOK_EVERY_S)


def _event(name: str, data: str, event_id: str = "") -> str:
    return f"{f'id: {event_id}' + chr(10) if event_id else ''}event: {name}\ndata: {data}\n\n"
