"""transformers against Arno's engine: same device, same pictures, same tokens out.

    python bench/engine.py [--model arno-tiny] [--device cpu] [--workloads caption mix four] [--json FILE]

The rows, from decoded pictures in memory to token ids, each with its preparation of the pictures:

    A   transformers as documented: processor and `generate`, one picture and one prompt at a time
    B   in batches of one task, with pictures prepared by other threads meanwhile
    C   as B, with a static cache, and compiled on CUDA (elsewhere with --compile)
    B+  as B, and C+ as C, where a picture is asked several prompts: the vision tower sees it once, by hand
    D   Arno's engine, as the worker drives it, fed by as many threads as B and C

B and C have batches of equal prompts, and C's beams change places as cheaply as can be: more than transformers does
by itself. Each row warms up first, and the fastest of its rounds counts. On a CPU, rows take turns, transformers is
measured with one thread and with all, and the engine, in a process of its own as a worker is, chooses for itself. A has
fewer pictures, on which its rate does not depend.

In float32 every answer that two rows have in common must be the same, or this fails. In other types the table of
agreement says how much is; --agreement compares with transformers in float32 too. `base` and `large` have Florence-2's
sizes and random weights, whose answers are as long as they may be (see checkpoints.py).
"""

import argparse
import gc
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from queue import SimpleQueue
from statistics import mean
from time import perf_counter
from typing import Any, Literal

import checkpoints
import torch
import transformers
from apart import Apart
from baselines import (
    FEEDERS,
    Answers,
    Batches,
    OneByOne,
    Row,
    SharedBatches,
    SharedStaticBatches,
    StaticBatches,
    Transformers,
    Workload,
)
from limit import Limit, Peaks
from PIL import Image
from rich.console import Console
from rich.table import Table

from arno_shared import logs
from arno_shared.errors import ItemError
from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.names import Lane
from arno_shared.scenes import draw, make_scene
from arno_shared.settings import WorkerSettings
from arno_shared.storage import ObjectStore
from arno_workers.engine import Answered
from arno_workers.engine.checkpoint.locate import BUNDLED
from arno_workers.engine.start import start_engine

ROWS = ("A", "B", "B+", "C", "C+", "D")
REFERENCE = "transformers, float32"
CAPTION, OD, DETAILED = "<CAPTION>", "<OD>", "<DETAILED_CAPTION>"
MORE_DETAILED, OCR_WITH_REGION = "<MORE_DETAILED_CAPTION>", "<OCR_WITH_REGION>"


@dataclass(frozen=True)
class Subject:
    """A model, and what it is asked."""

    name: str
    folder: Path
    max_new_tokens: Mapping[str, int]
    picture_px: tuple[int, int]

    @property
    def workloads(self) -> dict[str, Workload]:
        tasks = tuple(self.max_new_tokens)
        alone = {task.strip("<>").lower(): Workload(task.strip("<>").lower(), (task,)) for task in tasks}
        return {**alone, "mix": Workload("mix", tasks), "four": Workload("four", tasks, together=True)}


@dataclass(frozen=True)
class Measured:
    workload: str
    row: str
    name: str
    images: int
    tokens: int
    seconds: float
    threads: int
    limit_images_per_s: float | None = None

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Agreement:
    """How many of the answers that both have are the same, and of their tokens, place by place."""

    workload: str
    one: str
    other: str
    answers: int
    same_answers: float
    same_tokens: float


@dataclass
class Report:
    conditions: dict[str, Any]
    fastest: dict[tuple[str, str], Measured] = field(default_factory=dict)
    """By workload and row."""
    agreements: list[Agreement] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, measured: Measured) -> None:
        key = (measured.workload, measured.row)
        if key not in self.fastest or measured.seconds < self.fastest[key].seconds:
            self.fastest[key] = measured

    @property
    def measured(self) -> list[Measured]:
        """By workload as they were asked for, and by row."""
        order = self.conditions["workloads"]
        return sorted(self.fastest.values(), key=lambda one: (order.index(one.workload), ROWS.index(one.row)))

    def save(self, file: Path | None) -> None:
        if file:
            rows = [
                {**asdict(one), "images_per_s": one.images_per_s, "tokens_per_s": one.tokens_per_s}
                for one in self.measured
            ]
            agreements = [asdict(one) for one in self.agreements]
            report = {"conditions": self.conditions, "measured": rows, "agreements": agreements}
            file.write_text(json.dumps({**report, "failures": self.failures}, indent=2) + "\n")


