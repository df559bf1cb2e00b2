"""A worker holds as many chunks as its device has an appetite for."""

from types import SimpleNamespace
from typing import Any

import pytest

from arno_shared.settings import ProducerSettings, Settings, WorkerSettings
from arno_workers.node import _chunks_in_flight


@pytest.mark.parametrize(
    ("appetite_images", "chunk_images", "chunks"), [(96, 32, 4), (640, 32, 21), (97, 32, 5), (1, 32, 2), (96, 1, 97)]
)
def test_chunks_in_flight_feed_the_device_and_one_is_being_committed(
    appetite_images: int, chunk_images: int, chunks: int
) -> None:
    engine: Any = SimpleNamespace(appetite_images=appetite_images)
    assert _chunks_in_flight(Settings(producer=ProducerSettings(chunk_images=chunk_images)), engine) == chunks


def test_a_setting_overrides_the_appetite() -> None:
    engine: Any = SimpleNamespace(appetite_images=640)
    assert _chunks_in_flight(Settings(worker=WorkerSettings(chunks_in_flight=2)), engine) == 2
