"""Microsoft's names and settings become transformers', one by one, and what has no counterpart is refused."""

from typing import Any

import pytest

from arno_shared.checkpoint.original import (
    are_original_names,
    is_original_config,
    native_config,
    native_name,
    original_name,
)
from arno_shared.checkpoint.shapes import expected_shapes
from arno_shared.errors import ModelUnusable
from tests.checkpoints import BASE, model_of, original_config, original_tensors, tensors_of
from tests.checkpoints import original_name as theirs

_IN_BLOCKS = {
    "spatial_block.conv1.fn.dw.weight": "spatial_block.conv1.weight",
    "channel_block.conv2.fn.dw.bias": "channel_block.conv2.bias",
    "spatial_block.window_attn.norm.weight": "spatial_block.norm1.weight",
    "channel_block.channel_attn.norm.bias": "channel_block.norm1.bias",
    "spatial_block.window_attn.fn.qkv.weight": "spatial_block.window_attn.qkv.weight",
    "channel_block.channel_attn.fn.proj.bias": "channel_block.channel_attn.proj.bias",
    "channel_block.ffn.norm.weight": "channel_block.norm2.weight",
    "spatial_block.ffn.fn.net.fc1.weight": "spatial_block.ffn.fc1.weight",
    "spatial_block.ffn.fn.net.fc2.bias": "spatial_block.ffn.fc2.bias",
}
_IN_PROJECTOR = {
    "image_projection": "image_projection.weight",
    "image_proj_norm.weight": "image_proj_norm.weight",
    "image_pos_embed.row_embeddings.weight": "image_position_embed.row_embeddings.weight",
    "image_pos_embed.column_embeddings.weight": "image_position_embed.column_embeddings.weight",
    "visual_temporal_embed.pos_idx_to_embed": "visual_temporal_embed.pos_idx_to_embed",
}
_IN_TEXT = (
    *("shared.weight", "encoder.embed_tokens.weight", "decoder.layers.5.fc1.weight"),
    "encoder.layers.0.self_attn.out_proj.bias",
)
NAMES = {
    "vision_tower.convs.0.proj.weight": "model.vision_tower.convs.0.conv.weight",
    "vision_tower.convs.3.norm.bias": "model.vision_tower.convs.3.norm.bias",
    **{f"vision_tower.blocks.2.8.{a}": f"model.vision_tower.blocks.2.8.{b}" for a, b in _IN_BLOCKS.items()},
    **{a: f"model.multi_modal_projector.{b}" for a, b in _IN_PROJECTOR.items()},
    **{f"language_model.model.{name}": f"model.language_model.{name}" for name in _IN_TEXT},
    "language_model.lm_head.weight": "lm_head.weight",
}


@pytest.mark.parametrize("original", NAMES)
def test_a_name_becomes_transformers(original: str) -> None:
    assert native_name(original) == NAMES[original]
    assert original_name(NAMES[original]) == original


def test_every_tensor_of_a_model_is_renamed_and_back() -> None:
    names = list(tensors_of(BASE))
    assert [native_name(theirs(name)) for name in names] == names
    assert [original_name(name) for name in names] == [theirs(name) for name in names]


@pytest.mark.parametrize(
    "name", [*NAMES.values(), "module.vision_tower.convs.0.proj.weight", "lm_head.weight", "model.x"]
)
def test_a_name_that_is_no_original_s_stays(name: str) -> None:
    assert native_name(name) == name


def test_layouts_are_told_by_their_names() -> None:
    assert are_original_names(original_tensors(BASE))
    assert not are_original_names(tensors_of(BASE))


@pytest.mark.parametrize(
    ("vision", "text", "is_original"),
    [
        ({"model_type": "davit", "dim_embed": [1]}, {}, True),
        ({"model_type": "", "dim_embed": [1]}, {"model_type": "florence2_language"}, True),
        ({"model_type": "davit"}, {}, True),
        ({}, {"model_type": "florence2_language"}, True),
        ({"model_type": "florence_vision", "embed_dim": [1]}, {"model_type": "bart"}, False),
        ({}, {}, False),
        (None, None, False),
    ],
)
def test_a_configuration_is_recognised_by_its_marks(vision: Any, text: Any, is_original: bool) -> None:
    assert is_original_config({"vision_config": vision, "text_config": text}) is is_original


def test_a_configuration_says_the_same_in_transformers_words() -> None:
    native = native_config(original_config(BASE))
    assert native["model_type"] == "florence2"
    assert native["text_config"]["model_type"] == "bart"
    assert native["vision_config"]["model_type"] == "florence_vision"
    assert "add_bias_logits" not in native["text_config"]
    assert expected_shapes(native) == expected_shapes(model_of(BASE).config.to_dict())


def test_what_a_configuration_leaves_out_is_microsoft_s_default() -> None:
    config = original_config(BASE)
    for field in ("dim_embed", "num_heads", "num_groups"):
        del config["vision_config"][field]
    del config["text_config"]["vocab_size"]
    native = native_config(config)
    assert native["vision_config"]["embed_dim"] == [256, 512, 1024, 2048]
    assert native["vision_config"]["num_heads"] == native["vision_config"]["num_groups"] == [8, 16, 32, 64]
    assert native["text_config"]["vocab_size"] == 51289


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (
            "visual_temporal_embedding",
            {"type": "LEARNED"},
            "visual_temporal_embedding is 'LEARNED', and only an object of type COSINE",
        ),
        ("image_pos_embed", {"type": "none"}, "image_pos_embed is 'none', and only an object of type learned_abs_2d"),
        ("image_pos_embed", None, "image_pos_embed is None"),
        ("image_pos_embed", "learned_abs_2d", "image_pos_embed is 'learned_abs_2d', and only an object"),
        ("image_feature_source", None, "image_feature_source is None"),
        ("image_feature_source", ["last_frame"], r"image_feature_source is \['last_frame'\]"),
        ("image_feature_source", ["temporal_avg_pool", "spatial_avg_pool"], "image_feature_source"),
    ],
)
def test_a_kind_that_transformers_has_not_is_refused(field: str, value: Any, words: str) -> None:
    config = original_config(BASE)
    config["vision_config"][field] = value
    with pytest.raises(ModelUnusable, match=words):
        native_config(config)
