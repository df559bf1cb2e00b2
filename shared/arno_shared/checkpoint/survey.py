"""What a folder with a model is, whether Arno will run it, and what to mend: said from its headers alone.

A worker looks before it loads, `arno model` and `arno doctor` look from outside; so all of them say the same.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import prod
from typing import Any

from arno_shared.checkpoint.adapter import Adapter
from arno_shared.checkpoint.contents import Contents, lack_of
from arno_shared.checkpoint.files import (
    ADAPTER_CONFIG,
    CONFIG,
    IMAGE_PROCESSOR,
    PROCESSOR,
    TOKENIZER,
    Wanted,
    missing_shards,
    weight_files,
)
from arno_shared.checkpoint.folder import Folder, read_json
from arno_shared.checkpoint.generation import StatedRules, stated_rules
from arno_shared.checkpoint.headers import TensorHeader, tensor_headers
from arno_shared.checkpoint.original import (
    FINAL_LOGITS_BIAS,
    TRANSPOSED,
    are_original_names,
    is_original_config,
    native_config,
    native_name,
    original_name,
)
from arno_shared.checkpoint.shapes import COPIES, HEAD, VOCABULARY, Shape, expected_shapes, image_tokens
from arno_shared.checkpoint.vocabulary import Vocabulary, has_tokenizer, read_vocabulary
from arno_shared.errors import ModelUnusable

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


class Layout(StrEnum):
    NATIVE = "transformers' own layout"
    ORIGINAL = "Microsoft's original layout"


@dataclass(slots=True)
class Survey:
    folder: Folder
    processor: Folder
    """Where tokenizer and image processor come from."""
    kind: str
    """What the folder seems to be."""
    problems: list[str] = field(default_factory=list)
    """What keeps Arno from running it, the first thing first; none when it will."""
    layout: Layout | None = None
    config: dict[str, Any] = field(default_factory=dict)
    """In transformers' form, whatever the layout."""
    weights: tuple[str, ...] = ()
    tensors: Mapping[str, TensorHeader] = field(default_factory=dict)
    """By their names in the files."""
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    """What the configuration says that there is, by transformers' names."""
    vocabulary: Vocabulary | None = None
    rules: StatedRules | None = None
    adapter: Adapter | None = None

    @property
    def has_own_head(self) -> bool:
        """A matrix beside the vocabulary's; the two may still be equal."""
        native = {native_name(name) for name in self.tensors}
        return HEAD in native and bool(native & {VOCABULARY, *COPIES})

    @property
    def dtypes(self) -> Counter[str]:
        """Numbers of each type."""
        counts: Counter[str] = Counter()
        for tensor in self.tensors.values():
            counts[tensor.dtype] += prod(tensor.shape)
        return counts

    def in_file(self, native: str) -> str:
        """What people who look into the files find a tensor under."""
        return original_name(native) if are_original_names(self.tensors) else native

    def checked(self) -> "Survey":
        """Raises ModelUnusable, with the first problem in a sentence."""
        if self.problems:
            raise self.unusable(self.problems[0])
        return self

    def unusable(self, problem: str) -> ModelUnusable:
        return ModelUnusable(f"{self.folder.name}: {problem}; this seems to be {self.kind}")


def survey(folder: Folder, processor: Folder | None = None, adapter: Adapter | None = None) -> Survey:
    """Looks at all that can be looked at; what is wrong with it becomes `problems`."""
    found = Survey(folder, processor or folder, "no model", adapter=adapter)
    for look in (_look_at_config, _look_at_tensors, _look_at_vocabulary, _look_at_rules, _look_at_images):
        try:
            found.problems += look(found)
        except ModelUnusable as error:
            found.problems.append(str(error))
    if adapter is not None and found.shapes and (misfit := adapter.misfit(found.shapes)):
        found.problems.append(misfit)
    return found


def _look_at_config(found: Survey) -> Iterator[str]:
    lack = lack_of(Contents.of(found.folder), Wanted.WEIGHTS)
    if CONFIG not in found.folder.sizes:
        found.kind = "a LoRA adapter" if ADAPTER_CONFIG in found.folder.sizes else "no model"
        yield str(lack)
        return
    config = read_json(found.folder, CONFIG)
    kind = config.get("model_type")
    if kind != "florence2":
        found.kind = f"a model of the kind {kind!r}" if kind else f"a folder whose {CONFIG} names no model_type"
        yield "it is not a Florence-2"
        return
    if lack:
        yield lack
    if (quantized := config.get("quantization_config")) is not None:
        method = quantized.get("quant_method", "") if isinstance(quantized, Mapping) else ""
        yield f"its weights are quantized ({method or 'quantization_config'}), which is not supported"
    is_original = is_original_config(config)
    found.layout = Layout.ORIGINAL if is_original else Layout.NATIVE
    found.kind = f"a Florence-2 in {found.layout}"
    found.config = native_config(config) if is_original else config
    found.shapes = expected_shapes(found.config)


