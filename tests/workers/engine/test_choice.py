"""A way of computing is let in where it is right, function by function, and plain functions run elsewhere."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import structlog
import torch
from torch import Tensor
from transformers import AutoConfig

from arno_workers.engine import choice
from arno_workers.engine.choice import checked, choose_functions
from arno_workers.engine.plain import PLAIN
from tests.workers.engine.odd_models import TINY

CONFIG = AutoConfig.from_pretrained(TINY)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def off(function: Callable[..., Any], by: float) -> Callable[..., Any]:
    def result(*given: Any, **named: Any) -> Any:
        found = function(*given, **named)
        return found * (1 + by) if isinstance(found, Tensor) else tuple(each * (1 + by) for each in found)

    return result


def fails(*_: object, **__: object) -> Any:
    raise RuntimeError("no kernel image is available")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_what_agrees_runs(dtype: torch.dtype) -> None:
    functions = replace(PLAIN, name="others")
    assert checked(functions, CONFIG, dtype, "cpu") == functions


@pytest.mark.parametrize("name", ["mix", "window_attention", "channel_attention", "feed_forward", "add_norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_off_by_more_than_rounding_does_not_run(dtype: torch.dtype, name: str) -> None:
    by = 1e-4 if dtype == torch.float32 else 0.1
    wrong = replace(PLAIN, name="others", **{name: off(getattr(PLAIN, name), by)})
    found = checked(wrong, CONFIG, dtype, "cpu")
    assert found.name == f"others but for {name}"
    assert getattr(found, name) is getattr(PLAIN, name)


@pytest.mark.parametrize("name", ["mix", "feed_forward", "candidates", "attention"])
def test_what_fails_does_not_run_and_the_log_says_why(name: str) -> None:
    broken = replace(PLAIN, name="others", by_length=True, **{name: fails})
    with structlog.testing.capture_logs() as logs:
        found = checked(broken, CONFIG, torch.float32, "cpu")
    assert getattr(found, name) is getattr(PLAIN, name)
    assert found.by_length == (name != "attention")
    (said,) = [line for line in logs if line["event"] == "the plain function runs instead"]
    assert said["function"] == name
    assert "no kernel image" in said["reason"]


def test_nan_is_near_to_nothing() -> None:
    wrong = replace(PLAIN, name="others", add_norm=lambda x, *_: x * torch.nan)
    assert checked(wrong, CONFIG, torch.float32, "cpu").name == "others but for add_norm"


def test_where_kernels_are_not_to_be_had_plain_functions_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "is_cuda", lambda _: True)
    monkeypatch.setattr(choice, "_table", fails)
    with structlog.testing.capture_logs() as logs:
        found = choose_functions("triton", CONFIG, torch.float32, "cpu")
    assert found == replace(PLAIN, name="plain, without triton: RuntimeError('no kernel image is available')")
    assert logs[0]["kernels"] == "triton"
    assert "no kernel image" in logs[0]["error"]


@pytest.mark.parametrize("kernels", ["plain", "compiled", "triton"])
def test_on_a_cpu_plain_functions_run(kernels: str) -> None:
    assert choose_functions(kernels, CONFIG, torch.float32, "cpu") is PLAIN
