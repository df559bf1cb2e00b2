"""What torch's compiler is given means what the plain functions mean; no compiler runs here, which takes minutes."""

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig

from arno_workers.engine.compiled import compiled
from arno_workers.engine.functions import Functions
from arno_workers.engine.plain import PLAIN
from arno_workers.engine.trials import agrees, trials
from tests.workers.engine.odd_models import TINY

CONFIG = AutoConfig.from_pretrained(TINY)


@pytest.fixture(scope="module")
def functions() -> Functions:
    torch.set_num_threads(1)
    return compiled(backend="eager")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["mix", "window_attention", "channel_attention", "feed_forward", "add_norm"])
def test_every_function_agrees_with_the_plain_one(functions: Functions, name: str, dtype: torch.dtype) -> None:
    assert all(agrees(trial, functions, dtype, "cpu") for trial in trials(name, CONFIG))


@torch.inference_mode()
def test_a_function_is_compiled_once_for_batches_of_all_sizes(functions: Functions) -> None:
    torch._dynamo.reset()

    def given(count: int) -> list[Tensor]:
        return [torch.randn(count, 7, 48), torch.randn(count, 7, 48), torch.ones(48), torch.zeros(48)]

    with torch._dynamo.config.patch(error_on_recompile=True):
        for count in (5, 2, 64, 1, 3):
            x, branch, *norm = given(count)
            found = functions.add_norm(x, branch, *norm, 1e-5)
            torch.testing.assert_close(found, PLAIN.add_norm(x, branch, *norm, 1e-5))
