"""An adapter says what it adds to which weight, and one that cannot be merged is refused by what it asks for."""

from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from arno_shared.checkpoint.adapter import Adapter, read_adapter
from arno_shared.checkpoint.folder import LocalFolder
from arno_shared.checkpoint.original import native_config
from arno_shared.checkpoint.shapes import expected_shapes
from arno_shared.errors import ModelUnusable
from tests.checkpoints import BASE, LARGE, change_json, make_adapter, original_config


def read(folder: Path) -> Adapter:
    return read_adapter(LocalFolder(folder))


def add(folder: Path, name: str, tensor: torch.Tensor) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path) | {name: tensor}, path)


def test_factors_are_of_weights_by_transformers_names(tmp_path: Path) -> None:
    adapter = read(make_adapter(tmp_path / "a"))
    weights = [one.weight for one in adapter.factors]
    assert "lm_head.weight" in weights
    assert "model.language_model.decoder.layers.1.encoder_attn.q_proj.weight" in weights
    assert "model.vision_tower.blocks.2.1.channel_block.ffn.fc2.weight" in weights
    assert len(set(weights)) == 1 + 3 * 6 + 4 + 10
    assert {one.scale for one in adapter.factors} == {2.0}
    assert str(adapter) == f"{tmp_path / 'a'} (lora of rank 4, 33 weights)"
    assert adapter.misfit(expected_shapes(native_config(original_config(BASE)))) is None


def test_rslora_divides_by_the_root_of_the_rank(tmp_path: Path) -> None:
    adapter = read(make_adapter(tmp_path / "a", use_rslora=True))
    assert {one.scale for one in adapter.factors} == {8 / sqrt(4)}
    assert adapter.kind == "rslora of rank 4"


@pytest.mark.parametrize("rslora", [False, True])
def test_patterns_of_rank_and_alpha_count_for_the_modules_whose_names_end_so(tmp_path: Path, rslora: bool) -> None:
    ranks = {"decoder.layers.0.fc2": 2, "lm_head": 16}
    alphas = {r"layers\.\d+\.fc2": 5, "v_proj": 3}
    adapter = read(make_adapter(tmp_path / "a", ranks=ranks, alpha_pattern=alphas, use_rslora=rslora))
    scales = {one.weight.removeprefix("model.language_model."): one.scale for one in adapter.factors}
    root = sqrt if rslora else float
    assert scales["decoder.layers.0.fc2.weight"] == 5 / root(2)
    assert scales["decoder.layers.1.fc2.weight"] == 5 / root(4)
    assert scales["encoder.layers.0.self_attn.v_proj.weight"] == 3 / root(4)
    assert scales["encoder.layers.0.self_attn.q_proj.weight"] == 8 / root(4)
    assert scales["lm_head.weight"] == 8 / root(16)


def test_names_may_be_transformers_own_and_hold_the_adapter_s(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a", hit=("lm_head",))
    factors = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    renamed = {
        name.replace("language_model.lm_head", "lm_head").replace(".weight", ".default.weight"): factor
        for name, factor in factors.items()
    }
    torch.save(renamed, folder / "adapter_model.bin")
    (one,) = read(folder).factors
    assert one.weight == "lm_head.weight"
    assert one.down == "base_model.model.lm_head.lora_A.default.weight"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "IA3"}, "of the kind 'IA3'; only LORA is supported"),
        ({"use_dora": True}, "uses DoRA, which is not supported"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save, which is not supported"),
        ({"bias": "all"}, r"trains biases, which is not supported \(bias='all'"),
        ({"bias": "lora_only"}, "trains biases"),
        ({"init_lora_weights": "pissa_niter_4"}, "began as 'pissa_niter_4', which changes the base as well"),
        ({"init_lora_weights": "olora"}, "began as 'olora'"),
        ({"lora_bias": True}, "uses lora_bias"),
        ({"layer_replication": [[0, 2]]}, "uses layer_replication"),
        ({"r": 5}, "has rank 4, and adapter_config.json says 5"),
        ({"r": 0}, "says 0 where r needs a positive number"),
        ({"lora_alpha": "eight"}, "says 'eight' where lora_alpha needs a number"),
        ({"lora_alpha": float("inf")}, "says inf where"),
        ({"alpha_pattern": {"(": 3}}, "has a pattern that is none"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    folder = make_adapter(tmp_path / "a")
    change_json(folder / "adapter_config.json", **config)
    with pytest.raises(ModelUnusable, match=words) as refused:
        read(folder)
    assert str(folder) in str(refused.value)


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("base_model.model.vision_tower.convs.0.proj.lora_A.weight", (4, 3, 7, 7), "has 4 dimensions; only 2"),
        ("base_model.model.language_model.lm_head.lora_magnitude_vector", (9,), "DoRA is not supported"),
        ("base_model.model.language_model.model.shared.lora_embedding_A", (4, 9), "LoRA of embeddings"),
        ("base_model.model.language_model.lm_head.modules_to_save.weight", (9, 9), "modules_to_save is not supported"),
        ("base_model.model.language_model.model.shared.weight", (9, 9), "a weight saved whole"),
        ("base_model.model.language_model.model.encoder.layers.0.fc1.bias", (9,), "trained biases"),
        (
            "base_model.model.language_model.model.encoder.layers.0.fc1.lora_A.weight",
            (4, 32),
            "without its other factor",
        ),
    ],
)
def test_tensors_that_are_no_factors_are_refused_by_name(
    tmp_path: Path, name: str, shape: tuple[int, ...], words: str
) -> None:
    folder = make_adapter(tmp_path / "a")
    add(folder, name, torch.zeros(shape))
    with pytest.raises(ModelUnusable, match=words) as refused:
        read(folder)
    assert name in str(refused.value)


