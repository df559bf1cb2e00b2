"""One target under atheris, in a process of its own: `python -m tests.fuzz.target MODULE CORPUS [libFuzzer's options]`.

CORPUS is a folder, to which the target's seeds are written first.
"""

import sys
from importlib import import_module
from pathlib import Path

import atheris

_INSTRUMENTED = ["arno_shared", "arno_producer", "arno_workers"]


def main() -> None:
    name, corpus = sys.argv[1:3]
    with atheris.instrument_imports(include=[*_INSTRUMENTED, name]):
        target = import_module(name)
    for number, seed in enumerate(target.SEEDS):
        (Path(corpus) / f"seed-{number}").write_bytes(seed)
    atheris.Setup([sys.argv[0], corpus, *sys.argv[3:]], target.test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
