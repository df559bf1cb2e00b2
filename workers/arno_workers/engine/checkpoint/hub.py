"""A repository of the hub: all that is read of one commit of it, in the hub library's own cache.

The library takes its settings from the environment when it is imported: HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME, HF_TOKEN.
"""

import hashlib
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from logging import getLogger
from pathlib import Path
from time import sleep
from typing import NamedTuple

from huggingface_hub import HfApi, constants, get_cached_repo_tree, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    CachedRepoTreeNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import logging
from huggingface_hub.utils.tqdm import disable_progress_bars

from arno_shared.checkpoint.contents import Contents, check_contents
from arno_shared.checkpoint.files import Wanted, files_to_read
from arno_shared.errors import ModelUnusable
from arno_shared.logs import get_logger
from arno_shared.uris import redact
from arno_workers.engine.checkpoint.progress import logged
from arno_workers.engine.checkpoint.unwritable import why_not_kept

log = get_logger(__name__)

_ID = re.compile(
    r"(?!.*(?:--|\.\.))(?!.*\.git$)(?![-.])[A-Za-z0-9._-]{1,96}(?<![-.])/(?![-.])[A-Za-z0-9._-]{1,96}(?<![-.])"
)
_LIST_TIMEOUT_S = 20
_MAY_PASS = {408, 425, 429}
_PAUSES_S = (1.0, 4.0, 10.0)
"""Before a download that broke off is tried again: what came whole is kept."""
_REVISIONS = {
    Wanted.MODEL: "ARNO_WORKER__REVISION",
    Wanted.WEIGHTS: "ARNO_WORKER__REVISION",
    Wanted.ADAPTER: "ARNO_WORKER__ADAPTER_REVISION",
    Wanted.PROCESSOR: "ARNO_WORKER__PROCESSOR_REVISION",
}


class Listed(NamedTuple):
    """What the hub says of a file, as far as it does."""

    size_bytes: int | None
    sha256: str | None
    """Of large files alone."""


Files = Mapping[str, Listed]
"""By name."""


class _Unreachable(Exception):
    """The hub gave no answer, or none of a hub; its text says which."""


def fetch_snapshot(name: str, revision: str, wanted: Wanted) -> Path:
    """A folder, named by its commit, with all that is read. Raises ModelUnusable."""
    if not _ID.fullmatch(name):
        raise ModelUnusable(
            f"there is no folder {redact(name)!r}, and the hub has no such names: a hub id is owner/name, of letters, "
            f"digits, '-', '_' and '.' (not '--' or '..'; '-' and '.' neither first nor last); correct {wanted.setting}"
        )
    # Lines and bars of its own would stand between the log's JSON; what matters of them is said here.
    disable_progress_bars()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    for client in ("httpx", "httpx2"):
        getLogger(client).setLevel("WARNING")
    try:
        commit, listed = _list(name, revision)
    except OfflineModeIsEnabled:
        log.info("the hub is not asked, HF_HUB_OFFLINE is set", model=name, revision=revision)
        return _cached(name, revision, wanted, "HF_HUB_OFFLINE is set, so that the hub is not asked")
    except _Unreachable as error:
        folder = _cached(name, revision, wanted, f"{error}: look at the network, HF_ENDPOINT and HTTPS_PROXY")
        log.warning("the hub cannot be reached, using what was downloaded before", model=name, why=str(error))
        return folder
    except HfHubHTTPError as error:
        raise _refused(name, revision, wanted, error) from error
    return _whole(name, revision, commit, listed, wanted)


def _list(name: str, revision: str) -> tuple[str, Files]:
    """The commit that the revision stands for, and its files. Raises OfflineModeIsEnabled, HfHubHTTPError where the
    hub says no, _Unreachable."""
    try:
        info = HfApi().model_info(name, revision=revision, files_metadata=True, timeout=_LIST_TIMEOUT_S)
        if not info.sha or info.siblings is None:
            raise ValueError("no list of files came")
    except OfflineModeIsEnabled:
        raise
    except HfHubHTTPError as error:
        if (status := error.response.status_code) >= 500 or status in _MAY_PASS:
            raise _Unreachable(f"the hub at {_endpoint()} answers {status}") from error
        raise
    except Exception as error:
        # Of the HTTP client that the library has this year, or of an answer that no hub gives.
        raise _Unreachable(f"the hub at {_endpoint()} cannot be asked ({_reason(error)})") from error
    return info.sha, {one.rfilename: Listed(one.size, one.lfs.sha256 if one.lfs else None) for one in info.siblings}


def _whole(name: str, revision: str, commit: str, listed: Files, wanted: Wanted) -> Path:
    """The folder of the commit with all that is read of it. Raises ModelUnusable."""

    def read(file: str) -> bytes:
        return Path(hf_hub_download(name, file, revision=commit)).read_bytes()

    check_contents(Contents(name, listed, read), wanted)
    files = files_to_read(listed, wanted)
    folder = _snapshot_folder(name, commit)
    damaged = _damaged(folder, files, listed)
    if damaged:
        log.warning("what is kept of it is damaged, downloading it anew", model=name, files=damaged)
    missing = [file for file in files if not (folder / file).is_file()] + damaged
    with _progress(name, missing, listed, folder) if missing else nullcontext():
        _download(name, revision, commit, wanted, files, folder)
        if damaged:
            _download(name, commit, commit, wanted, damaged, folder, anew=True)
    # What was there has been looked at.
    if wrong := _damaged(folder, missing, listed):
        raise ModelUnusable(f"of {name}, {wrong[0]} came from {_endpoint()} with other bytes than are listed there")
    return folder


