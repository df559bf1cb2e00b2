"""What callers of the HTTP door are told of a job."""

from collections import OrderedDict
from threading import Lock
from time import monotonic

from pydantic import BaseModel

from arno_producer.speed import Speed
from arno_shared.ledger import JobStatus

_REMEMBERED_JOBS = 1000


class Links(BaseModel):
    self: str
    results: str
    events: str


class JobView(JobStatus):
    rate_images_per_s: float | None = None
    """Over the time since this door was first asked about the job, of the last half minute at most; None when it
    cannot be known yet."""
    eta_s: float | None = None
    """Until all images have an outcome, at that rate; None when it cannot be known."""
    links: Links


class JobList(BaseModel):
    jobs: list[JobView]


class Views:
    """Remembers how far jobs were when they were last asked about. Thread-safe."""

    def __init__(self) -> None:
        self._speeds: OrderedDict[str, Speed] = OrderedDict()
        self._lock = Lock()

    def of(self, status: JobStatus) -> JobView:
        rate = None if status.finished else self._rate(status)
        known = rate and status.sealed
        place = f"/v1/jobs/{status.job_id}"
        return JobView(
            **dict(status),
            rate_images_per_s=rate and round(rate, 3),
            eta_s=round((status.images - status.settled) / rate, 1) if known and rate else None,
            links=Links(self=place, results=f"{place}/results", events=f"{place}/events"),
        )

    def _rate(self, status: JobStatus) -> float | None:
        with self._lock:
            speed = self._speeds.pop(status.job_id, None) or Speed()
            self._speeds[status.job_id] = speed
            if len(self._speeds) > _REMEMBERED_JOBS:
                self._speeds.popitem(last=False)
            return speed.images_per_s(status.settled, monotonic()) or None