def _look_at_tensors(found: Survey) -> Iterator[str]:
    found.weights = tuple(weight_files(found.folder.sizes))
    if not found.weights:
        return
    found.tensors = tensor_headers(found.folder, found.weights)
    if not found.shapes:
        return
    if are_original_names(found.tensors):
        found.layout = Layout.ORIGINAL
        found.kind = f"a Florence-2 in {found.layout}"
    if not missing_shards(found.weights):
        yield from _misfits(found)


def _misfits(found: Survey) -> Iterator[str]:
    shapes = _shapes_in_native(found.tensors)
    # A head that is tied need not be there, nor the matrix that it is tied to where it is.
    copies = {VOCABULARY, HEAD, *COPIES}
    optional = copies if shapes.keys() & copies else copies - {VOCABULARY}
    missing = [name for name in found.shapes if name not in shapes and name not in optional]
    if not shapes.keys() & found.shapes.keys():
        yield f"none of its tensors has a name of Florence-2's; the first is {next(iter(found.tensors), 'none')}"
        return
    if missing:
        yield _first(missing, "lacks", found.in_file, len(found.shapes))
    expected = {**found.shapes, **dict.fromkeys(COPIES, found.shapes[VOCABULARY])}
    if unexpected := [
        name for name in found.tensors if native_name(name) not in expected and name != FINAL_LOGITS_BIAS
    ]:
        yield _first(unexpected, "holds the unexpected", str, len(found.tensors))
    for name, shape in shapes.items():
        if name in expected and shape != expected[name]:
            yield f"{found.in_file(name)} is {_by(shape)}, where {CONFIG} says {_by(expected[name])}"
            break
    for name, tensor in found.tensors.items():
        if tensor.dtype not in _FLOATS:
            yield f"{name} holds numbers of the type {tensor.dtype}, as quantized weights do; only floats are supported"
            break


def _shapes_in_native(tensors: Mapping[str, TensorHeader]) -> dict[str, Shape]:
    return {
        native_name(name): tensor.shape[::-1] if name == TRANSPOSED else tensor.shape
        for name, tensor in tensors.items()
        if name != FINAL_LOGITS_BIAS
    }


def _first(names: Sequence[str], verb: str, told: Any, of: int) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"it {verb} tensor{'s' if more else ''} {told(names[0])}{more} (of {of})"


def _by(shape: Shape) -> str:
    return " × ".join(map(str, shape)) or "one number"


def _look_at_vocabulary(found: Survey) -> Iterator[str]:
    if not found.shapes:
        return
    names = found.processor.sizes
    lacks = [] if has_tokenizer(names) else [f"{TOKENIZER} (or vocab.json and merges.txt)"]
    if not {IMAGE_PROCESSOR, PROCESSOR} & names.keys():
        lacks.append(IMAGE_PROCESSOR)
    if lacks:
        if found.processor is found.folder:
            found.kind = f"the weights alone of {found.kind}"
        yield (
            f"it lacks {' and '.join(lacks)}: {Wanted.PROCESSOR.setting} names the folder or hub id that these come "
            "from, for example the model that it was fine-tuned from"
        )
    if not has_tokenizer(names):
        return
    found.vocabulary = read_vocabulary(found.processor)
    rows = found.shapes[VOCABULARY][0]
    if misfit := found.vocabulary.misfit(rows, is_original=found.layout is Layout.ORIGINAL):
        yield f"tokenizer and weights do not fit: {misfit}"


def _look_at_rules(found: Survey) -> Iterator[str]:
    if found.vocabulary is None:
        return
    config = read_json(found.folder, CONFIG)
    is_original = found.layout is Layout.ORIGINAL
    found.rules = stated_rules(found.folder, config, found.vocabulary, is_original=is_original)
    if unsupported := found.rules.unsupported:
        yield unsupported


def _look_at_images(found: Survey) -> Iterator[str]:
    """Whether the picture becomes as many tokens as the processor says."""
    if not found.shapes or not {IMAGE_PROCESSOR, PROCESSOR} & found.processor.sizes.keys():
        return
    said = image_settings(found.processor)
    size, stated = said.get("size"), said.get("image_seq_length")
    if not isinstance(size, Mapping) or not {"height", "width"} <= size.keys():
        yield f"the image processor must resize to a height and a width; its size is {size!r}"
        return
    tokens = image_tokens(found.config, size["height"], size["width"])
    if stated is not None and stated != tokens:
        yield f"the image processor says that a picture is {stated} tokens; of {CONFIG} it is {tokens}"


def image_settings(processor: Folder) -> dict[str, Any]:
    """The image processor's, in whichever of its files. Raises ModelUnusable."""
    if IMAGE_PROCESSOR in processor.sizes:
        return read_json(processor, IMAGE_PROCESSOR)
    settings = read_json(processor, PROCESSOR).get("image_processor")
    if not isinstance(settings, dict):
        raise ModelUnusable(f"{PROCESSOR} says nothing of an image_processor")
    return settings
