"""A worker's own pages: `/healthz`, whether it should live, `/readyz`, whether it can work, and `/metrics`."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from threading import Event, Thread

from arno_shared.errors import InvalidRequest
from arno_shared.logs import get_logger
from arno_shared.settings import WorkerSettings
from arno_shared.uris import redact
from arno_workers.health.checks import Check, Verdict
from arno_workers.health.pages import Page, PageServer
from arno_workers.health.vitals import Phase, Vitals

log = get_logger(__name__)

_CONSUMER_SILENT_S = 30.0
_SHUTDOWN_POLL_S = 0.1


class Probes:
    """Serves the pages from daemon threads. Started before the replica is loaded.

    /healthz   200 until the watchdog finds an ailment, then 503
    /readyz    200 while the worker takes chunks and can finish them, else 503; names every check, and why it fails
    /metrics   what Prometheus reads
    """

    def __init__(
        self,
        settings: WorkerSettings,
        vitals: Vitals,
        checks: Mapping[str, Callable[[], None]],
        exposition: Callable[[], bytes],
    ) -> None:
        """`checks` by name: each raises an ArnoError when what it looks at cannot be used. `exposition`: metrics."""
        self._exposition = exposition
        self._host, self._port = settings.health_host, settings.health_port
        self._vitals = vitals
        self._stopping = Event()
        self._checks = {name: Check(name, look, self._stopping) for name, look in checks.items()}
        self._server: PageServer | None = None

    def start(self) -> str:
        """Where the pages are: `127.0.0.1:PORT`. Raises InvalidRequest when that port cannot be had."""
        try:
            pages = {"/healthz": self._healthz, "/readyz": self._readyz, "/metrics": self._metrics}
            server = PageServer(self._host, self._port, pages)
        except OSError as error:
            raise InvalidRequest(
                f"the health pages cannot be served on port {self._port} of {self._host} ({error.strerror}): set "
                "ARNO_WORKER__HEALTH_PORT to a free one, or to 0 for any, and ARNO_WORKER__HEALTH_HOST to this machine"
            ) from None
        self._server = server
        Thread(target=server.serve_forever, args=[_SHUTDOWN_POLL_S], name="health", daemon=True).start()
        for check in self._checks.values():
            check.start()
        log.info("health pages served", address=server.address)
        return server.address

    def stop(self) -> None:
        self._stopping.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    def _healthz(self) -> Page:
        vitals = self._vitals
        signs = {
            "phase": vitals.phase.value,
            "started_at": vitals.started_at.isoformat(),
            "last_commit_at": vitals.last_commit_at.isoformat() if vitals.last_commit_at else None,
            "chunks_in_flight": vitals.chunks_in_flight,
            "chunks_committed": vitals.chunks_committed,
            "images_done": vitals.images_done,
            "progress_age_s": round(vitals.progress_age_s, 1),
            "consumer_age_s": round(vitals.consumer_age_s, 1),
        }
        if ailment := vitals.ailment:
            return HTTPStatus.SERVICE_UNAVAILABLE, {"status": "ailing", "ailment": redact(ailment), **signs}
        return HTTPStatus.OK, {"status": "alive", **signs}

    def _readyz(self) -> Page:
        verdicts = {
            "replica": self._replica(),
            "consumer": self._consumer(),
            **{name: check.verdict for name, check in self._checks.items()},
        }
        checks = {name: verdict._asdict() for name, verdict in verdicts.items()}
        if all(verdict.ok for verdict in verdicts.values()):
            return HTTPStatus.OK, {"status": "ready", "checks": checks}
        phase = self._vitals.phase
        status = "unready" if phase is Phase.WORKING else phase.value
        return HTTPStatus.SERVICE_UNAVAILABLE, {"status": status, "checks": checks}

    def _metrics(self) -> Page:
        return HTTPStatus.OK, self._exposition()

    def _replica(self) -> Verdict:
        phase, ailment = self._vitals.phase, self._vitals.ailment
        if phase is not Phase.WORKING:
            return Verdict(False, phase.value)
        return Verdict(not ailment, redact(ailment))

    def _consumer(self) -> Verdict:
        if refusal := self._vitals.refusal:
            return Verdict(False, redact(refusal))
        age_s = self._vitals.consumer_age_s
        if age_s < _CONSUMER_SILENT_S:
            return Verdict(True)
        return Verdict(False, f"the queues have not answered for {age_s:.0f} s")
