"""What the setting of a model, an adapter or a processor names, looked at from outside: nothing of it is loaded."""

from importlib.util import find_spec
from pathlib import Path

from arno_shared.checkpoint.adapter import read_adapter
from arno_shared.checkpoint.files import Wanted
from arno_shared.checkpoint.folder import Folder, LocalFolder, StoredFolder
from arno_shared.checkpoint.survey import Survey, survey
from arno_shared.errors import InvalidRequest
from arno_shared.storage import ObjectStore


def folder_named(name: str, wanted: Wanted, store: ObjectStore) -> Folder | None:
    """None for a hub id, whose files are not here. Raises InvalidRequest, HouseError, and what storage says."""
    if name.startswith("s3://"):
        return StoredFolder(name, store)
    bundled = _bundled_models() / name
    if "/" not in name and bundled.is_dir():
        return LocalFolder(bundled, f"{name} (bundled)")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return LocalFolder(folder)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise InvalidRequest(
            f"there is no {wanted} {name!r}: {wanted.setting} is a bundled model, a folder, an s3:// folder or a "
            "hub id (owner/name)"
        )
    return None


def look_at(model: Folder, processor: str, adapter: str, store: ObjectStore) -> Survey:
    """What Arno will make of a model's folder with the parts of others that are named; those on the hub are left out.

    Raises InvalidRequest, HouseError, ModelUnusable for an adapter that cannot be merged, and what storage says.
    """
    processor_folder = folder_named(processor, Wanted.PROCESSOR, store) if processor else None
    adapter_folder = folder_named(adapter, Wanted.ADAPTER, store) if adapter else None
    return survey(model, processor_folder, read_adapter(adapter_folder) if adapter_folder else None)


def _bundled_models() -> Path:
    spec = find_spec("arno_workers")
    assert spec is not None, "arno_workers is part of the same distribution"
    assert spec.origin is not None
    return Path(spec.origin).parent / "models"