def test_a_weight_that_peft_saves_beside_its_factors_is_what_they_are_added_to(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a", init_lora_weights="gaussian")
    name = "base_model.model.language_model.lm_head"
    add(folder, f"{name}.base_layer.weight", torch.zeros(51_289, 32))
    head = next(one for one in read(folder).factors if one.weight == "lm_head.weight")
    assert head.base == f"{name}.base_layer.weight"
    add(folder, "base_model.model.language_model.model.encoder.layers.0.fc1.base_layer.weight", torch.zeros(64, 32))
    with pytest.raises(ModelUnusable, match=r"fc1\.base_layer\.weight, and no factors for it"):
        read(folder)


def test_two_adapters_in_one_file_are_refused(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a")
    path = folder / "adapter_model.safetensors"
    factors = load_file(path)
    named = {name.replace(".weight", ".mine.weight"): factor for name, factor in factors.items()}
    save_file(named, path)
    assert len(read(folder).factors) == 33
    save_file(named | {name: factor.clone() for name, factor in factors.items()}, path)
    with pytest.raises(ModelUnusable, match="several adapters in one file"):
        read(folder)
    both = {name.replace("language_model.lm_head", "lm_head"): factor for name, factor in factors.items()}
    save_file(both | {name: factor.clone() for name, factor in factors.items()}, path)
    with pytest.raises(ModelUnusable, match=r"adapts lm_head\.weight twice"):
        read(folder)


def test_factors_that_are_no_floats_are_refused(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a")
    name = "base_model.model.language_model.lm_head.lora_A.weight"
    add(folder, name, torch.zeros(4, 32, dtype=torch.int8))
    with pytest.raises(ModelUnusable, match=f"{name} holds numbers of the type I8"):
        read(folder)


def test_an_adapter_of_another_base_does_not_fit(tmp_path: Path) -> None:
    shapes = expected_shapes(native_config(original_config(BASE)))
    larger = read(make_adapter(tmp_path / "a", LARGE)).misfit(shapes)
    assert larger is not None
    assert "lora_A" in larger
    assert larger.endswith("it was made for microsoft/Florence-2-base-ft")
    folder = make_adapter(tmp_path / "b")
    for factor, sides in (("A", (4, 9)), ("B", (9, 4))):
        add(
            folder,
            f"base_model.model.language_model.model.encoder.layers.9.fc1.lora_{factor}.weight",
            torch.zeros(sides),
        )
    misfit = read(folder).misfit(shapes)
    assert misfit is not None
    assert "is for model.language_model.encoder.layers.9.fc1.weight, which the model has not" in misfit


def test_an_adapter_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelUnusable, match=r"lacks weights: adapter_model\.safetensors or"):
        read(folder)
    save_file({}, folder / "adapter_model.safetensors")
    with pytest.raises(ModelUnusable, match="adapts nothing"):
        read(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(ModelUnusable, match=r"it is no LoRA adapter: it lacks adapter_config\.json"):
        read(folder)
