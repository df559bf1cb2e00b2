"""What the HTTP door counts and times, for Prometheus."""

from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from arno_shared.names import Lane

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class DoorMetrics:
    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "arno_http_requests", "Requests that were answered", ["method", "route", "status"], registry=registry
        )
        self.request_s = Histogram(
            "arno_http_request_seconds", "From a request to the end of its answer", ["route"], registry=registry
        )
        self.in_progress = Gauge("arno_http_requests_in_progress", "Requests not answered yet", registry=registry)
        self._jobs = Counter("arno_jobs_submitted", "Jobs that were taken in", ["lane"], registry=registry)
        self._images = Counter("arno_submitted_images", "Images that were taken in", ["lane"], registry=registry)
        for lane in Lane:
            self._jobs.labels(lane.value)
            self._images.labels(lane.value)

    def submitted(self, lane: Lane, images: int) -> None:
        self._jobs.labels(lane.value).inc()
        self._images.labels(lane.value).inc(images)


class Measured:
    """ASGI middleware: counts and times every request, by its route's template, never by its path."""

    def __init__(self, app: ASGIApp, metrics: DoorMetrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = perf_counter()
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with self._metrics.in_progress.track_inprogress():
            try:
                await self._app(scope, receive, noting)
            finally:
                route = getattr(scope.get("route"), "path", "none")
                method = scope["method"] if scope["method"] in _METHODS else "other"
                self._metrics.requests.labels(method, route, status).inc()
                self._metrics.request_s.labels(route).observe(perf_counter() - began_s)
