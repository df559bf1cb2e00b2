"""The physical limit: how many images a second Florence-2 can answer on a device of given peaks, and why not more.

    python bench/limit.py [--models base large] [--peak-tflops 790] [--peak-gb-per-s 4300]

Two numbers describe the device: floating-point operations and bytes a second. Nothing that is computed from them can be
reached: kernels launch in no time, and caches never miss. An operation takes

    max(operations / peak, bytes / bandwidth)

where the bytes are those of the activations that it reads and writes, and of its weights divided by the batch. Biases,
activation functions and residuals are part of the product beside them; norms, which must see a whole row before the
next product begins, read and write it once. The stages run one after the other:

    vision   for each convolution, depthwise convolution, product, attention and norm of the tower, and the projector
    encoder  likewise, over image and prompt; and one product that makes the keys and values of every decoder layer
    decoder  for each token one operation, because products and reading of caches can overlap. It reads the
             cross-attention's keys and values once for all beams of a picture, those of what each beam has said once,
             the weights once for the batch, and writes and reads the logits

One picture with several prompts is looked at once; encoder and decoder work for each prompt.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ANSWER_TOKENS = {"CAPTION": 12, "OD": 80, "MORE_DETAILED_CAPTION": 100, "OCR_WITH_REGION": 150}
"""Assumed lengths of answers."""


@dataclass(frozen=True)
class Peaks:
    tflops: float
    gb_per_s: float

    def seconds(self, operations: float, read_and_written: float) -> float:
        return max(operations / (self.tflops * 1e12), read_and_written / (self.gb_per_s * 1e9))


@dataclass(frozen=True)
class Limit:
    """`config` is a Florence2Config. Results are seconds for one picture, or for one prompt of it."""

    config: Any
    peaks: Peaks
    dtype_bytes: int = 2
    beams: int = 1
    batch: int = 512
    prompt_tokens: int = 13
    picture_px: int = 768

    def images_per_s(self, answers: Sequence[float]) -> float:
        """`answers`: how many tokens each prompt's answer has."""
        return 1 / (self.vision_s() + sum(self.encoder_s() + self.decoder_s(tokens) for tokens in answers))

    def vision_s(self) -> float:
        vision = self.config.vision_config
        side, channels_in, seconds = self.picture_px, vision.in_channels, 0.0
        for stage, channels in enumerate(vision.embed_dim):
            places_in = side**2
            side = -(-side // vision.patch_stride[stage])
            patch = vision.patch_size[stage] ** 2 * channels_in
            activations = places_in * channels_in + side**2 * channels
            seconds += self._operation(2 * side**2 * channels * patch, activations, channels * patch)
            seconds += (
                self._norm(places_in, channels_in) if vision.patch_prenorm[stage] else self._norm(side**2, channels)
            )
            seconds += vision.depths[stage] * self._block_s(stage, side**2)
            channels_in = channels
        places, width = self._image_tokens(), vision.projection_dim
        return seconds + self._product(places, channels_in, width) + self._norm(places, width)

    def encoder_s(self) -> float:
        text = self.config.text_config
        tokens, width = self._context(), text.d_model
        attention = self._operation(4 * tokens**2 * width, 4 * tokens * width)
        cross = self._product(tokens, width, 2 * width * text.decoder_layers)
        layers = text.encoder_layers * self._layer(tokens, width, attention, text.encoder_ffn_dim)
        return float(self._norm(tokens, width) + layers + cross)

    def decoder_s(self, tokens: float) -> float:
        """A fraction of a token counts as a fraction of a step."""
        whole = int(tokens)
        steps = sum(self._step_s(said) for said in range(1, whole + 1))
        return steps + (tokens - whole) * self._step_s(whole + 1)

    def _block_s(self, stage: int, places: int) -> float:
        """Attention within windows and attention of channels, each with its convolutions and its feed-forward layer."""
        vision = self.config.vision_config
        channels = vision.embed_dim[stage]
        hidden = int(channels * vision.mlp_ratio)
        convolution = self._operation(2 * 9 * places * channels, 2 * places * channels)
        seconds = 0.0
        for seen in (vision.window_size**2, channels // vision.num_groups[stage]):
            attention = self._operation(4 * places * seen * channels, 4 * places * channels)
            seconds += 2 * convolution + self._layer(places, channels, attention, hidden)
        return seconds

    def _layer(self, rows: int, width: int, attention_s: float, hidden: int) -> float:
        """A transformer's layer: attention and feed-forward, each with its norm and a residual that is read again."""
        residual = rows * width
        return (
            2 * self._norm(rows, width)
            + self._product(rows, width, 3 * width)
            + attention_s
            + self._product(rows, width, width, residual)
            + self._product(rows, width, hidden)
            + self._product(rows, hidden, width, residual)
        )

    def _step_s(self, said: int) -> float:
        """One more token for every beam, of which `said` count when it is done."""
        text = self.config.text_config
        width, layers = text.d_model, text.decoder_layers
        weights = layers * (6 * width**2 + 2 * width * text.decoder_ffn_dim) + text.vocab_size * width
        cross, own = 2 * layers * width * self._context(), 2 * layers * width * said
        operations = self.beams * 2 * (weights + cross + own)
        logits = 2 * self.beams * text.vocab_size
        return self._operation(operations, cross + self.beams * own + logits, weights)

    def _product(self, rows: int, inner: int, outer: int, read_again: int = 0) -> float:
        return self._operation(2 * rows * inner * outer, rows * (inner + outer) + read_again, inner * outer)

    def _norm(self, rows: int, width: int) -> float:
        return self._operation(0, 2 * rows * width)

    def _operation(self, operations: float, activations: float, weights: float = 0) -> float:
        return self.peaks.seconds(operations, (activations + weights / self.batch) * self.dtype_bytes)

    def _image_tokens(self) -> int:
        side = self.picture_px
        for stride in self.config.vision_config.patch_stride:
            side = -(-side // stride)
        return side**2 + 1

    def _context(self) -> int:
        """Tokens that the decoder looks at: the image's and the prompt's."""
        return self._image_tokens() + self.prompt_tokens


def config_of(model: str) -> Any:
    """Of `base`, `large` or a folder."""
    from checkpoints import SIZES, make_config
    from transformers import Florence2Config

    return make_config(SIZES[model]) if model in SIZES else Florence2Config.from_pretrained(Path(model))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["base", "large"], help="base, large or a folder")
    parser.add_argument("--peak-tflops", type=float, default=790)
    parser.add_argument("--peak-gb-per-s", type=float, default=4300)
    parser.add_argument("--dtype-bytes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 3])
    options = parser.parse_args()
    peaks = Peaks(options.peak_tflops, options.peak_gb_per_s)
    table = Table(
        "model", "beams", "vision ms", "encoder ms", *(f"{task} {n}" for task, n in ANSWER_TOKENS.items()), "all four"
    )
    for model in options.models:
        config = config_of(model)
        for beams in options.beams:
            limit = Limit(config, peaks, options.dtype_bytes, beams, options.batch)
            stages = [f"{seconds * 1000:.3f}" for seconds in (limit.vision_s(), limit.encoder_s())]
            answers = [[tokens] for tokens in ANSWER_TOKENS.values()] + [list(ANSWER_TOKENS.values())]
            rates = [f"{limit.images_per_s(each):,.0f}" for each in answers]
            table.add_row(model, str(beams), *stages, *rates)
    Console(width=130).print(table, "Images a second; columns say how many tokens an answer has.")


if __name__ == "__main__":
    main()
