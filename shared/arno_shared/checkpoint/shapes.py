"""Which tensors a Florence-2 of some configuration has, by transformers' names, and their shapes."""

from collections.abc import Iterator, Mapping
from typing import Any

from arno_shared.errors import ModelUnusable

Shape = tuple[int, ...]

HEAD = "lm_head.weight"
VOCABULARY = "model.language_model.shared.weight"
COPIES = ("model.language_model.encoder.embed_tokens.weight", "model.language_model.decoder.embed_tokens.weight")
"""Where else the vocabulary's matrix may stand in a file, the same."""

_POSITION_OFFSET = 2
"""BART leaves as many rows before its first position."""

VISION_DEFAULTS: Mapping[str, Any] = {
    "in_channels": 3,
    "depths": [1, 1, 9, 1],
    "patch_size": [7, 3, 3, 3],
    "patch_stride": [4, 2, 2, 2],
    "patch_padding": [3, 1, 1, 1],
    "patch_prenorm": [False, True, True, True],
    "embed_dim": [128, 256, 512, 1024],
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "num_heads": [4, 8, 16, 32],
    "num_groups": [4, 8, 16, 32],
    "projection_dim": 1024,
    "max_temporal_embeddings": 100,
    "max_position_embeddings": 50,
}
_TEXT_DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 50265,
    "max_position_embeddings": 1024,
    "d_model": 1024,
    "encoder_layers": 12,
    "encoder_ffn_dim": 4096,
    "encoder_attention_heads": 16,
    "decoder_attention_heads": 16,
    "decoder_layers": 12,
    "decoder_ffn_dim": 4096,
}
"""What transformers takes where a configuration says nothing."""


def expected_shapes(config: Mapping[str, Any]) -> dict[str, Shape]:
    """Of a configuration in transformers' form; head and vocabulary once each. Raises ModelUnusable."""
    try:
        shapes = dict([*_vision(vision_of(config)), *_projector(vision_of(config)), *_text(text_of(config))])
        if not all(isinstance(side, int) and side > 0 for shape in shapes.values() for side in shape):
            raise ValueError("a size is not a positive number")
        _check_heads(vision_of(config), text_of(config))
        return shapes
    except (KeyError, TypeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ModelUnusable(f"config.json cannot be made sense of: {type(error).__name__}: {error}") from None


def vision_of(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**VISION_DEFAULTS, **(config.get("vision_config") or {})}


def text_of(config: Mapping[str, Any]) -> dict[str, Any]:
    return {**_TEXT_DEFAULTS, **(config.get("text_config") or {})}


def image_tokens(config: Mapping[str, Any], height_px: int, width_px: int) -> int:
    """Tokens that a picture becomes: the map's places, and their mean."""
    height, width = map_size(config, height_px, width_px)
    return height * width + 1


def map_size(config: Mapping[str, Any], height_px: int, width_px: int) -> tuple[int, int]:
    """Of what the vision tower makes of a picture."""
    vision = vision_of(config)
    for kernel, stride, padding in zip(
        vision["patch_size"], vision["patch_stride"], vision["patch_padding"], strict=False
    ):
        height_px, width_px = (1 + (side + 2 * padding - kernel) // stride for side in (height_px, width_px))
    return height_px, width_px


def _check_heads(vision: Mapping[str, Any], text: Mapping[str, Any]) -> None:
    """Raises ValueError."""
    of_text = [(text["d_model"], text["encoder_attention_heads"]), (text["d_model"], text["decoder_attention_heads"])]
    of_vision = [
        (width, parts)
        for name in ("num_heads", "num_groups")
        for width, parts in zip(vision["embed_dim"], vision[name], strict=True)
    ]
    for width, parts in (*of_text, *of_vision):
        if width % parts:
            raise ValueError(f"a width of {width} cannot be split among {parts} heads or groups")


def _vision(vision: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    widths, before = vision["embed_dim"], [vision["in_channels"], *vision["embed_dim"]]
    for stage, width in enumerate(widths):
        conv, kernel = f"model.vision_tower.convs.{stage}", vision["patch_size"][stage]
        yield from _layer(f"{conv}.conv", (width, before[stage], kernel, kernel))
        yield from _norm(f"{conv}.norm", before[stage] if vision["patch_prenorm"][stage] else width)
        for depth in range(vision["depths"][stage]):
            for kind, attention in (("spatial", "window"), ("channel", "channel")):
                block = f"model.vision_tower.blocks.{stage}.{depth}.{kind}_block"
                yield from _block(block, f"{attention}_attn", width, vision)


def _block(block: str, attention: str, width: int, vision: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    inner = int(width * vision["mlp_ratio"])
    for number in (1, 2):
        yield from _layer(f"{block}.conv{number}", (width, 1, 3, 3))
        yield from _norm(f"{block}.norm{number}", width)
    yield from _layer(f"{block}.{attention}.qkv", (3 * width, width), bias=vision["qkv_bias"])
    yield from _layer(f"{block}.{attention}.proj", (width, width))
    yield from _layer(f"{block}.ffn.fc1", (inner, width))
    yield from _layer(f"{block}.ffn.fc2", (width, inner))


def _projector(vision: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    width, out, places = vision["embed_dim"][-1], vision["projection_dim"], vision["max_position_embeddings"]
    projector = "model.multi_modal_projector"
    yield f"{projector}.image_projection.weight", (out, width)
    yield from _norm(f"{projector}.image_proj_norm", out)
    yield f"{projector}.image_position_embed.row_embeddings.weight", (places, width // 2)
    yield f"{projector}.image_position_embed.column_embeddings.weight", (places, width - width // 2)
    yield f"{projector}.visual_temporal_embed.pos_idx_to_embed", (vision["max_temporal_embeddings"], width)


def _text(text: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    width, rows = text["d_model"], text["vocab_size"]
    yield VOCABULARY, (rows, width)
    yield HEAD, (rows, width)
    for side, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "encoder_attn"])):
        place = f"model.language_model.{side}"
        yield f"{place}.embed_positions.weight", (text["max_position_embeddings"] + _POSITION_OFFSET, width)
        yield from _norm(f"{place}.layernorm_embedding", width)
        for number in range(text[f"{side}_layers"]):
            layer, inner = f"{place}.layers.{number}", text[f"{side}_ffn_dim"]
            for attention in attentions:
                for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
                    yield from _layer(f"{layer}.{attention}.{part}", (width, width))
                yield from _norm(f"{layer}.{attention}_layer_norm", width)
            yield from _layer(f"{layer}.fc1", (inner, width))
            yield from _layer(f"{layer}.fc2", (width, inner))
            yield from _norm(f"{layer}.final_layer_norm", width)


def _layer(name: str, shape: Shape, *, bias: bool = True) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", shape
    if bias:
        yield f"{name}.bias", shape[:1]


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
