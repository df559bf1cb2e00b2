"""A name is looked up as workers look it up, without loading what it names."""

from pathlib import Path

import pytest

from arno_producer.named_model import folder_named, look_at
from arno_shared.checkpoint.files import Wanted
from arno_shared.checkpoint.folder import LocalFolder
from arno_shared.errors import InvalidRequest, ModelUnusable
from arno_shared.storage import ObjectStore
from tests.checkpoints import make_adapter, make_original, make_processor


def named(name: str, wanted: Wanted = Wanted.MODEL) -> LocalFolder:
    folder = folder_named(name, wanted, ObjectStore())
    assert isinstance(folder, LocalFolder)
    return folder


def test_a_bundled_model_goes_by_its_name() -> None:
    assert named("arno-tiny").name == "arno-tiny (bundled)"
    assert "model.safetensors" in named("arno-tiny").sizes


def test_a_folder_goes_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    assert named(str(tmp_path)).path == tmp_path
    assert named(f"~/{tmp_path.name}").path == tmp_path


def test_the_folder_that_one_is_in_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert named(".").path == Path()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidRequest, match=r"config\.json is a file: name the folder that it lies in"):
        named("config.json")


def test_a_hub_id_is_nothing_that_lies_here() -> None:
    assert folder_named("microsoft/Florence-2-base", Wanted.MODEL, ObjectStore()) is None


@pytest.mark.parametrize("name", ["no-such", "/no/such", "./no", "a/b/c"])
@pytest.mark.parametrize("wanted", [Wanted.MODEL, Wanted.ADAPTER, Wanted.PROCESSOR])
def test_a_name_of_nothing_is_refused_with_the_setting_that_holds_it(name: str, wanted: Wanted) -> None:
    with pytest.raises(InvalidRequest, match=rf"ARNO_WORKER__{wanted.upper()} is (a bundled model, )?a folder"):
        folder_named(name, wanted, ObjectStore())


def test_all_parts_that_are_named_are_looked_at_together(tmp_path: Path) -> None:
    base, adapter = make_original(tmp_path / "base"), make_adapter(tmp_path / "adapter")
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        (base / name).unlink()
    processor = make_processor(tmp_path / "processor")
    store = ObjectStore()
    assert "ARNO_WORKER__PROCESSOR" in look_at(LocalFolder(base), "", str(adapter), store).found.problems[0]
    found, unseen = look_at(LocalFolder(base), str(processor), str(adapter), store)
    assert (found.problems, unseen) == ([], ())
    assert str(found.adapter) == f"{adapter} (lora of rank 4, 33 weights)"
    hidden = look_at(LocalFolder(base), "owner/base", "owner/adapter", store)
    assert (hidden.found.problems, hidden.unseen) == ([], ("owner/base", "owner/adapter"))
    with pytest.raises(ModelUnusable, match="it is no LoRA adapter"):
        look_at(LocalFolder(base), str(processor), str(processor), store)
