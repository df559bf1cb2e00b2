"""What several tests of the engine's stages start from."""

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="module")
def bundled() -> Any:
    """The bundled model, as transformers has it."""
    from transformers import Florence2ForConditionalGeneration

    from arno_workers.engine.checkpoint.locate import BUNDLED

    return Florence2ForConditionalGeneration.from_pretrained(BUNDLED / "arno-tiny", dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor() -> Any:
    """The bundled model's."""
    from transformers import Florence2Processor

    from arno_workers.engine.checkpoint.locate import BUNDLED

    return Florence2Processor.from_pretrained(BUNDLED / "arno-tiny")


@pytest.fixture(scope="module")
def parser(processor: Any) -> Any:
    """An AnswerParser."""
    from arno_workers.engine.parsing import AnswerParser

    return AnswerParser(processor)


def fail_in_the_middle(replica: Any, pictures: Any, turns: int = 4) -> None:
    """Answers these until something fails after so many turns, and resets the replica."""
    run, left = replica.run, turns

    def fails_later(work: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("a step failed")
        return run(work)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica, "run", fails_later)
        with pytest.raises(RuntimeError, match="a step failed"):
            replica.answer_all(pictures)
    replica.reset()


def encode(processor: Any, text: str) -> list[int]:
    """Token ids, without those that stand around a prompt."""
    ids: list[int] = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


ROOT = Path(__file__).parents[3]

Run: TypeAlias = Callable[..., Any]


@pytest.fixture(scope="session")
def interpreted() -> Iterator[Run]:
    command = [sys.executable, "-m", "tests.workers.engine.interpreter"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout

        def run(function: Callable[..., Any], *given: Any) -> Any:
            pickle.dump((function, given), process.stdin)
            process.stdin.flush()
            found, after, error = pickle.load(process.stdout)
            if error:
                raise error
            _take_over(given, after)
            return found

        yield run
        process.stdin.close()


def _on_cuda(function: Callable[..., Any], *given: Any) -> Any:
    moved = [_moved(x) if isinstance(x, Tensor) else x for x in given]
    found = function(*moved)
    _take_over(given, moved)
    return found.cpu() if isinstance(found, Tensor) else tuple(x.cpu() for x in found)


def _moved(x: Tensor) -> Tensor:
    """As it lies: a view of something larger stays one."""
    return x.new_empty(0, device="cuda").set_(x.untyped_storage().cuda(), x.storage_offset(), x.size(), x.stride())


def _take_over(given: Sequence[Any], after: Sequence[Any]) -> None:
    """What was done to tensors elsewhere is done to those that were given."""
    for ours, theirs in zip(given, after, strict=True):
        if isinstance(ours, Tensor):
            ours.copy_(theirs)


@pytest.fixture(
    params=[
        "interpreter",
        pytest.param(
            "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
        ),
    ]
)
def run(request: pytest.FixtureRequest) -> Run:
    """Calls a function with tensors of the CPU, elsewhere; what it gives is on the CPU again."""
    return request.getfixturevalue("interpreted") if request.param == "interpreter" else _on_cuda
