"""The engine's own kernels, each against its reference function: microseconds without the launch, and bytes a second.

What a kernel takes is told here, in OPERANDS; on a CPU only the references run.
"""

import pkgutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from typing import Any, TypeAlias

import torch
from device_run.machine import Machine, Pieces, Skipped
from device_run.timing import difference, ms_of, us_of
from torch import Tensor

from arno_workers.engine.largest import BLOCK

_PACKAGE = "arno_workers.engine.kernels"
_HEADS, _WIDTH, _BEAMS = 12, 64, 3
"""Of base's decoder."""
_VOCABULARY = (51_328 // BLOCK + 1) * BLOCK

Operands: TypeAlias = dict[str, tuple[Any, ...]]
"""What a kernel is given, by what that is of."""


def pieces(machine: Machine) -> Pieces:
    return {name: partial(measure, machine, name) for name in sorted(OPERANDS.keys() | there())}


def there() -> set[str]:
    """The kernels that the engine has."""
    try:
        package = import_module(_PACKAGE)
    except ModuleNotFoundError:
        return set()
    return {module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")}


def measure(machine: Machine, name: str) -> list[dict[str, Any]]:
    if name not in there():
        raise Skipped("the engine has no such kernel")
    try:
        module = import_module(f"{_PACKAGE}.{name}")
    except ModuleNotFoundError as error:
        raise Skipped(f"needs {error.name}") from None
    return [
        _row(machine, getattr(module, name), module.reference, operands, of)
        for of, operands in OPERANDS[name](machine).items()
    ]


def _row(
    machine: Machine, kernel: Callable[..., Any], reference: Callable[..., Any], operands: tuple[Any, ...], of: str
) -> dict[str, Any]:
    # Each on its own, for some write into what they are given.
    expected = _tensors(reference(*map(_copied, operands)))
    row: dict[str, Any] = {"of": of, "reference_us": ms_of(machine, partial(reference, *operands), rounds=3) * 1000}
    if machine.on_cuda:
        found, us = _tensors(kernel(*map(_copied, operands))), us_of(machine, partial(kernel, *operands))
        moved = sum(each.numel() * each.element_size() for each in (*_tensors(operands), *found))
        row |= {"kernel_us": us, "times": row["reference_us"] / us, "gb_per_s": moved / us / 1e3}
        # Of numbers: of equal ones, the places may come in any order.
        pairs = [pair for pair in zip(found, expected, strict=True) if pair[0].is_floating_point()]
        row["difference"] = max(difference(*pair) for pair in pairs)
    return row


def _copied(operand: Any) -> Any:
    return operand.clone() if isinstance(operand, Tensor) else operand


def _tensors(values: Any) -> list[Tensor]:
    values = values if isinstance(values, tuple | list) else (values,)
    return [value for value in values if isinstance(value, Tensor)]


def _stages(machine: Machine) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Of base's tower, 64 pictures: (pictures, rows, columns, channels)."""
    for stage in machine.pick(range(4), range(1)):
        side, channels = machine.pick((192, 128), (24, 32))
        yield f"stage {stage}", (machine.pick(64, 1), side >> stage, side >> stage, channels << stage)


def _add_norm(machine: Machine) -> Operands:
    shapes = {"encoder": machine.pick((64, 590, 768), (1, 8, 32)), "step": machine.pick((512, 3, 768), (2, 3, 32))}
    return {
        of: (*(machine.random(*shape) for _ in range(2)), *(machine.random(shape[-1]) for _ in range(2)), 1e-5)
        for of, shape in shapes.items()
    }


def _candidates(machine: Machine) -> Operands:
    return {
        of: (logits, torch.logsumexp(logits.float(), -1), 2 * _BEAMS)
        for of, (logits,) in _log_normalizer(machine).items()
    }


def _channels(machine: Machine) -> Operands:
    return {
        of: (machine.random(count, rows * columns, 3 * channels), channels // 32)
        for of, (count, rows, columns, channels) in _stages(machine)
    }


def _cross_attention(machine: Machine) -> Operands:
    slots, found = machine.pick(512, 2), {}
    for keys in machine.pick((590, 705), (8,)):
        cached = [machine.random(slots, _HEADS, 1024, _WIDTH)[:, :, :keys] for _ in range(2)]
        lengths = torch.full((slots,), keys, device=machine.device)
        found[f"{slots} slots, {keys} keys"] = (machine.random(slots, _BEAMS, _HEADS * _WIDTH), *cached, lengths)
    return found


def _linear_gelu(machine: Machine) -> Operands:
    return {
        of: (
            machine.random(*shape),
            machine.random(4 * shape[-1], shape[-1]) * shape[-1] ** -0.5,
            machine.random(4 * shape[-1]),
        )
        for of, shape in _stages(machine)
    }


def _log_normalizer(machine: Machine) -> Operands:
    rows = machine.pick(512, 2) * _BEAMS
    return {f"{rows} rows": (machine.random(rows, machine.pick(_VOCABULARY, 8 * BLOCK)),)}


def _mix(machine: Machine) -> Operands:
    return {
        of: (
            *(machine.random(*shape) for _ in range(2)),
            machine.random(9, shape[-1]),
            *(machine.random(shape[-1]) for _ in range(3)),
            1e-5,
        )
        for of, shape in _stages(machine)
    }


def _own_attention(machine: Machine) -> Operands:
    slots, found = machine.pick(512, 2), {}
    for tokens in machine.pick((12, 32, 150), (4,)):
        past = [machine.random(slots, _HEADS, tokens, _BEAMS, _WIDTH) for _ in range(2)]
        lineage = torch.randint(0, _BEAMS, (slots, _BEAMS, tokens), device=machine.device)
        lengths = torch.full((slots,), tokens, device=machine.device)
        qkv = machine.random(slots, _BEAMS, 3 * _HEADS * _WIDTH)
        found[f"{slots} slots, {tokens} tokens"] = (qkv, *past, lineage, lengths)
    return found


def _windows(machine: Machine) -> Operands:
    return {
        of: (machine.random(*places, 3 * channels), channels // 32, 12, 32**-0.5)
        for of, (*places, channels) in _stages(machine)
    }


OPERANDS: Mapping[str, Callable[[Machine], Operands]] = {
    "add_norm": _add_norm,
    "candidates": _candidates,
    "channels": _channels,
    "cross_attention": _cross_attention,
    "linear_gelu": _linear_gelu,
    "log_normalizer": _log_normalizer,
    "mix": _mix,
    "own_attention": _own_attention,
    "windows": _windows,
}
