"""What lies in a folder, wherever that is, and whether it has all that makes it what it is named for."""

import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from arno_shared.checkpoint.files import (
    ADAPTER_CONFIG,
    CONFIG,
    IMAGE_PROCESSOR,
    PROCESSOR,
    TOKENIZER,
    Wanted,
    adapter_files,
    missing_shards,
    weight_files,
)
from arno_shared.checkpoint.folder import Folder
from arno_shared.errors import ArnoError, ModelUnusable
from arno_shared.uris import redact

_MODEL_WEIGHTS = "weights (model.safetensors, pytorch_model.bin, or shards of one of them)"
_ADAPTER_WEIGHTS = "weights (adapter_model.safetensors or adapter_model.bin)"
_OTHER_WEIGHTS = {".gguf", ".onnx", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5"}
_NOT_WEIGHTS = {"training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt"}
_KINDS = {
    Wanted.MODEL: "a model's folder",
    Wanted.WEIGHTS: "a model's folder",
    Wanted.ADAPTER: "a LoRA adapter's folder",
    Wanted.PROCESSOR: "a processor's folder",
}
_NAMED = 4
"""Of several files or folders, so many are named."""


@dataclass(frozen=True, slots=True)
class Contents:
    where: str
    """The folder, for people."""
    names: Collection[str]
    """Of files, those in sub-folders with slashes."""
    read: Callable[[str], bytes]
    """May raise OSError or ArnoError."""

    @classmethod
    def of(cls, folder: Folder) -> "Contents":
        def read(name: str) -> bytes:
            with folder.open(name) as file:
                return file.read()

        return cls(folder.name, folder.names, read)


def check_contents(contents: Contents, wanted: Wanted) -> None:
    """Raises ModelUnusable: one sentence that says what is lacking, and what the folder seems to be instead. What a
    model's tokenizer and image processor need may be lacking: they may come from elsewhere."""
    if lack := lack_of(contents, wanted):
        raise ModelUnusable(f"{redact(contents.where)} is not {_KINDS[wanted]}: {lack}")


def lack_of(contents: Contents, wanted: Wanted) -> str | None:
    """What it lacks, and what it seems to be instead; None when it has all."""
    lacking = list(_lacking(contents.names, wanted))
    if not lacking:
        return None
    return f"it lacks {_listed(lacking)}" + "".join(f"; {hint}" for hint in _hints(contents, wanted))


def _lacking(names: Collection[str], wanted: Wanted) -> Iterator[str]:
    match wanted:
        case Wanted.MODEL | Wanted.WEIGHTS:
            config, weights, either = CONFIG, weight_files(names), _MODEL_WEIGHTS
        case Wanted.ADAPTER:
            config, weights, either = ADAPTER_CONFIG, adapter_files(names), _ADAPTER_WEIGHTS
        case Wanted.PROCESSOR:
            if TOKENIZER not in names and not {"vocab.json", "merges.txt"} <= set(names):
                yield f"{TOKENIZER} (or vocab.json with merges.txt)"
            if not {IMAGE_PROCESSOR, PROCESSOR} & set(names):
                yield f"{IMAGE_PROCESSOR} or {PROCESSOR}"
            return
    if config not in names:
        yield config
    if not weights:
        yield either
    yield from missing_shards(weights)


def _hints(contents: Contents, wanted: Wanted) -> Iterator[str]:
    names = contents.names
    if wanted is not Wanted.ADAPTER and ADAPTER_CONFIG in names:
        yield (
            f"it is a LoRA adapter: name it in {Wanted.ADAPTER.setting}, and {_base(contents)} in "
            f"{Wanted.MODEL.setting}"
        )
    elif wanted is Wanted.ADAPTER and CONFIG in names and weight_files(names):
        yield f"it is a whole model: name it in {Wanted.MODEL.setting}, and no adapter"
    elif within := _checkpoints(names):
        yield f"what training saved lies in its folders {_listed(within)}: name one of these"
    elif wanted is not Wanted.PROCESSOR and (others := _other_weights(names, wanted)):
        yield f"it has {_listed(others)}, which Arno does not read"


def _base(contents: Contents) -> str:
    """The model that the adapter was made for."""
    try:
        said = json.loads(contents.read(ADAPTER_CONFIG)).get("base_model_name_or_path")
    except (OSError, ArnoError, ValueError, AttributeError):
        said = None
    return f"its base {redact(said)!r}" if said and isinstance(said, str) else "the model that it was made for"


def _checkpoints(names: Collection[str]) -> list[str]:
    """Folders in which training left a model or an adapter, by the number of its steps."""
    configs = (re.fullmatch(rf"(checkpoint-(\d+))/(?:{CONFIG}|{ADAPTER_CONFIG})", name) for name in names)
    found = {int(config[2]): config[1] for config in configs if config}
    return [found[steps] for steps in sorted(found)]


def _other_weights(names: Collection[str], wanted: Wanted) -> list[str]:
    read = {*weight_files(names), *adapter_files(names), *_NOT_WEIGHTS}
    return sorted(
        name
        for name in names
        if "/" not in name and name not in read and PurePosixPath(name).suffix.lower() in _OTHER_WEIGHTS
    )


def _listed(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`, `a, b, c, d and 5 more`."""
    shown = items[:_NAMED] + ([f"{len(items) - _NAMED} more"] if len(items) > _NAMED else [])
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))
