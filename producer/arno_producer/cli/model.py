"""`arno model`: what is in a folder with a Florence-2, and will Arno run it? And a copy in transformers' own layout."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from arno_producer.cli.terminal import JsonOption, emit, say, show_table
from arno_shared.errors import InvalidRequest, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from arno_shared.checkpoint.adapter import Adapter
    from arno_shared.checkpoint.survey import Survey

AdapterOption = Annotated[str, typer.Option("--adapter", metavar="FOLDER", help="A LoRA adapter to merge into it.")]
ProcessorOption = Annotated[
    str, typer.Option("--processor", metavar="FOLDER", help="Where tokenizer and image processor come from.")
]


_SIZES = {768: "Florence-2-base's size", 1024: "Florence-2-large's size"}
"""By the width of the text model."""


class _FolderFirst(TyperGroup):
    """`arno model FOLDER` is `arno model show FOLDER`."""

    default = "show"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_FolderFirst,
    help="Say what a model's folder holds, and whether Arno will run it; or convert it. `arno model FOLDER` "
    "is short for `arno model show FOLDER`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command()
def show(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="A folder, an s3:// folder or a bundled model.")],
    adapter: AdapterOption = "",
    processor: ProcessorOption = "",
    json_lines: JsonOption = False,
) -> None:
    """Say what a folder is, whether Arno will run it, and what to mend.

    Reads headers alone, and needs neither torch nor a GPU. Exits with 1 when Arno will not run it.
    """
    from arno_producer.named_model import folder_named, look_at
    from arno_shared.checkpoint.adapter import read_adapter
    from arno_shared.checkpoint.files import ADAPTER_CONFIG, CONFIG, Wanted
    from arno_shared.storage import ObjectStore

    store = ObjectStore()
    named = folder_named(folder, Wanted.MODEL, store)
    if named is None:
        raise InvalidRequest(f"{folder} is no folder here: arno model looks into folders, and downloads nothing")
    if ADAPTER_CONFIG in named.sizes and CONFIG not in named.sizes:
        facts, is_sound = list(_facts_of_adapter(read_adapter(named))), True
    else:
        found, unseen = look_at(named, processor, adapter, store)
        facts, is_sound = list(_facts(found, unseen)), not found.problems
    if json_lines:
        emit(json.dumps(dict(facts), ensure_ascii=False))
    else:
        show_table(("", ""), facts)
    raise typer.Exit(int(not is_sound))


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A folder, an s3:// folder or a hub id.")],
    folder: Annotated[str, typer.Argument(metavar="TO", help="The folder to write, which is not there yet.")],
    adapter: AdapterOption = "",
    processor: ProcessorOption = "",
    revision: Annotated[str, typer.Option(help="Of a hub id.")] = "main",
) -> None:
    """Write a model, whatever its layout, as transformers' own code reads it.

    Weights keep the numbers' type that they are stored in; an adapter is merged. Needs arno[worker].
    """
    if not find_spec("torch") or not find_spec("transformers"):
        raise MissingExtra("Converting a model", "worker")
    named = {"MODEL": source, "REVISION": revision, "ADAPTER": adapter, "PROCESSOR": processor}
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "arno_workers.engine.checkpoint.convert", folder],
        env={**os.environ, **{f"ARNO_WORKER__{name}": value for name, value in named.items()}},
        check=False,
    )
    if done.returncode:
        raise typer.Exit(done.returncode)
    say(f"{folder} is written")


def _facts(found: "Survey", unseen: "Sequence[str]") -> "Iterator[tuple[str, str]]":
    yield "folder", found.folder.name
    yield "is", found.kind
    if found.tensors:
        yield "size", _size(found)
        yield "files", ", ".join(f"{name} ({found.folder.sizes[name]:,} bytes)" for name in found.weights)
        yield "numbers", ", ".join(f"{dtype} ({count:,})" for dtype, count in found.dtypes.most_common())
        yield "head", "a matrix of its own" if found.has_own_head else "tied to the vocabulary"
    if found.vocabulary:
        yield "vocabulary", _vocabulary(found)
    if found.rules:
        yield "generation", str(found.rules)
    if found.adapter:
        yield "adapter", str(found.adapter)
    if found.vocabulary:
        yield "prompts", _prompts(found)
    if unseen:
        yield "not seen", f"{', '.join(unseen)}: on the hub, and arno model downloads nothing"
    yield "Arno", "will not run it" if found.problems else "will run it"
    for problem in found.problems:
        yield "to mend", problem


def _facts_of_adapter(adapter: "Adapter") -> "Iterator[tuple[str, str]]":
    yield "folder", adapter.folder.name
    yield "is", "a LoRA adapter"
    yield "for", adapter.base or "a base that it does not name"
    yield "adapts", f"{adapter.kind}, {len(adapter.factors)} weights"
    yield "Arno", "merges it into its base: ARNO_WORKER__MODEL names the base, ARNO_WORKER__ADAPTER this"


def _size(found: "Survey") -> str:
    parameters = sum(found.dtypes.values())
    text = found.config.get("text_config") or {}
    known = _SIZES.get(text.get("d_model", 0), "a size of its own")
    return f"{known}: {parameters:,} parameters"


def _vocabulary(found: "Survey") -> str:
    assert found.vocabulary is not None
    tokens = len(found.vocabulary.ids)
    appended = len(found.vocabulary.appended)
    return f"{tokens:,} tokens" + (
        f", of which {appended:,} of Florence-2's are added while loading" if appended else ""
    )


def _prompts(found: "Survey") -> str:
    assert found.vocabulary is not None
    words = 'Florence-2\'s fifteen tasks, as far as it was trained on them, and any of its own as {"raw": …}'
    own = found.vocabulary.others
    return words + (f"; tokens of its own: {', '.join(own[:20])}" if own else "")
