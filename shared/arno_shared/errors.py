"""Every error that Arno raises or records.

    ArnoError
    ├── InvalidRequest          the caller asked for something that cannot be: fix the call
    │   ├── InvalidMessage      a task message that does not validate
    │   │   ├── UnknownMessage  not a Celery message at all
    │   │   ├── UnknownTask     a task that no worker knows
    │   │   ├── Undecodable     not even its body can be read
    │   │   └── NewerSchema     written for workers newer than this one
    │   ├── JobConflict         this job id or prefix already belongs to other work
    │   ├── OutputRefused       nothing can be written where the caller wants results
    │   └── CursorStale         what this page of results came after is no longer in the ledger: begin again
    ├── JobNotFound
    ├── LaneFull                as many messages wait as may: come again later
    ├── MissingExtra            an optional dependency is needed: names the pip line
    ├── ModelUnusable           the replica cannot be loaded or warmed
    ├── HouseError              Redis or storage is away: wait and retry, fail nobody
    │   └── RedisRefused        Redis answered, and the answer is no until somebody mends it
    ├── StorageRefused          storage answered, and the answer is no (no such bucket, access denied)
    │   └── CredentialsRefused  Arno's own credentials are wrong: workers wait for right ones
    ├── IncompatibleKombu       the installed kombu is not one that the transport knows
    ├── InternalError           something that nothing foresaw
    ├── DemoFailed              a part of the demo did not come up, or ended
    └── ItemError               one image cannot be done; its neighbours can
        ├── (permanent)         NotFound, AccessDenied, InvalidUri, SchemeNotAllowed, ForbiddenAddress, ForbiddenPath,
        │                       TooManyBytes, TooManyPixels, TooManyRedirects, NotAnImage, BrokenImage, Changed,
        │                       HttpError, RegionOutside, ModelFailed, WorkerLost
        └── (retryable)         Timeout, Throttled, Unavailable, ConnectionFailed

`code` is stable: it stands in result rows, events, dead letters and metrics, and may be relied upon.
`retryable` says whether the same image may succeed later with nothing changed.
The docstring says what happened and `remedy` what to do: `make errors` makes docs/errors.md of them.
"""

from typing import ClassVar


class ArnoError(Exception):
    """Root of the tree. `str(error)` says what is wrong and what to do, without secrets."""

    code = "error"
    retryable = False
    remedy: ClassVar[str]
    """What to do about it, in one or two sentences of Markdown."""


class InvalidRequest(ArnoError):
    """What was asked for cannot be done, or a setting is wrong."""

    code = "invalid_request"
    remedy = (
        "Correct what its text names and call again. A job of which something was submitted already goes on where it "
        "stopped when it is given the same `--job-id`."
    )


class InvalidMessage(InvalidRequest):
    """A task message does not say what one must say; its text names what is wrong."""

    code = "invalid_message"
    remedy = (
        "Correct the sender by docs/schemas/task-message.v1.json and send it again. Replaying does not help: "
        "`arno dead purge --code invalid_message`."
    )


class UnknownMessage(InvalidMessage):
    """What lay in the queue is not a Celery message (protocol 1 or 2)."""

    code = "unknown_message"
    remedy = (
        "Find out who else writes to Arno's queues, and send with a Celery client. Replaying does not help: "
        "`arno dead purge --code unknown_message`."
    )


class UnknownTask(InvalidMessage):
    """The message asks for a task other than `arno.annotate`."""

    code = "unknown_task"
    remedy = (
        "Name the task `arno.annotate`, and send others to queues of their own. Replaying does not help: "
        "`arno dead purge --code unknown_task`."
    )


class Undecodable(InvalidMessage):
    """The body of the message cannot be read: it is not JSON."""

    code = "undecodable"
    remedy = (
        "Set the sender's `task_serializer` to `json` and send it again. Replaying does not help: "
        "`arno dead purge --code undecodable`."
    )


class NewerSchema(InvalidMessage):
    """The message has a schema version that this worker does not speak yet."""

    code = "newer_schema"
    remedy = (
        "None is needed while a new version is rolled out: the message waits in a queue of its own for workers that "
        "speak its version. Where `arno doctor` shows such a queue and no such workers, start some. The stock "
        "transport has no such queues: `arno dead replay --code newer_schema` once workers are upgraded."
    )

    def __init__(self, message: str, version: int) -> None:
        super().__init__(message)
        self.version = version


class JobConflict(InvalidRequest):
    """The job id or the output prefix belongs to a job with other images, prompts, output or options."""

    code = "job_conflict"
    remedy = (
        "To continue that job, submit it as it was, with the same images in the same order and the same "
        "`ARNO_PRODUCER__CHUNK_IMAGES`. For a new job, give another job id and another output."
    )

    def __init__(self, message: str, *, asked_otherwise: bool = False) -> None:
        """`asked_otherwise`: it is that very job, which was asked for other work."""
        super().__init__(message)
        self.asked_otherwise = asked_otherwise


