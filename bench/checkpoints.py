"""Makes checkpoints with random weights and the real sizes of Florence-2, for measuring where there is no hub.

    python bench/checkpoints.py base|large|tiny [FOLDER]

Everything a speed depends on is as in the published checkpoints: layers, widths, positions (1,024 in base, 4,096 in
large), 768 × 768 pixels, three beams without repeated 3-grams, and a vocabulary of 51,290 tokens in a table of 51,328
rows. The tokenizer is a stand-in of that size that has Florence-2's own tokens, and cuts its prompts as finely. Weights
are drawn from a seed, and scaled so that an answer depends on its picture and one token is clearly the likeliest; the
end token never is, so that an answer has as many tokens as it may.
"""

import argparse
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import nn
from transformers import (
    BartConfig,
    BartTokenizer,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Florence2VisionConfig,
    GenerationConfig,
)

from arno_workers.engine.checkpoint.locate import BUNDLED
from arno_workers.tiny.tokenizer import build_tokenizer

CACHE = Path("~/.cache/arno/bench")
_PIECES = 50_265
_VOCABULARY_MULTIPLE = 64
_BICUBIC = 3

_LOGIT_SPREAD = 6.0
"""Standard deviation of the logits: with less, random weights waver between tokens as no trained model does."""
_ATTENTION_GAIN = 2.0
"""Of queries and keys: with less, random attention is a mean over the picture, and all pictures look the same."""


@dataclass(frozen=True)
class Size:
    channels: tuple[int, ...]
    heads: tuple[int, ...]
    width: int
    layers: int
    text_heads: int
    positions: int
    picture_px: int = 768

    @property
    def image_tokens(self) -> int:
        """The tower halves a picture five times; one token more is the mean of all."""
        return (self.picture_px // 32) ** 2 + 1


SIZES = {
    "base": Size((128, 256, 512, 1024), (4, 8, 16, 32), 768, 6, 12, 1024),
    "large": Size((256, 512, 1024, 2048), (8, 16, 32, 64), 1024, 12, 16, 4096),
    "tiny": Size((8, 16, 32, 64), (1, 2, 4, 8), 32, 1, 4, 1024, picture_px=192),
}
"""`tiny` is nobody's: it takes what the others take, and answers at once."""


def cached(name: str, folder: Path | None = None) -> Path:
    """The folder of a checkpoint of that size, which is made if it is not there yet."""
    folder = (folder or CACHE / f"florence-2-{name}-random").expanduser()
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            make(SIZES[name], partial)
            # Renamed when it is whole, so that an interrupted one is never taken for a checkpoint.
            os.replace(partial, folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def make(size: Size, folder: Path) -> None:
    parsers = json.loads((BUNDLED / "arno-tiny/processor_config.json").read_text())["post_processor_config"]
    processor = Florence2Processor(_image_processor(size), make_tokenizer(), post_processor_config=parsers)
    processor.save_pretrained(folder)
    make_model(size, len(processor.tokenizer), processor.image_token_id).to(torch.bfloat16).save_pretrained(folder)


def make_config(size: Size, tokens: int = 51_290, image_token_id: int = 51_289) -> Any:
    text = BartConfig(
        vocab_size=-(-tokens // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE,
        max_position_embeddings=size.positions,
        d_model=size.width,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_attention_heads=size.text_heads,
        decoder_attention_heads=size.text_heads,
        encoder_ffn_dim=4 * size.width,
        decoder_ffn_dim=4 * size.width,
    )
    vision = Florence2VisionConfig(
        embed_dim=size.channels, num_heads=size.heads, num_groups=size.heads, projection_dim=size.width
    )
    return Florence2Config(text_config=text.to_dict(), vision_config=vision.to_dict(), image_token_id=image_token_id)


def make_model(size: Size, tokens: int, image_token_id: int, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = Florence2ForConditionalGeneration(make_config(size, tokens, image_token_id)).eval()
    _initialise(model)
    model.generation_config = GenerationConfig(
        num_beams=3,
        early_stopping=True,
        no_repeat_ngram_size=3,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
    )
    return model


def make_tokenizer() -> BartTokenizer:
    """The bundled model's, its vocabulary filled up with pieces that no text has."""
    bundled = build_tokenizer()
    model = json.loads(bundled.backend_tokenizer.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    for number in range(len(vocabulary), _PIECES):
        vocabulary[f"piece {number}"] = number
    own = sorted(bundled.get_added_vocab().items(), key=lambda item: item[1])
    special = [token for token, _ in own if token not in vocabulary and token != "<image>"]
    tokenizer = BartTokenizer(
        vocab=vocabulary,
        merges=[tuple(merge) for merge in model["merges"]],
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=1024,
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in special], special_tokens=True)
    return tokenizer


def _image_processor(size: Size) -> Any:
    side = {"height": size.picture_px, "width": size.picture_px}
    return CLIPImageProcessorPil(
        size=side,
        crop_size=side,
        do_center_crop=False,
        resample=_BICUBIC,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        image_seq_length=size.image_tokens,
    )


@torch.no_grad()
def _initialise(model: Any) -> None:
    """Every layer keeps the scale of what it is given, so that nothing vanishes and nothing overflows."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            gain = _ATTENTION_GAIN if name.endswith(("q_proj", "k_proj")) else 1.0
            nn.init.normal_(module.weight, std=gain * module.in_features**-0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.02)
        elif isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    embeddings = model.get_input_embeddings().weight
    nn.init.normal_(embeddings, std=_LOGIT_SPREAD * embeddings.shape[1] ** -0.5)
    # A logit of 0, in the midst of fifty thousand others: never among the best.
    embeddings[model.config.text_config.eos_token_id] = 0
    model.tie_weights()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=sorted(SIZES))
    parser.add_argument("folder", type=Path, nargs="?", help=f"default: below {CACHE}")
    options = parser.parse_args()
    print(cached(options.size, options.folder))


if __name__ == "__main__":
    main()
