"""What a picture costs the interpreter, which one thread at a time may have, whatever else could run.

    python bench/interpreter.py [--answers 20] [--rounds 15]

Two measures, in microseconds, and the least of the rounds of each:

    held   how long another thread of Python stands still for a call: the wall's time less the processor's time of a
           thread that does nothing but count meanwhile. It needs a processor that is idle but for that thread.
    call   the processor's time of the thread that calls, for what never lets the interpreter go: all of it is held.

Pictures are 1632 × 1224 and become 768 × 768, as Florence-2 takes them. Answers are written by the bundled model's
tokens: a caption of 14 words, 10 boxes, 30 quads, with other words, places and picture sizes in each. In the same run
stands what there would be else: Pillow's own array, and transformers' decoding and `post_process_generation`, which
gives no confidences and looks for no loops. That the pixels and the values are the same is asserted.
"""

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from time import clock_gettime, perf_counter, pthread_getcpuclockid, thread_time
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from arno_shared.messages import Chunk, GenerationOptions, ImageRef, Prompt
from arno_shared.names import Lane
from arno_shared.parts import encode_part
from arno_shared.scenes.lexicon import COLOURS, SHAPES
from arno_shared.settings import WorkerSettings
from arno_shared.storage import ObjectStore
from arno_workers.engine import Answer, Answered
from arno_workers.engine.checkpoint.load import Sources, load_checkpoint
from arno_workers.engine.checkpoint.locate import BUNDLED, Located
from arno_workers.engine.confidence import confidences
from arno_workers.engine.detokenizer import Detokenizer, text_of
from arno_workers.engine.florence import FlorenceReplica
from arno_workers.engine.objects import Found, labelled_boxes, quads
from arno_workers.engine.repetition import runs_in_a_loop
from arno_workers.engine.rgb_array import rgb_array
from arno_workers.engine.start import start_engine
from arno_workers.engine.transcript import Transcript
from arno_workers.pipeline.chunk_run import ChunkRun
from arno_workers.pipeline.rows import settle

TASKS = ("<CAPTION>", "<OD>", "<OCR_WITH_REGION>")
THEIRS = "transformers: text, value"
WORDS = (*COLOURS, *SHAPES)
OPTIONS = GenerationOptions()
SWITCH_S = 0.0005
"""How long a thread waits for the interpreter before it asks for it: shorter than Python's own, so that a call is
measured and not the wait of whoever comes back from one."""


@dataclass(frozen=True)
class Written:
    """An answer, and the picture that it is about."""

    task: str
    answer: Answer
    size: tuple[int, int]

    @property
    def prompt(self) -> Prompt:
        return Prompt(task=self.task)


def write(replica: Any, task: str, seed: int) -> Written:
    rng = random.Random(f"{task} {seed}")

    def words(count: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(count))

    def locations(count: int) -> str:
        return "".join(f"<loc_{rng.randrange(1000)}>" for _ in range(count))

    text = {
        "<CAPTION>": lambda: words(14),
        "<OD>": lambda: "".join(words(2) + locations(4) for _ in range(10)),
        "<OCR_WITH_REGION>": lambda: "".join(words(2) + locations(8) for _ in range(30)),
    }[task]()
    ids = tuple(replica._processor.tokenizer(f"<s>{text}</s>", add_special_tokens=False).input_ids)
    logprobs = tuple(-rng.random() for _ in ids)
    return Written(
        task, Answer(ids, logprobs, forced=1, truncated=False), (rng.randint(300, 4000), rng.randint(300, 4000))
    )


@contextmanager
def counting() -> Iterator[Callable[[], float]]:
    """Gives the processor's time, in seconds, of a thread that counts as long as this lasts."""
    started, done, numbers = Event(), Event(), 0

    def count() -> None:
        nonlocal numbers
        started.set()
        while not done.is_set():
            numbers += 1

    thread, before_s = Thread(target=count), sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    thread.start()
    started.wait()
    clock = pthread_getcpuclockid(thread.ident or 0)
    try:
        yield lambda: clock_gettime(clock)
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(before_s)


def held_us(work: Callable[[], object], rounds: int) -> float:
    # Call after call, so that the thread that counts is awake: to wake up takes as long as a short call.
    calls = max(3, round(20_000 / alone_us(work, 1)))
    found: list[float] = []
    with counting() as counted_s:
        for _ in range(rounds):
            began_s, before_s = perf_counter(), counted_s()
            for _ in range(calls):
                work()
            found.append((perf_counter() - began_s) - (counted_s() - before_s))
    return max(0.0, min(found)) / calls * 1e6


def call_us(work: Callable[[Any], object], each: list[Any], rounds: int) -> float:
    """Of a call, where one is made for each."""
    found: list[float] = []
    for _ in range(rounds + 1):
        began_s = thread_time()
        for one in each:
            work(one)
        found.append(thread_time() - began_s)
    # The first round warms up.
    return min(found[1:]) / len(each) * 1e6


