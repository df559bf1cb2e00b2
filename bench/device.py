"""All that a GPU can tell of Arno, in one short run: what breaks, how fast it is, and where the time goes.

    python bench/device.py [--parts facts,switches] [--budget 460] [--out FOLDER]
    python bench/device.py --device cpu --tiny          every part in small, where there is no GPU

Parts run in the order of PARTS, the most valuable first, each in a process of its own that is killed when its time is
up; one for which less than half of its time is left is skipped. A part has pieces, and what a piece found is kept
whatever becomes of the next: after one that raises, the next goes on; after one that takes the process or the device
with it, the next goes on in a new process. FOLDER, or $OUT, gets device.md to read and device.json to compute with,
after each part, and device.log with all that was said.

It runs in a bare checkout, with shared, workers and producer on PYTHONPATH: docs/performance.md says what else.
"""

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from device_run.child import run_child
from device_run.machine import Machine
from device_run.part import Part
from device_run.process import PartProcess, run_part
from device_run.report import against_transformers, as_markdown, write

CAPTION = {"task": "CAPTION", "tokens": 12}
OCR = {"task": "OCR_WITH_REGION", "tokens": 150}
PARTS: dict[str, Part] = {
    "facts": Part("facts", 15),
    "first_contact": Part("first_contact", 60, piece_limit_s=25, again_blocking=True),
    "engine_caption": Part("engine", 60, {"size": "base", **CAPTION, "most_images": 2048, "beams": (3,)}),
    "engine_ocr": Part("engine", 60, {"size": "base", **OCR, "most_images": 1024, "beams": (3, 1)}),
    "switches": Part("switches", 150, piece_limit_s=60),
    "kernels": Part("kernels", 45, piece_limit_s=20),
    "gpu_tests": Part("gpu_tests", 110),
    "baseline": Part("baseline", 90),
    "vision": Part("vision", 30),
    "steps": Part("steps", 20),
    "large": Part("engine", 60, {"size": "large", **CAPTION, "most_images": 1024, "beams": (3,)}),
    "compile": Part("compile", 60),
    "attention": Part("attention", 30),
    "feeding": Part("feeding", 40),
}
_PATIENCE_WHERE_TINY = 3
"""There it is about the parts, not about a machine, which may be busy with other things."""
_LOG_BYTES = 2**20
"""Of each part, the last."""


def run(options: argparse.Namespace, arguments: Sequence[str], work: Path) -> None:
    patience = _PATIENCE_WHERE_TINY if options.tiny else 1
    began_s, waiting = monotonic(), dict[str, PartProcess]()
    report: dict[str, Any] = {"device": options.device, "tiny": options.tiny, "budget_s": options.budget, "parts": {}}
    try:
        for name, after in zip(options.parts, [*options.parts[1:], None], strict=True):
            left_s, limit_s = patience * options.budget - (monotonic() - began_s), patience * PARTS[name].limit_s
            if left_s < limit_s / 2:
                part: dict[str, Any] = {"status": f"skipped: {left_s:.0f} s of the budget are left", "pieces": {}}
            else:
                process = waiting.pop(name, None) or PartProcess(name, PARTS[name], arguments, work)
                if after:
                    # It imports meanwhile, which takes one core for seconds.
                    waiting[after] = PartProcess(after, PARTS[after], arguments, work)
                part = run_part(process, min(limit_s, left_s))
                with (options.out / "device.log").open("ab") as log:
                    log.write(f"\n=== {name}\n".encode() + process.log.read_bytes()[-_LOG_BYTES:])
            report["parts"][name] = part
            report |= {"seconds": monotonic() - began_s, "against_transformers": against_transformers(report["parts"])}
            write(options.out / "device.json", report)
            write(options.out / "device.md", as_markdown(report))
            print(f"{name}: {part['status']}, {part.get('seconds', 0):.1f} s", *part.get("failed", ()), flush=True)
    finally:
        for process in waiting.values():
            process.kill()


def pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None
    return text


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=lambda names: names.split(","), default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument(
        "--only", default="", type=pattern, help="a regular expression: of each part, only pieces with such names"
    )
    parser.add_argument("--budget", type=float, default=460, help="seconds for all of them")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small sizes, whose figures mean nothing")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "device-report")))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if options.child:
        machine = Machine(options.device, options.tiny, options.work, options.only)
        run_child(PARTS[options.child], machine, options.work / f"{options.child}.json")
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "device.log").unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))
    with TemporaryDirectory(prefix="arno-device-", ignore_cleanup_errors=True) as work:
        run(options, arguments, Path(work))


if __name__ == "__main__":
    main()
