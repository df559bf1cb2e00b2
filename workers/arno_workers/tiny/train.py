"""Trains arno-tiny from nothing: `python -m arno_workers.tiny.train --steps 4000 --out models/arno-tiny`."""

import argparse
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from arno_workers.tiny.lessons import Lesson, Lessons
from arno_workers.tiny.losses import HintHeads, answer_loss
from arno_workers.tiny.model import IMAGE_MEAN, IMAGE_STD, WIDTH, build_model, build_processor

# Scenes below this seed are kept for evaluation.
FIRST_TRAINING_SEED = 1_000_000
_BLURS = (24.0, 4.0)
_WARM_UP = 0.03
_REPORT_EVERY = 50


@dataclass(frozen=True)
class Plan:
    seed: int
    steps: int
    minutes: float
    batch: int
    rate: float
    save_every: int
    out: Path
    start: Path | None


class Pupil(nn.Module):
    """The model together with the hint heads that it sheds afterwards."""

    def __init__(self, model: Florence2ForConditionalGeneration, first_location: int, padding: int) -> None:
        super().__init__()
        self.model = model
        self.heads = HintHeads(WIDTH)
        self.first_location = first_location
        self.padding = padding

    def forward(self, lesson: Lesson, blur: float) -> tuple[Tensor, Tensor]:
        """The losses of the answers and of the hints. Each picture is looked at once for all its questions."""
        pictures = normalise(lesson.pixels)
        seen: Tensor = self.model.get_image_features(pictures).pooler_output
        tasks = len(lesson.prompts) // len(seen)
        embedded = self.model.get_input_embeddings()(lesson.prompts)
        asked = torch.cat([seen.repeat(tasks, 1, 1), embedded], dim=1)
        attended = torch.cat([asked.new_ones(asked.shape[0], seen.shape[1]), lesson.prompts != self.padding], dim=1)
        hidden = self.model.model(
            inputs_embeds=asked,
            attention_mask=attended.long(),
            decoder_input_ids=self._shifted(lesson.answers),
            use_cache=False,
        ).last_hidden_state
        written = lesson.answers != self.padding
        logits = self.model.lm_head(hidden[written])
        answers = answer_loss(logits, lesson.answers[written], self.first_location, blur)
        return answers, self.heads(seen, lesson.hints)

    def _shifted(self, answers: Tensor) -> Tensor:
        """What the decoder has before it as it writes each token: the end token, then the answer so far."""
        start = answers.new_full((len(answers), 1), self.model.config.text_config.decoder_start_token_id)
        return torch.cat([start, answers[:, :-1]], dim=1)


def normalise(pixels: Tensor) -> Tensor:
    """What the image processor makes of uint8 pixels of shape (batch, 3, side, side)."""
    mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (IMAGE_MEAN, IMAGE_STD))
    return (pixels.float() / 255 - mean) / deviation


def train(plan: Plan) -> None:
    torch.manual_seed(plan.seed)
    processor = build_processor()
    tokenizer = processor.tokenizer
    model = (
        Florence2ForConditionalGeneration.from_pretrained(plan.start) if plan.start else build_model(tokenizer)
    )
    pupil = Pupil(model, tokenizer.convert_tokens_to_ids("<loc_0>"), tokenizer.pad_token_id)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.998))
    optimizer = torch.optim.AdamW(pupil.parameters(), lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.02)
    begun = time.monotonic()
    for step, lesson in enumerate(_course(processor, plan), start=1):
        progress = max(step / plan.steps, (time.monotonic() - begun) / (60 * plan.minutes))
        for group in optimizer.param_groups:
            group["lr"] = plan.rate * _pace(progress)
        answers, hints = pupil(lesson, _blur(progress))
        optimizer.zero_grad()
        (answers + hints).backward()
        nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(model)
        if step % _REPORT_EVERY == 0:
            spent = time.monotonic() - begun
            print(f"{step} {spent:.0f}s {progress:.3f} answers {answers:.3f} hints {hints:.3f}", flush=True)
        if step % plan.save_every == 0 or progress >= 1:
            save(average.module, processor, plan.out)
        if progress >= 1:
            return


def _course(processor: Florence2Processor, plan: Plan) -> Iterator[Lesson]:
    first_seed = FIRST_TRAINING_SEED * (1 + plan.seed)
    lessons = Lessons(processor, first_seed, plan.batch)
    return iter(DataLoader(lessons, batch_size=None, num_workers=1, prefetch_factor=8))


def _pace(progress: float) -> float:
    """The learning rate's share of its highest value: a short climb, then half a cosine down."""
    if progress < _WARM_UP:
        return progress / _WARM_UP
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def _blur(progress: float) -> float:
    """Standard deviation of a coordinate's target in bins: rough at first, then ever finer."""
    first, last = _BLURS
    return float(first * (last / first) ** min(1.5 * progress, 1.0))


def save(model: nn.Module, processor: Florence2Processor, out: Path) -> None:
    """Writes the checkpoint so that a reader of `out` never meets half a file."""
    assert isinstance(model, Florence2ForConditionalGeneration)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        for file in Path(folder).iterdir():
            file.chmod(0o644)
            os.replace(file, out / file.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--minutes", type=float, default=math.inf, help="end earlier, with the schedule shortened to fit")
    parser.add_argument("--batch", type=int, default=48, help="pictures per step")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--save-every", type=int, default=200, help="steps between checkpoints")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from")
    torch.set_num_threads(1)
    train(Plan(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
