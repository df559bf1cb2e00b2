"""Names, shapes and numbers' types of the tensors in files of weights, read without a weight.

safetensors: <https://github.com/huggingface/safetensors>. A `.bin` is torch's zip archive; its pickle is read by an
unpickler that knows shapes and nothing else, so that none of what a pickle may do is done.
"""

import json
import pickle
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import IO, Any, NamedTuple
from zipfile import BadZipFile, ZipFile

from arno_shared.checkpoint.folder import Folder, check_no_pointer
from arno_shared.errors import ModelUnusable

_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 100_000_000
"""As safetensors' own reader has it."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""Types of numbers that weights may be stored in."""

_STORAGES = {"FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "DoubleStorage": "F64"}


class TensorHeader(NamedTuple):
    shape: tuple[int, ...]
    dtype: str
    """As safetensors names it: F32, F16, BF16, …"""
    file: str


def tensor_headers(folder: Folder, names: Sequence[str]) -> dict[str, TensorHeader]:
    """Of all tensors in these files, by name. Raises ModelUnusable, which names the file that cannot be read."""
    found: dict[str, TensorHeader] = {}
    for name in names:
        with folder.open(name) as file:
            check_no_pointer(name, file.read(64))
            file.seek(0)
            headers = _pickled if name.endswith(".bin") else _safetensors
            of_file = headers(file, name, folder.sizes[name])
        if twice := found.keys() & of_file.keys():
            raise ModelUnusable(f"{min(twice)} is in {found[min(twice)].file} and in {name}")
        found |= of_file
    return found


def _safetensors(file: IO[bytes], name: str, size_bytes: int) -> dict[str, TensorHeader]:
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if not 2 <= length <= min(_MOST_HEADER_BYTES, size_bytes - _LENGTH_BYTES):
        raise ModelUnusable(f"{name} is no safetensors file, or was cut off")
    try:
        header: dict[str, Any] = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = {
            tensor: TensorHeader(tuple(map(int, said["shape"])), str(said["dtype"]), name)
            for tensor, said in header.items()
        }
        end = max((int(said["data_offsets"][1]) for said in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise ModelUnusable(f"{name} is no safetensors file: its header cannot be read") from None
    expected = _LENGTH_BYTES + length + end
    if expected != size_bytes:
        raise ModelUnusable(f"{name} was cut off, or added to: it has {size_bytes:,} bytes, and should {expected:,}")
    return tensors


def _pickled(file: IO[bytes], name: str, size_bytes: int) -> dict[str, TensorHeader]:
    try:
        with ZipFile(file) as archive:
            pickles = [entry for entry in archive.namelist() if entry.count("/") == 1 and entry.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise ModelUnusable(f"{name} is no file of torch's weights: it has no data.pkl")
            with archive.open(pickles[0]) as data:
                state = _Shapes(data).load()
    except BadZipFile:
        raise ModelUnusable(
            f"{name} was cut off, or is in the format of torch before 1.6: save it again, best as safetensors"
        ) from None
    except ModelUnusable as error:
        raise ModelUnusable(f"{name}: {error}") from None
    except Exception as error:
        raise ModelUnusable(f"{name} cannot be read: {type(error).__name__}: {error}") from None
    if not isinstance(state, dict) or not all(isinstance(value, TensorHeader) for value in state.values()):
        raise ModelUnusable(f"{name} holds something other than weights by name")
    return {str(tensor): value._replace(file=name) for tensor, value in state.items()}


class _Shapes(pickle.Unpickler):
    """Reads a state dict as `torch.save` writes it, each tensor as its header."""

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda storage, _, shape, *__: TensorHeader(shape, storage, ""),
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
        }
        if module == "torch" and name.endswith("Storage"):
            return _STORAGES.get(name, name)
        if (module, name) not in known:
            raise ModelUnusable(f"its pickle asks for {module}.{name}, which weights do not need")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        return pid[1]
