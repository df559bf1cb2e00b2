"""Cuts a stream of images into chunks, and the chunks into manifest blocks; both the same whenever it is done again."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, count, islice
from typing import TypeAlias, TypeVar

from pydantic import ValidationError

from arno_shared.errors import InvalidRequest
from arno_shared.messages import MAX_CHUNKS, Chunk, GenerationOptions, ImageRef, Output, Prompt, describe_invalid

Image: TypeAlias = ImageRef | str | Mapping[str, str | None]
"""A URI, or the fields of an `ImageRef`."""

T = TypeVar("T")


def is_one(images: Iterable[Image]) -> bool:
    return isinstance(images, str | Mapping | ImageRef)


def are_at_hand(images: Iterable[Image]) -> bool:
    """Whether they can be gone through more than once."""
    return is_one(images) or isinstance(images, list | tuple)


def cut(
    images: Iterable[Image],
    prompts: tuple[Prompt, ...],
    output: Output,
    generation: GenerationOptions,
    job_id: str,
    chunk_images: int,
) -> Iterator[Chunk]:
    """Chunks of `chunk_images`, numbered from 0, the last one shorter. Lazy: holds one chunk at a time.

    Raises InvalidRequest, which says which image is not one, or that there are too many.
    """
    refs = _image_refs(images)
    for index in count():
        batch = tuple(islice(refs, chunk_images))
        if not batch:
            return
        if index == MAX_CHUNKS:
            raise InvalidRequest(
                f"a job has at most {MAX_CHUNKS:,} chunks, of {chunk_images:,} images each: submit what is more as "
                "another job"
            )
        # Built without validation: its parts are validated, and there may be millions.
        yield Chunk.model_construct(
            images=batch, prompts=prompts, output=output, generation=generation, job_id=job_id, index=index
        )


def at_least_one(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """The same. Raises InvalidRequest when there are none, at once."""
    first = next(chunks, None)
    if first is None:
        raise InvalidRequest("no images were given")
    return chain([first], chunks)


def blocks(chunks: Iterable[Chunk], block_chunks: int) -> Iterator[list[Chunk]]:
    """Blocks of 10, 100, … up to `block_chunks`: the first work starts soon, however slow the source is."""
    rest = iter(chunks)
    for exponent in count(1):
        block = list(islice(rest, min(block_chunks, 10 ** min(exponent, 6))))
        if not block:
            return
        yield block


def _image_refs(images: Iterable[Image]) -> Iterator[ImageRef]:
    for number, image in enumerate([images] if is_one(images) else images, start=1):
        if isinstance(image, ImageRef):
            yield image
            continue
        try:
            yield ImageRef.model_validate(image)
        except ValidationError as error:
            raise InvalidRequest(f"image {number} is not one: {describe_invalid(error)}") from None
