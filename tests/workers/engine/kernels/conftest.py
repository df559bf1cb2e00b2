"""Kernels run in Triton's interpreter on the CPU, and for real where there is a CUDA device."""

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor

if not find_spec("triton"):
    collect_ignore_glob = ["test_*.py"]

Run: TypeAlias = Callable[..., Any]


@pytest.fixture(scope="session")
def _interpreted() -> Iterator[Run]:
    command = [sys.executable, Path(__file__).with_name("interpreter.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout

        def run(function: Callable[..., Any], *given: Any) -> Any:
            pickle.dump((function, given), process.stdin)
            process.stdin.flush()
            found, error = pickle.load(process.stdout)
            if error:
                raise error
            return found

        yield run
        process.stdin.close()


def _on_cuda(function: Callable[..., Any], *given: Any) -> Any:
    found = function(*(x.cuda() if isinstance(x, Tensor) else x for x in given))
    return found.cpu() if isinstance(found, Tensor) else tuple(x.cpu() for x in found)


@pytest.fixture(
    params=[
        "interpreter",
        pytest.param(
            "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
        ),
    ]
)
def run(request: pytest.FixtureRequest) -> Run:
    """Calls a function with tensors of the CPU, elsewhere; what it gives is on the CPU again."""
    return request.getfixturevalue("_interpreted") if request.param == "interpreter" else _on_cuda


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
