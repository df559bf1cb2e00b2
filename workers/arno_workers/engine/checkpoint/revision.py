"""What a checkpoint's files were, to the byte: the commit of a hub id, else a digest of all files that were read."""

from collections.abc import Iterable
from hashlib import sha256

from arno_workers.engine.checkpoint.locate import Located

_BLOCK_BYTES = 2**20


def revision_of(located: Located, files: Iterable[str]) -> str:
    """`files` of its folder, of which names count as well as contents."""
    if located.commit is not None:
        return located.commit
    digest = sha256()
    for name in sorted(files):
        path = located.folder / name
        digest.update(f"{name}\n{path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"
