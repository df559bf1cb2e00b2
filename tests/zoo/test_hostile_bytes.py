"""Whatever the bytes are, `decode` gives a picture or an ItemError, and comes back."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.fuzz_images import SEEDS
from tests.fuzz.fuzz_images import test_one_input as check

# Pillow's, on what it finds odd.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

_HOSTILE = [b"\0", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0", b"\0\0\0\x80"]
_PIECES = st.binary(max_size=8) | st.sampled_from(_HOSTILE) | st.sampled_from([seed[:64] for seed in SEEDS])

_STEADY = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
"""The same bytes every time: who changes nothing never sees it fail."""


@_STEADY
@given(st.binary(max_size=300))
def test_any_bytes_are_a_picture_or_an_item_error(data: bytes) -> None:
    check(data)


@_STEADY
@given(st.sampled_from([seed[:16] for seed in SEEDS]), st.binary(max_size=300))
def test_any_bytes_behind_a_signature_are_a_picture_or_an_item_error(signature: bytes, data: bytes) -> None:
    check(signature + data)


@st.composite
def _changed(draw: st.DrawFn) -> bytes:
    """A valid picture in which bytes were flipped, overwritten, put in, or cut out, once or several times."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        # Half of them in the head, where a byte says more than among the pixels.
        at = draw(st.integers(0, min(80, len(data))) | st.integers(0, len(data)))
        piece = draw(_PIECES)
        match draw(st.sampled_from(["flip", "overwrite", "insert", "cut"])):
            case "flip":
                data[at : at + 1] = bytes(byte ^ 1 << draw(st.integers(0, 7)) for byte in data[at : at + 1])
            case "overwrite":
                data[at : at + len(piece)] = piece
            case "insert":
                data[at:at] = piece
            case "cut":
                del data[at : at + draw(st.integers(1, 200))]
    return bytes(data)


@_STEADY
@given(_changed())
def test_a_changed_picture_is_a_picture_or_an_item_error(data: bytes) -> None:
    check(data)


@_STEADY
@given(st.sampled_from(SEEDS), st.sampled_from(SEEDS), st.data())
def test_two_pictures_spliced_are_a_picture_or_an_item_error(first: bytes, second: bytes, cuts: st.DataObject) -> None:
    head, tail = cuts.draw(st.integers(0, len(first))), cuts.draw(st.integers(0, len(second)))
    check(first[:head] + second[tail:])