class WrongTokens(Exception):
    """Two rows, or two rounds of Arno, answered differently, which in float32 they must not."""


class Arno(Row):
    """The engine, behind the door that the worker uses."""

    letter, name = "D", "Arno's engine"

    def __init__(
        self,
        folder: Path,
        device: str,
        dtype: Literal["float32", "bfloat16", "float16"],
        num_beams: int | None,
        max_new_tokens: Mapping[str, int],
        feeders: int = FEEDERS,
    ) -> None:
        self._num_beams, self._max_new_tokens, self._feeders, self._device = num_beams, max_new_tokens, feeders, device
        settings = WorkerSettings(model=str(folder), dtype=dtype)
        self._engine = start_engine(settings, device, ObjectStore(), _give_up)

    def warm_up(self, pictures: Sequence[Image.Image], workload: Workload) -> None:
        """On CUDA all of them, twice: when a shape comes for the third time, all that it needs is there."""
        if self._device == "cuda":
            self.answer(pictures, workload)
            self.answer(pictures, workload)
        else:
            super().warm_up(pictures, workload)

    def answer(self, pictures: Sequence[Image.Image], workload: Workload) -> Answers:
        arrived: SimpleQueue[tuple[int, Answered | ItemError]] = SimpleQueue()
        answers: Answers = {}
        with ThreadPoolExecutor(self._feeders) as pool:
            fed = [
                pool.submit(self._submit, picture, workload.tasks_of(number), partial(_deliver, arrived, number))
                for number, picture in enumerate(pictures)
            ]
            for future in fed:
                future.result()
            for _ in fed:
                number, outcome = arrived.get()
                if isinstance(outcome, ItemError):
                    raise outcome
                for task, answer in zip(workload.tasks_of(number), outcome.answers, strict=True):
                    answers[number, task] = answer.ids
        return answers

    def close(self) -> None:
        self._engine.close()

    def _submit(
        self, picture: Image.Image, tasks: Sequence[str], deliver: Callable[[Answered | ItemError], None]
    ) -> None:
        pixels = self._engine.prepare(picture)
        asks = [
            self._engine.ask(
                Prompt(task=task),
                *picture.size,
                GenerationOptions(num_beams=self._num_beams, max_new_tokens=self._max_new_tokens[task]),
            )
            for task in tasks
        ]
        self._engine.submit(pixels, asks, Lane.BULK, deliver)


def _deliver(
    arrived: "SimpleQueue[tuple[int, Answered | ItemError]]", number: int, outcome: Answered | ItemError
) -> None:
    arrived.put((number, outcome))


def _give_up() -> None:
    print("the engine's replica is broken: nothing more will be answered", file=sys.stderr, flush=True)
    # From the device's thread, while others wait for answers that never come.
    os._exit(1)


def subject(model: str, folder: Path | None) -> Subject:
    if model in checkpoints.SIZES:
        limits = {CAPTION: 12, OD: 80, MORE_DETAILED: 100, OCR_WITH_REGION: 150}
        return Subject(model, checkpoints.cached(model, folder), limits, (1280, 960))
    if (BUNDLED / model).is_dir():
        # Two tasks that it was taught, and two that it was not: longer answers, though less sensible ones.
        return Subject(model, BUNDLED / model, {CAPTION: 64, OD: 64, OCR_WITH_REGION: 150, DETAILED: 64}, (256, 256))
    limits = {CAPTION: 64, OD: 512, MORE_DETAILED: 256, OCR_WITH_REGION: 512}
    return Subject(Path(model).name, Path(model).expanduser(), limits, (1280, 960))


