"""A target with a bug, which the fuzzer finds if it works."""

SEEDS: list[bytes] = [b"arno"]


def test_one_input(data: bytes) -> None:
    if data[:1] == b"b" and data[1:2] == b"u" and data[2:3] == b"g":
        raise AssertionError("the planted bug")
