"""Trains arno-tiny: `python -m arno_workers.tiny.train --seed 0 --steps 5000 --out models/arno-tiny`."""

import argparse
import logging
import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from transformers import Florence2ForConditionalGeneration, Florence2Processor

from arno_workers.tiny.lessons import Lesson, Lessons
from arno_workers.tiny.model import build_model, build_processor
from arno_workers.tiny.pupil import Pupil

# Scenes below this seed are kept for evaluation.
FIRST_TRAINING_SEED = 1_000_000
_LEAST_BLUR = 4.0
_WARM_UP = 0.03
_MEMORY = 0.998
_REPORT_EVERY = 50

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    seed: int
    steps: int
    minutes: float
    batch: int
    rate: float
    blur: float
    save_every: int
    out: Path
    start: Path | None


def train(plan: Plan) -> None:
    torch.manual_seed(plan.seed)
    processor = build_processor()
    model = _first_model(plan, processor)
    pupil = Pupil(model, processor.tokenizer)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(_MEMORY))  # type: ignore[no-untyped-call]
    optimizer = torch.optim.AdamW(pupil.parameters(), betas=(0.9, 0.98), weight_decay=0.02, fused=True)
    losses: deque[tuple[float, float]] = deque(maxlen=_REPORT_EVERY)
    begun = time.monotonic()
    for step, lesson in enumerate(_course(processor, plan), start=1):
        progress = max(step / plan.steps, (time.monotonic() - begun) / (60 * plan.minutes))
        losses.append(_learn(pupil, lesson, optimizer, plan.rate * _pace(progress), _blur(plan.blur, progress)))
        average.update_parameters(model)
        if step % _REPORT_EVERY == 0:
            answers, hints = (fmean(kind) for kind in zip(*losses, strict=True))
            log.info("step %d, %.1f %%: answers %.3f, hints %.3f", step, 100 * progress, answers, hints)
        if step % plan.save_every == 0 or progress >= 1:
            save(average.module, processor, plan.out)
        if progress >= 1:
            return


def _first_model(plan: Plan, processor: Florence2Processor) -> Florence2ForConditionalGeneration:
    if plan.start is None:
        return build_model(processor.tokenizer)
    model = Florence2ForConditionalGeneration.from_pretrained(plan.start)
    model.train()
    return model


def _course(processor: Florence2Processor, plan: Plan) -> Iterator[Lesson]:
    """Lessons drawn in a second process while the first one learns. Each seed has scenes of its own."""
    lessons = Lessons(processor, FIRST_TRAINING_SEED * (1 + plan.seed), plan.batch)
    return iter(DataLoader(lessons, batch_size=None, num_workers=1, prefetch_factor=8))


def _learn(
    pupil: Pupil, lesson: Lesson, optimizer: torch.optim.Optimizer, rate: float, blur: float
) -> tuple[float, float]:
    """One step down the sum of both losses, which are returned."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    answers, hints = pupil(lesson, blur)
    optimizer.zero_grad()
    (answers + hints).backward()
    nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
    optimizer.step()
    return answers.item(), hints.item()


def _pace(progress: float) -> float:
    """The learning rate's share of its highest value: a short climb, then half a cosine down."""
    if progress < _WARM_UP:
        return progress / _WARM_UP
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def _blur(first: float, progress: float) -> float:
    """Standard deviation of a coordinate's target in bins: rough at first, then ever finer."""
    return first * math.pow(_LEAST_BLUR / first, min(1.5 * progress, 1.0))


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
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--minutes", type=float, default=math.inf, help="end by then on a shortened schedule")
    parser.add_argument("--batch", type=int, default=32, help="pictures per step")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--blur", type=float, default=24, help="first spread of a coordinate's target, in bins")
    parser.add_argument("--save-every", type=int, default=250, help="steps between checkpoints")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--start", type=Path, help="a checkpoint to go on from")
    plan = Plan(**vars(parser.parse_args()))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    train(plan)


if __name__ == "__main__":
    main()
