"""A converted folder is one that transformers itself reads, and answers from as the original does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from arno_shared.checkpoint.folder import LocalFolder
from arno_shared.checkpoint.survey import survey
from arno_shared.errors import InvalidRequest
from arno_workers.engine.checkpoint.convert import write_native
from arno_workers.engine.checkpoint.load import load_checkpoint
from tests.checkpoints import BASE, RULES, Shape, change_json, make_adapter, make_original, model_of
from tests.workers.engine.checkpoint.answers import LIMIT, answer, expected, picture, replica_of, sources

CAPTION = "What does the image describe?"
UNTIED = Shape(tied=False, seed=3)


def convert(tmp_path: Path, base: Path, **parts: Path) -> Path:
    write_native(load_checkpoint(sources(base, **parts)), tmp_path / "native")
    return tmp_path / "native"


def by_transformers(folder: Path) -> list[int]:
    """As its documents say that it is used, with nothing of Arno's."""
    model, said = Florence2ForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(said.values())
    processor: Any = AutoProcessor.from_pretrained(folder)
    inputs = processor(text="<CAPTION>", images=picture(), return_tensors="pt")
    answered: list[int] = model.generate(**inputs, max_new_tokens=LIMIT)[0].tolist()
    return answered[1:]


@pytest.mark.parametrize("shape", [BASE, UNTIED], ids=["tied", "untied"])
def test_transformers_answers_from_it_as_from_the_weights_themselves(tmp_path: Path, shape: Shape) -> None:
    native = convert(tmp_path, make_original(tmp_path / "base", shape))
    wanted = expected(model_of(shape), CAPTION, picture())
    assert by_transformers(native) == wanted
    assert answer(replica_of(native), CAPTION, picture()) == wanted
    assert survey(LocalFolder(native)).problems == []
    assert ("lm_head.weight" in load_file(native / "model.safetensors")) is not shape.tied


def test_no_row_is_added_and_none_is_changed(tmp_path: Path) -> None:
    native = convert(tmp_path, make_original(tmp_path / "base"))
    tensors = load_file(native / "model.safetensors")
    before = model_of(BASE).state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())
    rules = Florence2ForConditionalGeneration.from_pretrained(native).generation_config
    assert {name: getattr(rules, name) for name in RULES} == RULES


def test_an_adapter_is_merged_and_numbers_keep_their_type(tmp_path: Path) -> None:
    base, adapter = make_original(tmp_path / "base"), make_adapter(tmp_path / "adapter")
    halves = {name: tensor.half() for name, tensor in load_file(base / "model.safetensors").items()}
    save_file(halves, base / "model.safetensors")
    native = convert(tmp_path, base, adapter=adapter)
    tensors = load_file(native / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    merged = load_checkpoint(sources(base, adapter=adapter)).model.state_dict()
    assert all(torch.equal(tensor, merged[name].half()) for name, tensor in tensors.items())


def test_a_vocabulary_without_a_spare_piece_gets_a_row_for_the_image(tmp_path: Path) -> None:
    base = make_original(tmp_path / "base")
    text = (base / "tokenizer.json").read_text()
    (base / "tokenizer.json").write_text(text.replace("madeupword", "somebody's"))
    native = convert(tmp_path, base)
    tensors, before = load_file(native / "model.safetensors"), model_of(BASE).state_dict()
    vocabulary = tensors["model.language_model.shared.weight"]
    assert vocabulary.shape[0] == 51_290
    assert torch.equal(vocabulary[:-1], before["lm_head.weight"])
    assert torch.equal(vocabulary[-1], vocabulary[1])
    assert len(by_transformers(native)) == LIMIT


@pytest.mark.parametrize("layout", ["original", "native"])
def test_a_greedy_model_is_converted_as_one(tmp_path: Path, layout: str) -> None:
    base = make_original(tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["num_beams"] = 1
    config |= {"output_attentions": True, "return_dict": False, "attn_implementation": "flash_attention_2"}
    (base / "config.json").write_text(json.dumps(config))
    native = convert(tmp_path, base)
    if layout == "native":
        change_json(native / "generation_config.json", early_stopping=True, length_penalty=0.5)
        change_json(native / "config.json", attn_implementation="flash_attention_2", return_dict=False)
        write_native(load_checkpoint(sources(native)), tmp_path / "again")
        native = tmp_path / "again"
    assert by_transformers(native) == expected(model_of(BASE), CAPTION, picture(), num_beams=1)
    assert answer(replica_of(native), CAPTION, picture()) == by_transformers(native)


def test_what_is_there_is_never_overwritten(tmp_path: Path) -> None:
    base = make_original(tmp_path / "base")
    (tmp_path / "native").mkdir()
    (tmp_path / "native/mine").write_text("mine")
    with pytest.raises(InvalidRequest, match="native is there already, and not empty"):
        convert(tmp_path, base)
    assert [path.name for path in (tmp_path / "native").iterdir()] == ["mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "native"]


def test_nothing_is_left_of_a_conversion_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = load_checkpoint(sources(make_original(tmp_path / "base")))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(checkpoint.processor), "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        write_native(checkpoint, tmp_path / "native")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
