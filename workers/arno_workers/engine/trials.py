"""Small trials of each function, with the widths of a model and numbers at random: do two ways of computing agree?"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from arno_workers.engine.beams import Beams
from arno_workers.engine.caches import Room, SlotCaches
from arno_workers.engine.functions import Extent, Functions, Reach
from arno_workers.engine.generation import GenerationRules
from arno_workers.engine.largest import BLOCK
from arno_workers.engine.plain import PLAIN, AttentionWeights

Trial: TypeAlias = Callable[[Functions, "Numbers"], Sequence[Tensor]]

_PICTURES, _PROMPT_TOKENS, _TOKENS = 2, 70, 9

_SUMS = 1e-5
"""What long sums in float32 may differ by for their order, in parts of the whole."""


class Numbers:
    """The same at random for every dtype, on a device."""

    def __init__(self, dtype: torch.dtype, device: str) -> None:
        self.dtype, self.device = dtype, device
        self._generator = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        """About 1, and so that products of layers are about 1 as well."""
        # Rounded for every dtype alike: what is compared is the computing, not the numbers.
        numbers = torch.randn(shape, generator=self._generator).bfloat16()
        return numbers.to(self.device, self.dtype)

    def layer(self, outputs: int, inputs: int) -> Tensor:
        return self(outputs, inputs) * 2.0 ** -(inputs.bit_length() // 2)


def agrees(trial: Trial, functions: Functions, dtype: torch.dtype, device: str) -> bool:
    """Whether a table's function is as near to exact results as the plain one, but for what rounding does.

    Raises what the function raises.
    """
    exact_dtype = torch.float64 if dtype == torch.float32 else torch.float32
    with torch.inference_mode():
        exact = trial(PLAIN, Numbers(exact_dtype, device))
        plain = trial(PLAIN, Numbers(dtype, device))
        found = trial(functions, Numbers(dtype, device))
        return all(_is_near(*results, torch.finfo(dtype).eps) for results in zip(found, plain, exact, strict=True))


def _is_near(found: Tensor, plain: Tensor, exact: Tensor, eps: float) -> bool:
    off, allowed = (found.to(exact.dtype) - exact).norm(), (plain.to(exact.dtype) - exact).norm()
    # NaN is near to nothing.
    return bool(off <= 2 * allowed + (eps + _SUMS) * exact.norm())


def trials(name: str, config: Any) -> Iterator[Trial]:
    """Of the function of that name, with all widths that a model has of it; `config`: a Florence2Config."""
    vision, text = config.vision_config, config.text_config
    stages = list(zip(vision.embed_dim, vision.num_heads, vision.num_groups, strict=True))
    if name == "mix":
        yield from (_mix(channels, branch) for channels, _, _ in stages for branch in (False, True))
    elif name == "window_attention":
        for channels, heads, _ in stages:
            yield from (_windows(channels, heads, vision.window_size, beyond) for beyond in (0, 1))
    elif name == "channel_attention":
        yield from (_channels(channels, groups, vision.window_size) for channels, _, groups in stages)
    elif name == "feed_forward":
        yield from (_feed_forward(channels, int(channels * vision.mlp_ratio)) for channels, _, _ in stages)
        yield _feed_forward(text.d_model, text.encoder_ffn_dim)
    elif name == "add_norm":
        yield from (_add_norm(width, branch) for width in (*vision.embed_dim, text.d_model) for branch in (False, True))
    elif name == "candidates":
        yield _candidates(text.vocab_size)
    elif name == "attention":
        heads = text.decoder_attention_heads
        yield from (_attention(heads, text.d_model // heads, beams) for beams in (1, 3, 5))


def _mix(channels: int, has_branch: bool) -> Trial:
    def trial(functions: Functions, numbers: Numbers) -> Sequence[Tensor]:
        x, branch = (numbers(_PICTURES, 7, 10, channels) for _ in range(2))
        weight = functions.laid(numbers(channels, 1, 3, 3) / 4)
        rest = [numbers(channels) for _ in range(3)]
        return functions.mix(x, branch if has_branch else None, weight, *rest, 1e-5)

    return trial


def _weights(numbers: Numbers, channels: int) -> AttentionWeights:
    return AttentionWeights(
        numbers.layer(3 * channels, channels),
        numbers(3 * channels),
        numbers.layer(channels, channels),
        numbers(channels),
    )


def _windows(channels: int, heads: int, size: int, beyond: int) -> Trial:
    """Two windows, which reach so far beyond the picture."""

    def trial(functions: Functions, numbers: Numbers) -> Sequence[Tensor]:
        x, weights = numbers(_PICTURES, size - beyond, 2 * size, channels), _weights(numbers, channels)
        return [functions.window_attention(x, heads, size, (channels // heads) ** -0.5, weights)]

    return trial


def _channels(channels: int, groups: int, size: int) -> Trial:
    def trial(functions: Functions, numbers: Numbers) -> Sequence[Tensor]:
        x, weights = numbers(_PICTURES, size, 2 * size, channels), _weights(numbers, channels)
        return [functions.channel_attention(x, groups, weights)]

    return trial


def _feed_forward(width: int, between: int) -> Trial:
    def trial(functions: Functions, numbers: Numbers) -> Sequence[Tensor]:
        layers = numbers.layer(between, width), numbers(between), F.gelu, numbers.layer(width, between), numbers(width)
        return [functions.feed_forward(numbers(_PICTURES, 65, width), *layers)]

    return trial


def _add_norm(width: int, has_branch: bool) -> Trial:
    def trial(functions: Functions, numbers: Numbers) -> Sequence[Tensor]:
        x, branch = (numbers(_PICTURES, 65, width) for _ in range(2))
        return [functions.add_norm(x, branch if has_branch else None, numbers(width), numbers(width), 1e-5)]

    return trial


def _candidates(vocabulary: int) -> Trial:
    def trial(functions: Functions, numbers: Numbers) -> Sequence[Tensor]:
        logits = F.pad(numbers(4, vocabulary) * 4, (0, BLOCK - vocabulary % BLOCK), value=-torch.inf)
        logprobs, _ = functions.candidates(logits, _ban_some, 6)
        return [logprobs]

    return trial


def _ban_some(scores: Tensor) -> None:
    scores[:, :5] = -torch.inf


def _attention(heads: int, width: int, beams: int) -> Trial:
    """Of four slots, one of which is done; beams have taken over each other's pasts."""

    def trial(functions: Functions, numbers: Numbers) -> Sequence[Tensor]:
        slots, device = 4, numbers.device
        rules = GenerationRules(beams, True, 1.0, 0, 2, (2,), None, 2, None)
        state = Beams(rules, slots, 2 * _TOKENS, device)
        room = Room(_PROMPT_TOKENS, 2 * _TOKENS)
        caches = SlotCaches(
            layers=1, slots=slots, heads=heads, width=width, beams=beams, room=room, most=room,
            dtype=numbers.dtype, device=device,
        )  # fmt: skip
        for cache in (caches.cross_keys, caches.cross_values, caches.own_keys, caches.own_values):
            cache.copy_(numbers(*cache.shape))
        for slot, length in enumerate((_PROMPT_TOKENS, 64, 65, 1)):
            caches.cross_bias[slot, ..., length:] = -torch.inf
            caches.cross_length[slot] = length
        position = torch.tensor([_TOKENS - 1, 0, 3, 3], device=device)
        steps = torch.arange(2 * _TOKENS + 1, device=device)
        takes_over = (torch.arange(beams, device=device)[:, None] + steps) % beams
        own = torch.arange(beams, device=device)[:, None].expand_as(takes_over)
        for slot, place in enumerate(position.tolist()):
            row = torch.where(steps < place, takes_over, torch.where(steps == place, own, -1))
            state.lineage[slot, :, : row.shape[1]] = row[:, : state.lineage.shape[2]]
        state.done[:slots] = torch.tensor([False, False, False, True], device=device)
        attention = functions.attention(state, caches, Extent(_PROMPT_TOKENS, (Reach(slots, _TOKENS),)), position)
        seen = attention.own(0, numbers(slots, beams, 3 * heads * width))
        crossed = attention.cross(0, numbers(slots, beams, heads * width))
        # What a slot gets that is done is nobody's.
        return [seen[:3], crossed[:3], caches.own_keys[0, :3], caches.own_values[0, :3]]

    return trial
