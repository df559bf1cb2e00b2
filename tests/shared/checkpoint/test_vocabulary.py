"""Tokens are read from whichever files a folder has, and those that do not fit the weights are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from arno_shared.checkpoint.folder import LocalFolder
from arno_shared.checkpoint.vocabulary import OWN_TOKENS, Vocabulary, has_tokenizer, read_vocabulary
from arno_shared.errors import ModelUnusable
from tests.checkpoints import make_processor, whole_tokenizer
from tests.workers.engine.odd_models import TINY


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50,265 tokens, without Florence-2's own."""
    return make_processor(tmp_path_factory.mktemp("bart"))


def changed(source: Path, folder: Path, change: Any) -> Vocabulary:
    tokenizer = json.loads((source / "tokenizer.json").read_text())
    change(tokenizer)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return read_vocabulary(LocalFolder(folder))


def test_florence_s_own_tokens_come_behind_bart_s(bart: Path) -> None:
    vocabulary = read_vocabulary(LocalFolder(bart))
    assert vocabulary.appended == OWN_TOKENS
    places = {token: vocabulary.ids[token] for token in ("<od>", "<loc_0>", "<loc_999>", "<sep>", "<and>")}
    assert places == {"<od>": 50265, "<loc_0>": 50269, "<loc_999>": 51268, "<sep>": 51279, "<and>": 51288}
    assert vocabulary.misfit(51_289, is_original=True) is None


def test_a_whole_tokenizer_has_them_already(tmp_path: Path) -> None:
    whole_tokenizer().save(str(tmp_path / "tokenizer.json"))
    vocabulary = read_vocabulary(LocalFolder(tmp_path))
    assert vocabulary.appended == ()
    assert vocabulary.misfit(51_328, is_original=False) is None


def test_the_parts_of_a_tokenizer_say_the_same_as_the_whole(bart: Path, tmp_path: Path) -> None:
    whole = json.loads((bart / "tokenizer.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    assert not has_tokenizer(LocalFolder(tmp_path).sizes)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<od>": 50265, "</od>": 50266}))
    assert has_tokenizer(LocalFolder(tmp_path).sizes)
    vocabulary = read_vocabulary(LocalFolder(tmp_path))
    assert vocabulary.ids == read_vocabulary(LocalFolder(bart)).ids
    assert vocabulary.appended == OWN_TOKENS[2:]


@pytest.mark.parametrize(
    ("rows", "fits"),
    [
        (1745, False),
        (1746, True),
        (1747, False),
        (1752, True),
        (1792, True),
        (1872, True),
        (1880, False),
        (51_289, False),
    ],
)
def test_weights_have_a_row_for_each_token_and_few_to_spare(rows: int, fits: bool) -> None:
    misfit = read_vocabulary(LocalFolder(TINY)).misfit(rows, is_original=False)
    assert misfit == (None if fits else f"the tokenizer has 1,746 tokens, and the weights have rows for {rows:,}")


@pytest.mark.parametrize(
    ("rows", "fits"), [(51_288, False), (51_289, True), (51_290, True), (51_291, False), (51_328, True)]
)
def test_an_image_token_needs_no_row_and_may_have_one(tmp_path: Path, rows: int, fits: bool) -> None:
    whole_tokenizer().save(str(tmp_path / "tokenizer.json"))
    vocabulary = read_vocabulary(LocalFolder(tmp_path))
    assert vocabulary.ids["<image>"] == 51_289
    assert (vocabulary.misfit(rows, is_original=False) is None) is fits


def test_places_that_do_not_follow_each_other_are_refused(bart: Path, tmp_path: Path) -> None:
    def swap(tokenizer: Any) -> None:
        names = ["<loc_1>", "<loc_0>", *(token for token in OWN_TOKENS if token not in ("<loc_0>", "<loc_1>"))]
        tokenizer["added_tokens"] += [{"id": 50265 + at, "content": name} for at, name in enumerate(names)]

    misfit = changed(bart, tmp_path, swap).misfit(51_289, is_original=False)
    assert misfit == "the tokenizer's <loc_0> to <loc_999> do not follow each other"


def test_an_original_s_places_stand_where_microsoft_s_do(bart: Path, tmp_path: Path) -> None:
    def another_order(tokenizer: Any) -> None:
        tokenizer["added_tokens"] += [{"id": 50265, "content": "<and>"}, {"id": 50266, "content": "<od>"}]

    vocabulary = changed(bart, tmp_path, another_order)
    assert vocabulary.misfit(51_289, is_original=True) == (
        "the tokenizer has <loc_0> at 50,270 and <and> at 50,265, where Florence-2 has them at 50,269 and 51,288"
    )
    assert vocabulary.misfit(51_289, is_original=False) is None


def test_what_a_fine_tune_added_is_told(bart: Path, tmp_path: Path) -> None:
    def add(tokenizer: Any) -> None:
        names = [*OWN_TOKENS, "<GENERATE_TAGS>", "<MIXED>"]
        tokenizer["added_tokens"] += [{"id": 50265 + at, "content": name} for at, name in enumerate(names)]

    assert changed(bart, tmp_path, add).others == ("<GENERATE_TAGS>", "<MIXED>")
    assert read_vocabulary(LocalFolder(bart)).others == ()


def test_tokens_that_only_the_tokenizer_s_config_knows_are_its_own(bart: Path, tmp_path: Path) -> None:
    shutil.copy(bart / "tokenizer.json", tmp_path)
    own = {50265 + at: {"content": name, "special": True} for at, name in enumerate((*OWN_TOKENS, "<MY>"))}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": own}))
    vocabulary = read_vocabulary(LocalFolder(tmp_path))
    assert vocabulary.others == ("<MY>",)
    assert vocabulary.misfit(51_290, is_original=True) is None
    (tmp_path / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"one": 2}}')
    with pytest.raises(ModelUnusable, match="added_tokens_decoder of a kind"):
        read_vocabulary(LocalFolder(tmp_path))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"tokenizer.json": "{}"}, "holds no vocabulary of the kind that BART has"),
        ({"tokenizer.json": '{"model": {"vocab": [["a", 0.5]]}}'}, "holds no vocabulary"),
        (
            {"tokenizer.json": '{"model": {"vocab": {"[CLS]": 0}}}'},
            "not BART's, which Florence-2 speaks: it has no <s>",
        ),
        ({"tokenizer.json": "what?"}, "tokenizer.json is not JSON"),
        ({"tokenizer.json": "[]"}, "tokenizer.json is not an object"),
        ({"vocab.json": '{"a": "b"}', "merges.txt": ""}, "vocab.json holds no numbers"),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(tmp_path: Path, files: dict[str, str], words: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ModelUnusable, match=words):
        read_vocabulary(LocalFolder(tmp_path))
