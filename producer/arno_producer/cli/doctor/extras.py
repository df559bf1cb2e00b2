"""Which optional parts are installed? Looked for, not imported."""

from collections.abc import Iterator
from importlib.util import find_spec

from arno_producer.cli.doctor.findings import Finding, Verdict

_MODULES = {
    "parquet": ("pyarrow",),
    "worker": ("torch", "transformers", "PIL", "numpy", "safetensors", "obstore"),
}


def check_extras() -> Iterator[Finding]:
    for extra, modules in _MODULES.items():
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            mend = f"where it is wanted: pip install 'arno[{extra}]'"
            yield Finding(f"extra {extra}", Verdict.NOTE, f"not installed: {', '.join(missing)}", mend)
        else:
            yield Finding(f"extra {extra}", Verdict.OK, "installed")
