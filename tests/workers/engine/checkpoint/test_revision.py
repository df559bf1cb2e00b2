"""A revision is the hub's commit, or says to the byte what was read."""

from pathlib import Path

import pytest

from arno_workers.engine.checkpoint.locate import Located
from arno_workers.engine.checkpoint.revision import revision_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"one")
    return tmp_path


NAMES = ["pytorch_model.bin", "config.json"]


def test_a_hub_id_s_is_its_commit(folder: Path) -> None:
    assert revision_of(Located("owner/name", folder, "0123abc"), NAMES) == "0123abc"


def test_a_folder_s_changes_with_a_byte_or_a_name_of_what_was_read(folder: Path) -> None:
    located = Located("mine", folder, None)
    first = revision_of(located, NAMES)
    assert first.startswith("sha256:")
    assert len(first) == 7 + 64
    assert revision_of(located, reversed(NAMES)) == first
    assert revision_of(located, NAMES[:1]) != first
    (folder / "pytorch_model.bin").write_bytes(b"two")
    changed = revision_of(located, NAMES)
    assert changed != first
    (folder / "pytorch_model.bin").rename(folder / "model.bin")
    assert revision_of(located, ["model.bin", "config.json"]) != changed


def test_it_is_of_contents_and_not_of_a_place(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    for name in NAMES:
        (other / name).write_bytes((folder / name).read_bytes())
    assert revision_of(Located("a", other, None), NAMES) == revision_of(Located("b", folder, None), NAMES)
