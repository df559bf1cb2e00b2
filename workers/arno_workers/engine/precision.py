"""The numbers that a replica computes with."""

import torch


def choose_dtype(asked: str, device: str, stored: torch.dtype) -> torch.dtype:
    """`asked` by name, or for `auto`: bfloat16 on CUDA, and on a CPU that computes in it, if the checkpoint is `stored`
    in half precision; float32 elsewhere. The few checkpoints in float32 are small, and gain nothing on a CPU.
    """
    if asked != "auto":
        dtype: torch.dtype = getattr(torch, asked)
        return dtype
    if device.startswith("cuda"):
        return torch.bfloat16
    return torch.bfloat16 if stored != torch.float32 and _cpu_has_bfloat16() else torch.float32


def keep_float32() -> None:
    """For this process: float32 means float32 on CUDA too. By default, convolutions round to 10 bits there (TF32)."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _cpu_has_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
