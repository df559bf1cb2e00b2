"""A folder that is not what it is named for is refused in a sentence that says what it lacks and seems to be."""

from pathlib import Path

import pytest

from arno_shared.checkpoint.files import Wanted
from arno_shared.errors import ModelUnusable
from arno_shared.storage import ObjectStore
from arno_workers.engine.checkpoint.locate import locate


def _lacks(folder: Path, names: str, wanted: Wanted = Wanted.MODEL, adapter_config: str = "{}") -> str:
    """What is said of a folder with files of these names; empty when it is taken."""
    for name in names.split():
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(adapter_config if name.endswith("adapter_config.json") else "")
    try:
        locate(str(folder), "main", wanted, folder, ObjectStore())
    except ModelUnusable as error:
        said = str(error)
        assert said.startswith(f"{folder} is not ")
        assert "\n" not in said
        return said.partition(": it lacks ")[2]
    return ""


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ("config.json model.safetensors", Wanted.MODEL),
        ("config.json pytorch_model.bin", Wanted.MODEL),
        ("config.json model-00001-of-00002.safetensors model-00002-of-00002.safetensors", Wanted.MODEL),
        ("config.json pytorch_model-00001-of-00001.bin", Wanted.MODEL),
        # Both: what was saved after training on top of an adapter.
        ("config.json model.safetensors adapter_config.json adapter_model.safetensors", Wanted.MODEL),
        ("adapter_config.json adapter_model.safetensors", Wanted.ADAPTER),
        ("adapter_config.json adapter_model.bin", Wanted.ADAPTER),
        ("tokenizer.json preprocessor_config.json", Wanted.PROCESSOR),
        ("tokenizer.json processor_config.json", Wanted.PROCESSOR),
        ("vocab.json merges.txt preprocessor_config.json", Wanted.PROCESSOR),
    ],
)
def test_a_folder_that_has_all_is_taken(names: str, wanted: Wanted, tmp_path: Path) -> None:
    assert _lacks(tmp_path, names, wanted) == ""


@pytest.mark.parametrize(
    ("names", "wanted", "lacks"),
    [
        ("config.json", Wanted.MODEL, "weights (model.safetensors, pytorch_model.bin, or shards of one of them)"),
        ("model.safetensors", Wanted.MODEL, "config.json"),
        ("README.md", Wanted.MODEL, "config.json and weights (model.safetensors, pytorch_model.bin, or shards of one"),
        ("adapter_config.json", Wanted.ADAPTER, "weights (adapter_model.safetensors or adapter_model.bin)"),
        ("adapter_model.bin", Wanted.ADAPTER, "adapter_config.json"),
        ("vocab.json", Wanted.PROCESSOR, "tokenizer.json (or vocab.json with merges.txt) and preprocessor_config.json"),
        ("tokenizer.json", Wanted.PROCESSOR, "preprocessor_config.json or processor_config.json"),
    ],
)
def test_what_is_lacking_is_said(names: str, wanted: Wanted, lacks: str, tmp_path: Path) -> None:
    assert _lacks(tmp_path, names, wanted).startswith(lacks)


def test_shards_that_are_missing_are_named(tmp_path: Path) -> None:
    names = "config.json model-00002-of-00003.safetensors"
    assert _lacks(tmp_path, names) == "model-00001-of-00003.safetensors and model-00003-of-00003.safetensors"


def test_of_many_shards_that_are_missing_some_are_named(tmp_path: Path) -> None:
    assert _lacks(tmp_path, "config.json model-00001-of-00009.safetensors").endswith(" and 4 more")


def test_an_adapter_is_told_from_a_model_and_its_base_is_named(tmp_path: Path) -> None:
    said = _lacks(
        tmp_path,
        "adapter_config.json adapter_model.safetensors",
        adapter_config='{"base_model_name_or_path": "microsoft/Florence-2-base-ft"}',
    )
    assert said.endswith(
        "; it is a LoRA adapter: name it in ARNO_WORKER__ADAPTER, and its base 'microsoft/Florence-2-base-ft' in "
        "ARNO_WORKER__MODEL"
    )


@pytest.mark.parametrize("config", ["{}", "[]", "no JSON", '{"base_model_name_or_path": null}'])
def test_an_adapter_that_does_not_say_its_base_is_told_too(config: str, tmp_path: Path) -> None:
    said = _lacks(tmp_path, "adapter_config.json adapter_model.safetensors", adapter_config=config)
    assert said.endswith("ARNO_WORKER__ADAPTER, and the model that it was made for in ARNO_WORKER__MODEL")


def test_a_model_is_told_from_an_adapter(tmp_path: Path) -> None:
    said = _lacks(tmp_path, "config.json model.safetensors", Wanted.ADAPTER)
    assert said.endswith("; it is a whole model: name it in ARNO_WORKER__MODEL, and no adapter")


def test_the_bundled_model_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="it is a whole model"):
        locate("arno-tiny", "main", Wanted.ADAPTER, tmp_path, ObjectStore())


def test_checkpoints_of_a_training_are_named(tmp_path: Path) -> None:
    said = _lacks(tmp_path, "trainer_state.json checkpoint-1000/config.json checkpoint-500/config.json checkpoint-x/a")
    assert said.endswith(
        "; what training saved lies in its folders checkpoint-500 and checkpoint-1000: name one of these"
    )


@pytest.mark.parametrize("name", ["florence-Q4.gguf", "vision.onnx", "lora_weights.safetensors", "epoch=3.ckpt"])
def test_weights_of_other_formats_and_names_are_named(name: str, tmp_path: Path) -> None:
    assert _lacks(tmp_path, f"config.json training_args.bin {name}").endswith(
        f"; it has {name}, which Arno does not read"
    )
