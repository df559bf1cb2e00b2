"""Folders with models as people have them, made at random: in transformers' layout, in Microsoft's, and adapters.

How Microsoft's layout names things stands here once more, written from its code and not from the product's table.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    BartConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2VisionConfig,
    GenerationConfig,
)

from arno_workers.tiny.tokenizer import build_tokenizer

ROWS = 51_289
"""As many as Florence-2 has tokens: there is no row for `<image>`."""
SPARE = 50_263
"""The number of a piece that no text has."""
PICTURE_PX = 64
IMAGE_TOKENS = 5

BART = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
FLORENCE = (
    *("<od>", "</od>", "<ocr>", "</ocr>", *(f"<loc_{place}>" for place in range(1000))),
    *("<cap>", "</cap>", "<ncap>", "</ncap>", "<dcap>", "</dcap>", "<grounding>", "</grounding>", "<seg>", "</seg>"),
    *("<sep>", "<region_cap>", "</region_cap>", "<region_to_desciption>", "</region_to_desciption>"),
    *("<proposal>", "</proposal>", "<poly>", "</poly>", "<and>"),
)
"""What the original processor adds, in its order."""

RULES: dict[str, Any] = {
    "bos_token_id": 0,
    "decoder_start_token_id": 2,
    "early_stopping": True,
    "eos_token_id": 2,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "no_repeat_ngram_size": 3,
    "num_beams": 3,
    "pad_token_id": 1,
}
"""Florence-2's own rules of generation."""

_ORIGINAL_NAMES = [
    (r"^lm_head\.weight$", "language_model.lm_head.weight"),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^model\.multi_modal_projector\.image_projection\.weight$", "image_projection"),
    (r"^model\.multi_modal_projector\.image_proj_norm\.", "image_proj_norm."),
    (r"^model\.multi_modal_projector\.image_position_embed\.", "image_pos_embed."),
    (r"^model\.multi_modal_projector\.visual_temporal_embed\.", "visual_temporal_embed."),
    (r"^model\.vision_tower\.convs\.(\d)\.conv\.", r"vision_tower.convs.\1.proj."),
    (r"^model\.vision_tower\.", "vision_tower."),
    (r"\.conv1\.", ".conv1.fn.dw."),
    (r"\.conv2\.", ".conv2.fn.dw."),
    (r"\.spatial_block\.norm1\.", ".spatial_block.window_attn.norm."),
    (r"\.channel_block\.norm1\.", ".channel_block.channel_attn.norm."),
    (r"\.norm2\.", ".ffn.norm."),
    (r"_attn\.qkv\.", "_attn.fn.qkv."),
    (r"(window|channel)_attn\.proj\.", r"\1_attn.fn.proj."),
    (r"\.ffn\.fc([12])\.", r".ffn.fn.net.fc\1."),
]


@dataclass(frozen=True)
class Shape:
    """A small model with the proportions of one that was published."""

    layers: int = 2
    width: int = 32
    positions: int = 1024
    tied: bool = True
    seed: int = 0
    channels: tuple[int, ...] = (8, 16, 16, 32)
    heads: tuple[int, ...] = (1, 2, 2, 4)
    depths: tuple[int, ...] = (1, 1, 2, 1)
    text_heads: int = 4
    inner: int = 2

    @property
    def vision(self) -> dict[str, Any]:
        return {
            "depths": list(self.depths),
            "embed_dim": list(self.channels),
            "num_heads": list(self.heads),
            "num_groups": list(self.heads),
            "window_size": 12,
            "projection_dim": self.width,
        }


BASE, LARGE = Shape(layers=2), Shape(layers=3, width=48, positions=4096, seed=5)

REAL_BASE = Shape(6, 768, 1024, True, 9, (128, 256, 512, 1024), (4, 8, 16, 32), (1, 1, 9, 1), 12, 4)
REAL_LARGE = Shape(12, 1024, 4096, True, 9, (256, 512, 1024, 2048), (8, 16, 32, 64), (1, 1, 9, 1), 16, 4)
"""Of the sizes that were published."""


@cache
def model_of(shape: Shape) -> Any:
    """transformers' own, in float32, the same one each time: do not change it. A picture stands in its prompt as the
    piece SPARE."""
    torch.manual_seed(shape.seed)
    model = Florence2ForConditionalGeneration(config_of(shape)).eval()
    _shake(model)
    model.generation_config = GenerationConfig(**RULES)
    return model


