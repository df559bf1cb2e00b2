"""Florence-2 models of shapes that nobody trains, and what transformers answers with any model.

Their weights are random, norms and biases included, so that whatever is left out of a computation shows. They are wide
enough that two candidates are hardly ever as good as each other: what they say is nonsense, but the same everywhere.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    BartConfig,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Florence2VisionConfig,
    GenerationConfig,
)

from arno_workers.engine.checkpoint.locate import BUNDLED

TINY = BUNDLED / "arno-tiny"


@dataclass(frozen=True, eq=False)
class OddModel:
    name: str
    height: int
    width: int
    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    generation: Mapping[str, Any] = field(default_factory=dict)
    tied: bool = True
    """The head is the embedding."""
    ends: float = 3
    """How loud the end tokens are, so that answers end now and then."""

    def __str__(self) -> str:
        return self.name


ODD_MODELS = [
    OddModel(
        "ragged windows, several ends",
        44,
        44,
        {
            "depths": [1, 1, 2, 1],
            "patch_stride": [4, 2, 2, 1],
            "embed_dim": [12, 24, 40, 64],
            "num_heads": [2, 3, 5, 4],
            "num_groups": [3, 2, 4, 8],
            "window_size": 4,
            "mlp_ratio": 1.5,
            "activation_function": "gelu",
            "drop_path_rate": 0.2,
        },
        {
            "d_model": 48,
            "encoder_layers": 1,
            "decoder_layers": 3,
            "encoder_attention_heads": 3,
            "decoder_attention_heads": 6,
            "encoder_ffn_dim": 20,
            "decoder_ffn_dim": 70,
            "activation_function": "gelu",
            "vocab_size": 1752,
            "max_position_embeddings": 90,
        },
        {"num_beams": 2, "no_repeat_ngram_size": 2, "eos_token_id": [2, 319, 1622], "decoder_start_token_id": 0},
        ends=0.75,
    ),
    OddModel(
        "wide picture, scaled embeddings",
        40,
        76,
        {
            "depths": [1, 2, 1],
            "patch_size": [5, 2, 3],
            "patch_stride": [3, 2, 1],
            "patch_padding": [2, 0, 1],
            "patch_prenorm": [True, False, True],
            "embed_dim": [8, 20, 32],
            "num_heads": [1, 4, 8],
            "num_groups": [4, 5, 1],
            "window_size": 5,
            "mlp_ratio": 2.5,
            "activation_function": "relu",
            "qkv_bias": False,
        },
        {
            "d_model": 64,
            "encoder_layers": 3,
            "decoder_layers": 1,
            "encoder_attention_heads": 8,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 96,
            "decoder_ffn_dim": 32,
            "activation_function": "relu",
            "scale_embedding": True,
            "vocab_size": 1792,
            "max_position_embeddings": 200,
        },
        {
            "num_beams": 4,
            "early_stopping": True,
            "no_repeat_ngram_size": 3,
            "forced_bos_token_id": 0,
            "forced_eos_token_id": 2,
        },
    ),
    OddModel(
        "no blocks, no layers in the encoder, a head of its own",
        30,
        24,
        {
            "depths": [0, 0],
            "patch_size": [7, 3],
            "patch_stride": [4, 2],
            "patch_padding": [3, 1],
            "patch_prenorm": [False, True],
            "embed_dim": [6, 10],
            "num_heads": [1, 1],
            "num_groups": [1, 1],
            "window_size": 3,
        },
        {
            "d_model": 32,
            "encoder_layers": 0,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 1,
            "encoder_ffn_dim": 8,
            "decoder_ffn_dim": 64,
            "activation_function": "gelu",
            "vocab_size": 1856,
            "max_position_embeddings": 128,
        },
        {"num_beams": 1, "forced_eos_token_id": 2, "no_repeat_ngram_size": 3},
        tied=False,
    ),
    OddModel(
        "one stage, windows larger than the map",
        33,
        21,
        {
            "depths": [3],
            "patch_size": [4],
            "patch_stride": [4],
            "patch_padding": [0],
            "patch_prenorm": [False],
            "embed_dim": [30],
            "num_heads": [5],
            "num_groups": [6],
            "window_size": 12,
            "mlp_ratio": 4.0,
            "activation_function": "gelu",
        },
        {
            "d_model": 40,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 5,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 40,
            "decoder_ffn_dim": 40,
            "activation_function": "gelu",
            "scale_embedding": True,
            "vocab_size": 1746,
            "max_position_embeddings": 150,
        },
        {"num_beams": 3, "early_stopping": "never", "length_penalty": 0.6, "forced_bos_token_id": 7},
    ),
]
"""All of them know the bundled model's vocabulary, whose 1,746 tokens are no multiple of 64."""

