"""Which columns of a manifest hold what, and how a row becomes an image."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from arno_shared.errors import InvalidRequest, InvalidUri
from arno_shared.messages import ImageRef, describe_invalid
from arno_shared.uris import redact, scheme_of

_SHOWN_COLUMNS = 30


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a CSV or Parquet file, or the fields of JSON lines, that images are made of.

    `version_id` and `etag` are taken where there are columns of that name; all others are passed over.
    """

    uri: str = "uri"
    id: str | None = None
    """None takes the column `id` where there is one."""

    def found_in(self, present: Collection[str], where: str) -> dict[str, str]:
        """Field of `ImageRef` → column. Raises InvalidRequest, which names the columns that there are."""
        for wanted, option in ((self.uri, "--uri-column"), (self.id, "--id-column")):
            if wanted is not None and wanted not in present:
                names = ", ".join(redact(name) for name in list(present)[:_SHOWN_COLUMNS])
                raise InvalidRequest(
                    f"{where} has no column {wanted!r}; it has {names or 'none'}: choose with {option}"
                )
        wanted_columns = {"uri": self.uri, "id": self.id or "id", "version_id": "version_id", "etag": "etag"}
        return {field: column for field, column in wanted_columns.items() if column in present}


def image_at(where: str, fields: Mapping[str, Any]) -> ImageRef:
    """An image of a row's values. Raises InvalidRequest, which says where and what to do."""
    texts = {field: _text(value) for field, value in fields.items()}
    if texts["uri"] is None:
        raise InvalidRequest(f"{where}: it names no image; give a URI there or take the row out")
    try:
        image = ImageRef.model_validate(texts)
        scheme_of(image.uri)
    except ValidationError as error:
        raise InvalidRequest(f"{where}: {describe_invalid(error)}") from None
    except InvalidUri as error:
        raise InvalidRequest(f"{where}: {error}; write it in full, as s3://bucket/key or file:///folder/file") from None
    return image


def _text(value: Any) -> Any:
    """Ids are often numbers; an empty cell is no value."""
    return str(value) if isinstance(value, int) else value or None
