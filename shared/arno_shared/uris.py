"""URIs: splitting, checking and showing them without their secrets."""

import re
from pathlib import Path
from urllib.parse import quote, unquote

from arno_shared.errors import InvalidUri

OUTPUT_SCHEMES = ("s3", "file")

_SECRETS = re.compile(
    # A password may hold an @ of its own: the user info ends at the last one before the path.
    r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)(?P<userinfo>[^/?#\s'\"]*@)?(?P<rest>[^\s'\"?#]*)(?P<query>[?#][^\s'\"]*)?",
    re.IGNORECASE,
)


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
    """`s3://bucket/key` → bucket, key. The key is taken as written, never percent-decoded: S3 keys are raw."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    if not bucket:
        raise InvalidUri(f"no bucket in {redact(uri)[:200]!r}")
    return bucket, key


def path_of(uri: str) -> Path:
    """The local path of a `file://` URI."""
    host, slash, path = uri.partition("://")[2].partition("/")
    if host not in ("", "localhost"):
        raise InvalidUri(f"a file URI has three slashes (file:///path), not a host: {redact(uri)[:200]!r}")
    path = unquote(slash + path)
    if "\0" in path or not path.startswith("/"):
        raise InvalidUri(f"not a file path: {redact(uri)[:200]!r}")
    return Path(path)


def file_uri(path: Path) -> str:
    """The `file://` URI of a path, which is made absolute."""
    return "file://" + quote(str(path.expanduser().absolute()))


def check_output_prefix(prefix: str) -> str:
    """An output prefix that ends in a slash. Raises ValueError when results cannot be written there."""
    try:
        scheme = scheme_of(prefix)
        if scheme == "s3":
            split_s3(prefix)
        elif scheme == "file":
            path_of(prefix)
    except InvalidUri as error:
        raise ValueError(str(error)) from None
    if scheme not in OUTPUT_SCHEMES:
        raise ValueError(f"results go to s3:// or file://, not to {scheme}://")
    return prefix if prefix.endswith("/") else prefix + "/"
