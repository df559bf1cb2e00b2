"""What images are cut into."""

from collections.abc import Iterable
from typing import Any

import pytest

from arno_producer import Producer, chunks
from arno_shared.errors import InvalidRequest
from arno_shared.messages import ImageRef
from tests.producer.conftest import Hand


@pytest.mark.parametrize("given", [list, iter])
def test_a_job_has_no_more_chunks_than_a_ledger_has_bits(
    producer: Producer, hand: Hand, monkeypatch: pytest.MonkeyPatch, given: Any
) -> None:
    monkeypatch.setattr(chunks, "MAX_CHUNKS", 12)
    uris = [f"s3://b/{n}.jpg" for n in range(25)]
    assert producer.submit(given(uris[:24]), "<OD>").status().chunks == 12
    hand.take_all()
    with pytest.raises(InvalidRequest, match="at most 12 chunks, of 2 images each"):
        producer.submit(given(uris), "<OD>")
    # Of a list that is at hand nothing is sent; of a stream, the blocks before.
    assert len(hand.take_all()) == (0 if given is list else 10)


@pytest.mark.parametrize("images", ["s3://b/a.jpg", {"uri": "s3://b/a.jpg"}, ImageRef(uri="s3://b/a.jpg")])
def test_one_image_needs_no_list(producer: Producer, hand: Hand, images: Iterable[Any]) -> None:
    producer.submit(images, "<OD>")
    assert [chunk.images for chunk in hand.take_all()] == [(ImageRef(uri="s3://b/a.jpg"),)]
