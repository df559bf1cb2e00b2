"""A model is found where the setting says, or the error says what was looked for."""

import shutil
from pathlib import Path

import pytest

from arno_shared.errors import ModelUnusable
from arno_shared.settings import WorkerSettings
from arno_shared.storage import ObjectStore
from arno_workers.engine.checkpoint.locate import BUNDLED, Located, folder_revision, locate
from tests.servers import make_bucket


def _locate(model: str, **fields: object) -> Located:
    return locate(WorkerSettings.model_validate({"model": model, **fields}), ObjectStore())


def test_the_bundled_model_is_found_by_name() -> None:
    assert Path(_locate("arno-tiny").source) == BUNDLED / "arno-tiny"


def test_a_local_folder_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    shutil.copytree(BUNDLED / "arno-tiny", folder)
    assert _locate(str(folder)) == Located(str(folder), None)


def test_a_hub_id_keeps_its_pinned_revision() -> None:
    assert _locate("florence-community/Florence-2-base-ft", revision="abc123") == Located(
        "florence-community/Florence-2-base-ft", "abc123"
    )


@pytest.mark.parametrize("model", ["no-such-model", "/no/such/folder", "./missing", "a/b/c"])
def test_a_model_that_is_nowhere_is_refused_with_what_can_be_named(model: str) -> None:
    with pytest.raises(ModelUnusable, match=r"bundled model \(arno-tiny\), a folder, an s3:// folder or a hub id"):
        _locate(model)


def test_a_folder_without_weights_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelUnusable, match=r"lacks \*\.safetensors"):
        _locate(str(tmp_path))


def test_a_folder_in_object_storage_is_downloaded_once_and_again_when_it_changes(
    moto_s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ObjectStore()
    model = f"s3://{make_bucket()}/models/tiny"
    for file in (BUNDLED / "arno-tiny").iterdir():
        store.put(f"{model}/{file.name}", file.read_bytes(), "application/octet-stream")
    settings = WorkerSettings(model=model, model_cache=tmp_path)

    first = locate(settings, store)
    assert folder_revision(Path(first.source)) == folder_revision(BUNDLED / "arno-tiny")
    with monkeypatch.context() as patch:
        patch.setattr(store, "download", lambda uri, _: pytest.fail(f"{uri} was downloaded again"))
        assert locate(settings, store) == first

    store.put(f"{model}/config.json", b"{}", "application/json")
    assert locate(settings, store) != first


def test_an_empty_folder_in_object_storage_is_refused(moto_s3: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="no object below"):
        locate(WorkerSettings(model=f"s3://{make_bucket()}/nothing", model_cache=tmp_path), ObjectStore())


def test_the_revision_of_a_folder_follows_its_weights(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = folder_revision(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert folder_revision(tmp_path) != before
