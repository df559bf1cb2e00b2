"""Microseconds of one attention without its launch, by torch's backends, for the shapes of base with 3 beams."""

import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from device_run.machine import Machine, Pieces
from device_run.timing import host_ms, or_why_not, us_of
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

_HEADS, _WIDTH, _ROOM, _BEAMS = 12, 64, 1024, 3
_CAPTION_KEYS = 590
_BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "math": SDPBackend.MATH,
}
_KEYS = (_CAPTION_KEYS, 608, 609, 641, 705, 1024)
"""608 divides well; the others are what prompts are rounded up to."""


def pieces(machine: Machine) -> Pieces:
    # Each capture collects garbage: of what is there now there is none.
    gc.freeze()
    many, few = machine.pick((512, 64), (3, 2))
    found: dict[str, Callable[[], Any]] = {
        "whole_pictures": partial(whole_pictures, machine),
        f"cross_{many}": partial(cross, machine, many),
        f"cross_{many}_without_mask": partial(cross, machine, many, masked=False),
        f"own_{many}": partial(own, machine, many),
    }
    for place, name in enumerate(_BACKENDS):
        found[f"first_calls_{name}"] = partial(or_why_not, partial(first_calls, machine, place, name))
    return {**found, f"cross_{few}": partial(cross, machine, few), f"own_{few}": partial(own, machine, few)}


def cross(machine: Machine, slots: int, masked: bool = True) -> list[dict[str, Any]]:
    table = []
    for keys in machine.pick(_KEYS, (64,)):
        queries, *cached, bias = _crossing(machine, slots, keys)
        table.append(_row(machine, queries, *cached, *([bias] * masked), slots=slots, keys=keys))
    return table


def own(machine: Machine, slots: int) -> list[dict[str, Any]]:
    table = []
    for tokens in machine.pick((32, 128, 256), (32,)):
        caches = [machine.random(slots, _HEADS, _ROOM + 1, _BEAMS, _WIDTH) for _ in range(2)]
        past = [cache[:, :, :tokens].flatten(2, 3) for cache in caches]
        queries = machine.random(slots, _BEAMS, _HEADS, _WIDTH).transpose(1, 2)
        bias = machine.random(slots, 1, _BEAMS, tokens * _BEAMS)
        table.append(_row(machine, queries, *past, bias, slots=slots, tokens=tokens))
    return table


def first_calls(machine: Machine, place: int, name: str) -> dict[str, float]:
    """ms of the first and the second call with a number of keys that never was before, and with the next."""
    operands = [_crossing(machine, machine.pick(64, 2), 593 + 2 * place + more) for more in (0, 1)]
    masked = 3 if name == "flash" else 4
    ms = [host_ms(machine, partial(_fused, _BACKENDS[name], *some[:masked])) for some in operands for _ in range(2)]
    return dict(zip(("first", "second", "first_of_next", "second_of_next"), ms, strict=True))


def whole_pictures(machine: Machine) -> list[dict[str, Any]]:
    """The encoder's, and that of the tower's windows, for 64 pictures."""
    count = machine.pick(64, 1)
    shapes = {"encoder": (count, machine.pick(_CAPTION_KEYS, 64), 3, _HEADS, _WIDTH)}
    for stage in machine.pick(range(4), range(0)):
        shapes[f"windows, stage {stage}"] = (count * 4 ** (4 - stage), 144, 3, 4 << stage, 32)
    return [
        _row(machine, *machine.random(*shape).permute(2, 0, 3, 1, 4).unbind(0), what=name)
        for name, shape in shapes.items()
    ]


def _crossing(machine: Machine, slots: int, keys: int) -> list[Tensor]:
    """Queries, keys, values and bias, as they lie in the caches."""
    caches = [machine.random(slots, _HEADS, _ROOM, _WIDTH)[:, :, :keys] for _ in range(2)]
    queries = machine.random(slots, _BEAMS, _HEADS, _WIDTH).transpose(1, 2)
    return [queries, *caches, machine.random(slots, 1, 1, _ROOM)[..., :keys]]


def _row(machine: Machine, *operands: Tensor, **facts: Any) -> dict[str, Any]:
    """Times, and the GB/s of what torch chooses: queries, keys, values and answers once."""
    ways: dict[str, Callable[..., Tensor]] = {"chosen": _chosen, "products": _products}
    ways |= {name: partial(_fused, backend) for name, backend in _BACKENDS.items()}
    times = {name: or_why_not(partial(us_of, machine, partial(way, *operands))) for name, way in ways.items()}
    queries, keys, values = operands[:3]
    moved, us = (2 * queries.numel() + keys.numel() + values.numel()) * queries.element_size(), times["chosen"]
    return {**facts, **times, "gb_per_s": moved / us / 1e3 if isinstance(us, float) else ""}


def _chosen(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)


def _fused(backend: SDPBackend, *operands: Tensor) -> Tensor:
    with sdpa_kernel(backend):
        return _chosen(*operands)


def _products(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    weights = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-1, -2) + bias
    return weights.softmax(-1) @ values
