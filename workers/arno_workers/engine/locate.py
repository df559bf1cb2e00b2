"""Finds a model: bundled, in a local folder, in an `s3://` folder, or on the hub."""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from arno_shared.errors import ArnoError, ModelUnusable
from arno_shared.logs import get_logger
from arno_shared.settings import WorkerSettings
from arno_shared.storage import ObjectStore

log = get_logger(__name__)

BUNDLED = Path(__file__).parent.parent / "models"


@dataclass(frozen=True, slots=True)
class Located:
    source: str
    """A folder, or a hub id: what `from_pretrained` takes."""
    revision: str | None
    """The hub revision to ask for; None when `source` is a folder."""


def locate(settings: WorkerSettings, store: ObjectStore) -> Located:
    """Raises ModelUnusable, which says what was looked for and where."""
    model = settings.model
    if model.startswith("s3://"):
        return _checked(_download(model, settings.model_cache.expanduser(), store))
    bundled = BUNDLED / model
    if "/" not in model and bundled.is_dir():
        return _checked(bundled)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return _checked(folder)
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        names = ", ".join(sorted(path.name for path in BUNDLED.iterdir() if path.is_dir()))
        raise ModelUnusable(
            f"there is no model {model!r}: ARNO_WORKER__MODEL is a bundled model ({names}), a folder, "
            "an s3:// folder or a hub id (owner/name)"
        )
    return Located(model, settings.revision)


def folder_revision(folder: Path) -> str:
    """The SHA-256 of the weights, in the order of their names: what a folder has in place of a commit."""
    digest = hashlib.sha256()
    for weights in sorted(folder.glob("*.safetensors")):
        with weights.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def _checked(folder: Path) -> Located:
    missing = [name for name in ("config.json",) if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise ModelUnusable(f"{folder} is not a model in transformers' format: it lacks {' and '.join(missing)}")
    return Located(str(folder), None)


def _download(uri: str, cache: Path, store: ObjectStore) -> Path:
    """The folder's files, kept under the digest of their names and ETags: a changed model is a new download."""
    prefix = uri.rstrip("/") + "/"
    try:
        objects = [found for found in store.list(prefix) if "/" not in found.uri.removeprefix(prefix)]
        listing = "".join(f"{found.uri} {found.etag} {found.size_bytes}\n" for found in objects)
        folder = cache / hashlib.sha256(listing.encode()).hexdigest()[:32]
        if objects and not folder.is_dir():
            log.info("downloading the model", model=uri, bytes=sum(found.size_bytes for found in objects))
            cache.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(dir=cache))
            try:
                for found in objects:
                    with (partial / found.uri.removeprefix(prefix)).open("wb") as file:
                        store.download(found.uri, file)
                # Renamed when it is whole, so that an interrupted download is never taken for a model.
                if not folder.is_dir():
                    os.replace(partial, folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except ArnoError as error:
        raise ModelUnusable(f"the model at {uri} cannot be read: {error}") from error
    if not objects:
        raise ModelUnusable(f"there is no object below {prefix}: ARNO_WORKER__MODEL names a folder with config.json")
    return folder