def config_of(shape: Shape) -> Any:
    text = BartConfig(
        vocab_size=ROWS,
        max_position_embeddings=shape.positions,
        d_model=shape.width,
        encoder_layers=shape.layers,
        decoder_layers=shape.layers,
        encoder_attention_heads=shape.text_heads,
        decoder_attention_heads=shape.text_heads,
        encoder_ffn_dim=shape.inner * shape.width,
        decoder_ffn_dim=shape.inner * shape.width,
    )
    vision = Florence2VisionConfig(**shape.vision)
    return Florence2Config(
        text_config=text.to_dict(),
        vision_config=vision.to_dict(),
        image_token_id=SPARE,
        tie_word_embeddings=shape.tied,
    )


@torch.no_grad()
def _shake(model: Any) -> None:
    """So that answers depend on their picture, waver between several tokens, and never end by themselves."""
    for name, weight in model.named_parameters():
        if weight.dim() > 1 and "embed_positions" not in name:
            gain = 2.0 if name.endswith(("q_proj.weight", "k_proj.weight")) else 1.0
            torch.nn.init.normal_(weight, std=gain * weight[0].numel() ** -0.5)
    for matrix in (model.get_input_embeddings().weight, model.lm_head.weight):
        torch.nn.init.normal_(matrix, std=6 * matrix.shape[1] ** -0.5)
        matrix[RULES["eos_token_id"]] = 0
    model.tie_weights()


@cache
def tokenizer() -> Tokenizer:
    """Of 50,265 tokens, as BART's: the bundled model's pieces, and others that no text has. Florence-2's own are not
    among them."""
    said = json.loads(build_tokenizer().backend_tokenizer.to_str())
    said["added_tokens"] = [token for token in said["added_tokens"] if token["content"] in BART]
    pieces = said["model"]["vocab"]
    spare = {SPARE - 2 + number: f"madeupword000{number}" for number in range(3)}
    pieces |= {spare.get(number, f"piece {number}"): number for number in range(len(pieces), ROWS - 1024)}
    return Tokenizer.from_str(json.dumps(said))


def whole_tokenizer() -> Tokenizer:
    """With Florence-2's own tokens, as a fine-tune is saved, and `<image>` behind them."""
    whole = Tokenizer.from_str(tokenizer().to_str())
    whole.add_special_tokens([*FLORENCE, "<image>"])
    return whole


def tensors_of(shape: Shape) -> dict[str, Tensor]:
    """By transformers' names, each once."""
    state = dict(model_of(shape).state_dict())
    for copy in ("encoder", "decoder"):
        del state[f"model.language_model.{copy}.embed_tokens.weight"]
    if shape.tied:
        del state["lm_head.weight"]
    return state


def original_name(name: str) -> str:
    for native, original in _ORIGINAL_NAMES:
        name = re.sub(native, original, name)
    return name


def original_tensors(shape: Shape) -> dict[str, Tensor]:
    """By the names of Microsoft's code."""
    renamed = {original_name(name): tensor.clone() for name, tensor in tensors_of(shape).items()}
    renamed["image_projection"] = renamed["image_projection"].t().contiguous()
    renamed["language_model.final_logits_bias"] = torch.zeros(1, ROWS)
    return renamed


def original_config(shape: Shape) -> dict[str, Any]:
    native = model_of(shape).config.to_dict()
    text, vision = native["text_config"], shape.vision
    fields = ("d_model", "encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads")
    return {
        "model_type": "florence2",
        "auto_map": {"AutoConfig": "configuration_florence2.Florence2Config"},
        "vocab_size": ROWS,
        "projection_dim": shape.width,
        "is_encoder_decoder": True,
        "torch_dtype": "float16",
        "text_config": {
            **{name: text[name] for name in (*fields, "encoder_ffn_dim", "decoder_ffn_dim", "max_position_embeddings")},
            **RULES,
            "vocab_size": ROWS,
            "activation_function": "gelu",
            "add_bias_logits": False,
            "normalize_before": False,
            "num_hidden_layers": shape.layers,
            "is_encoder_decoder": True,
        },
        "vision_config": {
            "model_type": "davit",
            "drop_path_rate": 0.1,
            "patch_size": [7, 3, 3, 3],
            "patch_stride": [4, 2, 2, 2],
            "patch_padding": [3, 1, 1, 1],
            "patch_prenorm": [False, True, True, True],
            "enable_checkpoint": False,
            "dim_embed": vision["embed_dim"],
            **{name: vision[name] for name in ("depths", "num_heads", "num_groups", "window_size", "projection_dim")},
            "visual_temporal_embedding": {"type": "COSINE", "max_temporal_embeddings": 100},
            "image_pos_embed": {"type": "learned_abs_2d", "max_pos_embeddings": 50},
            "image_feature_source": ["spatial_avg_pool", "temporal_avg_pool"],
        },
    }


