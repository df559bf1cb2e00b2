"""Whatever layout a folder has, it answers token for token as the same weights do in transformers; or it is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from arno_shared.checkpoint.vocabulary import OWN_TOKENS
from arno_shared.errors import ModelUnusable
from arno_shared.messages import Prompt
from arno_shared.results import ModelFacts
from arno_workers.engine.checkpoint.load import load_checkpoint
from tests.checkpoints import (
    BASE,
    IMAGE_TOKENS,
    LARGE,
    REAL_BASE,
    REAL_LARGE,
    RULES,
    Shape,
    change_json,
    make_adapter,
    make_original,
    make_processor,
    model_of,
    prompt_ids,
)
from tests.workers.engine.checkpoint.answers import answer, expected, picture, replica_of, sources
from tests.workers.engine.odd_models import TINY

UNTIED = Shape(tied=False, seed=3)
CAPTION = "What does the image describe?"
ASKED = [
    (BASE, "<DETAILED_CAPTION>", "Describe in detail what is shown in the image."),
    (BASE, "<OD>", "Locate the objects with category name in the image."),
    (BASE, "<OPEN_VOCABULARY_DETECTION>wheels", "Locate wheels in the image."),
    (BASE, "<CAPTION>", CAPTION),
    (LARGE, "<OPEN_VOCABULARY_DETECTION>car", "Locate car in the image."),
    (UNTIED, "<CAPTION>", CAPTION),
    (UNTIED, "<OCR>", "What is the text in the image?"),
]
"""What is published of the real checkpoints is asked of models with their proportions."""


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Shape], Path]:
    made: dict[Shape, Path] = {}

    def folder(shape: Shape) -> Path:
        if shape not in made:
            made[shape] = make_original(tmp_path_factory.mktemp("models") / "original", shape)
        return made[shape]

    return folder


@pytest.fixture
def folder(originals: Callable[[Shape], Path], tmp_path: Path) -> Path:
    """A copy of an original, to be changed."""
    shutil.copytree(originals(BASE), tmp_path / "model")
    return tmp_path / "model"


def check(folder: Path, **parts: Path) -> None:
    """All that an answer comes from: weights, rules, and how prompts and pictures become numbers."""
    checkpoint = load_checkpoint(sources(folder, **parts))
    found, wanted = checkpoint.model.state_dict(), model_of(BASE).state_dict()
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    assert {name: getattr(checkpoint.model.generation_config, name) for name in RULES} == RULES
    assert checkpoint.prompts.ids(CAPTION) == prompt_ids(CAPTION)
    assert checkpoint.processor.num_image_tokens == IMAGE_TOKENS
    assert "it" in checkpoint.processor.post_processor.banned_grounding_tokens


@pytest.mark.parametrize(("shape", "prompt", "sentence"), ASKED)
def test_an_original_answers_as_transformers_does(
    originals: Callable[[Shape], Path], shape: Shape, prompt: str, sentence: str
) -> None:
    replica = replica_of(originals(shape))
    asked = Prompt.model_validate(prompt)
    assert answer(replica, asked, picture()) == expected(model_of(shape), sentence, picture())


@pytest.mark.long
@pytest.mark.parametrize("shape", [REAL_BASE, REAL_LARGE], ids=["base", "large"])
def test_originals_of_the_published_sizes_answer_as_transformers_does(tmp_path: Path, shape: Shape) -> None:
    folder = make_original(tmp_path / "model", shape)
    assert answer(replica_of(folder), CAPTION, picture()) == expected(model_of(shape), CAPTION, picture())


@pytest.mark.parametrize(
    "sentence",
    [
        CAPTION,
        "Locate <loc_1><loc_999> in </poly> the <and> image",
        "<DocVQA>What  is\tthe date?",
        "é 漢字 <mask> <image>",
    ],
)
def test_prompts_are_cut_as_microsoft_s_processor_cuts_them(originals: Callable[[Shape], Path], sentence: str) -> None:
    assert load_checkpoint(sources(originals(BASE))).prompts.ids(sentence) == prompt_ids(sentence)


def as_bin(folder: Path, shards: int) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for number in range(shards):
        part = {name: tensors[name] for name in sorted(tensors)[number::shards]}
        name = f"pytorch_model-{number + 1:05}-of-{shards:05}.bin" if shards > 1 else "pytorch_model.bin"
        torch.save(part, folder / name)


def in_shards(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for number in range(3):
        part = {name: tensors[name] for name in sorted(tensors)[number::3]}
        save_file(part, folder / f"model-{number + 1:05}-of-00003.safetensors")


def saved_by_remote_code(folder: Path) -> None:
    """As a fine-tune is: model types of its own, every copy of the vocabulary, a whole tokenizer."""
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["model_type"] = "florence2_language"
    config["vision_config"]["model_type"] = ""
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    copies = ("encoder.embed_tokens", "decoder.embed_tokens")
    tensors |= {
        f"language_model.model.{name}.weight": tensors["language_model.model.shared.weight"].clone() for name in copies
    }
    tensors["language_model.lm_head.weight"] = tensors["language_model.model.shared.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    whole = Tokenizer.from_file(str(folder / "tokenizer.json"))
    own = prompt_ids("<od>")[1]
    assert own == 50265
    whole.add_special_tokens(list(OWN_TOKENS))
    whole.save(str(folder / "tokenizer.json"))
    change_json(folder / "tokenizer_config.json", tokenizer_class="BartTokenizer", additional_special_tokens=["<od>"])


def with_a_vocabulary_by_another_name(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["language_model.model.encoder.embed_tokens.weight"] = tensors.pop("language_model.model.shared.weight")
    save_file(tensors, folder / "model.safetensors")


def with_the_head_alone(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["language_model.lm_head.weight"] = tensors.pop("language_model.model.shared.weight")
    save_file(tensors, folder / "model.safetensors")


def with_native_processor_files(folder: Path) -> None:
    """Such a folder loads in transformers without an error, and nearly all of its tensors at random."""
    checkpoint = load_checkpoint(sources(folder))
    (folder / "preprocessor_config.json").unlink()
    checkpoint.processor.save_pretrained(folder)


def with_the_parts_of_a_tokenizer(folder: Path) -> None:
    whole = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    merges = "\n".join(" ".join(merge) for merge in whole["model"]["merges"])
    (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n")


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "one .bin": lambda folder: as_bin(folder, 1),
    ".bin in shards": lambda folder: as_bin(folder, 2),
    "safetensors in shards": in_shards,
    "a fine-tune saved by Microsoft's code": saved_by_remote_code,
    "the vocabulary as the encoder's": with_a_vocabulary_by_another_name,
    "the vocabulary as the head's": with_the_head_alone,
    "native processor files": with_native_processor_files,
    "a tokenizer in parts": with_the_parts_of_a_tokenizer,
    "a copied config without generation rules": lambda folder: (folder / "generation_config.json").unlink(),
    "rules that name beams alone": lambda folder: (folder / "generation_config.json").write_text('{"num_beams": 3}'),
    "swapped tokens in the rules": lambda folder: change_json(
        folder / "generation_config.json", bos_token_id=2, eos_token_id=1, pad_token_id=0
    ),
    "rules that are not JSON": lambda folder: (folder / "generation_config.json").write_text("{"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_answers_the_same(folder: Path, layout: str) -> None:
    LAYOUTS[layout](folder)
    check(folder)


def test_weights_alone_answer_with_a_processor_from_elsewhere(folder: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (folder / name).unlink()
    with pytest.raises(ModelUnusable, match="ARNO_WORKER__PROCESSOR names the folder or hub id"):
        load_checkpoint(sources(folder))
    check(folder, processor=make_processor(tmp_path / "processor"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_are_read_as_they_are(folder: Path, dtype: torch.dtype) -> None:
    halves = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors")
    checkpoint = load_checkpoint(sources(folder))
    assert checkpoint.stored == dtype
    assert checkpoint.facts.dtype == str(dtype).removeprefix("torch.")
    names = ("model.language_model.shared.weight", "model.vision_tower.convs.1.conv.weight")
    for name in names:
        assert torch.equal(checkpoint.model.state_dict()[name], model_of(BASE).state_dict()[name].to(dtype))


@pytest.mark.parametrize(("shape", "tied"), [(BASE, True), (UNTIED, False)])
def test_heads_are_tied_when_they_are_the_vocabulary(
    originals: Callable[[Shape], Path], shape: Shape, tied: bool
) -> None:
    checkpoint = load_checkpoint(sources(originals(shape)))
    model = checkpoint.model
    assert (model.lm_head.weight is model.model.language_model.shared.weight) is tied
    assert model.model.language_model.encoder.embed_tokens.weight is model.model.language_model.shared.weight
    assert ("head tied" in checkpoint.provenance) is tied


def test_bart_s_own_tokens_are_whole_where_the_file_does_not_say_so(folder: Path) -> None:
    said = json.loads((folder / "tokenizer.json").read_text())
    said["added_tokens"] = [token for token in said["added_tokens"] if token["content"] != "</s>"]
    (folder / "tokenizer.json").write_text(json.dumps(said))
    check(folder)


def test_tokens_that_only_the_tokenizer_s_config_knows_are_whole_too(folder: Path) -> None:
    own = {str(50_265 + at): {"content": token, "special": True} for at, token in enumerate(OWN_TOKENS)}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": own}))
    check(folder)


def test_a_model_that_answers_with_what_is_no_number_does_not_come_up(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    name = "language_model.model.decoder.layers.0.fc2.weight"
    tensors[name] = tensors[name] * 1e38
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelUnusable, match="answers a blank picture with what is no number"):
        replica_of(folder).warm_up()


def native(folder: Path, **rules: Any) -> Path:
    """The bundled model with another generation_config.json; None for none at all."""
    shutil.copytree(TINY, folder)
    if rules:
        (folder / "generation_config.json").write_text(json.dumps(rules))
    else:
        (folder / "generation_config.json").unlink()
    return folder


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"num_beams": 3},
        {**RULES, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0},
        {"eos_token_id": 2, "bos_token_id": 0},
    ],
)
def test_a_native_folder_without_sound_rules_is_never_greedy(tmp_path: Path, rules: dict[str, Any]) -> None:
    replica = replica_of(native(tmp_path / "model", **rules))
    bundled = replica_of(TINY)
    for name in ("num_beams", "no_repeat_ngram_size", "start_id", "eos_ids", "forced_bos_id", "forced_eos_id"):
        assert getattr(replica._rules, name) == getattr(bundled._rules, name)
    assert answer(replica, CAPTION, picture()) == answer(bundled, CAPTION, picture())
    assert "generation_config.json" in replica.provenance


FC1 = "language_model.model.encoder.layers.0.fc1.weight"


def fill(tensors: dict[str, torch.Tensor], name: str, value: float) -> None:
    tensors[name].view(-1)[7] = value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: fill(t, FC1, float("nan")), f"tensor {FC1} holds values that are not finite numbers"),
        (
            lambda t: fill(t, "image_projection", float("inf")),
            "tensor image_projection holds values that are not finite",
        ),
        (
            lambda t: fill(t, "language_model.final_logits_bias", 0.5),
            "language_model.final_logits_bias is not zero, which is not supported",
        ),
        (
            lambda t: t.update({"language_model.model.encoder.embed_tokens.weight": torch.zeros(51_289, 32)}),
            "encoder.embed_tokens.weight differs from model.language_model.shared.weight",
        ),
        (lambda t: t.pop(FC1), f"it lacks tensor {FC1}"),
    ],
)
def test_weights_that_would_answer_nonsense_end_in_one_sentence(
    folder: Path, change: Callable[[Any], object], words: str
) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelUnusable) as refused:
        load_checkpoint(sources(folder))
    sentence = str(refused.value)
    assert sentence.startswith(f"{folder}: ")
    assert words in sentence
    assert sentence.endswith("this seems to be a Florence-2 in Microsoft's original layout")
    assert "\n" not in sentence


def test_nan_in_a_bin_is_found_too(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    fill(tensors, FC1, float("nan"))
    save_file(tensors, folder / "model.safetensors")
    as_bin(folder, 1)
    with pytest.raises(ModelUnusable, match=rf"pytorch_model\.bin: tensor {FC1} holds"):
        load_checkpoint(sources(folder))


def test_facts_name_base_adapter_and_both_revisions(folder: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter")
    plain = load_checkpoint(sources(folder)).facts
    merged = load_checkpoint(sources(folder, adapter=adapter)).facts
    assert plain.model_dump(mode="json").keys() == {"id", "revision", "dtype"}
    assert (merged.id, merged.revision, merged.adapter) == (plain.id, plain.revision, str(adapter))
    assert merged.adapter_revision is not None
    assert merged.adapter_revision.startswith("sha256:")
    assert ModelFacts.model_validate_json(merged.model_dump_json()) == merged
    assert str(load_checkpoint(sources(folder, adapter=adapter)).provenance).endswith(
        f"adapter {adapter} (lora of rank 4, 33 weights) merged"
    )


READ = ("generation_config.json", "tokenizer.json")


@pytest.mark.parametrize("name", READ)
def test_a_revision_changes_with_every_file_that_is_read(folder: Path, name: str) -> None:
    before = load_checkpoint(sources(folder)).facts.revision
    (folder / "README.md").write_text("not read")
    assert load_checkpoint(sources(folder)).facts.revision == before
    (folder / name).write_text((folder / name).read_text() + "\n")
    assert load_checkpoint(sources(folder)).facts.revision != before


def test_a_processor_from_elsewhere_is_named_with_its_revision(folder: Path, tmp_path: Path) -> None:
    processor = make_processor(tmp_path / "processor")
    facts = load_checkpoint(sources(folder, processor=processor)).facts
    assert facts.processor == str(processor)
    change_json(processor / "preprocessor_config.json", resample=2)
    changed = load_checkpoint(sources(folder, processor=processor)).facts
    assert changed.processor_revision != facts.processor_revision
    assert changed.revision == facts.revision


def test_loading_draws_nothing_at_random(folder: Path) -> None:
    """Where a tensor is left to chance, two loads differ."""
    first, second = (load_checkpoint(sources(folder)).model.state_dict() for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_weights_stay_when_their_file_changes(folder: Path) -> None:
    checkpoint = load_checkpoint(sources(folder))
    before = {name: tensor.clone() for name, tensor in checkpoint.model.state_dict().items()}
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(200_000)
        file.write(b"\xff" * 8_000_000)
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint.model.state_dict().items())
