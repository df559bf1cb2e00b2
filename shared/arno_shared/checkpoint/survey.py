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
from arno_shared.checkpoint.config import part_of, plain_config
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
from arno_shared.checkpoint.headers import FLOATS, TensorHeader, tensor_headers
from arno_shared.checkpoint.original import (
    FINAL_LOGITS_BIAS,
    TRANSPOSED,
    are_original_names,
    is_original_config,
    native_config,
    native_name,
    original_name,
)
from arno_shared.checkpoint.shapes import COPIES, HEAD, VOCABULARY, Shape, expected_shapes, map_size, vision_of
from arno_shared.checkpoint.vocabulary import Vocabulary, has_tokenizer, read_vocabulary
from arno_shared.errors import ModelUnusable


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
    says_untied: bool = False
    """The configuration says that there is a head beside the vocabulary's matrix."""
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


def survey(
    folder: Folder, processor: Folder | None = None, adapter: Adapter | None = None, *, sees_processor: bool = True
) -> Survey:
    """Looks at all that can be looked at; what is wrong with it becomes `problems`. `sees_processor`: tokenizer and
    image processor lie here, and not where they cannot be seen."""
    found = Survey(folder, processor or folder, "no model", adapter=adapter)
    of_processor = (_look_at_vocabulary, _look_at_rules, _look_at_images) if sees_processor else ()
    for look in (_look_at_config, _look_at_tensors, *of_processor):
        try:
            found.problems += look(found)
        except ModelUnusable as error:
            found.problems.append(str(error))
        except (TypeError, ValueError, KeyError, AttributeError, IndexError, ArithmeticError) as error:
            # Of settings of kinds that nobody foresaw.
            found.problems.append(f"its settings cannot be made sense of ({type(error).__name__}: {error})")
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
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method", "") if isinstance(quantized, Mapping) else ""
        yield f"its weights are quantized ({method or 'quantization_config'}), which is not supported"
    is_original = is_original_config(config)
    found.layout = Layout.ORIGINAL if is_original else Layout.NATIVE
    found.kind = f"a Florence-2 in {found.layout}"
    parts = part_of(config, "vision_config"), part_of(config, "text_config")
    found.config = native_config(config) if is_original else plain_config(*parts)
    found.says_untied = config.get("tie_word_embeddings") is False
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
    if len(shapes) < len(found.tensors) - (FINAL_LOGITS_BIAS in found.tensors):
        names = Counter(map(native_name, found.tensors))
        twice = [name for name in found.tensors if names[native_name(name)] > 1]
        yield f"it holds one tensor under two names, {' and '.join(twice[:2])}"
    missing = [name for name in found.shapes if name not in shapes and name not in _optional(found, shapes)]
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
        if tensor.dtype not in FLOATS:
            yield f"{name} holds numbers of the type {tensor.dtype}, as quantized weights do; only floats are supported"
            break


def _optional(found: Survey, shapes: Mapping[str, Shape]) -> set[str]:
    """A head that is tied need not be there, nor the matrix that it is tied to where the head is."""
    if shapes.keys() & {VOCABULARY, *COPIES}:
        return {VOCABULARY} if found.says_untied else {VOCABULARY, HEAD}
    return {VOCABULARY} if HEAD in shapes and not found.says_untied else set()


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
        is_elsewhere = found.processor is not found.folder
        if not is_elsewhere:
            found.kind = f"the weights alone of {found.kind}"
        yield (
            f"{found.processor.name if is_elsewhere else 'it'} lacks {' and '.join(lacks)}: {Wanted.PROCESSOR.setting} "
            "names the folder or hub id that these come from, for example the model that it was fine-tuned from"
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
    if unusable := found.rules.unusable(found.shapes[VOCABULARY][0]):
        yield unusable


def _look_at_images(found: Survey) -> Iterator[str]:
    """Whether pictures become what the model takes."""
    if not found.shapes or not {IMAGE_PROCESSOR, PROCESSOR} & found.processor.sizes.keys():
        return
    said = image_settings(found.processor)
    size, stated = said.get("size"), said.get("image_seq_length")
    sides: list[Any] = [size.get(side) for side in ("height", "width")] if isinstance(size, Mapping) else []
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        yield f"the image processor must resize to a height and a width; its size is {size!r}"
        return
    if not said.get("do_resize", True):
        yield "the image processor does not resize, and the model takes pictures of one size"
    if said.get("do_center_crop", True) and said.get("crop_size") != size:
        crop = said.get("crop_size")
        yield f"the image processor crops pictures (do_center_crop, to {crop!r}), which is not supported"
    height, width = map_size(found.config, *sides)
    places = vision_of(found.config)["max_position_embeddings"]
    if not 0 < max(height, width) <= places:
        yield f"of a picture of {sides[0]} × {sides[1]} pixels {height} × {width} places are made; there are {places}"
    tokens = height * width + 1
    if stated is not None and stated != tokens:
        yield f"the image processor says that a picture is {stated!r} tokens; of {CONFIG} it is {tokens}"


def image_settings(processor: Folder) -> dict[str, Any]:
    """The image processor's, in whichever of its files. Raises ModelUnusable."""
    if IMAGE_PROCESSOR in processor.sizes:
        return read_json(processor, IMAGE_PROCESSOR)
    settings = read_json(processor, PROCESSOR).get("image_processor")
    if not isinstance(settings, dict):
        raise ModelUnusable(f"{PROCESSOR} says nothing of an image_processor")
    return settings
