"""What the setting of a model, an adapter or a processor names, looked at from outside: nothing of it is loaded."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from arno_shared.checkpoint.adapter import Adapter, read_adapter
from arno_shared.checkpoint.files import Wanted
from arno_shared.checkpoint.folder import Folder, LocalFolder, StoredFolder
from arno_shared.checkpoint.survey import Survey, survey
from arno_shared.errors import InvalidRequest
from arno_shared.storage import ObjectStore


def folder_named(name: str, wanted: Wanted, store: ObjectStore) -> Folder | None:
    """None for a hub id, whose files are not here. Raises InvalidRequest, HouseError, and what storage says."""
    if name.startswith("s3://"):
        return StoredFolder(name, store)
    bundled = {path.name: path for path in _bundled_models().iterdir()}
    if name in bundled:
        return LocalFolder(bundled[name], f"{name} (bundled)")
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return LocalFolder(folder)
    if folder.is_file():
        raise InvalidRequest(f"{folder} is a file: name the folder that it lies in")
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        own = "" if wanted is Wanted.ADAPTER else "a bundled model, "
        raise InvalidRequest(
            f"there is no {wanted} {name!r}: {wanted.setting} is {own}a folder, an s3:// folder or a "
            "hub id (owner/name)"
        )
    return None


class Look(NamedTuple):
    found: Survey
    unseen: tuple[str, ...]
    """Parts that were named and lie on the hub."""


def look_at(model: Folder, processor: str, adapter: str, store: ObjectStore) -> Look:
    """What Arno will make of a model's folder with the parts of others that are named.

    Raises InvalidRequest, HouseError, ModelUnusable for an adapter that cannot be merged, and what storage says.
    """
    processor_folder = folder_named(processor, Wanted.PROCESSOR, store) if processor else None
    hidden = bool(processor) and processor_folder is None
    adapted = adapter_named(adapter, store) if adapter else None
    unseen = [processor] * hidden + [adapter] * (bool(adapter) and adapted is None)
    return Look(survey(model, processor_folder, adapted, sees_processor=not hidden), tuple(unseen))


def adapter_named(name: str, store: ObjectStore) -> Adapter | None:
    """None for a hub id. Raises as `look_at` does."""
    folder = folder_named(name, Wanted.ADAPTER, store)
    return read_adapter(folder) if folder else None


def _bundled_models() -> Path:
    spec = find_spec("arno_workers")
    assert spec is not None, "arno_workers is part of the same distribution"
    assert spec.origin is not None
    return Path(spec.origin).parent / "models"
