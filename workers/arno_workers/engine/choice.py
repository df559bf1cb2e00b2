"""Which way of computing the functions between the products a replica takes: what is asked for, where it is right."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from arno_shared.logs import get_logger
from arno_workers.engine.functions import Functions
from arno_workers.engine.plain import PLAIN
from arno_workers.engine.staging import is_cuda
from arno_workers.engine.trials import Trial, agrees, trials

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

_COMPILERS = min(16, os.cpu_count() or 1)


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
        return replace(PLAIN, name=f"plain, without {kernels}: {error!r}")
    return checked(functions, config, dtype, device)


def checked(functions: Functions, config: Any, dtype: torch.dtype, device: str) -> Functions:
    """With plain functions where these are not as right."""
    every = [(name, trial) for name in _TRIED for trial in trials(name, config)]
    # Side by side: nearly all of the time goes to compilers, each a process of its own.
    with ThreadPoolExecutor(_COMPILERS) as pool:
        reasons = list(pool.map(lambda each: _why_not(each[1], functions, dtype, device), every))
    failed: dict[str, str] = {name: why for (name, _), why in zip(every, reasons, strict=True) if why}
    for name, why in failed.items():
        log.error("the plain function runs instead", kernels=functions.name, function=name, reason=why)
    plain = {field: getattr(PLAIN, field) for name in failed for field in _TRIED[name]}
    name = f"{functions.name} but for {', '.join(failed)}" if failed else functions.name
    return replace(functions, **{**plain, "name": name})


def _why_not(trial: Trial, functions: Functions, dtype: torch.dtype, device: str) -> str:
    try:
        return "" if agrees(trial, functions, dtype, device) else "its results differ"
    except Exception as error:
        return f"it fails: {error!r}"


def _table(kernels: str) -> Functions:
    if kernels == "compiled":
        from arno_workers.engine.compiled import compiled

        return compiled()
    from arno_workers.engine.fused import FUSED, UNTRIED

    return UNTRIED if kernels == "untried" else FUSED