class OutputRefused(InvalidRequest):
    """Storage does not let results go where the caller wants them: there is no such bucket, or access is denied."""

    code = "output_refused"
    remedy = (
        "Make the bucket, allow Arno's credentials to get and put objects there, or give another output; then submit "
        "again."
    )


class CursorStale(InvalidRequest):
    """The ledger was rebuilt since a page of results came with this cursor: what follows that is no longer known."""

    code = "cursor_stale"
    remedy = (
        "Read the results again from their first page, without a cursor. Of two rows of the same `index` and "
        "`position` the one with more `attempts` counts."
    )


class JobNotFound(ArnoError):
    """The ledger does not know the job: its id is misspelt, its time there is over, or Redis was lost."""

    code = "job_not_found"
    remedy = (
        "`arno status` lists the latest jobs. A finished one leaves the ledger after `ARNO_LEDGER_RETENTION_S` and "
        "keeps its results; after a loss of Redis, `arno resume` brings a job back from its output prefix."
    )


class LaneFull(ArnoError):
    """As many messages wait in the lane as its high-water marks allow; nothing was accepted."""

    code = "lane_full"
    retryable = True
    remedy = (
        "Submit again after a while, or run more workers. `ARNO_PRODUCER__HIGH_WATER_MESSAGES` and "
        "`ARNO_PRODUCER__HIGH_WATER_BYTES` are the marks; `arno submit` waits by itself."
    )
    retry_after_s = 10


class MissingExtra(ArnoError):
    """A part of Arno is needed that is not installed."""

    code = "missing_extra"
    remedy = (
        "Run the `pip install` line that its text names. If a worker lacks it, start the worker anew, then "
        "`arno dead replay --code missing_extra`."
    )

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional part of Arno: pip install 'arno[{extra}]'")


class ModelUnusable(ArnoError):
    """The model, or the device that it is to run on, cannot be used, so that the worker does not start."""

    code = "model_unusable"
    remedy = (
        "Correct `ARNO_WORKER__MODEL` or what its text names; `arno doctor` looks for the model. Where a GPU is "
        "missing, check its driver, or start `arno-worker --device cpu`."
    )


class HouseError(ArnoError):
    """Redis or object storage cannot be reached: nobody's fault but the house's."""

    code = "house_unavailable"
    retryable = True
    remedy = (
        "Bring it back: `arno doctor` says what is away. Workers go on by themselves; a submission that has ended "
        "goes on when it is given the same `--job-id`."
    )


class RedisRefused(HouseError):
    """Redis refuses until somebody mends it: a login, a right, a database, a cluster, a server that is too old."""

    code = "redis_refused"
    retryable = False
    remedy = (
        "Do what its text says, in Redis or in `ARNO_REDIS_URL`; `arno doctor` shows whether that was enough. Workers "
        "that run go on by themselves then; a submission that has ended goes on when it is given the same `--job-id`."
    )


class StorageRefused(ArnoError):
    """Object storage was reached and refused for good; trying again changes nothing."""

    code = "storage_refused"
    remedy = (
        "Make the bucket, or allow the credentials to put objects there; `arno doctor` tries it for "
        "`ARNO_OUTPUT_PREFIX`. Then `arno dead replay --code storage_refused`."
    )


class CredentialsRefused(StorageRefused):
    """Object storage does not accept Arno's credentials: the house's trouble, which no object can be blamed for."""

    code = "credentials_refused"
    remedy = (
        "Correct the credentials of the process that says so. A profile's file and a role are read again by its next "
        "call; a process with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` in its environment has to be started "
        "anew. Workers fail no image meanwhile."
    )


class IncompatibleKombu(ArnoError):
    """The installed kombu is not one that Arno's transport was written for; it would lose messages."""

    code = "incompatible_kombu"
    remedy = "Install the kombu that its text names, or install Arno anew with `pip install arno`."


class InternalError(ArnoError):
    """Something that nothing foresaw."""

    code = "internal_error"
    remedy = (
        "The worker's log has the traceback: report it. Once its cause is mended, "
        "`arno dead replay --code internal_error`."
    )


class DemoFailed(ArnoError):
    """A part of the demo did not come up, or ended; its text holds the end of that part's log."""

    code = "demo_failed"
    remedy = "Mend what the log complains of, and `arno demo` again."


class ItemError(ArnoError):
    """One image failed. Becomes the `error` of its result row."""

    code = "item_failed"
    remedy = (
        "Under this very code, something that nothing foresaw: the row's `message` and the worker's log say what. "
        "Report it, with the image."
    )


class NotFound(ItemError):
    """There is no such object, version or file, or the server answers 404 or 410."""

    code = "not_found"
    remedy = "Correct the URI, or put the image there."


