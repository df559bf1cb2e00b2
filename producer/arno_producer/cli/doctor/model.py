"""What does ARNO_WORKER__MODEL name? Looked at from outside: nothing of the model is loaded."""

from importlib.util import find_spec
from pathlib import Path

from arno_producer.cli.doctor.findings import Finding, Verdict
from arno_shared.checkpoint.files import CONFIG, weight_files
from arno_shared.errors import ArnoError
from arno_shared.storage import ObjectStore

_MEND = "set ARNO_WORKER__MODEL to a bundled model, a folder, an s3:// folder or a hub id (owner/name)"


def check_model(model: str, store: ObjectStore) -> Finding:
    if model.startswith("s3://"):
        return _in_bucket(model.rstrip("/"), store)
    bundled = _bundled_models() / model
    if "/" not in model and bundled.is_dir():
        return _folder(f"{model} (bundled)", bundled)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _folder(str(folder), folder)
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        return Finding("model", Verdict.FAILED, f"{model} is neither bundled nor a folder", _MEND)
    return Finding("model", Verdict.NOTE, f"{model}, a hub id: workers download it; it cannot be checked from here")


def _bundled_models() -> Path:
    spec = find_spec("arno_workers")
    assert spec is not None, "arno_workers is part of the same distribution"
    assert spec.origin is not None
    return Path(spec.origin).parent / "models"


def _folder(name: str, folder: Path) -> Finding:
    names = [path.name for path in folder.iterdir()]
    lacks = ["config.json"] * (CONFIG not in names) + ["weights"] * (not weight_files(names))
    if lacks:
        return Finding("model", Verdict.FAILED, f"{name} lacks {' and '.join(lacks)}", _MEND)
    return Finding("model", Verdict.OK, name)


def _in_bucket(uri: str, store: ObjectStore) -> Finding:
    try:
        if store.exists(f"{uri}/config.json"):
            return Finding("model", Verdict.OK, uri)
    except ArnoError as error:
        return Finding("model", Verdict.FAILED, f"{uri}: {error}", _MEND)
    return Finding("model", Verdict.FAILED, f"{uri} has no config.json", _MEND)
