"""Every error that Arno raises or records.

    ArnoError
    ├── InvalidRequest          the caller asked for something that cannot be: fix the call
    │   ├── InvalidMessage      a task message that does not validate
    │   │   ├── UnknownMessage  not a Celery message at all
    │   │   ├── UnknownTask     a task that no worker knows
    │   │   └── Undecodable     not even its body can be read
    │   └── JobConflict         this job id or prefix already belongs to other work
    ├── JobNotFound
    ├── MissingExtra            an optional dependency is needed: names the pip line
    ├── ModelUnusable           the replica cannot be loaded or warmed
    ├── HouseError              Redis or storage is away: wait and retry, fail nobody
    ├── StorageRefused          storage answered, and the answer is no (no such bucket, access denied)
    │   └── CredentialsRefused  Arno's own credentials are wrong: workers wait for right ones
    ├── InternalError           something that nothing foresaw
    └── ItemError               one image cannot be done; its neighbours can
        ├── (permanent)         NotFound, AccessDenied, InvalidUri, SchemeNotAllowed, ForbiddenAddress, ForbiddenPath,
        │                       TooManyBytes, TooManyPixels, TooManyRedirects, NotAnImage, BrokenImage, Changed,
        │                       HttpError, RegionOutside, ModelFailed, WorkerLost
        └── (retryable)         Timeout, Throttled, Unavailable, ConnectionFailed

`code` is stable: it stands in result rows, events, dead letters and metrics, and may be relied upon.
`retryable` says whether the same image may succeed later with nothing changed.
"""


class ArnoError(Exception):
    """Root of the tree. `str(error)` says what is wrong and what to do, without secrets."""

    code = "error"
    retryable = False


class InvalidRequest(ArnoError):
    code = "invalid_request"


class InvalidMessage(InvalidRequest):
    code = "invalid_message"


class UnknownMessage(InvalidMessage):
    code = "unknown_message"


class UnknownTask(InvalidMessage):
    code = "unknown_task"


class Undecodable(InvalidMessage):
    code = "undecodable"


class JobConflict(InvalidRequest):
    code = "job_conflict"


class JobNotFound(ArnoError):
    code = "job_not_found"


class MissingExtra(ArnoError):
    code = "missing_extra"

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional part of Arno: pip install 'arno[{extra}]'")


class ModelUnusable(ArnoError):
    code = "model_unusable"


class HouseError(ArnoError):
    """Redis or object storage cannot be reached: nobody's fault but the house's."""

    code = "house_unavailable"
    retryable = True


class StorageRefused(ArnoError):
    """Object storage was reached and refused for good; trying again changes nothing."""

    code = "storage_refused"


class CredentialsRefused(StorageRefused):
    """Object storage does not accept Arno's credentials: the house's trouble, which no object can be blamed for."""

    code = "credentials_refused"


class InternalError(ArnoError):
    code = "internal_error"


class ItemError(ArnoError):
    """One image failed. Becomes the `error` of its result row."""

    code = "item_failed"


class NotFound(ItemError):
    code = "not_found"


class AccessDenied(ItemError):
    code = "access_denied"


class InvalidUri(ItemError):
    code = "invalid_uri"


class SchemeNotAllowed(ItemError):
    code = "scheme_not_allowed"


class ForbiddenAddress(ItemError):
    code = "forbidden_address"


class ForbiddenPath(ItemError):
    code = "forbidden_path"


class TooManyBytes(ItemError):
    code = "too_many_bytes"


class TooManyPixels(ItemError):
    code = "too_many_pixels"


class TooManyRedirects(ItemError):
    code = "too_many_redirects"


class NotAnImage(ItemError):
    code = "not_an_image"


class BrokenImage(ItemError):
    code = "broken_image"


class Changed(ItemError):
    """The object is no longer the one that was asked for (its ETag differs)."""

    code = "changed"


class HttpError(ItemError):
    """An HTTP status that no other class names."""

    code = "http_error"


class RegionOutside(ItemError):
    code = "region_outside"


class ModelFailed(ItemError):
    """The model failed on this picture alone."""

    code = "model_failed"


class WorkerLost(ItemError):
    """Worker after worker died while it had this image, alone, in hand."""

    code = "worker_lost"


class Timeout(ItemError):
    code = "timeout"
    retryable = True


class Throttled(ItemError):
    code = "throttled"
    retryable = True


class Unavailable(ItemError):
    code = "unavailable"
    retryable = True


class ConnectionFailed(ItemError):
    code = "connection_failed"
    retryable = True
