"""What a process is set to before its replica answers for the first time."""

from collections.abc import Iterator

import pytest
import torch

from arno_shared.settings import WorkerSettings
from arno_shared.storage import ObjectStore
from arno_workers.engine.start import start_engine


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)


@pytest.mark.parametrize("asked", [False, True])
def test_torch_takes_cudnns_attention_only_where_it_is_asked_for(asked: bool) -> None:
    torch.backends.cuda.enable_cudnn_sdp(not asked)
    settings = WorkerSettings(slots=2, max_batch_images=1, torch_threads=1, cudnn_attention=asked)
    start_engine(settings, "cpu", ObjectStore(), lambda: None).close()
    assert torch.backends.cuda.cudnn_sdp_enabled() is asked
