"""A folder is told for what it is, and what keeps Arno from running it is said in a sentence, from headers alone."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from arno_shared.checkpoint.adapter import read_adapter
from arno_shared.checkpoint.folder import LocalFolder, StoredFolder
from arno_shared.checkpoint.survey import Layout, Survey, survey
from arno_shared.errors import ModelUnusable
from arno_shared.storage import ObjectStore
from tests.checkpoints import LARGE, RULES, Shape, change_json, make_adapter, make_original, make_processor
from tests.servers import make_bucket
from tests.workers.engine.odd_models import TINY

UNTIED = Shape(tied=False, seed=3)
ORIGINAL = "a Florence-2 in Microsoft's original layout"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_original(tmp_path_factory.mktemp("models") / "original")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy to be changed."""
    shutil.copytree(original, tmp_path / "model")
    return tmp_path / "model"


def look(folder: Path, processor: Path | None = None) -> Survey:
    return survey(LocalFolder(folder), processor and LocalFolder(processor))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_an_original_is_sound(original: Path) -> None:
    found = look(original)
    assert found.problems == []
    assert found.kind == ORIGINAL
    assert found.layout is Layout.ORIGINAL
    assert not found.has_own_head
    assert found.dtypes == {"F32": sum(tensor.numel() for tensor in load_file(original / "model.safetensors").values())}
    assert str(found.rules) == "3 beams, no 3-gram twice, from text_config of config.json"


def test_a_head_of_its_own_is_told(tmp_path: Path) -> None:
    assert look(make_original(tmp_path / "model", UNTIED)).has_own_head


def test_the_bundled_model_is_sound() -> None:
    found = look(TINY)
    assert found.problems == []
    assert found.kind == "a Florence-2 in transformers' own layout"


def test_a_folder_in_object_storage_is_looked_at_there(original: Path, moto_s3: str) -> None:
    store, uri = ObjectStore(), f"s3://{make_bucket()}/models/mine"
    for file in original.iterdir():
        store.put(f"{uri}/{file.name}", file.read_bytes(), "application/octet-stream")
    store.put(f"{uri}/checkpoint-10/config.json", b"{}", "application/json")
    found = survey(StoredFolder(uri, store))
    assert found.problems == []
    assert (found.folder.name, found.tensors) == (uri, look(original).tensors)


@pytest.mark.parametrize(
    ("model_type", "text_type"), [("davit", None), ("", "florence2_language"), ("davit", "florence2_language")]
)
def test_fine_tunes_that_were_saved_by_microsoft_s_code_are_originals(
    folder: Path, model_type: str, text_type: str | None
) -> None:
    config = look(folder)
    assert config.problems == []
    said = json.loads((folder / "config.json").read_text())
    said["vision_config"]["model_type"] = model_type
    said["text_config"] |= {"model_type": text_type} if text_type else {}
    (folder / "config.json").write_text(json.dumps(said))
    assert look(folder).layout is Layout.ORIGINAL
    assert look(folder).problems == []


def test_a_bin_s_headers_do_as_well(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    (folder / "model.safetensors").unlink()
    for number, half in enumerate((names[::2], names[1::2]), 1):
        torch.save({name: tensors[name] for name in half}, folder / f"pytorch_model-0000{number}-of-00002.bin")
    assert look(folder).problems == []
    (folder / "pytorch_model-00001-of-00002.bin").unlink()
    assert look(folder).problems[0] == "it lacks pytorch_model-00001-of-00002.bin"


FC1 = "language_model.model.encoder.layers.0.fc1.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(FC1), f"it lacks tensor {FC1} (of 274)"),
        (lambda t: (t.pop(FC1), t.pop("image_projection")), "it lacks tensors image_projection and 1 more (of 274)"),
        (lambda t: t.update(more=torch.zeros(1)), "it holds the unexpected tensor more (of 275)"),
        (lambda t: t.update({FC1: torch.zeros(3, 4)}), f"{FC1} is 3 × 4, where config.json says 64 × 32"),
        (
            lambda t: t.update({"language_model.model.shared.weight": torch.zeros(51_290, 32)}),
            "language_model.model.shared.weight is 51290 × 32, where config.json says 51289 × 32",
        ),
        (lambda t: t.update({FC1: torch.zeros(64, 32, dtype=torch.int8)}), f"{FC1} holds numbers of the type I8"),
        (
            lambda t: t.update({f"module.{name}": t.pop(name) for name in list(t)}),
            "none of its tensors has a name of Florence-2's; the first is module.image_pos_embed.column_embeddings",
        ),
    ],
)
def test_tensors_that_are_missing_unexpected_or_mis_shaped_are_named(
    folder: Path, change: Callable[[Any], object], words: str
) -> None:
    change_weights(folder, change)
    (problem, *_) = look(folder).problems
    assert problem.startswith(words)
    with pytest.raises(ModelUnusable) as refused:
        look(folder).checked()
    assert str(refused.value).startswith(f"{folder}: {problem}; this seems to be ")