def alone_us(work: Callable[[], object], rounds: int) -> float:
    return call_us(lambda _: work(), [None] * 5, rounds)


def measure_pixels(rounds: int) -> Table:
    noise = np.random.default_rng(0).integers(0, 256, (1224, 1632, 3), np.uint8)
    picture = Image.fromarray(noise)
    resized = picture.resize((768, 768), Image.Resampling.BICUBIC)
    assert np.array_equal(rgb_array(resized), np.array(resized)), "the pixels are others"
    ways: dict[str, Callable[[], object]] = {
        "resize, by Pillow": lambda: picture.resize((768, 768), Image.Resampling.BICUBIC),
        "to an array: np.array(image)": lambda: np.array(resized),
        "to an array: Arno": lambda: rgb_array(resized),
    }
    table = Table("a picture", "held, µs", "call, µs")
    for name, work in ways.items():
        table.add_row(name, f"{held_us(work, rounds):,.0f}", f"{alone_us(work, rounds):,.0f}")
    return table


def measure_answers(written: list[Written], replica: Any, rounds: int) -> dict[str, float]:
    """By stage, in microseconds."""
    engine = start_engine(WorkerSettings(engine="null"), "cpu", ObjectStore(), lambda: None)
    processor, detokenizer = replica._processor, Detokenizer(replica._processor.tokenizer)
    (task,) = {one.task for one in written}

    def ask(one: Written) -> Any:
        return replica.ask(one.prompt, *one.size, OPTIONS)

    def submit(one: Written) -> None:
        engine.submit(None, [engine.ask(one.prompt, *one.size, OPTIONS)], Lane.BULK, lambda _: None)

    def parse(one: Written) -> Any:
        return replica.parse(one.prompt, one.answer, *one.size)

    def theirs(one: Written) -> Any:
        text = replica._processor.tokenizer.decode(one.answer.ids, skip_special_tokens=False)
        return processor.post_process_generation(text=text, task=task, image_size=one.size)[task]

    def be_sure(one: Written) -> Any:
        found, transcript = looked_through[one]
        return confidences(found, transcript)

    def look_for_loops(one: Written) -> bool:
        return runs_in_a_loop(one.answer.ids, replica._locations, replica._rules.eos_ids)

    for one in written:
        assert parse(one).value == theirs(one), f"{task} is read differently"
    looked_through = {one: look_through(one, detokenizer) for one in written}
    runs = [settled_run(one) for one in written]
    settled = [settle(run, replica, max_attempts=1, worker="w").rows for run in runs]
    try:
        return {
            "ask": call_us(ask, written, rounds),
            "submit, with its ask": call_us(submit, written, rounds),
            "parse": call_us(parse, written, rounds),
            "of it: confidences": call_us(be_sure, written, rounds),
            "of it: repetition": call_us(look_for_loops, written, rounds),
            THEIRS: call_us(theirs, written, rounds),
            "the row, parse included": call_us(lambda run: settle(run, replica, 1, "w"), runs, rounds),
            "JSON": call_us(lambda rows: encode_part(rows, "jsonl"), settled, rounds),
        }
    finally:
        engine.close()


def look_through(one: Written, detokenizer: Detokenizer) -> tuple[list[Found], Transcript]:
    pieces = detokenizer.pieces(one.answer.ids)
    transcript = Transcript(text_of(pieces), pieces, one.answer.logprobs)
    finders = {"<OD>": labelled_boxes, "<OCR_WITH_REGION>": quads}
    return list(finders[one.task](transcript.text)) if one.task in finders else [], transcript


def settled_run(one: Written) -> ChunkRun:
    images = (ImageRef(uri="s3://photos/a.jpg"),)
    chunk = Chunk(images=images, prompts=(one.prompt,), output="s3://results/", job_id="j", index=0)
    run = ChunkRun(chunk, Lane.BULK)
    (item,) = run.items
    item.width, item.height = one.size
    item.settle(Answered((one.answer,), wait_ms=0.0, model_ms=0.0))
    return run


def answers_table(found: dict[str, dict[str, float]]) -> Table:
    table = Table("an answer, call, µs", *(task.strip("<>") for task in found))
    for stage in next(iter(found.values())):
        table.add_row(stage, *(f"{stages[stage]:,.1f}" for stages in found.values()))
        if stage == THEIRS:
            ratios = (f"{stages[THEIRS] / stages['parse']:.1f}×" for stages in found.values())
            table.add_row("ratio to parse", *ratios)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    replica = FlorenceReplica(
        load_checkpoint(Sources(Located("arno-tiny", BUNDLED / "arno-tiny", None))), WorkerSettings(slots=1), "cpu"
    )
    answers = {task: [write(replica, task, seed) for seed in range(options.answers)] for task in TASKS}
    Console().print(measure_pixels(options.rounds))
    found = {task: measure_answers(written, replica, options.rounds) for task, written in answers.items()}
    Console().print(answers_table(found))


if __name__ == "__main__":
    main()