_LITTLE_VISION = {
    "depths": [0],
    "patch_size": [4],
    "patch_stride": [4],
    "patch_padding": [0],
    "patch_prenorm": [False],
    "embed_dim": [4],
    "num_heads": [1],
    "num_groups": [1],
}


def _babbler(name: str, text: Mapping[str, Any], ends: Sequence[int], loud: float, tied: bool = True) -> OddModel:
    layers = {"encoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 24, "max_position_embeddings": 40}
    return OddModel(name, 8, 8, _LITTLE_VISION, {**layers, **text}, {"eos_token_id": list(ends)}, tied, loud)


BABBLERS = [
    _babbler(
        "64 tokens, two ends",
        {
            "d_model": 24,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 3,
            "activation_function": "gelu",
            "vocab_size": 64,
        },
        ends=[2, 40],
        loud=0.5,
    ),
    _babbler(
        "65 tokens, five ends",
        {
            "d_model": 32,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 8,
            "activation_function": "relu",
            "scale_embedding": True,
            "vocab_size": 65,
        },
        ends=[3, 17, 33, 51, 64],
        loud=0.9,
        tied=False,
    ),
    _babbler(
        "191 tokens, one end",
        {
            "d_model": 20,
            "decoder_layers": 3,
            "encoder_attention_heads": 5,
            "decoder_attention_heads": 1,
            "activation_function": "gelu",
            "vocab_size": 191,
            "max_position_embeddings": 160,
        },
        ends=[8],
        loud=1.3,
    ),
]
"""Models of next to no vision and of few words, which end what they say now and then."""

_STAGES = {"patch_size": [7, 3, 3, 3], "patch_padding": [3, 1, 1, 1], "patch_prenorm": [False, True, True, True]}


@cache
def build(odd: OddModel) -> Any:
    """The model, the same one each time: do not change it."""
    width = odd.text["d_model"]
    tokens: dict[str, Any] = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    config = Florence2Config(
        vision_config=Florence2VisionConfig(**{**_STAGES, "projection_dim": width, **odd.vision}),
        text_config=BartConfig(**{**tokens, **odd.text}),
        image_token_id=min(721, odd.text["vocab_size"] - 1),
        tie_word_embeddings=odd.tied,
    )
    model: Any = Florence2ForConditionalGeneration(config)
    _shake(model, seed=sum(map(ord, odd.name)))
    rules: dict[str, Any] = {**tokens, "max_length": None, **odd.generation}
    with torch.no_grad():
        model.lm_head.weight[rules["eos_token_id"]] *= odd.ends
    model.generation_config = GenerationConfig(**rules)
    return model.eval()


@torch.no_grad()
def _shake(model: Any, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=random)
        if weight.dim() == 1:
            weight += 0.3 * noise
        elif "embed" in name or "shared" in name:
            weight.copy_(noise * 2 / weight.shape[-1] ** 0.5)
        else:
            weight.copy_(noise * (2 if "language" in name else 1.5) / weight[0].numel() ** 0.5)


def image_tokens(odd: OddModel) -> int:
    pixels = torch.zeros(1, 3, odd.height, odd.width)
    with torch.inference_mode():
        return int(build(odd).get_image_features(pixels).pooler_output.shape[1])


def save(odd: OddModel, folder: Path) -> Path:
    """A folder as `from_pretrained` takes it, with the bundled model's tokenizer."""
    bundled: Any = Florence2Processor.from_pretrained(TINY)
    bundled.image_processor.size = {"height": odd.height, "width": odd.width}
    bundled.image_processor.image_seq_length = image_tokens(odd)
    processor: Any = Florence2Processor(
        bundled.image_processor, bundled.tokenizer, post_processor_config=bundled.post_processor_config
    )
    build(odd).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def with_generation(source: Path, folder: Path, **changes: Any) -> Path:
    """The same model with other settings of generation; None removes one."""
    folder.mkdir(parents=True)
    for file in source.iterdir():
        (folder / file.name).symlink_to(file)
    rules = json.loads((source / "generation_config.json").read_text()) | changes
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").write_text(
        json.dumps({name: value for name, value in rules.items() if value is not None})
    )
    return folder


