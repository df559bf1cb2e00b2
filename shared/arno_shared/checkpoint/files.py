"""Which files of a folder are read. All others are passed over: remote code, states of optimizers, other formats."""

import re
from collections.abc import Collection
from enum import StrEnum


class Wanted(StrEnum):
    """What a folder, a bucket's folder or a hub id is named for."""

    MODEL = "model"
    WEIGHTS = "weights"
    """A model of which tokenizer and image processor lie elsewhere."""
    ADAPTER = "adapter"
    PROCESSOR = "processor"

    @property
    def setting(self) -> str:
        """The environment variable that names it."""
        return f"ARNO_WORKER__{'MODEL' if self is Wanted.WEIGHTS else self.upper()}"


CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
ADAPTER_CONFIG = "adapter_config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
IMAGE_PROCESSOR = "preprocessor_config.json"
PROCESSOR = "processor_config.json"

_PROCESSOR_FILES = (
    TOKENIZER,
    TOKENIZER_CONFIG,
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    IMAGE_PROCESSOR,
    PROCESSOR,
)
_WEIGHTS = (("model", "safetensors"), ("pytorch_model", "bin"))
_ADAPTER_WEIGHTS = (("adapter_model", "safetensors"), ("adapter_model", "bin"))
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.(safetensors|bin)")


def files_to_read(names: Collection[str], wanted: Wanted) -> list[str]:
    """Those of a folder's files that count for what is wanted, in order; the first of each kind of weights."""
    match wanted:
        case Wanted.MODEL:
            read = [CONFIG, GENERATION_CONFIG, *_PROCESSOR_FILES, *weight_files(names)]
        case Wanted.WEIGHTS:
            read = [CONFIG, GENERATION_CONFIG, *weight_files(names)]
        case Wanted.ADAPTER:
            read = [ADAPTER_CONFIG, *adapter_files(names)]
        case Wanted.PROCESSOR:
            read = list(_PROCESSOR_FILES)
    return sorted(set(read) & set(names))


def weight_files(names: Collection[str]) -> list[str]:
    """Of a model, those that are there: one file, or its shards; safetensors before `.bin`."""
    return _first(names, _WEIGHTS)


def adapter_files(names: Collection[str]) -> list[str]:
    """Of an adapter."""
    return _first(names, _ADAPTER_WEIGHTS)


def missing_shards(weights: Collection[str]) -> list[str]:
    """What `weights`, shards of one model, say that there is beside them."""
    shards = [shard for name in weights if (shard := _SHARD.fullmatch(name))]
    whole = {f"{s[1]}-{n:05}-of-{s[3]}.{s[4]}" for s in shards for n in range(1, int(s[3]) + 1)}
    return sorted(whole - set(weights))


def _first(names: Collection[str], kinds: Collection[tuple[str, str]]) -> list[str]:
    for stem, suffix in kinds:
        if (whole := f"{stem}.{suffix}") in names:
            return [whole]
        shards = [name for name in names if (shard := _SHARD.fullmatch(name)) and shard.group(1, 4) == (stem, suffix)]
        if shards:
            return sorted(shards)
    return []
