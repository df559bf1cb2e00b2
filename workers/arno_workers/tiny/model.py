"""The shape of arno-tiny, and a fresh one to train."""

import math

import torch
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartTokenizer,
    CLIPImageProcessor,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Florence2VisionConfig,
    GenerationConfig,
)

from arno_workers.tiny.tokenizer import LOCATION_BINS, build_tokenizer, first_location

PICTURE_PX = 128
GRID = 8
# One token per grid cell, and before them their mean.
IMAGE_TOKENS = GRID * GRID + 1
WIDTH = 128
_LONGEST_TEXT = 1152

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
# Bicubic, Pillow's number for it.
_RESAMPLE = 3

_BANNED_PHRASES = ["it", "they", "this", "that", "the image", "image", "images", "the", "a", "an", "a group", "a set"]
_PARSERS: dict[str, dict[str, object]] = {
    "ocr": {"pattern": "(.+?)" + r"<loc_(\d+)>" * 8, "area_threshold": 0.0},
    "phrase_grounding": {"banned_grounding_tokens": _BANNED_PHRASES},
    "pure_text": {},
    "description_with_bboxes": {},
    "description_with_polygons": {},
    "polygons": {},
    "bboxes": {},
    "description_with_bboxes_or_polygons": {},
}


def build_processor() -> Florence2Processor:
    side = {"height": PICTURE_PX, "width": PICTURE_PX}
    pictures = CLIPImageProcessor(
        size=side,
        crop_size=side,
        do_center_crop=False,
        resample=_RESAMPLE,
        image_mean=list(IMAGE_MEAN),
        image_std=list(IMAGE_STD),
        image_seq_length=IMAGE_TOKENS,
    )
    return Florence2Processor(pictures, build_tokenizer(), post_processor_config=_PARSERS)


def build_model(tokenizer: BartTokenizer) -> Florence2ForConditionalGeneration:
    """An untrained model with the architecture of Florence-2 and room for this tokenizer's pieces."""
    text = BartConfig(
        vocab_size=len(tokenizer),
        d_model=WIDTH,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=2 * WIDTH,
        decoder_ffn_dim=4 * WIDTH,
        max_position_embeddings=_LONGEST_TEXT,
        activation_function="relu",
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        decoder_start_token_id=2,
    )
    vision = Florence2VisionConfig(
        depths=(0, 2, 1, 1),
        patch_stride=(4, 2, 2, 1),
        embed_dim=(48, 64, 96, 128),
        num_heads=(3, 4, 6, 8),
        num_groups=(3, 4, 6, 8),
        window_size=GRID,
        mlp_ratio=2.0,
        drop_path_rate=0.0,
        activation_function="relu",
        projection_dim=WIDTH,
    )
    config = Florence2Config(
        text_config=text.to_dict(), vision_config=vision.to_dict(), image_token_id=tokenizer.image_token_id
    )
    model = Florence2ForConditionalGeneration(config)
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        num_beams=3,
        no_repeat_ngram_size=3,
        early_stopping=True,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        max_length=_LONGEST_TEXT,
    )
    _initialise(model, first_location(tokenizer))
    return model


def _initialise(model: Florence2ForConditionalGeneration, locations_from: int) -> None:
    """Replaces the customary tiny random weights, from which so narrow a model hardly moves."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    vocabulary = model.get_input_embeddings()
    assert isinstance(vocabulary, nn.Embedding)
    with torch.no_grad():
        nn.init.normal_(vocabulary.weight, std=WIDTH**-0.5)
        vocabulary.weight[locations_from : locations_from + LOCATION_BINS] = _location_features()
    model.tie_weights()


def _location_features() -> Tensor:
    """Embeddings of shape (bins, width) that make neighbouring bins alike, so a coordinate is learned as a number."""
    positions = (torch.arange(LOCATION_BINS) + 0.5) / LOCATION_BINS
    waves = torch.linspace(0.25, 16, WIDTH // 2)
    angles = 2 * math.pi * positions[:, None] * waves
    return torch.cat([angles.sin(), angles.cos()], dim=1).div(WIDTH**0.5)
