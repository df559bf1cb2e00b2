"""Microsoft's original layout, as its own code and most fine-tunes save it: its marks, its names, its configuration.

All that differs from transformers' layout is names, and one matrix that lies on its side. The table of names: docs/
models.md.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from arno_shared.checkpoint.config import part_of, plain_config
from arno_shared.errors import ModelUnusable

FINAL_LOGITS_BIAS = "language_model.final_logits_bias"
"""Nothing but zeros, in every checkpoint that was published; transformers' model has no such thing."""

TRANSPOSED = "image_projection"
"""The one tensor that lies on its side."""

VOCABULARY_ROWS = 51_289
"""Of its configuration's default."""

_NAMES: tuple[tuple[str, str], ...] = (
    (r"vision_tower\.convs\.(\d+)\.proj\.", r"model.vision_tower.convs.\1.conv."),
    (r"vision_tower\.", "model.vision_tower."),
    (r"language_model\.lm_head\.", "lm_head."),
    (r"language_model\.model\.", "model.language_model."),
    (r"image_projection$", "model.multi_modal_projector.image_projection.weight"),
    (r"image_pos_embed\.", "model.multi_modal_projector.image_position_embed."),
    (r"(image_proj_norm\.|visual_temporal_embed\.)", r"model.multi_modal_projector.\1"),
)
"""What a name begins with. The first that fits counts."""

_BEGINNINGS = ("language_model.", "vision_tower.", "image_projection", "image_pos_embed.", "visual_temporal_embed.")

_IN_BLOCKS: tuple[tuple[str, str], ...] = (
    (r"\.(conv[12])\.fn\.dw\.", r".\1."),
    (r"\.(window|channel)_attn\.norm\.", ".norm1."),
    (r"\.(window|channel)_attn\.fn\.", r".\1_attn."),
    (r"\.ffn\.norm\.", ".norm2."),
    (r"\.ffn\.fn\.net\.", ".ffn."),
)
"""Within a block of the vision tower."""

_ORIGINAL_NAMES: tuple[tuple[str, str], ...] = (
    (r"^model\.vision_tower\.convs\.(\d+)\.conv\.", r"vision_tower.convs.\1.proj."),
    (r"^model\.vision_tower\.", "vision_tower."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^model\.multi_modal_projector\.image_projection\.weight$", "image_projection"),
    (r"^model\.multi_modal_projector\.image_position_embed\.", "image_pos_embed."),
    (r"^model\.multi_modal_projector\.", ""),
    (r"_block\.(conv[12])\.", r"_block.\1.fn.dw."),
    (r"spatial_block\.norm1\.", "spatial_block.window_attn.norm."),
    (r"channel_block\.norm1\.", "channel_block.channel_attn.norm."),
    (r"_block\.(window|channel)_attn\.(qkv|proj)\.", r"_block.\1_attn.fn.\2."),
    (r"_block\.norm2\.", "_block.ffn.norm."),
    (r"_block\.ffn\.fc", "_block.ffn.fn.net.fc"),
)
"""The way back, one after the other."""

_VISION_DEFAULTS: dict[str, Any] = {
    "dim_embed": [256, 512, 1024, 2048],
    "num_heads": [8, 16, 32, 64],
    "num_groups": [8, 16, 32, 64],
}
"""Where the original's differ from transformers'."""
_POOLING = ["spatial_avg_pool", "temporal_avg_pool"]


def is_original_config(config: Mapping[str, Any]) -> bool:
    vision, text = config.get("vision_config"), config.get("text_config")
    return (isinstance(vision, Mapping) and ("dim_embed" in vision or vision.get("model_type") == "davit")) or (
        isinstance(text, Mapping) and text.get("model_type") == "florence2_language"
    )


def are_original_names(names: Iterable[str]) -> bool:
    """Of tensors."""
    return any(name.startswith(_BEGINNINGS) for name in names)


def native_name(name: str) -> str:
    """What transformers calls a tensor, or a module with a dot behind it, of an original checkpoint.

    A name that no original has is given back as it is.
    """
    for mark, native in _NAMES:
        renamed, found = re.subn(f"^{mark}", native, name)
        if found:
            break
    else:
        return name
    if renamed.startswith("model.vision_tower.blocks."):
        for mark, native in _IN_BLOCKS:
            renamed = re.sub(mark, native, renamed)
    return renamed


def original_name(native: str) -> str:
    """The way back from `native_name`, to tell people of names that they know."""
    for mark, original in _ORIGINAL_NAMES:
        native = re.sub(mark, original, native)
    return native


def native_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """transformers' `config.json` of an original one. Raises ModelUnusable for a kind that transformers has not."""
    vision = _VISION_DEFAULTS | part_of(config, "vision_config")
    _refuse_other_kinds(vision)
    renamed = {
        "embed_dim": vision["dim_embed"],
        "max_position_embeddings": vision["image_pos_embed"].get("max_pos_embeddings", 50),
        "max_temporal_embeddings": vision["visual_temporal_embedding"].get("max_temporal_embeddings", 100),
    }
    return plain_config(vision | renamed, {"vocab_size": VOCABULARY_ROWS} | part_of(config, "text_config"))


def _refuse_other_kinds(vision: Mapping[str, Any]) -> None:
    for field, wanted in (("visual_temporal_embedding", "COSINE"), ("image_pos_embed", "learned_abs_2d")):
        found = vision.get(field)
        if not isinstance(found, Mapping) or found.get("type") != wanted:
            kind = found.get("type") if isinstance(found, Mapping) else found
            raise ModelUnusable(
                f"config.json: vision_config.{field} is {kind!r}, and only an object of type {wanted} is supported"
            )
    pooling = vision.get("image_feature_source", _POOLING)
    if pooling != _POOLING:
        raise ModelUnusable(
            f"config.json: vision_config.image_feature_source is {pooling!r}, and only {_POOLING} is supported"
        )
