"""Which optional parts are installed? Looked for, not imported."""

from collections.abc import Iterator
from importlib.util import find_spec

from arno_producer.cli.doctor.findings import Finding, Verdict
from arno_producer.demo import NEEDED

_MODULES = {
    "worker": ("torch", "transformers", "huggingface_hub", "tokenizers", "safetensors", "PIL", "numpy", "obstore"),
    "http": ("fastapi", "starlette", "anyio", "uvicorn", "python_multipart"),
    "parquet": ("pyarrow",),
    "otel": ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"),
    "flower": ("flower",),
    "demo": NEEDED,
}
_PURPOSES = {
    "worker": "arno-worker",
    "http": "arno serve",
    "parquet": "manifests and results in Parquet",
    "otel": "traces",
    "flower": "Flower, which shows tasks in a browser",
    "demo": "arno demo",
}


def check_extras() -> Iterator[Finding]:
    for extra, modules in _MODULES.items():
        missing = [module for module in modules if not _is_there(module)]
        purpose = _PURPOSES[extra]
        if missing:
            mend = f"for {purpose}: pip install 'arno[{extra}]'"
            yield Finding(f"extra {extra}", Verdict.NOTE, f"not installed: {', '.join(missing)}", mend)
        else:
            yield Finding(f"extra {extra}", Verdict.OK, f"installed, for {purpose}")


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package around it
        return False
