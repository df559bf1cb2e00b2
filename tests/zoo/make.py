"""Writes the zoo: a file for each way in which what is called an image can be odd, broken or hostile.

python -m tests.zoo.make FOLDER
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.zoo.specimens import bombs, cut, foreign, sound, turned


def specimens() -> Iterator[tuple[str, bytes]]:
    """Name and contents of each; the same ones whenever it is called."""
    for house in (sound, cut, turned, foreign, bombs):
        yield from house.specimens()


def make(folder: Path) -> None:
    """Writes every specimen into `folder`, which is made. Raises FileExistsError when two have the same name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in specimens():
        with (folder / name).open("xb") as file:
            file.write(data)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