def test_native_processor_files_beside_original_weights_change_nothing(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json"):
        shutil.copy(TINY / name, folder)
    assert look(folder).layout is Layout.ORIGINAL
    assert look(folder).problems == [
        "tokenizer and weights do not fit: the tokenizer has 1,746 tokens, and the weights have rows for 51,289"
    ]


def test_weights_alone_ask_for_a_processor(folder: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (folder / name).unlink()
    found = look(folder)
    assert found.kind == f"the weights alone of {ORIGINAL}"
    assert found.problems == [
        "it lacks tokenizer.json (or vocab.json and merges.txt) and preprocessor_config.json: ARNO_WORKER__PROCESSOR "
        "names the folder or hub id that these come from, for example the model that it was fine-tuned from"
    ]
    assert look(folder, make_processor(tmp_path / "processor")).problems == []
    assert look(folder, TINY).problems[0].startswith("tokenizer and weights do not fit")


def test_rules_that_are_not_followed_are_a_problem(folder: Path) -> None:
    said = json.loads((folder / "config.json").read_text())
    said["text_config"]["do_sample"] = True
    (folder / "config.json").write_text(json.dumps(said))
    assert look(folder).problems == ["its generation rules set do_sample=True, which is not supported"]


def test_one_tensor_under_two_names_is_refused(folder: Path) -> None:
    native = "model.language_model.encoder.layers.0.fc1.weight"
    change_weights(folder, lambda tensors: tensors.update({native: torch.ones(64, 32)}))
    assert look(folder).problems == [f"it holds one tensor under two names, {FC1} and {native}"]


@pytest.mark.parametrize("lost", ["language_model.lm_head.weight", "language_model.model.shared.weight"])
def test_a_head_that_is_said_to_be_its_own_must_be_there(tmp_path: Path, lost: str) -> None:
    folder = make_original(tmp_path / "model", UNTIED)
    change_weights(folder, lambda tensors: tensors.pop(lost))
    assert look(folder).problems == []
    change_json(folder / "config.json", tie_word_embeddings=False)
    assert look(folder).problems == [f"it lacks tensor {lost} (of 274)"]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("text_config", "bart"),
        ("text_config", [1]),
        ("vision_config", 7),
        ("vision_config", {"patch_stride": None, "dim_embed": [8]}),
    ],
)
def test_settings_of_no_kind_are_a_problem_and_no_traceback(folder: Path, part: str, value: Any) -> None:
    change_json(folder / "config.json", **{part: value})
    assert look(folder).problems


def test_a_crop_to_the_size_itself_is_none(folder: Path) -> None:
    change_json(folder / "preprocessor_config.json", do_center_crop=True)
    assert look(folder).problems == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_seq_length": 577}, "the image processor says that a picture is 577 tokens; of config.json it is 5"),
        ({"image_seq_length": "5"}, "says that a picture is '5' tokens"),
        ({"size": {"height": "64", "width": 64}}, "must resize to a height and a width"),
        ({"size": {"height": None, "width": 64}}, "must resize to a height and a width"),
        ({"do_resize": False}, "the image processor does not resize"),
        ({"do_center_crop": True, "crop_size": {"height": 32, "width": 32}}, "the image processor crops pictures"),
        ({"size": {"height": 1664, "width": 64}}, "52 × 2 places are made; there are 50"),
        ({"size": {"shortest_edge": 224}}, "must resize to a height and a width; its size is {'shortest_edge': 224}"),
    ],
)
def test_an_image_processor_that_does_not_fit_is_told(folder: Path, change: dict[str, Any], words: str) -> None:
    change_json(folder / "preprocessor_config.json", **change)
    problem, *_ = look(folder).problems
    assert words in problem


NO_CONFIG = "it lacks config.json and weights (model.safetensors, pytorch_model.bin, or shards of one of them)"
HINT = "it is a LoRA adapter: name it in ARNO_WORKER__ADAPTER, and the model that it was made for in ARNO_WORKER__MODEL"


@pytest.mark.parametrize(
    ("files", "kind", "words"),
    [
        ({}, "no model", NO_CONFIG),
        ({"config.json": "{"}, "no model", "config.json is not JSON"),
        ({"config.json": "{}"}, "a folder whose config.json names no model_type", "it is not a Florence-2"),
        ({"config.json": '{"model_type": "llava"}'}, "a model of the kind 'llava'", "it is not a Florence-2"),
        ({"adapter_config.json": "{}"}, "a LoRA adapter", f"{NO_CONFIG}; {HINT}"),
        (
            {"checkpoint-20/config.json": "{}", "checkpoint-3/config.json": "{}"},
            "no model",
            f"{NO_CONFIG}; what training saved lies in its folders checkpoint-3 and checkpoint-20: name one of these",
        ),
    ],
)
def test_a_folder_of_another_kind_is_told_for_what_it_is(
    tmp_path: Path, files: dict[str, str], kind: str, words: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = look(tmp_path)
    assert (found.kind, found.problems[0][: len(words)]) == (kind, words)


def test_quantized_weights_are_refused(folder: Path) -> None:
    change_json(folder / "config.json", quantization_config={"quant_method": "bitsandbytes"})
    assert look(folder).problems == ["its weights are quantized (bitsandbytes), which is not supported"]


def test_an_adapter_is_held_against_its_base(original: Path, tmp_path: Path) -> None:
    fitting, other = make_adapter(tmp_path / "a"), make_adapter(tmp_path / "b", LARGE)
    base = LocalFolder(original)
    assert survey(base, None, read_adapter(LocalFolder(fitting))).problems == []
    (problem,) = survey(base, None, read_adapter(LocalFolder(other))).problems
    assert "it was made for microsoft/Florence-2-base-ft" in problem


def test_a_native_folder_without_rules_is_sound_and_says_so(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "model")
    (tmp_path / "model/generation_config.json").unlink()
    found = look(tmp_path / "model")
    assert found.problems == []
    assert found.rules is not None
    assert {name: found.rules.values[name] for name in RULES} == RULES
    assert found.rules.source == "Florence-2's own rules, as generation_config.json is missing"
