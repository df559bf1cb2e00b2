"""Names, shapes and types of tensors are read without a weight, and without doing what a pickle asks for."""

import io
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from arno_shared.checkpoint.folder import LocalFolder
from arno_shared.checkpoint.headers import TensorHeader, tensor_headers
from arno_shared.errors import ModelUnusable

TENSORS = {
    "one": torch.zeros(3, 4),
    "half": torch.zeros(2, 1, 5, dtype=torch.float16),
    "brain": torch.zeros(7, dtype=torch.bfloat16),
    "number": torch.zeros((), dtype=torch.float64),
}
EXPECTED = {"one": ((3, 4), "F32"), "half": ((2, 1, 5), "F16"), "brain": ((7,), "BF16"), "number": ((), "F64")}


def read(folder: Path, *names: str) -> dict[str, TensorHeader]:
    return tensor_headers(LocalFolder(folder), names)


def save(folder: Path, name: str) -> Path:
    path = folder / name
    if name.endswith(".bin"):
        torch.save(TENSORS, path)
    else:
        save_file(TENSORS, path, metadata={"format": "pt"})
    return path


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_headers_are_those_of_the_tensors(tmp_path: Path, name: str) -> None:
    save(tmp_path, name)
    assert read(tmp_path, name) == {tensor: TensorHeader(*said, name) for tensor, said in EXPECTED.items()}


def test_a_model_s_own_state_dict_is_read(tmp_path: Path) -> None:
    layer = torch.nn.Linear(3, 2)
    torch.save(layer.state_dict(), tmp_path / "a.bin")
    torch.save(dict(layer.named_parameters()), tmp_path / "b.bin")
    shapes = {"weight": (2, 3), "bias": (2,)}
    for name in ("a.bin", "b.bin"):
        assert {tensor: header.shape for tensor, header in read(tmp_path, name).items()} == shapes


class _Counted:
    """Of a folder, how many bytes are read."""

    def __init__(self, path: Path) -> None:
        self._folder = LocalFolder(path)
        self.name, self.sizes, self.read = "", self._folder.sizes, 0

    def open(self, name: str) -> Any:
        counted = self

        class File(io.FileIO):
            def readinto(self, buffer: Any) -> int:
                got = super().readinto(buffer) or 0
                counted.read += got
                return got

            def readall(self) -> bytes:
                rest = super().readall()
                counted.read += len(rest)
                return rest

        return io.BufferedReader(File(self._folder.path / name), 4096)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_no_more_than_headers_is_read(tmp_path: Path, name: str) -> None:
    large = {f"{number}": torch.zeros(1000, 1000) for number in range(4)}
    if name.endswith(".bin"):
        torch.save(large, tmp_path / name)
    else:
        save_file(large, tmp_path / name)
    folder = _Counted(tmp_path)
    assert len(tensor_headers(folder, [name])) == 4
    assert folder.read < 100_000


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_a_file_that_was_cut_off_is_refused_by_name(tmp_path: Path, name: str, kept: int) -> None:
    path = save(tmp_path, name)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ModelUnusable, match=f"{name} (is no safetensors file, or )?was cut off"):
        read(tmp_path, name)


def test_a_file_that_was_added_to_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, "model.safetensors")
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(ModelUnusable, match=f"it has {size + 4:,} bytes, and should {size:,}"):
        read(tmp_path, "model.safetensors")


@pytest.mark.parametrize(
    "header",
    [
        b"not JSON",
        b"[]",
        b'{"a": 1}',
        b'{"a": {"dtype": "F32"}}',
        b'{"a": {"dtype": "F32", "shape": ["x"]}}',
        b"[" * 9999,
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelUnusable, match=r"model\.safetensors is no safetensors file"):
        read(tmp_path, "model.safetensors")


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs_is_told_from_a_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 463221266\n")
    with pytest.raises(
        ModelUnusable, match=f"{name} is a pointer of Git LFS and not the file itself: run `git lfs pull`"
    ):
        read(tmp_path, name)


class _Command:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


def test_what_a_pickle_asks_for_is_not_done(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1), "more": _Command(tmp_path / "made")}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelUnusable, match=r"pytorch_model\.bin: its pickle asks for posix\.mkdir"):
        read(tmp_path, "pytorch_model.bin")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("value", [{"state_dict": TENSORS}, [torch.zeros(1)], {"epoch": 3, **TENSORS}])
def test_what_is_more_than_weights_is_refused(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelUnusable, match=r"pytorch_model\.bin holds something other than weights"):
        read(tmp_path, "pytorch_model.bin")


def test_torch_s_old_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(ModelUnusable, match=r"before 1\.6: save it again, best as safetensors"):
        read(tmp_path, "pytorch_model.bin")


def test_a_pickle_that_is_no_archive_of_torch_s_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ModelUnusable, match=r"pytorch_model\.bin was cut off, or is in the format"):
        read(tmp_path, "pytorch_model.bin")


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    save(tmp_path, "a.safetensors")
    save(tmp_path, "b.safetensors")
    with pytest.raises(ModelUnusable, match=r"brain is in a\.safetensors and in b\.safetensors"):
        read(tmp_path, "a.safetensors", "b.safetensors")
