"""Sources: what a user names, as a stream of images. None is read whole, whatever its size."""

import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from arno_producer.sources.columns import Columns, image_at
from arno_producer.sources.lines import read_lines
from arno_producer.sources.listings import IMAGE_EXTENSIONS, bucket_images, folder_images
from arno_producer.sources.manifests import MANIFEST_EXTENSIONS, read_local, read_object
from arno_shared.errors import InvalidRequest, InvalidUri
from arno_shared.messages import ImageRef
from arno_shared.storage import ObjectStore
from arno_shared.uris import file_uri, path_of, redact

__all__ = ["Columns", "images_from"]


def images_from(sources: Iterable[str], store: ObjectStore, columns: Columns | None = None) -> Iterator[ImageRef]:
    """The images of all sources, one after the other.

    A source is the URI of an image; a manifest (.txt, .csv, .jsonl, .ndjson, .parquet), local or in s3://; a local
    folder, searched to the bottom; `s3://bucket/prefix`, under which every object with an image's extension counts;
    or `-`, standard input, one URI, JSON object or S3 event a line.

    Raises InvalidRequest: at once for a source that cannot be one, and while it is read, naming file and line, for
    what stands in it. Raises NotFound, AccessDenied, StorageRefused and HouseError for manifests and listings in s3://.
    """
    columns = columns or Columns()
    return chain.from_iterable([_open(source, store, columns) for source in sources])


def _open(source: str, store: ObjectStore, columns: Columns) -> Iterator[ImageRef]:
    if source == "-":
        return read_lines(sys.stdin.buffer, "standard input", columns)
    scheme, separator, _ = source.partition("://")
    if not separator:
        return _open_local(Path(source), columns)
    if scheme.lower() == "file":
        try:
            return _open_local(path_of(source), columns)
        except InvalidUri as error:
            raise InvalidRequest(str(error)) from None
    image = image_at("the source", {"uri": source})
    if scheme.lower() != "s3" or _ends(source, IMAGE_EXTENSIONS):
        return iter([image])
    if _ends(source, MANIFEST_EXTENSIONS):
        return read_object(source, store, columns)
    return bucket_images(source, store)


def _open_local(path: Path, columns: Columns) -> Iterator[ImageRef]:
    if path.is_dir():
        return folder_images(path)
    if not path.is_file():
        raise InvalidRequest(
            f"there is no file or folder {redact(str(path))!r}; a URI has a scheme, as s3://bucket/key"
        )
    if _ends(path.name, MANIFEST_EXTENSIONS):
        return read_local(path, columns)
    if _ends(path.name, IMAGE_EXTENSIONS):
        return iter([ImageRef(uri=file_uri(path))])
    raise InvalidRequest(
        f"{path} is neither an image ({', '.join(IMAGE_EXTENSIONS)}) nor a manifest ({', '.join(MANIFEST_EXTENSIONS)})"
    )


def _ends(name: str, extensions: tuple[str, ...]) -> bool:
    return name.lower().endswith(extensions)
