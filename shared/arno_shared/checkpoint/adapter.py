"""A LoRA adapter, as PEFT saves it: what it adds to which tensor of the base. Only what can be merged is taken.

An adapted module's weight W becomes W + s·B·A, with s = alpha / rank, or alpha / √rank for rslora
(<https://arxiv.org/abs/2106.09685>, <https://arxiv.org/abs/2312.03732>). Files name modules as the base did that it was
trained on, Microsoft's or transformers'.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, sqrt
from typing import Any

from arno_shared.checkpoint.files import ADAPTER_CONFIG, adapter_files
from arno_shared.checkpoint.folder import Folder, read_json
from arno_shared.checkpoint.headers import FLOATS, TensorHeader, tensor_headers
from arno_shared.checkpoint.original import native_name
from arno_shared.checkpoint.shapes import COPIES, VOCABULARY
from arno_shared.errors import ModelUnusable

_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")
_BASE = ".base_layer.weight"
"""How the name of a weight ends that PEFT saves whole beside its factors, as it does with the head's."""

_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""What factors may have begun as. Others (PiSSA, OLoRA, CorDA, LoftQ) change the base when training starts."""

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
    base: str | None = None
    """What it is added to, where the adapter's file has that, too."""


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
            if one.weight in (VOCABULARY, *COPIES):
                return f"the adapter's {one.down} adapts the vocabulary, which is not supported"
            if wanted != made or (one.base and wanted != self.headers[one.base].shape):
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
    if (start := config.get("init_lora_weights")) not in _STARTS:
        raise ModelUnusable(
            f"the adapter began as {start!r}, which changes the base as well, and is not supported "
            f"(init_lora_weights in {ADAPTER_CONFIG}); PEFT converts it when it saves"
        )
    if (bias := config.get("bias") or "none") != "none":
        raise ModelUnusable(f"the adapter trains biases, which is not supported (bias={bias!r} in {ADAPTER_CONFIG})")


def _factors(headers: Mapping[str, TensorHeader], config: Mapping[str, Any]) -> list[Factors]:
    pairs: dict[str, dict[str, str]] = {}
    whole = {name.removesuffix(_BASE): name for name in headers if name.endswith(_BASE)}
    for name, header in headers.items():
        if header.dtype not in FLOATS:
            raise ModelUnusable(
                f"the adapter's {name} holds numbers of the type {header.dtype}; only floats are supported"
            )
        if name.removesuffix(_BASE) in whole:
            continue
        factor = _FACTOR.fullmatch(name)
        if factor is None:
            raise ModelUnusable(f"the adapter holds {name}, which is no factor of a linear layer: {_kind(name)}")
        if len(header.shape) != 2:
            raise ModelUnusable(f"the adapter's {name} has {len(header.shape)} dimensions; only 2 are supported")
        if other := pairs.setdefault(factor[1], {}).get(factor[2]):
            raise ModelUnusable(f"the adapter holds {other} and {name}: several adapters in one file are not supported")
        pairs[factor[1]][factor[2]] = name
    if alone := sorted(whole.keys() - pairs.keys()):
        raise ModelUnusable(f"the adapter holds {whole[alone[0]]}, and no factors for it")
    found = [_pair(module, pairs[module], whole.get(module), headers, config) for module in sorted(pairs)]
    if twice := next((one for one in found if sum(one.weight == other.weight for other in found) > 1), None):
        raise ModelUnusable(f"the adapter adapts {twice.weight} twice, under names of two layouts")
    return found


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
    path: str,
    names: Mapping[str, str],
    base: str | None,
    headers: Mapping[str, TensorHeader],
    config: Mapping[str, Any],
) -> Factors:
    if len(names) != 2:
        (name,) = names.values()
        raise ModelUnusable(f"the adapter holds {name} without its other factor")
    module = path.removeprefix(_PREFIX)
    rank = _number("r", _by_pattern(module, config.get("rank_pattern"), config.get("r")))
    alpha = _number("lora_alpha", _by_pattern(module, config.get("alpha_pattern"), config.get("lora_alpha")))
    if rank <= 0:
        raise ModelUnusable(f"{ADAPTER_CONFIG} says {rank!r} where r needs a positive number")
    found = headers[names["A"]].shape[0], headers[names["B"]].shape[1]
    if found != (rank, rank):
        raise ModelUnusable(f"the adapter's {names['A']} has rank {found[0]}, and {ADAPTER_CONFIG} says {rank}")
    return Factors(
        weight=native_name(f"{module}.weight"),
        down=names["A"],
        up=names["B"],
        scale=alpha / (sqrt(rank) if config.get("use_rslora") else rank),
        base=base,
    )


def _by_pattern(module: str, patterns: Any, default: Any) -> Any:
    """As PEFT finds it: the first pattern that the end of the module's name matches counts."""
    try:
        for pattern, value in (patterns or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
    except (re.error, AttributeError) as error:
        raise ModelUnusable(f"{ADAPTER_CONFIG} has a pattern that is none: {error}") from None
    return default


def _number(name: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        raise ModelUnusable(f"{ADAPTER_CONFIG} says {value!r} where {name} needs a number")
    return value
