"""URIs: splitting, checking and showing them without their secrets."""

import re
from pathlib import Path
from urllib.parse import quote, unquote

from arno_shared.controls import has_controls
from arno_shared.errors import InvalidUri

_SECRETS = re.compile(
    # From the first character that may be of a scheme, so that long texts are read once.
    r"(?P<scheme>(?<![a-z0-9+.-])[a-z0-9+.-]*+://)"
    # A password may hold an @ of its own: the user info ends at the last one before the path. Where no port follows
    # the first colon, what looks like a path may be the rest of a password that nobody encoded.
    r"(?P<userinfo>[^/?#\s'\"]*@|[^/?#\s'\"@:\[\]]*:(?!\d*(?:[/?#\s'\"]|$))[^\s'\"]*@)?"
    r"(?P<rest>[^\s'\"?#]*)(?P<query>[?#][^\s'\"]*)?",
    re.IGNORECASE,
)

# A name only: an ARN, or a suffix such as `--x-s3`, would let a stranger's URI choose the host that is connected to.
_BUCKET = re.compile(r"(?!.*--[a-z]+-s3$)[A-Za-z0-9][A-Za-z0-9._-]{0,254}")

_ROOM_BYTES = 64
"""For the names of what is written below a prefix: parts, the manifest, files that are not finished."""
_MAX_KEY_BYTES = 1024 - _ROOM_BYTES
_MAX_PATH_BYTES = 4096 - _ROOM_BYTES
_MAX_NAME_BYTES = 255


def redact(text: str) -> str:
    """`text` with the user info and the query string of every URI in it removed: presigned URLs carry keys there."""

    def without_secrets(match: re.Match[str]) -> str:
        userinfo = "***@" if match["userinfo"] else ""
        query = "?***" if match["query"] else ""
        return f"{match['scheme']}{userinfo}{match['rest']}{query}"

    return _SECRETS.sub(without_secrets, text)


def scheme_of(uri: str) -> str:
    """The scheme in lower case. Raises InvalidUri when there is none."""
    scheme, separator, _ = uri.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        raise InvalidUri(f"not a URI (scheme://…): {redact(uri)[:200]!r}")
    return scheme.lower()


def split_s3(uri: str) -> tuple[str, str]:
    """`s3://bucket/key` → bucket, key. The key is taken as written, never percent-decoded: S3 keys are raw.

    Raises InvalidUri when there is no bucket, or it is no plain name.
    """
    bucket, _, key = uri.partition("://")[2].partition("/")
    if not bucket:
        raise InvalidUri(f"no bucket in {redact(uri)[:200]!r}")
    if not _BUCKET.fullmatch(bucket):
        raise InvalidUri(f"what follows s3:// is not a bucket's name: {redact(uri)[:200]!r}")
    return bucket, key


def path_of(uri: str) -> Path:
    """The local path of a `file://` URI."""
    return Path(_decoded_path(uri))


def _decoded_path(uri: str) -> str:
    host, slash, path = uri.partition("://")[2].partition("/")
    if host not in ("", "localhost"):
        raise InvalidUri(f"a file URI has three slashes (file:///path), not a host: {redact(uri)[:200]!r}")
    path = unquote(slash + path)
    if "\0" in path or not path.startswith("/"):
        raise InvalidUri(f"not a file path: {redact(uri)[:200]!r}")
    return path


def file_uri(path: Path) -> str:
    """The `file://` URI of a path, which is made absolute."""
    return "file://" + quote(str(path.expanduser().absolute()))


def check_output_prefix(prefix: str) -> str:
    """An output prefix that ends in a slash. Raises ValueError when results cannot be written there, and nowhere else.

    Spaces and letters of all scripts are fine. Refused are

    - schemes other than s3 and file, a bucket that is no plain name, a path that is not absolute;
    - control and format characters, such as line ends, escapes, and marks that turn the direction of writing;
    - backslashes, which are slashes to some;
    - `.`, `..` and empty names between slashes: some storage resolves them, so that results lie elsewhere than the
      prefix says, or two prefixes are one place;
    - an S3 key of more than 960 bytes, a path of more than 4032, or a folder's name of more than 255: no room is left
      for what is written below it.

    A `file://` prefix is judged by its path as it is decoded.
    """
    try:
        scheme = scheme_of(prefix)
        if scheme == "s3":
            _check_place(prefix, split_s3(prefix)[1], _MAX_KEY_BYTES, _MAX_KEY_BYTES)
        elif scheme == "file":
            _check_place(prefix, _decoded_path(prefix)[1:], _MAX_PATH_BYTES, _MAX_NAME_BYTES)
        else:
            raise ValueError(f"results go to s3:// or file://, not to {scheme[:50]}://")
    except InvalidUri as error:
        raise ValueError(str(error)) from None
    return prefix if prefix.endswith("/") else prefix + "/"


def _check_place(prefix: str, place: str, max_bytes: int, max_name_bytes: int) -> None:
    """`place` is the key or the path that `prefix` leads to, without a slash at its beginning."""
    shown = f"{redact(prefix)[:200]!r}"
    if has_controls(place) or "\\" in place:
        raise ValueError(f"an output prefix has no control or format characters and no backslashes: {shown}")
    names = place.removesuffix("/").split("/") if place else []
    if {"", ".", ".."} & set(names):
        raise ValueError(f"an output prefix has no '.', no '..' and no empty names between its slashes: {shown}")
    if len(place.encode()) > max_bytes or any(len(name.encode()) > max_name_bytes for name in names):
        raise ValueError(f"an output prefix has at most {max_bytes} bytes, and {max_name_bytes} in a name: {shown}")
