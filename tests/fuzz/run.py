"""Hostile input for a while: `python -m tests.fuzz.run SECONDS [TARGET…]`.

A target is a module with `test_one_input(data: bytes) -> None`, which raises where something is wrong, and
`SEEDS: list[bytes]`, input to start from: `message` is `tests.fuzz.fuzz_message`, and a name with a point in it any
other. All `tests/fuzz/fuzz_*.py` are run where none is named. The seconds are divided among them; each runs under
atheris in a process of its own.

Exits with 0 if nothing was found, 1 if something was, and 2 if it cannot be looked for.
"""

import argparse
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, mkdtemp

_ATHERIS_MISSING = "fuzzing needs atheris, which is an extra of its own: pip install -c constraints.txt -e '.[fuzz]'"

_LONGEST_INPUT_S = 60
"""A single input that takes longer is a finding."""
_MAX_RSS_MB = 4096
_GRACE_S = 180
"""To start, and to come to an end."""
_SHOWN_LINES = 60
_RAISED = "=== Uncaught Python exception: ===\n"


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=(__doc__ or "").partition("\n")[0])
    arguments.add_argument("seconds", type=float, help="for all targets together")
    arguments.add_argument("targets", nargs="*", metavar="target", help=f"of {', '.join(_all_targets())}, or a module")
    asked = arguments.parse_args()
    if find_spec("atheris") is None:
        print(_ATHERIS_MISSING, file=sys.stderr)
        return 2
    modules = [_module(target) for target in asked.targets or _all_targets()]
    for module in modules:
        if find_spec(module) is None:
            print(f"there is no target {module}; those there are: {', '.join(_all_targets())}", file=sys.stderr)
            return 2
    # All of them, whatever is found in the first; 0 seconds would be without end.
    found = [_fuzz(module, max(1, round(asked.seconds / len(modules)))) for module in modules]
    return int(any(found))


def _all_targets() -> list[str]:
    return sorted(path.stem.removeprefix("fuzz_") for path in Path(__file__).parent.glob("fuzz_*.py"))


def _module(target: str) -> str:
    return target if "." in target else f"tests.fuzz.fuzz_{target}"


def _fuzz(module: str, seconds: int) -> bool:
    """Whether something was found in the target."""
    kept = Path(mkdtemp(prefix="arno-fuzz-"))
    with TemporaryDirectory() as corpus:
        command = [
            *(sys.executable, "-m", "tests.fuzz.target", module, corpus, f"-max_total_time={seconds}"),
            *(f"-timeout={_LONGEST_INPUT_S}", f"-rss_limit_mb={_MAX_RSS_MB}", "-print_final_stats=1"),
            f"-artifact_prefix={kept}/",
        ]
        output, failed = _ran(command, seconds + _GRACE_S)
    runs = re.search(r"stat::number_of_executed_units: +(\d+)", output)
    print(f"{module}: {int(runs[1]) if runs else 0:,} runs", flush=True)
    if failed:
        _report(output, kept)
        return True
    rmtree(kept)
    return False


def _ran(command: list[str], timeout_s: float) -> tuple[str, bool]:
    """What it said, and whether it failed, or did not come to an end."""
    try:
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        return f"{(error.stdout or b'').decode(errors='replace')}\nit did not come to an end", True
    return ran.stdout.decode(errors="replace"), ran.returncode != 0


def _report(output: str, kept: Path) -> None:
    raised = output.partition(_RAISED)[2]
    print("\n".join((raised or output).splitlines()[-_SHOWN_LINES:]))
    for path in sorted(kept.iterdir()):
        print(f"the input: {path.read_bytes()!r}\nis kept in {path}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
