"""With kernels of our own, functions and whole answers are what they are without them."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from arno_shared.scenes import draw, make_scene
from arno_shared.settings import WorkerSettings
from arno_workers.engine.trials import trials
from tests.workers.engine.conftest import Run
from tests.workers.engine.odd_models import TINY

pytestmark = pytest.mark.skipif(not find_spec("triton"), reason="needs triton")

CONFIG = AutoConfig.from_pretrained(TINY)
FUNCTIONS = ("mix", "window_attention", "channel_attention", "feed_forward", "add_norm", "candidates", "attention")


def disagreeing(table: str, dtype: torch.dtype, name: str, device: str) -> list[int]:
    """The trials of a function, by number, in which the table's disagrees with the plain one."""
    from arno_workers.engine import fused
    from arno_workers.engine.trials import agrees

    every = enumerate(trials(name, CONFIG))
    return [number for number, trial in every if not agrees(trial, getattr(fused, table), dtype, device)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float32, marks=pytest.mark.long)], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_agrees_with_the_plain_one(interpreted: Run, name: str, dtype: torch.dtype) -> None:
    assert interpreted(disagreeing, "FUSED", dtype, name, "cpu") == []


def test_so_does_what_no_device_has_measured(interpreted: Run) -> None:
    assert interpreted(disagreeing, "UNTRIED", torch.bfloat16, "channel_attention", "cpu") == []


def seen_and_mixed(table: str) -> torch.Tensor:
    """What stands behind attention within windows, of which the last of each row reach beyond the picture."""
    from arno_workers.engine import fused, plain
    from arno_workers.engine.trials import Numbers

    functions, numbers = getattr(plain if table == "PLAIN" else fused, table), Numbers(torch.float32, "cpu")
    x, (qkv, bias, proj) = numbers(2, 5, 6, 16), (numbers(*shape) / 4 for shape in ((48, 16), (48,), (16, 16)))
    seen = functions.window_attention(x, 2, 4, 0.3, plain.AttentionWeights(qkv, bias, proj, None))
    convolution = functions.laid(numbers(16, 1, 3, 3)), *(numbers(16) for _ in range(3)), 1e-5
    _, normed = functions.mix(x, seen, *convolution)
    assert isinstance(normed, torch.Tensor)
    return normed


def test_windows_may_reach_beyond_the_picture(interpreted: Run) -> None:
    torch.testing.assert_close(interpreted(seen_and_mixed, "FUSED"), seen_and_mixed("PLAIN"), atol=2e-5, rtol=1e-5)


def ids(kernels: Sequence[str]) -> Sequence[Any]:
    """Of answers of the bundled model about two pictures, three beams and greedy, with kernels for these functions."""
    from arno_workers.engine import florence
    from arno_workers.engine.checkpoint.load import Sources, load_checkpoint
    from arno_workers.engine.checkpoint.locate import Located
    from arno_workers.engine.fused import FUSED
    from arno_workers.engine.plain import PLAIN

    functions = replace(PLAIN, **{name: getattr(FUSED, name) for name in kernels})
    florence.choose_functions = lambda *_: functions
    settings = WorkerSettings(slots=3, max_batch_images=2, dtype="float32")
    replica = florence.FlorenceReplica(load_checkpoint(Sources(Located("arno-tiny", TINY, None))), settings, "cpu")
    pictures = []
    for seed in range(2):
        pixels = replica.prepare(draw(make_scene(900 + seed)))
        pictures.append(replica.picture(pixels, [replica._sentence("<OD>", ""), "what is it?"], max_new_tokens=12))
        pictures[-1].requests[1].num_beams = 1
    replica.answer_all(pictures)
    return [request.answer.ids for picture in pictures for request in picture.requests]


OF_THE_STEP = ("attention", "by_length", "candidates")


@pytest.mark.parametrize(
    "kernels",
    [OF_THE_STEP, pytest.param((*FUNCTIONS, "laid", "by_length"), marks=pytest.mark.long)],
    ids=["step", "all"],
)
def test_whole_answers_are_the_same(interpreted: Run, kernels: Sequence[str]) -> None:
    """Slots change hands, prompts and answers are of different lengths, and what is done is passed over."""
    expected = interpreted(ids, ())
    assert interpreted(ids, kernels) == expected
    assert len(set(map(len, expected))) > 1
