"""Finds what is named: bundled, in a local folder, in an `s3://` folder, or on the hub. It becomes a local folder."""

from dataclasses import dataclass
from pathlib import Path

from arno_shared.checkpoint.contents import Contents, check_contents
from arno_shared.checkpoint.files import Wanted
from arno_shared.checkpoint.folder import LocalFolder
from arno_shared.errors import ModelUnusable
from arno_shared.storage import ObjectStore
from arno_shared.uris import redact
from arno_workers.engine.checkpoint.bucket import fetch_folder

BUNDLED = Path(__file__).parents[2] / "models"


@dataclass(frozen=True, slots=True)
class Located:
    name: str
    """As the user named it."""
    folder: Path
    commit: str | None
    """Of a hub id, the commit that its revision stood for; None for folders and buckets."""


def locate(name: str, revision: str, wanted: Wanted, cache: Path, store: ObjectStore) -> Located:
    """`revision` is of hub ids; what is in `s3://` is kept below `cache`. Returns once the folder has all that is read
    of it. Raises ModelUnusable, which says what was looked for and where, and what there is instead."""
    if name.startswith("s3://"):
        return Located(name, fetch_folder(name, wanted, cache.expanduser(), store), None)
    folder = _local_folder(name, wanted)
    if folder is not None:
        check_contents(Contents.of(LocalFolder(folder, redact(name))), wanted)
        return Located(name, folder, None)
    # Late: it is read of the environment, and known to nobody who names no hub id.
    from arno_workers.engine.checkpoint.hub import fetch_snapshot

    snapshot = fetch_snapshot(name, revision, wanted)
    return Located(name, snapshot, snapshot.name)


def _local_folder(name: str, wanted: Wanted) -> Path | None:
    """None when only the hub can have it. Raises ModelUnusable when nobody can."""
    bundled = {path.name: path for path in BUNDLED.iterdir() if path.is_dir()}
    if name in bundled:
        return bundled[name]
    try:
        path = Path(name).expanduser()
    except RuntimeError:  # ~somebody who is not known here
        path = Path(name)
    if path.is_dir():
        return path
    if path.is_file():
        raise ModelUnusable(f"{path} is a file: name the folder that it lies in, in {wanted.setting}")
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        own = f"a bundled model ({', '.join(sorted(bundled))}), " if wanted is not Wanted.ADAPTER else ""
        raise ModelUnusable(
            f"there is no {wanted} {redact(name)!r}: {wanted.setting} is {own}a folder, an s3:// folder or a hub id "
            "(owner/name)"
        )
    return None
