"""What boto3 raises, in Arno's words."""

from botocore.exceptions import (
    ClientError,
    CredentialRetrievalError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from arno_shared.errors import (
    AccessDenied,
    ArnoError,
    Changed,
    ConnectionFailed,
    CredentialsRefused,
    HouseError,
    HttpError,
    InvalidUri,
    NotFound,
    StorageRefused,
    Throttled,
    Timeout,
    Unavailable,
)
from arno_shared.uris import redact

_WRONG_CREDENTIALS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "InvalidToken",
    "InvalidSecurity",
    "AuthorizationHeaderMalformed",
}
_STALE_CREDENTIALS = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestTimeTooSkewed"}
_GIVES_CREDENTIALS = {"AssumeRole", "AssumeRoleWithWebIdentity", "AssumeRoleWithSAML", "GetRoleCredentials"}
"""Calls that boto3 makes before its own, of other services: what they refuse says nothing of an object."""

_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded"}
_SET_CREDENTIALS = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give this machine a role"

_WRITTEN_LATER = {408, 409, 429}
"""409: somebody else writes the same object at this moment, and who came first is open."""

_NOT_FOUND = {404, 405, 410}
"""405: the version that was asked for is a delete marker."""


def why_not_read(uri: str, endpoint: str, error: Exception) -> ArnoError:
    """The error of a get, a look or a listing that failed."""
    name = redact(uri)[:500]
    match error:
        case ClientError():
            return _of_house(endpoint, error) or _of_object(name, error)
        case ReadTimeoutError():
            return Timeout(f"object storage took too long over {name}")
        case ResponseStreamingError() | IncompleteReadError():
            return ConnectionFailed(f"object storage broke off in the middle of {name}")
        case ParamValidationError():
            return InvalidUri(f"not an object: {name}")
        case _:
            return _of_connection(endpoint, error)


def why_not_written(bucket: str, endpoint: str, error: Exception) -> ArnoError:
    """The error of a put that failed: HouseError for what may pass, StorageRefused for the rest."""
    if not isinstance(error, ClientError):
        return _of_connection(endpoint, error)
    if of_house := _of_house(endpoint, error):
        return of_house
    code, status = _code(error), _status(error)
    if code in _THROTTLED or status in _WRITTEN_LATER or (status >= 500 and status != 501) or code == "RequestTimeout":
        return HouseError(f"object storage at {redact(endpoint)} cannot write just now ({code})")
    if code == "NoSuchBucket" or status == 404:
        return StorageRefused(f"there is no bucket {bucket!r} at {redact(endpoint)}: make it, or give another prefix")
    if status == 403:
        return StorageRefused(
            f"these credentials may not write to bucket {bucket!r} ({code}): allow s3:PutObject, or give another prefix"
        )
    return StorageRefused(f"bucket {bucket!r} at {redact(endpoint)} refuses the object ({code}): give another prefix")


def is_unmet_condition(error: Exception) -> bool:
    """Whether a put was refused by nothing but its own `If-None-Match`."""
    return isinstance(error, ClientError) and _status(error) == 412


def _of_object(name: str, error: ClientError) -> ArnoError:
    code, status = _code(error), _status(error)
    if code in _THROTTLED or status == 429:
        return Throttled(f"object storage is asked too often ({code}): {name}")
    if status >= 500 or status == 408:
        return Unavailable(f"object storage cannot give {name} just now ({code})")
    if status in _NOT_FOUND:
        return NotFound(f"no such object ({code}): {name}")
    if status == 412:
        return Changed(f"{name} is no longer the object that was asked for: its ETag differs")
    if status == 403:
        return AccessDenied(f"access denied ({code}), or there is no such object and no right to know: {name}")
    return HttpError(f"object storage answers {status} ({code}) for {name}")


def _of_house(endpoint: str, error: ClientError) -> ArnoError | None:
    """Trouble with Arno's own credentials, which no object can be blamed for."""
    code, status = _code(error), _status(error)
    if code in _STALE_CREDENTIALS:
        return HouseError(f"the credentials or the clock of this machine are out of date ({code})")
    if error.operation_name in _GIVES_CREDENTIALS:
        if code in _THROTTLED or status >= 500:
            return HouseError(f"the service that gives credentials for object storage is away ({code})")
        return CredentialsRefused(f"{error.operation_name} gives no credentials ({code}): check the role and AWS_*")
    if code in _WRONG_CREDENTIALS or status == 401:
        return CredentialsRefused(f"object storage at {redact(endpoint)} refuses the credentials ({code}): check AWS_*")
    return None


def _of_connection(endpoint: str, error: Exception) -> ArnoError:
    match error:
        case NoCredentialsError() | PartialCredentialsError():
            return CredentialsRefused(f"there are no credentials for object storage: {_SET_CREDENTIALS}")
        case CredentialRetrievalError() | MetadataRetrievalError():
            return HouseError("the service that gives credentials for object storage cannot be reached")
        case ParamValidationError():
            return StorageRefused("not an object's name: give another output prefix")
        case _:
            return HouseError(f"object storage at {redact(endpoint)} cannot be reached ({type(error).__name__})")


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