def _download(
    name: str, revision: str, commit: str, wanted: Wanted, files: list[str], folder: Path, *, anew: bool = False
) -> None:
    """Raises ModelUnusable when it broke off too often, or may not be."""
    for pause_s in (*_PAUSES_S, None):
        try:
            # By the name of the branch, which the library then knows when the hub cannot be asked; it may have moved.
            if Path(snapshot_download(name, revision=revision, allow_patterns=files, force_download=anew)) != folder:
                snapshot_download(name, revision=commit, allow_patterns=files, force_download=anew)
        except Exception as error:
            if pause_s is None or not _may_pass(_cause(error)):
                raise _not_downloaded(name, commit, wanted, _cause(error)) from error
            log.warning("the download broke off, going on", model=name, why=_reason(_cause(error)), pause_s=pause_s)
            sleep(pause_s)
        else:
            return


def _cause(error: BaseException) -> BaseException:
    """The library hides the hub's answer to the question for one file behind what it did not find in the cache."""
    return error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        # A signed address of the storage behind the hub is good for a while: a new one is asked for.
        return status >= 500 or status in _MAY_PASS or (status == 403 and not _is_of_hub(error))
    return not (isinstance(error, OSError) and error.errno is not None)


def _is_of_hub(error: HfHubHTTPError) -> bool:
    """The hub itself answered, and not what stores its files."""
    return str(error.response.request.url).startswith(constants.ENDPOINT)


def _progress(name: str, files: list[str], listed: Files, folder: Path) -> AbstractContextManager[None]:
    blobs = folder.parents[1] / "blobs"
    before_bytes = _bytes_in(blobs)
    total_bytes = sum(listed[file].size_bytes or 0 for file in files)
    return logged(name, len(files), total_bytes, lambda: _bytes_in(blobs) - before_bytes)


def _cached(name: str, revision: str, wanted: Wanted, why: str) -> Path:
    """What an earlier download left, when that is whole. Raises ModelUnusable, with `why` it was looked for."""
    try:
        tree = get_cached_repo_tree(name, revision=revision)
        listed: Files | None = {one.path: Listed(one.size, one.lfs.sha256 if one.lfs else None) for one in tree}
    except CachedRepoTreeNotFoundError:
        listed = None
    try:
        # A pattern, so that the library misses none of the files that nobody reads.
        files = files_to_read(listed, wanted) if listed is not None else []
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True, allow_patterns=files or "-"))
    except LocalEntryNotFoundError as error:
        raise ModelUnusable(
            f"{name} at revision {revision!r} is not in the hub's cache ({constants.HF_HUB_CACHE}), or not whole, and "
            f"{why}"
        ) from error
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    check_contents(Contents(str(folder), names, lambda file: (folder / file).read_bytes()), wanted)
    if listed is not None and (damaged := _damaged(folder, files, listed)):
        raise ModelUnusable(f"in the hub's cache, {folder / damaged[0]} is damaged: it has other bytes, and {why}")
    return folder


def _snapshot_folder(name: str, commit: str) -> Path:
    """Where the library puts it."""
    return Path(constants.HF_HUB_CACHE).resolve() / f"models--{name.replace('/', '--')}" / "snapshots" / commit


def _damaged(folder: Path, files: list[str], listed: Files) -> list[str]:
    """Those that are there with other bytes than are listed."""
    return [file for file in files if (folder / file).is_file() and not _is_sound(folder / file, listed[file])]


def _is_sound(path: Path, listed: Listed) -> bool:
    if listed.size_bytes not in (None, path.stat().st_size):
        return False
    if listed.sha256 is None:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == listed.sha256


def _bytes_in(folder: Path) -> int:
    """Files may come and go meanwhile."""
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except FileNotFoundError:
        return 0


def _refused(name: str, revision: str, wanted: Wanted, error: HfHubHTTPError) -> ModelUnusable:
    """The hub answered, and the answer is no."""
    at = f"{_endpoint()}/{name}"
    match error:
        case GatedRepoError():
            return ModelUnusable(
                f"{name} is gated: request access at {at}, then set HF_TOKEN to a token of that account with read "
                "access"
            )
        case RevisionNotFoundError():
            return ModelUnusable(f"{name} has no revision {revision!r} at {_endpoint()}: correct {_REVISIONS[wanted]}")
        case RepositoryNotFoundError():
            return ModelUnusable(
                f"there is no folder {name!r} here, and no {at}, or it is private: correct {wanted.setting}, or set "
                "HF_TOKEN to a token with read access to it"
            )
    status = error.response.status_code
    if status >= 500 or status in _MAY_PASS or not _is_of_hub(error):
        return ModelUnusable(f"{at} could not be downloaded ({status}): start again later, what came whole is kept")
    if status in (401, 403):
        return ModelUnusable(
            f"the hub does not give {at} to this token, or to none ({status}): correct {wanted.setting}, or set "
            "HF_TOKEN to a token with read access to it"
        )
    return ModelUnusable(f"the hub does not give {at} ({status})")


def _not_downloaded(name: str, commit: str, wanted: Wanted, cause: BaseException) -> ModelUnusable:
    if isinstance(cause, HfHubHTTPError):
        return _refused(name, commit, wanted, cause)
    if isinstance(cause, OSError) and cause.errno is not None:
        return why_not_kept(name, Path(constants.HF_HUB_CACHE), "HF_HOME", cause)
    return ModelUnusable(
        f"{name} could not be downloaded from {_endpoint()} ({_reason(cause)}): start again, what came whole is kept"
    )


def _reason(error: BaseException) -> str:
    """In one line."""
    text = redact(str(error)).strip().partition("\n")[0][:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _endpoint() -> str:
    return redact(constants.ENDPOINT)
