"""The demo's pictures: drawn scenes, whose truth is known, and a few that no worker can do."""

import io
import struct
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import boto3
from PIL import Image

from arno_shared.messages import ImageRef
from arno_shared.scenes import Scene, draw, make_scene
from arno_shared.storage import ObjectStore

SIZE_PX = 256
BUCKET = "arno-demo"

_UPLOAD_THREADS = 8
# As a collection of photographs would be: mostly JPEG.
_FORMATS = ("jpeg", "jpeg", "png", "jpeg", "jpeg", "webp", "jpeg", "jpeg", "png", "jpeg")


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of the job. It has a scene, or the code with which it must fail."""

    uri: str
    data: bytes | None
    """None: nothing is uploaded."""
    scene: Scene | None = None
    must_fail_with: str | None = None
    what: str = ""
    """What is wrong with it, for people."""

    @property
    def ref(self) -> ImageRef:
        return ImageRef(uri=self.uri, id=self.uri.rpartition("/")[2])


def scene_pictures(count: int) -> Iterator[Picture]:
    """Scenes that the bundled model has not been trained on."""
    for seed in range(count):
        scene, suffix = make_scene(seed), _FORMATS[seed % len(_FORMATS)]
        data = encode(draw(scene, SIZE_PX), suffix)
        yield Picture(f"s3://{BUCKET}/images/scene-{seed:04d}.{suffix}", data, scene=scene)


def broken_pictures() -> list[Picture]:
    """What a long enough job always meets, with the code that each must fail with."""
    whole = encode(draw(make_scene(0), SIZE_PX), "png")

    def broken(uri: str, data: bytes | None, code: str, what: str) -> Picture:
        return Picture(uri, data, must_fail_with=code, what=what)

    images = f"s3://{BUCKET}/images"
    return [
        broken(f"{images}/truncated.png", whole[: len(whole) // 3], "broken_image", "A PNG that ends after a third"),
        broken(f"{images}/notes.jpg", b"Not a picture.\n" * 40, "not_an_image", "A text file named .jpg"),
        broken(f"{images}/missing.jpg", None, "not_found", "A key that does not exist"),
        broken("http://127.0.0.1/admin.png", None, "forbidden_address", "A URL that points into this machine"),
        broken(f"{images}/bomb.png", _claiming(whole, 60_000), "too_many_pixels", "A PNG that claims 3,600 megapixels"),
    ]


def encode(picture: Image.Image, format: str, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, quality=quality)
    return buffer.getvalue()


def create_bucket() -> None:
    boto3.client("s3").create_bucket(Bucket=BUCKET)


def upload(store: ObjectStore, pictures: Iterable[Picture]) -> None:
    """Raises HouseError, StorageRefused."""

    def put(picture: Picture) -> None:
        if picture.data is not None:
            store.put(picture.uri, picture.data, f"image/{picture.uri.rpartition('.')[2]}")

    with ThreadPoolExecutor(_UPLOAD_THREADS) as pool:
        try:
            list(pool.map(put, pictures))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _claiming(png: bytes, side_px: int) -> bytes:
    """The PNG with another width and height in its header (bytes 12 to 29, then their checksum)."""
    header = png[12:16] + struct.pack(">II", side_px, side_px) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
