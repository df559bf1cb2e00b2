"""Loads a checkpoint, whatever its layout: what it holds is looked at first, and refused in one sentence."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import Florence2Config, Florence2ForConditionalGeneration, GenerationConfig

from arno_shared.checkpoint.adapter import Adapter, read_adapter
from arno_shared.checkpoint.files import Wanted, files_to_read
from arno_shared.checkpoint.folder import LocalFolder
from arno_shared.checkpoint.shapes import VOCABULARY, image_tokens
from arno_shared.checkpoint.survey import Survey, image_settings, survey
from arno_shared.errors import ModelUnusable
from arno_shared.logs import get_logger
from arno_shared.results import ModelFacts
from arno_shared.settings import WorkerSettings
from arno_shared.storage import ObjectStore
from arno_shared.uris import redact
from arno_workers.engine.checkpoint.locate import Located, locate
from arno_workers.engine.checkpoint.lora import merge
from arno_workers.engine.checkpoint.processor import load_processor, load_tokenizer
from arno_workers.engine.checkpoint.prompt_tokenizer import PromptTokenizer
from arno_workers.engine.checkpoint.revision import revision_of
from arno_workers.engine.checkpoint.weights import Weights

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the parts of a checkpoint lie, on this machine."""

    model: Located
    processor: Located | None = None
    """Where tokenizer and image processor come from, if not from the model's folder."""
    adapter: Located | None = None


def locate_all(settings: WorkerSettings, store: ObjectStore) -> Sources:
    """Raises ModelUnusable."""
    cache = settings.model_cache
    wanted = Wanted.WEIGHTS if settings.processor else Wanted.MODEL

    def found(name: str, revision: str, wanted: Wanted) -> Located | None:
        return locate(name, revision, wanted, cache, store) if name else None

    return Sources(
        locate(settings.model, settings.revision, wanted, cache, store),
        found(settings.processor, settings.processor_revision, Wanted.PROCESSOR),
        found(settings.adapter, settings.adapter_revision, Wanted.ADAPTER),
    )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    model: Any
    """A Florence2ForConditionalGeneration on the CPU, with the numbers that are stored, and its `generation_config`."""
    processor: Any
    """A Florence2Processor."""
    prompts: PromptTokenizer
    stored: torch.dtype
    facts: ModelFacts
    """Of what is stored."""
    provenance: str
    """What was read, and from where."""


def load_checkpoint(sources: Sources) -> Checkpoint:
    """Raises ModelUnusable, whose sentence names the model, what is wrong with it, and what it seems to be."""
    folder = _folder(sources.model)
    processor_folder = _folder(sources.processor) if sources.processor else folder
    adapter = read_adapter(_folder(sources.adapter)) if sources.adapter else None
    seen = survey(folder, processor_folder, adapter).checked()
    try:
        weights = Weights(sources.model.folder, seen.weights)
        if adapter is not None and sources.adapter is not None:
            merge(weights, adapter, sources.adapter.folder)
        checkpoint = _load(sources, seen, processor_folder, weights, adapter)
    except ModelUnusable as error:
        raise seen.unusable(str(error)) from error
    except Exception as error:
        raise seen.unusable(f"it cannot be loaded: {' '.join(str(error).split())}") from error
    log.info("checkpoint read", model=folder.name, files=list(seen.weights), said=checkpoint.provenance)
    if seen.rules is not None and seen.rules.is_poor:
        log.warning("answers are searched for in less than Florence-2's way", model=folder.name, rules=str(seen.rules))
    return checkpoint


def _folder(located: Located) -> LocalFolder:
    return LocalFolder(located.folder, redact(located.name))


def _load(
    sources: Sources, seen: Survey, processor_folder: LocalFolder, weights: Weights, adapter: Adapter | None
) -> Checkpoint:
    assert seen.vocabulary is not None
    size = image_settings(processor_folder)["size"]
    tokenizer = load_tokenizer(processor_folder.path, seen.vocabulary)
    processor = load_processor(processor_folder, tokenizer, image_tokens(seen.config, size["height"], size["width"]))
    return Checkpoint(
        model=_assemble(seen, weights, processor.image_token_id),
        processor=processor,
        prompts=PromptTokenizer(tokenizer, seen.shapes[VOCABULARY][0]),
        stored=weights.stored,
        facts=_facts(sources, seen, weights, adapter),
        provenance=_provenance(sources, seen, weights, adapter),
    )


def _assemble(seen: Survey, weights: Weights, image_token_id: int) -> Any:
    assert seen.rules is not None
    whole = {**seen.config, "tie_word_embeddings": weights.tied, "image_token_id": image_token_id}
    config = Florence2Config.from_dict(whole)
    config.dtype = weights.stored
    # On no device, so that nothing is drawn at random which the weights would replace.
    with torch.device("meta"):
        model: Any = Florence2ForConditionalGeneration(config)
    model.load_state_dict(weights.tensors, strict=True, assign=True)
    model.tie_weights()
    model.generation_config = GenerationConfig.from_dict(dict(seen.rules.values))
    return model.eval()


def _facts(sources: Sources, seen: Survey, weights: Weights, adapter: Adapter | None) -> ModelFacts:
    wanted = Wanted.WEIGHTS if sources.processor else Wanted.MODEL
    return ModelFacts(
        id=sources.model.name,
        revision=revision_of(sources.model, files_to_read(seen.folder.sizes, wanted)),
        dtype=str(weights.stored).removeprefix("torch."),
        **_facts_of("processor", sources.processor, Wanted.PROCESSOR),
        **_facts_of("adapter", sources.adapter, Wanted.ADAPTER),
    )


def _facts_of(part: str, located: Located | None, wanted: Wanted) -> dict[str, str]:
    if located is None:
        return {}
    files = files_to_read(LocalFolder(located.folder).sizes, wanted)
    return {part: located.name, f"{part}_revision": revision_of(located, files)}


def _provenance(sources: Sources, seen: Survey, weights: Weights, adapter: Adapter | None) -> str:
    head = "head tied" if weights.tied else "head of its own"
    dtype = str(weights.stored).removeprefix("torch.")
    parts = [f"{seen.layout}, {dtype}, {head}", str(seen.rules)]
    if sources.processor is not None:
        parts.append(f"tokenizer and image processor of {redact(sources.processor.name)}")
    if adapter is not None:
        parts.append(f"adapter {adapter} merged")
    return "; ".join(parts)
