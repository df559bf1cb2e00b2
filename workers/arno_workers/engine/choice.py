"""Which way of computing the functions between the products a replica takes."""

import torch

from arno_workers.engine.functions import Functions
from arno_workers.engine.plain import PLAIN
from arno_workers.engine.staging import is_cuda


def choose_functions(kernels: str, device: str, dtype: torch.dtype) -> Functions:
    if kernels == "plain" or not is_cuda(device):
        return PLAIN
    return PLAIN
