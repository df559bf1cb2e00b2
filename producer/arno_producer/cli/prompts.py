"""What is asked of each image, as the command line says it."""

import json
from collections.abc import Sequence
from itertools import repeat
from typing import Annotated, Any

import typer

from arno_shared.errors import InvalidRequest
from arno_shared.prompts import TASKS, Answer

PromptOption = Annotated[
    list[str] | None,
    typer.Option(
        "--prompt",
        "-p",
        help="What to ask of each image; may be given more than once. A task (OD or '<OD>'), a task with its text "
        "('<CAPTION_TO_PHRASE_GROUNDING>a red car'), or JSON with a region in pixels "
        '(\'{"task": "<REGION_TO_OCR>", "region": [10, 20, 200, 80]}\').',
        show_default=False,
    ),
]
RawOption = Annotated[
    list[str] | None,
    typer.Option(
        help="A fine-tune's own prompt, which the model is asked to the letter ('<VQA>what is it?'); may be given more "
        "than once. Answers to these come after those to --prompt.",
        show_default=False,
    ),
]
ParseOption = Annotated[
    list[Answer] | None,
    typer.Option(
        help="How answers to --raw are read: one for all of them, or one for each, in their order.", show_default="text"
    ),
]


def prompts_given(
    prompts: Sequence[str] | None, raws: Sequence[str] | None, parses: Sequence[Answer] | None
) -> list[str | dict[str, Any]]:
    """All prompts as `Producer.submit` takes them. Raises InvalidRequest."""
    prompts, raws, parses = prompts or (), raws or (), parses or ()
    if not (prompts or raws):
        raise InvalidRequest("nothing is asked: give --prompt, or --raw, or both")
    if len(parses) > 1 and len(parses) != len(raws):
        raise InvalidRequest(
            f"--parse is given {len(parses)} times and --raw {len(raws)} times: give one --parse for all, or one for "
            "each --raw, in their order"
        )
    if parses and not raws:
        raise InvalidRequest("--parse is for prompts in --raw, and tasks have their own: leave it out")
    kinds = parses if len(parses) > 1 else repeat(parses[0] if parses else Answer.TEXT)
    own = [{"raw": raw, "parse": kind.value} for raw, kind in zip(raws, kinds, strict=False)]
    return [*map(parse_prompt, prompts), *own]


def parse_prompt(text: str) -> str | dict[str, Any]:
    """A prompt as `Producer.submit` takes it. Raises InvalidRequest when it begins as JSON and is not."""
    if text.lstrip().startswith("{"):
        try:
            prompt: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise InvalidRequest(f"--prompt {text!r} is not JSON: {error}") from None
        return prompt
    token = f"<{text.upper()}>"
    return token if token in TASKS else text
