"""A LoRA adapter, as PEFT saves it: what it adds to which tensor of the base. Only what can be merged is taken.

An adapted module's weight W becomes W + s·B·A, with s = alpha / rank, or alpha / √rank for rslora
(<https://arxiv.org/abs/2106.09685>, <https://arxiv.org/abs/2312.03732>). Files name modules as the base did that it was
trained on, Microsoft's or transformers'.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

from arno_shared.checkpoint.files import ADAPTER_CONFIG, adapter_files
from arno_shared.checkpoint.folder import Folder, read_json
from arno_shared.checkpoint.headers import TensorHeader, tensor_headers
from arno_shared.checkpoint.original import native_name
from arno_shared.errors import ModelUnusable

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_([AB])(?:\.default)?\.weight")

_NOT_MERGED = {
    "use_dora": "DoRA",
    "modules_to_save": "modules_to_save",
    "lora_bias": "lora_bias",
    "use_qalora": "QALoRA",
    "layer_replication": "layer_replication",
    "trainable_token_indices": "trainable_token_indices",
    "target_parameters": "target_parameters",
    "alora_invocation_tokens": "activated LoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow",
}
"""What a configuration may ask for beside factors of linear layers."""


@dataclass(frozen=True, slots=True)
class Factors:
    """What becomes of one weight."""

    weight: str
    """Its name in transformers' layout."""
    down: str
    """A's name in the adapter's file: rank × inputs."""
    up: str
    """B's: outputs × rank."""
    scale: float


@dataclass(frozen=True, slots=True)
class Adapter:
    folder: Folder
    files: tuple[str, ...]
    base: str
    """What it was trained on, as its configuration names it."""
    rank: int
    is_rslora: bool
    factors: tuple[Factors, ...]
    headers: Mapping[str, TensorHeader]

    def misfit(self, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
        """Why it was made for another base than one with tensors of these shapes; None when it fits."""
        for one in self.factors:
            down, up = self.headers[one.down].shape, self.headers[one.up].shape
            wanted, made = shapes.get(one.weight), (up[0], down[1])
            if wanted is None:
                return f"the adapter's {one.down} is for {one.weight}, which the model has not: {self._made_for}"
            if wanted != made:
                return f"the adapter's {one.down} is for a weight of {made}, the model's is {wanted}: {self._made_for}"
        return None

    def __str__(self) -> str:
        return f"{self.folder.name} ({self.kind}, {len(self.factors)} weights)"

    @property
    def kind(self) -> str:
        return f"{'rslora' if self.is_rslora else 'lora'} of rank {self.rank}"

    @property
    def _made_for(self) -> str:
        return f"it was made for {self.base}" if self.base else "it was made for another base"


def read_adapter(folder: Folder) -> Adapter:
    """Raises ModelUnusable, which names what the adapter asks for that cannot be merged."""
    try:
        return _read(folder)
    except ModelUnusable as error:
        raise ModelUnusable(f"{folder.name}: {error}") from None


def _read(folder: Folder) -> Adapter:
    if ADAPTER_CONFIG not in folder.sizes:
        raise ModelUnusable(f"it is no LoRA adapter: it lacks {ADAPTER_CONFIG}")
    config = read_json(folder, ADAPTER_CONFIG)
    _refuse_other_kinds(config)
    files = tuple(adapter_files(folder.sizes))
    if not files:
        raise ModelUnusable("the adapter lacks weights: adapter_model.safetensors or adapter_model.bin")
    headers = tensor_headers(folder, files)
    factors = tuple(_factors(headers, config))
    if not factors:
        raise ModelUnusable("the adapter adapts nothing: it holds no lora_A and lora_B")
    return Adapter(
        folder=folder,
        files=files,
        base=str(config.get("base_model_name_or_path") or ""),
        rank=int(config.get("r") or 0),
        is_rslora=bool(config.get("use_rslora")),
        factors=factors,
        headers=headers,
    )


def _refuse_other_kinds(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise ModelUnusable(f"the adapter is of the kind {kind!r}; only LORA is supported")
    for field, name in _NOT_MERGED.items():
        if config.get(field):
            raise ModelUnusable(f"the adapter uses {name}, which is not supported ({field} in {ADAPTER_CONFIG})")
    if (bias := config.get("bias", "none")) != "none":
        raise ModelUnusable(f"the adapter trains biases, which is not supported (bias={bias!r} in {ADAPTER_CONFIG})")


def _factors(headers: Mapping[str, TensorHeader], config: Mapping[str, Any]) -> list[Factors]:
    pairs: dict[str, dict[str, str]] = {}
    for name, header in headers.items():
        factor = _FACTOR.fullmatch(name)
        if factor is None:
            raise ModelUnusable(f"the adapter holds {name}, which is no factor of a linear layer: {_kind(name)}")
        if len(header.shape) != 2:
            raise ModelUnusable(f"the adapter's {name} has {len(header.shape)} dimensions; only 2 are supported")
        pairs.setdefault(factor[1].removeprefix(_PREFIX), {})[factor[2]] = name
    return [_pair(module, pairs[module], headers, config) for module in sorted(pairs)]


def _kind(name: str) -> str:
    kinds = {
        "lora_magnitude_vector": "DoRA is not supported",
        "lora_embedding": "LoRA of embeddings is not supported",
        "modules_to_save": "modules_to_save is not supported",
        ".bias": "trained biases are not supported",
    }
    whole = "a weight saved whole, as of modules_to_save or an enlarged vocabulary, is not supported"
    return next((words for mark, words in kinds.items() if mark in name), whole)


def _pair(
    module: str,
    names: Mapping[str, str],
    headers: Mapping[str, TensorHeader],
    config: Mapping[str, Any],
) -> Factors:
    if len(names) != 2:
        (name,) = names.values()
        raise ModelUnusable(f"the adapter holds {name} without its other factor")
    rank = _by_pattern(module, config.get("rank_pattern"), config.get("r"))
    alpha = _by_pattern(module, config.get("alpha_pattern"), config.get("lora_alpha"))
    found = headers[names["A"]].shape[0], headers[names["B"]].shape[1]
    if found != (rank, rank):
        raise ModelUnusable(f"the adapter's {names['A']} has rank {found[0]}, and {ADAPTER_CONFIG} says {rank}")
    return Factors(
        weight=native_name(f"{module}.weight"),
        down=names["A"],
        up=names["B"],
        scale=alpha / (sqrt(rank) if config.get("use_rslora") else rank),
    )


def _by_pattern(module: str, patterns: Any, default: Any) -> float:
    """As PEFT finds it: the first pattern that the end of the module's name matches counts."""
    try:
        for pattern, value in (patterns or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return _positive(value, pattern)
    except (re.error, AttributeError) as error:
        raise ModelUnusable(f"{ADAPTER_CONFIG} has a pattern that is none: {error}") from None
    return _positive(default, "r and lora_alpha")


def _positive(value: Any, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise ModelUnusable(f"{ADAPTER_CONFIG} says {value!r} where {name} needs a positive number")
    return value
