"""What is named is found where the name says, or the error says what was looked for."""

import shutil
from pathlib import Path

import pytest

from arno_shared.checkpoint.files import Wanted
from arno_shared.errors import ModelUnusable
from arno_shared.storage import ObjectStore
from arno_workers.engine.checkpoint.locate import BUNDLED, Located, locate


def _locate(name: str, wanted: Wanted = Wanted.MODEL) -> Located:
    return locate(name, "main", wanted, Path("/no/cache"), ObjectStore())


@pytest.mark.parametrize("wanted", [Wanted.MODEL, Wanted.PROCESSOR])
def test_the_bundled_model_is_found_by_name(wanted: Wanted) -> None:
    assert _locate("arno-tiny", wanted) == Located("arno-tiny", BUNDLED / "arno-tiny", None)


def test_a_local_folder_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(BUNDLED / "arno-tiny", folder)
    assert _locate(str(folder)) == Located(str(folder), folder, None)


def test_a_folder_below_home_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(BUNDLED / "arno-tiny", tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert _locate("~/mine") == Located("~/mine", tmp_path / "mine", None)


def test_a_folder_with_the_name_of_a_hub_id_goes_before_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(BUNDLED / "arno-tiny", tmp_path / "owner/name")
    monkeypatch.chdir(tmp_path)
    assert _locate("owner/name").folder == Path("owner/name")


@pytest.mark.parametrize("name", ["no-such-model", "/no/such/folder", "./missing", "a/b/c", "~nobody-here/x", "", ".."])
def test_a_model_that_is_nowhere_is_refused_with_what_can_be_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelUnusable, match=r"ARNO_WORKER__MODEL|lacks config\.json"):
        _locate(name)


def test_an_adapter_that_is_nowhere_is_refused_with_its_own_setting() -> None:
    with pytest.raises(
        ModelUnusable,
        match=r"no adapter 'none': ARNO_WORKER__ADAPTER is a folder, an s3:// folder or a hub id \(owner/name\)",
    ):
        _locate("none", Wanted.ADAPTER)


def test_a_file_is_refused_for_its_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelUnusable, match="is a file: name the folder that it lies in, in ARNO_WORKER__MODEL"):
        _locate(str(tmp_path / "model.safetensors"))


def test_a_name_with_a_password_is_not_shown() -> None:
    with pytest.raises(ModelUnusable) as raised:
        _locate("https://me:secret@example.org/model")
    assert "secret" not in str(raised.value)
