"""Reads a model's weights, whatever their layout, under transformers' names. Nothing is left to chance: each is there,
is a number, and has its place."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from arno_shared.checkpoint.original import FINAL_LOGITS_BIAS, TRANSPOSED, native_name
from arno_shared.checkpoint.shapes import COPIES, HEAD, VOCABULARY
from arno_shared.errors import ModelUnusable


class Weights:
    """By transformers' names, as they are stored; the vocabulary's matrix and the head's are one tensor when tied."""

    def __init__(self, folder: Path, files: tuple[str, ...]) -> None:
        """Raises ModelUnusable, which names the first tensor that is wrong, as its file names it."""
        self.tensors: dict[str, Tensor] = {}
        counts: dict[torch.dtype, int] = {}
        for file in files:
            for name, tensor in tensors_in(folder / file):
                counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.numel()
                if name == FINAL_LOGITS_BIAS:
                    _refuse_bias(tensor)
                else:
                    self.tensors[native_name(name)] = tensor.t().contiguous() if name == TRANSPOSED else tensor
        self.stored = max(counts, key=lambda dtype: counts[dtype])
        """What most of the numbers are."""
        self._share()

    @property
    def tied(self) -> bool:
        return self.tensors[HEAD] is self.tensors[VOCABULARY]

    def _share(self) -> None:
        """Encoder and decoder have the vocabulary's one matrix, and so has a head that is the same."""
        found = [name for name in (VOCABULARY, *COPIES, HEAD) if name in self.tensors]
        vocabulary = self.tensors[found[0]]
        for name in COPIES:
            if name in self.tensors and not torch.equal(self.tensors[name], vocabulary):
                raise ModelUnusable(f"{name} differs from {found[0]}, and Florence-2 has one matrix for both")
        head = self.tensors.get(HEAD, vocabulary)
        tied = torch.equal(head, vocabulary)
        self.tensors |= dict.fromkeys((VOCABULARY, *COPIES), vocabulary)
        self.tensors[HEAD] = vocabulary if tied else head


def tensors_in(path: Path) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a file. Raises ModelUnusable for one that cannot be read, or holds what is no number."""
    try:
        # A pickle may do anything: this reader lets it make tensors.
        found: Mapping[str, Tensor] = (
            torch.load(path, map_location="cpu", weights_only=True) if path.suffix == ".bin" else load_file(path)
        )
    except Exception as error:
        raise ModelUnusable(f"{path.name} cannot be read: {error}") from error
    for name, tensor in found.items():
        if not torch.isfinite(tensor).all():
            raise ModelUnusable(
                f"{path.name}: tensor {name} holds values that are not finite numbers (NaN or infinity)"
            )
        # Out of the file's own pages, which whoever writes to the file would change, or take away.
        yield name, tensor.clone()


def _refuse_bias(bias: Tensor) -> None:
    if bias.any():
        raise ModelUnusable(f"{FINAL_LOGITS_BIAS} is not zero, which is not supported")
