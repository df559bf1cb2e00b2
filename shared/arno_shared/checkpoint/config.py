"""What of a model's `config.json` counts: sizes and kinds of layers. All else is about who saved it, and how."""

from collections.abc import Mapping
from typing import Any

from arno_shared.checkpoint.files import CONFIG
from arno_shared.errors import ModelUnusable

_VISION_FIELDS = (
    *("in_channels", "depths", "patch_size", "patch_stride", "patch_padding", "patch_prenorm", "embed_dim"),
    *("num_heads", "num_groups", "window_size", "drop_path_rate", "mlp_ratio", "qkv_bias", "activation_function"),
    *("projection_dim", "max_temporal_embeddings", "max_position_embeddings", "initializer_range"),
)
_TEXT_FIELDS = (
    *("vocab_size", "max_position_embeddings", "d_model", "activation_function", "scale_embedding", "init_std"),
    *("encoder_layers", "encoder_ffn_dim", "encoder_attention_heads", "encoder_layerdrop"),
    *("decoder_layers", "decoder_ffn_dim", "decoder_attention_heads", "decoder_layerdrop"),
    *("dropout", "attention_dropout", "activation_dropout", "classifier_dropout", "use_cache"),
    *("bos_token_id", "pad_token_id", "eos_token_id", "decoder_start_token_id", "forced_eos_token_id"),
)


def part_of(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One of its two parts, empty where it is left out. Raises ModelUnusable when it is no object."""
    part = config.get(name)
    if part is not None and not isinstance(part, Mapping):
        raise ModelUnusable(f"{CONFIG}: {name} is {part!r}, and no object")
    return dict(part or {})


def plain_config(vision: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    """Whole, in transformers' form."""
    return {
        "architectures": ["Florence2ForConditionalGeneration"],
        "model_type": "florence2",
        "is_encoder_decoder": True,
        "vision_config": {name: vision[name] for name in _VISION_FIELDS if vision.get(name) is not None}
        | {"model_type": "florence_vision"},
        # Whether the head is tied is said above it: this is of BART's own, which shares its embeddings.
        "text_config": {name: text[name] for name in _TEXT_FIELDS if text.get(name) is not None}
        | {"model_type": "bart", "is_encoder_decoder": True, "tie_word_embeddings": True},
    }
