"""A merged adapter answers as its base with the change in each weight; what it hits is its own."""

from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from arno_shared.errors import ModelUnusable
from arno_workers.engine.checkpoint.load import load_checkpoint
from tests.checkpoints import BASE, Shape, make_adapter, make_original, model_of
from tests.workers.engine.checkpoint.answers import answer, expected, picture, replica_of, sources

CAPTION = "What does the image describe?"
UNTIED = Shape(tied=False, seed=3)


class Unmerged(torch.nn.Module):
    """A linear layer beside which its adapter is computed, as PEFT does it."""

    def __init__(self, layer: Any, down: torch.Tensor, up: torch.Tensor, scale: float) -> None:
        super().__init__()
        self.layer, self.down, self.up, self.scale = layer, down, up, scale
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = self.layer(x) + self.scale * ((x @ self.down.T) @ self.up.T)
        return added


def with_adapter(shape: Shape, folder: Path, scale: float) -> Any:
    """transformers' model with the adapter beside its layers, found by the names of Microsoft's code."""
    import copy

    model = copy.deepcopy(model_of(shape))
    factors = load_file(folder / "adapter_model.safetensors")
    names = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for name in factors if "lora_A" in name
    }
    for name in names:
        native = name.replace("language_model.lm_head", "lm_head").replace(
            "language_model.model.", "model.language_model."
        )
        if native.startswith("vision_tower"):
            native = f"model.{native}".replace("ffn.fn.net.fc2", "ffn.fc2")
        parent, _, child = native.rpartition(".")
        owner = model.get_submodule(parent)
        down, up = (factors[f"base_model.model.{name}.lora_{factor}.weight"] for factor in "AB")
        setattr(owner, child, Unmerged(getattr(owner, child), down, up, scale))
    return model


@pytest.mark.parametrize(
    ("shape", "rslora", "scale"), [(BASE, False, 8 / 4), (UNTIED, True, 8 / sqrt(4))], ids=["tied", "untied, rslora"]
)
def test_a_merged_adapter_answers_as_one_beside_its_base(
    tmp_path: Path, shape: Shape, rslora: bool, scale: float
) -> None:
    base = make_original(tmp_path / "base", shape)
    adapter = make_adapter(tmp_path / "adapter", shape, use_rslora=rslora)
    merged = answer(replica_of(base, adapter=adapter), CAPTION, picture())
    assert merged == expected(with_adapter(shape, adapter, scale), CAPTION, picture())
    assert merged != answer(replica_of(base), CAPTION, picture())


def test_a_head_that_is_hit_is_cloned_from_the_vocabulary(tmp_path: Path) -> None:
    base, adapter = make_original(tmp_path / "base"), make_adapter(tmp_path / "adapter", hit=("lm_head",))
    merged = load_checkpoint(sources(base, adapter=adapter))
    state, before = merged.model.state_dict(), model_of(BASE).state_dict()
    factors = load_file(adapter / "adapter_model.safetensors")
    down, up = (factors[f"base_model.model.language_model.lm_head.lora_{factor}.weight"] for factor in "AB")
    assert torch.equal(state["model.language_model.shared.weight"], before["model.language_model.shared.weight"])
    assert torch.allclose(state["lm_head.weight"], before["lm_head.weight"] + 2.0 * (up @ down), atol=1e-6)
    assert merged.model.config.tie_word_embeddings is False
    assert "head of its own" in merged.provenance


def test_half_precision_is_merged_in_float32(tmp_path: Path) -> None:
    base, adapter = (
        make_original(tmp_path / "base"),
        make_adapter(tmp_path / "adapter", hit=("q_proj",), lora_alpha=0.01),
    )
    halves = {name: tensor.half() for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(halves, base / "model.safetensors")
    name = "model.language_model.decoder.layers.0.self_attn.q_proj.weight"
    merged = load_checkpoint(sources(base, adapter=adapter)).model.state_dict()[name]
    assert merged.dtype == torch.float32
    assert not torch.equal(merged, merged.half().float())


def test_a_weight_that_peft_saved_beside_its_factors_is_what_they_are_added_to(tmp_path: Path) -> None:
    base, adapter = make_original(tmp_path / "base"), make_adapter(tmp_path / "adapter", hit=("lm_head",))
    path = adapter / "adapter_model.safetensors"
    factors = load_file(path)
    name = "base_model.model.language_model.lm_head"
    saved = torch.full((51_289, 32), 0.25)
    save_file(factors | {f"{name}.base_layer.weight": saved}, path)
    merged = load_checkpoint(sources(base, adapter=adapter)).model.lm_head.weight
    down, up = (factors[f"{name}.lora_{factor}.weight"] for factor in "AB")
    assert torch.allclose(merged, saved + 2.0 * (up @ down), atol=1e-6)


def test_a_change_beyond_all_numbers_is_refused(tmp_path: Path) -> None:
    base = make_original(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", hit=("q_proj",), lora_alpha=1e39)
    with pytest.raises(
        ModelUnusable, match=r"q_proj\.weight holds values that are not finite numbers; this seems to be"
    ):
        load_checkpoint(sources(base, adapter=adapter))


def test_an_adapter_of_the_vocabulary_is_refused(tmp_path: Path) -> None:
    base, adapter = make_original(tmp_path / "base"), make_adapter(tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    factors = load_file(path)
    name = "base_model.model.language_model.model.shared"
    factors |= {f"{name}.lora_A.weight": torch.ones(4, 32), f"{name}.lora_B.weight": torch.ones(51_289, 4)}
    save_file(factors, path)
    with pytest.raises(ModelUnusable, match="adapts the vocabulary"):
        load_checkpoint(sources(base, adapter=adapter))


def test_an_adapter_with_what_is_no_number_is_refused(tmp_path: Path) -> None:
    base, adapter = make_original(tmp_path / "base"), make_adapter(tmp_path / "adapter")
    path = adapter / "adapter_model.safetensors"
    factors = load_file(path)
    name = "base_model.model.language_model.lm_head.lora_B.weight"
    factors[name][5, 1] = torch.nan
    save_file(factors, path)
    with pytest.raises(ModelUnusable, match=rf"adapter_model\.safetensors: tensor {name} holds values"):
        load_checkpoint(sources(base, adapter=adapter))
