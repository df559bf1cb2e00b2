"""Says what `decode` makes of each file in a folder, in a process of its own, whose memory is limited.

python -m tests.zoo.witness FOLDER
"""

import json
import resource
import sys
import warnings
from pathlib import Path

from arno_shared.errors import ItemError
from arno_shared.settings import LimitSettings
from arno_workers.decode.picture import decode

SCALED_TO = (8, 8)
"""Smaller than all that is sound in the zoo, so that JPEGs are scaled."""

_MAX_ADDRESS_SPACE_BYTES = 4 * 2**30
"""So that what gets out of hand ends this process and not the machine."""


def outcome(data: bytes, scaled_to: tuple[int, int] | None) -> dict[str, object]:
    """What outcomes.toml says of it: width, height and format, or a code. Raises what is no ItemError."""
    try:
        picture = decode(data, LimitSettings().max_pixels, scaled_to)
    except ItemError as error:
        return {"code": error.code}
    return {"width": picture.width, "height": picture.height, "format": picture.format}


def _peak_bytes() -> int:
    """Not getrusage, which begins with the peak of the process that started this one."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _look(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        _forget_peak()
        before = _peak_bytes()
        outcomes = [outcome(data, None), outcome(data, SCALED_TO)]
        print(json.dumps({"name": path.name, "outcomes": outcomes, "peak_growth_bytes": _peak_bytes() - before}))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (_MAX_ADDRESS_SPACE_BYTES, _MAX_ADDRESS_SPACE_BYTES))
    warnings.simplefilter("ignore")
    _look(Path(sys.argv[1]))
