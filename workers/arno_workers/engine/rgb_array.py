"""A picture of Pillow's as an array, made beside other threads.

`np.array(image)` has Pillow pack the pixels, which holds the interpreter all the while. But Pillow shows its own
memory, four bytes a pixel, through the Arrow C data interface; numpy copies it, and lets go meanwhile.
"""

import ctypes
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image, frombytes


class _ArrowArray(ctypes.Structure):
    """https://arrow.apache.org/docs/format/CDataInterface.html, as far as it is read here."""


_ArrowArray._fields_ = [
    *((name, ctypes.c_int64) for name in ("length", "null_count", "offset", "n_buffers", "n_children")),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_ArrowArray))),
]

_address_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class _Shown:
    """Memory as numpy takes it, an integer of four bytes for each pixel, which stays as long as this does."""

    def __init__(self, capsule: object, pixels: int) -> None:
        self._capsule = capsule
        array: Any = ctypes.cast(_address_of(capsule, b"arrow_array"), ctypes.POINTER(_ArrowArray)).contents
        # A list of four bytes for each pixel; the second buffer of what it lists is the bytes.
        address = array.children[0].contents.buffers[1]
        self.__array_interface__ = {
            "version": 3,
            "typestr": np.dtype(np.uint32).str,
            "shape": (pixels,),
            "data": (address, True),
        }


def rgb_array(image: Image) -> NDArray[np.uint8]:
    """An RGB picture's pixels, height × width × 3, as memory of their own."""
    return _packed(image) if _packs() else np.array(image)


@cache
def _packs() -> bool:
    """Whether `_packed` gives the pixels here: which order numpy copies in is nowhere promised."""
    noise = frombytes("RGB", (97, 64), np.random.default_rng(0).bytes(97 * 64 * 3))
    return bool((_packed(noise) == np.array(noise)).all())


def _packed(image: Image) -> NDArray[np.uint8]:
    try:
        _, capsule = image.__arrow_c_array__()
    except ValueError:
        # The rows of a large one lie in several pieces of memory.
        return np.array(image)
    count = image.height * image.width
    padded = np.empty(count * 3 + 1, np.uint8)
    # Each with the byte that is too much, which the next one, three bytes on, is written over: numpy copies what has
    # one dimension in the order of the memory. To copy three bytes of four takes it twice to ten times as long.
    np.ndarray(count, np.uint32, padded, strides=(3,))[...] = np.asarray(_Shown(capsule, count))
    return padded[:-1].reshape(image.height, image.width, 3)