def make_pictures(count: int, size_px: tuple[int, int]) -> list[Image.Image]:
    return [draw(make_scene(50_000 + seed), 256).resize(size_px) for seed in range(count)]


def compare(workload: str, found: Mapping[str, Answers]) -> Iterator[Agreement]:
    """D with every other row, B and D with the reference; and A with B, which differ by their batch alone."""
    for one, other in combinations(found, 2):
        if other != "D" and (one, other) not in (("A", "B"), ("B", REFERENCE), ("D", REFERENCE)):
            continue
        common = sorted(found[one].keys() & found[other].keys())
        pairs = [(found[one][key], found[other][key]) for key in common]
        if pairs:
            places = sum(max(len(a), len(b)) for a, b in pairs)
            same = sum(x == y for a, b in pairs for x, y in zip(a, b, strict=False))
            yield Agreement(workload, one, other, len(pairs), mean(a == b for a, b in pairs), same / places)


def check(workload: str, found: Mapping[str, Answers]) -> None:
    """Raises WrongTokens at the first answer in which Arno differs from another row."""
    arno = found.get("D", {})
    for row, answers in found.items():
        for number, task in sorted(arno.keys() & answers.keys()):
            ours, theirs = arno[number, task], answers[number, task]
            if ours != theirs:
                pairs = zip(ours, theirs, strict=False)
                place = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(theirs)))
                raise WrongTokens(
                    f"{workload}: D and {row} answer {task} about picture {number} differently "
                    f"from token {place} on: {ours[place:]} and {theirs[place:]}"
                )


def limit_of(limit: Limit, workload: Workload, answers: Answers, images: int) -> float:
    """Images a second, with answers as long as these are."""
    lengths = {task: [len(ids) for (_, asked), ids in answers.items() if asked == task] for task in workload.tasks}
    prompts_s = sum(
        len(each) / images * (limit.encoder_s() + limit.decoder_s(mean(each))) for each in lengths.values() if each
    )
    return float(1 / (limit.vision_s() + prompts_s))


@dataclass(frozen=True)
class Entrant:
    row: Row
    threads: Sequence[int]
    """Of torch; each number is tried."""