@dataclass(frozen=True)
class Expected:
    """What `model.generate` answers."""

    ids: tuple[int, ...]
    """Without the start token and without padding."""
    logprobs: tuple[float, ...]
    """Of each token, 0 where it was forced."""
    forced: int
    sequence_score: float | None
    """None for greedy search, which gives none."""
    steps: int
    """Tokens until the search was over, for all that were searched together."""

    @property
    def score(self) -> float | None:
        chosen = len(self.ids) - self.forced
        return sum(self.logprobs) / chosen if chosen else None


@torch.inference_mode()
def generate(model: Any, **inputs: Any) -> list[Expected]:
    """`model.generate`, its answers one by one."""
    out = model.generate(**inputs, return_dict_in_generate=True, output_scores=True, output_logits=True)
    rules: Any = GenerationConfig.from_dict({**model.generation_config.to_dict(), **_rules_in(inputs)})
    ends = rules.eos_token_id if isinstance(rules.eos_token_id, list) else [rules.eos_token_id]
    answers = []
    if "beam_indices" in out:
        scores = model.compute_transition_scores(out.sequences, out.scores, out.beam_indices)
        lengths = (out.beam_indices >= 0).sum(1).tolist()
        sequence_scores = out.sequences_scores.tolist()
    else:
        # Of greedy search, transformers gives logits, from which what may not be said twice has gone.
        scores = _greedy_logprobs(out.sequences[:, 1:], torch.stack(out.logits, 1))
        lengths = [_length(ids[1:].tolist(), ends) for ids in out.sequences]
        sequence_scores = [None] * len(lengths)
    limit = (rules.max_new_tokens + 1) if rules.max_new_tokens is not None else rules.max_length
    for ids, logprobs, length, score in zip(
        out.sequences[:, 1:].tolist(), scores.tolist(), lengths, sequence_scores, strict=True
    ):
        ids, logprobs = ids[:length], logprobs[:length]
        forced = _forced(rules, length, limit)
        for place in forced:
            logprobs[place] = 0.0
        answers.append(Expected(tuple(ids), tuple(logprobs), len(forced), score, len(out.scores)))
    return answers


def _rules_in(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if hasattr(GenerationConfig(), name)}


def _greedy_logprobs(ids: Tensor, logits: Tensor) -> Tensor:
    return logits.float().log_softmax(-1).gather(2, ids[..., None]).squeeze(2)


def _length(ids: Sequence[int], ends: Sequence[int]) -> int:
    return next((place + 1 for place, token in enumerate(ids) if token in ends), len(ids))


def _forced(rules: Any, length: int, limit: int) -> list[int]:
    places = {0} if rules.forced_bos_token_id is not None else set()
    if rules.forced_eos_token_id is not None and length == limit - 1:
        places.add(length - 1)
    return sorted(places)


class Reference:
    """transformers' own model and processor, from the folder that the replica is given."""

    def __init__(self, folder: Path) -> None:
        self.processor: Any = Florence2Processor.from_pretrained(folder)
        self.model: Any = Florence2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()

    def answers(self, pictures: Sequence[Image.Image], texts: Sequence[str], **options: Any) -> list[Expected]:
        """To one prompt for each picture, all at once; texts as transformers takes them, of equally many tokens."""
        inputs = self.processor(text=list(texts), images=list(pictures), return_tensors="pt")
        return generate(self.model, **inputs, **options)
