"""Kernels run in Triton's interpreter on the CPU, and for real where there is a CUDA device."""

from importlib.util import find_spec

import pytest
import torch

if not find_spec("triton"):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
