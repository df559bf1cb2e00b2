"""`arno-worker`: one worker process for each device."""

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from arno_shared.errors import ArnoError, MissingExtra

if TYPE_CHECKING:
    from arno_shared.settings import Settings
    from arno_workers.devices import Device

app = typer.Typer(add_completion=False)


@app.command()
def arno_worker(
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; auto takes CUDA where there is any.")] = "auto",
    gpus: Annotated[str, typer.Option(help="With CUDA: all, or numbers such as 0,1. One process each.")] = "all",
    name: Annotated[str, typer.Option(help="Node name in place of the device's, on one device.")] = "",
) -> None:
    """Annotate images with Florence-2: take chunks from the queues until SIGTERM.

    Everything else is a setting in the environment: ARNO_REDIS_URL, ARNO_WORKER__MODEL, …
    """
    # Not before the options are known to be right: it takes more than a second, which --help need not wait for.
    from pydantic import ValidationError
    from pydantic_settings import SettingsError

    from arno_shared import logs
    from arno_shared.messages import describe_invalid
    from arno_shared.settings import Settings
    from arno_workers.devices import devices

    try:
        settings = Settings()
        logs.configure(settings.log_level)
        wanted = devices(device, gpus)
        if name and len(wanted) > 1:
            raise typer.BadParameter("--name is for one device", param_hint="--name")
        code = run_one(settings, wanted[0], name) if len(wanted) == 1 else run_each(settings, wanted)
    except ValidationError as error:
        sys.exit(f"arno-worker: settings: {describe_invalid(error)}")
    except SettingsError as error:
        sys.exit(f"arno-worker: settings: {error}; lists are JSON: ARNO_LIMITS__SCHEMES='[\"s3\"]'")
    except ArnoError as error:
        sys.exit(f"arno-worker: {error}")
    sys.stderr.flush()
    sys.exit(code)


def run_one(settings: "Settings", device: "Device", name: str) -> int:
    """This process is the worker. A GPU is pinned before CUDA is first touched."""
    if device.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device.gpu
    try:
        from arno_workers.node import run_node
    except ImportError as error:
        if (error.name or "").partition(".")[0] in ("PIL", "numpy"):
            raise MissingExtra("A worker", "worker") from None
        raise
    return run_node(settings, device.kind, name or device.name)


def run_each(settings: "Settings", wanted: "list[Device]") -> int:
    """A process for each device. When one fails, the others drain, and its exit code is returned."""
    children = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "arno_workers.cli", "--device", "cuda", "--gpus", str(device.gpu)],
            env={**os.environ, "CUDA_VISIBLE_DEVICES": str(device.gpu), **_health_port(settings, number)},
        )
        for number, device in enumerate(wanted)
    ]

    def drain_all(*_: object) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, drain_all)
    signal.signal(signal.SIGINT, drain_all)
    worst = 0
    running = {child.pid: child for child in children}
    while running:
        pid, status = os.wait()
        if child := running.pop(pid, None):
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode:
                worst = worst or abs(child.returncode)
                drain_all()
    return worst


def _health_port(settings: "Settings", number: int) -> dict[str, str]:
    port = settings.worker.health_port
    return {"ARNO_WORKER__HEALTH_PORT": str(port + number)} if port else {}


def main() -> None:
    try:
        app()
    except SystemExit as stop:
        if not isinstance(stop.code, int):
            raise
        # Everything is written and handed back. What libraries still tidy up takes seconds, of which a machine that is
        # being taken away has none.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(stop.code)


if __name__ == "__main__":
    main()