class Bench:
    """One run: every row over every workload."""

    def __init__(self, options: argparse.Namespace, asked: Subject) -> None:
        self._options, self._subject = options, asked
        self._workloads = [asked.workloads[name] for name in options.workloads]
        self._dtype: torch.dtype = getattr(torch, options.dtype)
        self._all_threads = torch.get_num_threads()
        self._pictures = make_pictures(options.images, asked.picture_px)
        self._found: dict[str, dict[str, Answers]] = {name: {} for name in options.workloads}
        self.report = Report(conditions(options))

    def run(self) -> None:
        """On a CPU all rows take turns, so that whatever else the machine does befalls them alike. A GPU is nobody
        else's, and the engine takes what memory it has: there it comes when the others have gone."""
        rows = self._options.rows
        if self._options.device == "cpu":
            self._measure(rows)
        else:
            self._measure([row for row in rows if row != "D"])
            self._free()
            self._measure([row for row in rows if row == "D"])
        self._free()
        if self._options.agreement:
            self._answer_in_float32()
        self._compare()

    def _measure(self, rows: Sequence[str]) -> None:
        entrants = self._entrants(rows)
        for workload in self._workloads:
            self._take_turns(workload, [entrant for entrant in entrants if entrant.row.can(workload)])
        for entrant in entrants:
            entrant.row.close()

    def _entrants(self, rows: Sequence[str]) -> list[Entrant]:
        asked, options = self._subject, self._options
        entrants: list[Entrant] = []
        if set(rows) - {"D"}:
            model = self._load(self._dtype, options.compile_mode if options.compile else None)
            kinds = [Batches, SharedBatches, StaticBatches, SharedStaticBatches]
            found = [OneByOne(model), *(kind(model, options.batch, options.feeders) for kind in kinds)]
            threads = sorted({1, self._all_threads}) if options.device == "cpu" else [self._all_threads]
            entrants += [Entrant(row, threads) for row in found if row.letter in rows]
        if "D" in rows:
            make = partial(
                Arno, asked.folder, options.device, options.dtype, options.beams, asked.max_new_tokens, options.feeders
            )
            if options.device == "cpu":
                arno = Apart(Arno.letter, Arno.name, make)
                # As many threads as it chose for itself.
                entrants.append(Entrant(arno, [arno.threads]))
            else:
                entrants.append(Entrant(make(), [self._all_threads]))
        return entrants

    def _take_turns(self, workload: Workload, entrants: list[Entrant]) -> None:
        for turn in range(self._options.rounds):
            for entrant in list(entrants):
                row = entrant.row
                print(f"{workload.name}: {row.letter}, round {turn + 1}", file=sys.stderr, flush=True)
                try:
                    self._run(entrant, workload, warm=turn > 0)
                except Exception as error:
                    # A row that fails, for want of memory or of a compiler, does not take the others' figures with it.
                    self.report.failures.append(f"{workload.name}: {row.letter}: {type(error).__name__}: {error}")
                    entrants.remove(entrant)
                self.report.save(self._options.json)

    def _run(self, entrant: Entrant, workload: Workload, warm: bool) -> None:
        row = entrant.row
        pictures = self._pictures[: self._options.single_images] if row.letter == "A" else self._pictures
        for threads in entrant.threads:
            torch.set_num_threads(threads)
            if not warm:
                row.warm_up(pictures, workload)
            began_s = perf_counter()
            answers = row.answer(pictures, workload)
            seconds = perf_counter() - began_s
            limit = limit_of(self._limit, workload, answers, len(pictures)) if self._limit else None
            tokens = sum(map(len, answers.values()))
            self.report.add(
                Measured(workload.name, row.letter, row.name, len(pictures), tokens, seconds, threads, limit)
            )
            earlier = self._found[workload.name].setdefault(row.letter, answers)
            if row.letter == "D" and self._dtype == torch.float32 and answers != earlier:
                raise WrongTokens("what it answers is not what it answered in an earlier round")

    def _answer_in_float32(self) -> None:
        """By transformers in batches: what the other rows are compared with, for as many pictures as were asked for."""
        torch.set_num_threads(self._all_threads)
        row = Batches(self._load(torch.float32), self._options.batch, self._options.feeders)
        for workload in self._workloads:
            self._found[workload.name][REFERENCE] = row.answer(self._pictures[: self._options.agreement], workload)

    def _compare(self) -> None:
        for name, found in self._found.items():
            self.report.agreements += compare(name, found)
            if self._options.dtype == "float32":
                try:
                    check(name, found)
                except WrongTokens as error:
                    self.report.failures.append(str(error))
        self.report.save(self._options.json)

    def _load(self, dtype: torch.dtype, compile_mode: str | None = None) -> Transformers:
        asked, options = self._subject, self._options
        return Transformers(asked.folder, options.device, dtype, options.beams, asked.max_new_tokens, compile_mode)

    @cached_property
    def _limit(self) -> Limit | None:
        options, folder = self._options, self._subject.folder
        if not (options.peak_tflops and options.peak_gb_per_s):
            return None
        return Limit(
            transformers.Florence2Config.from_pretrained(folder),
            Peaks(options.peak_tflops, options.peak_gb_per_s),
            self._dtype.itemsize,
            options.beams or transformers.GenerationConfig.from_pretrained(folder).num_beams,
            picture_px=transformers.AutoProcessor.from_pretrained(folder).image_processor.size["height"],
        )

    def _free(self) -> None:
        """Gives back the memory of a model that nobody holds any more, and that of its graphs."""
        torch._dynamo.reset()
        gc.collect()
        if self._options.device == "cuda":
            torch.cuda.empty_cache()


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    cuda = options.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        **{name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()},
    }


