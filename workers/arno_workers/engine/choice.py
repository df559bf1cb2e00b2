"""Which way of computing the functions between the products a replica takes: what is asked for, where it is right."""

from dataclasses import replace
from typing import Any

import torch

from arno_shared.logs import get_logger
from arno_workers.engine.functions import Functions
from arno_workers.engine.plain import PLAIN
from arno_workers.engine.staging import is_cuda
from arno_workers.engine.trials import agrees

log = get_logger(__name__)

_TRIED = {
    "mix": ("laid", "mix"),
    "window_attention": ("window_attention",),
    "channel_attention": ("channel_attention",),
    "feed_forward": ("feed_forward",),
    "add_norm": ("add_norm",),
    "candidates": ("candidates",),
    "attention": ("attention", "by_length"),
}
"""What is tried, and which fields of Functions stand and fall with it."""


def choose_functions(kernels: str, config: Any, dtype: torch.dtype, device: str) -> Functions:
    """The table of that name, a plain function wherever one of its own fails or is off by more than rounding.

    `config`: a Florence2Config.
    """
    if kernels == "plain" or not is_cuda(device):
        return PLAIN
    try:
        functions = _table(kernels)
    except Exception as error:
        log.error("plain functions run: these kernels are not to be had", kernels=kernels, error=repr(error))
        return PLAIN
    return checked(functions, config, dtype, device)


def checked(functions: Functions, config: Any, dtype: torch.dtype, device: str) -> Functions:
    """With plain functions where these are not as right."""
    failed = [name for name in _TRIED if not _is_right(name, functions, config, dtype, device)]
    plain = {field: getattr(PLAIN, field) for name in failed for field in _TRIED[name]}
    name = f"{functions.name} but for {', '.join(failed)}" if failed else functions.name
    return replace(functions, **{**plain, "name": name})


def _is_right(name: str, functions: Functions, config: Any, dtype: torch.dtype, device: str) -> bool:
    why: dict[str, Any] = {"reason": "its results differ"}
    try:
        if agrees(name, functions, config, dtype, device):
            return True
    except Exception as error:
        why = {"reason": "it fails", "error": repr(error)}
    log.error("the plain function runs instead", kernels=functions.name, function=name, **why)
    return False


def _table(kernels: str) -> Functions:
    if kernels == "compiled":
        from arno_workers.engine.compiled import compiled

        return compiled()
    from arno_workers.engine.fused import FUSED

    return FUSED