class AccessDenied(ItemError):
    """The image may not be read: storage or the server answers 401 or 403, or the file belongs to others."""

    code = "access_denied"
    remedy = (
        "Allow the workers to read it: `s3:GetObject` for their credentials, or a presigned URL that has not expired. "
        "Without `s3:ListBucket`, S3 answers so for objects that are missing, too."
    )


class InvalidUri(ItemError):
    """The URI is not one, or cannot be the name of an object, a file or a host."""

    code = "invalid_uri"
    remedy = "Write it in full: `s3://bucket/key`, `https://host/path` or `file:///folder/file`."


class SchemeNotAllowed(ItemError):
    """Workers may not read from this kind of URI, or the server redirects to one that is not http(s)."""

    code = "scheme_not_allowed"
    remedy = "Move the image, or add the scheme to the workers' `ARNO_LIMITS__SCHEMES`."


class ForbiddenAddress(ItemError):
    """The host has an address that is not public, which a stranger's URI may not reach."""

    code = "forbidden_address"
    remedy = "If all who submit may reach your network, set `ARNO_LIMITS__PRIVATE_ADDRESSES=true` for the workers."


class ForbiddenPath(ItemError):
    """The file does not lie below a folder that workers may read."""

    code = "forbidden_path"
    remedy = "Move it below one of the workers' `ARNO_LIMITS__FILE_ROOTS`, or add its folder; links are resolved first."


class TooManyBytes(ItemError):
    """The image is larger than workers may download."""

    code = "too_many_bytes"
    remedy = "Make it smaller, or raise the workers' `ARNO_LIMITS__MAX_BYTES`."


class TooManyPixels(ItemError):
    """The picture has more pixels than workers may decode; none was decoded."""

    code = "too_many_pixels"
    remedy = "Scale it down, or raise the workers' `ARNO_LIMITS__MAX_PIXELS`, if they have the memory."


class TooManyRedirects(ItemError):
    """The server redirects on and on."""

    code = "too_many_redirects"
    remedy = "Give the URI at which the redirects end, or raise the workers' `ARNO_LIMITS__MAX_REDIRECTS`."


class NotAnImage(ItemError):
    """What lies there is empty, or is not JPEG, PNG, WebP, GIF, TIFF or BMP."""

    code = "not_an_image"
    remedy = "Look at what the URI gives, perhaps a page that asks for a login; convert other formats."


class BrokenImage(ItemError):
    """It begins as an image does, and cannot be decoded to its end."""

    code = "broken_image"
    remedy = "Upload it again, or repair it: other programs may show a part of it."


class Changed(ItemError):
    """The object is no longer the one that was asked for (its ETag differs)."""

    code = "changed"
    remedy = "Submit it with its new ETag, with a `version_id`, or with neither."


class HttpError(ItemError):
    """An HTTP status that no other class names."""

    code = "http_error"
    remedy = "The row's `message` has the status; ask the URI's owner what it wants."


class RegionOutside(ItemError):
    """The region of a prompt lies wholly outside the picture."""

    code = "region_outside"
    remedy = "Give x1, y1, x2, y2 in pixels of the upright picture, whose size the row has."


class ModelFailed(ItemError):
    """The model failed on this picture alone."""

    code = "model_failed"
    remedy = (
        "For NaN, set `ARNO_WORKER__DTYPE=float32`; where there was no room, ask for fewer beams (`num_beams`) or "
        "lower `ARNO_WORKER__MAX_BATCH_IMAGES`. Otherwise report it, with the image."
    )


class WorkerLost(ItemError):
    """Worker after worker died with this image, alone, in hand; as a dead letter, with its whole chunk."""

    code = "worker_lost"
    remedy = (
        "The system's log says what ended the workers. If it was a lack of memory, give them more or lower "
        "`ARNO_LIMITS__MAX_PIXELS`; then `arno dead replay --code worker_lost` for whole chunks."
    )


class Timeout(ItemError):
    """The image did not come in time."""

    code = "timeout"
    retryable = True
    remedy = (
        "Once its server is faster, `arno dead replay --code timeout`. For slow servers and large images, raise the "
        "workers' `ARNO_LIMITS__TIMEOUT_S`."
    )


class Throttled(ItemError):
    """Storage or the server says that it is asked too often."""

    code = "throttled"
    retryable = True
    remedy = (
        "Run fewer workers, or lower `ARNO_WORKER__FETCH_THREADS`; a longer `ARNO_RETRIES__PUT_OFF_S` waits longer. "
        "Then `arno dead replay --code throttled`."
    )


class Unavailable(ItemError):
    """Storage or the server answers that it cannot give the image just now (500 and above, 408), or a disk does."""

    code = "unavailable"
    retryable = True
    remedy = "Once it is well again, `arno dead replay --code unavailable`."


class ConnectionFailed(ItemError):
    """The host cannot be found or connected to, has no valid certificate, or broke off in the middle."""

    code = "connection_failed"
    retryable = True
    remedy = (
        "Check the host's name, its certificate, and the workers' way to it; then "
        "`arno dead replay --code connection_failed`."
    )