def show(report: Report) -> None:
    console = Console(width=max(Console().width, 130))
    arno = {one.workload: one for one in report.measured if one.row == "D"}
    with_limit = any(one.limit_images_per_s for one in report.measured)
    table = Table(
        "workload", "", "", "images", "threads", "images/s", "tokens/s", "D is", *(["limit", "share"] * with_limit)
    )
    for name in report.conditions["workloads"]:
        for one in (each for each in report.measured if each.workload == name):
            ratio = f"{arno[name].images_per_s / one.images_per_s:.2f}×" if name in arno else ""
            limit = one.limit_images_per_s
            share = [f"{limit:,.0f}", f"{one.images_per_s / limit:.1%}"] if limit else [""] * (2 * with_limit)
            rates = [f"{one.images_per_s:,.2f}", f"{one.tokens_per_s:,.1f}"]
            table.add_row(name, one.row, one.name, str(one.images), str(one.threads), *rates, ratio, *share)
        table.add_section()
    console.print(table)
    if report.conditions["dtype"] != "float32" or report.conditions["agreement"]:
        show_agreements(report.agreements, console)
    elif not report.failures:
        answers = sum(one.answers for one in report.agreements if "D" in (one.one, one.other))
        console.print(f"D answered as the other rows did, token for token, {answers:,} times.")


def show_agreements(agreements: Sequence[Agreement], console: Console) -> None:
    table = Table("workload", "", "and", "answers of both", "same answer", "same tokens")
    for one in agreements:
        shares = [f"{one.same_answers:.1%}", f"{one.same_tokens:.1%}"]
        table.add_row(one.workload, one.one, one.other, str(one.answers), *shares)
    console.print(table)


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, Subject]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="arno-tiny", help="arno-tiny, base, large, or a folder")
    parser.add_argument("--folder", type=Path, help=f"where base or large is, or is made; default: {checkpoints.CACHE}")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: bfloat16 on CUDA")
    parser.add_argument("--images", type=int, help="default: 512 on CUDA; on a CPU 64 of arno-tiny, 2 of others")
    parser.add_argument("--single-images", type=int, default=16, help="at most as many for A")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, help="of which the fastest counts; default: 3 of arno-tiny, 1 of others")
    parser.add_argument("--beams", type=int, help="default: the checkpoint's")
    parser.add_argument("--feeders", type=int, default=FEEDERS, help="threads that prepare pictures for B, C and D")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="C's decoding; default: on CUDA")
    parser.add_argument("--compile-mode", default="reduce-overhead", help="of torch.compile")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--workloads", nargs="+", help="default: caption, od, ocr_with_region, mix, four")
    parser.add_argument("--agreement", type=int, nargs="?", const=64, default=0, metavar="IMAGES")
    parser.add_argument("--peak-tflops", type=float, help="of matrix products in --dtype; with the next: see limit.py")
    parser.add_argument("--peak-gb-per-s", type=float)
    parser.add_argument("--json", type=Path, help="written after each row")
    options = parser.parse_args(arguments)
    cuda = options.device == "cuda"
    asked = subject(options.model, options.folder)
    options.dtype = options.dtype or ("bfloat16" if cuda else "float32")
    options.images = options.images or (512 if cuda else 64 if options.model == "arno-tiny" else 2)
    options.rounds = options.rounds or (3 if options.model == "arno-tiny" else 1)
    options.compile = cuda if options.compile is None else options.compile
    options.workloads = options.workloads or [name for name in asked.workloads if "detailed" not in name]
    if unknown := set(options.workloads) - set(asked.workloads):
        parser.error(f"{asked.name} has no workload {', '.join(unknown)}; it has {', '.join(asked.workloads)}")
    return options, asked


def main(arguments: Sequence[str] | None = None) -> None:
    logs.configure("warning")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    options, asked = parse(arguments)
    bench = Bench(options, asked)
    bench.run()
    show(bench.report)
    if bench.report.failures:
        sys.exit("\n".join(["FAILED", *bench.report.failures]))


if __name__ == "__main__":
    main()
