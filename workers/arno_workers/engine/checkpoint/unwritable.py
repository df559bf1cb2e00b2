"""Why a download could not be kept."""

import errno
from pathlib import Path

from arno_shared.errors import ModelUnusable

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


def why_not_kept(name: str, cache: Path, setting: str, error: OSError) -> ModelUnusable:
    """`setting` is the variable that says where the cache lies."""
    if error.errno in _FULL:
        return ModelUnusable(f"there is no room for {name} in {cache}: make some, or name another folder in {setting}")
    if error.errno in _NO_LOCKS:
        return ModelUnusable(f"{cache} lies where files cannot be locked: name a folder of this machine in {setting}")
    return ModelUnusable(
        f"{name} cannot be kept in {cache} ({error.strerror or error}): make that folder writable, or name another in "
        f"{setting}"
    )