def image_processor() -> dict[str, Any]:
    side = {"height": PICTURE_PX, "width": PICTURE_PX}
    return {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "Florence2Processor",
        "do_convert_rgb": None,
        "do_center_crop": False,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "crop_size": side,
        "size": side,
        "image_seq_length": IMAGE_TOKENS,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
    }


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value))


def change_json(path: Path, **fields: Any) -> None:
    """None takes a field away."""
    changed = json.loads(path.read_text()) | fields
    write_json(path, {name: value for name, value in changed.items() if value is not None})


def make_original(folder: Path, shape: Shape = BASE) -> Path:
    """As Microsoft published its own: one matrix where the head is tied, a tokenizer without Florence-2's tokens."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", original_config(shape))
    write_json(folder / "generation_config.json", RULES)
    make_processor(folder)
    save_file(original_tensors(shape), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_processor(folder: Path) -> Path:
    """The files of tokenizer and image processor."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "preprocessor_config.json", image_processor())
    write_json(folder / "tokenizer_config.json", {"model_max_length": 1024})
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def prompt_ids(sentence: str) -> list[int]:
    """As the original processor cuts it, which adds Florence-2's tokens, each special, in their order."""
    whole = Tokenizer.from_str(tokenizer().to_str())
    whole.add_special_tokens(list(FLORENCE))
    ids: list[int] = whole.encode(f"<s>{sentence}</s>", add_special_tokens=False).ids
    return ids


@torch.inference_mode()
def generated(model: Any, pixels: Tensor, sentence: str, **options: Any) -> list[int]:
    """What transformers answers to one picture, 1 × 3 × height × width, normalised; without the start token."""
    ids = torch.tensor([[SPARE] * IMAGE_TOKENS + prompt_ids(sentence)])
    asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    answer: list[int] = model.generate(**asked, **options)[0].tolist()
    return answer[1:]


HIT = ("q_proj", "k_proj", "v_proj", "fc2", "lm_head")
"""What the common recipe of fine-tuning hits."""


def make_adapter(
    folder: Path,
    shape: Shape = BASE,
    *,
    hit: tuple[str, ...] = HIT,
    ranks: Mapping[str, int] | None = None,
    **config: Any,
) -> Path:
    """As PEFT saves one that was trained on Microsoft's code. `ranks`: of modules whose names end so."""
    folder.mkdir(parents=True)
    whole = {
        "peft_type": "LORA",
        "base_model_name_or_path": "microsoft/Florence-2-base-ft",
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": False,
        "use_dora": False,
        "bias": "none",
        "modules_to_save": None,
        "rank_pattern": dict(ranks or {}),
        "alpha_pattern": {},
        **config,
    }
    write_json(folder / "adapter_config.json", whole)
    random = torch.Generator().manual_seed(shape.seed + 1)
    factors = {}
    tensors = {"language_model.lm_head.weight": torch.empty(ROWS, shape.width), **original_tensors(shape)}
    for name, tensor in tensors.items():
        module = name.removesuffix(".weight")
        if name != module and module.endswith(hit) and tensor.dim() == 2:
            rank = next((rank for end, rank in (ranks or {}).items() if module.endswith(end)), whole["r"])
            down, up = (
                torch.randn(size, generator=random) for size in ((rank, tensor.shape[1]), (tensor.shape[0], rank))
            )
            factors[f"base_model.model.{module}.lora_A.weight"] = down * 0.3
            factors[f"base_model.model.{module}.lora_B.weight"] = up * 0.3
    save_file(factors, folder / "adapter_model.safetensors")
    return folder
