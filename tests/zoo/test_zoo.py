"""Every specimen of the zoo comes out as outcomes.toml says, alone and in a worker, within bounded memory."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from arno_shared.errors import ItemError
from arno_shared.ledger import JobState
from arno_shared.results import ResultRow, Status
from arno_workers.decode.picture import decode
from tests.zoo.make import make, specimens
from tests.zoo.specimens.build import quarters
from tests.zoo.witness import SCALED_TO, outcome

OUTCOMES: dict[str, dict[str, Any]] = tomllib.loads(Path(__file__).with_name("outcomes.toml").read_text())
EXPECTED = {name: {key: entry[key] for key in entry if key != "why"} for name, entry in OUTCOMES.items()}

MAX_GROWTH_BYTES = 48 * 2**20
"""Above the memory before a specimen is decoded: more than any sound one needs, and less than what bombs would take."""


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    make(tmp_path / "zoo")
    return tmp_path / "zoo"


@pytest.fixture(scope="module")
def data() -> dict[str, bytes]:
    return dict(specimens())


def test_every_specimen_has_an_outcome_and_every_outcome_a_specimen(data: dict[str, bytes]) -> None:
    assert data.keys() == OUTCOMES.keys()
    codes = {error.code for error in ItemError.__subclasses__()}
    for name, entry in OUTCOMES.items():
        assert entry["why"], name
        assert EXPECTED[name].keys() == {"width", "height", "format"} or EXPECTED[name]["code"] in codes, name


def test_the_zoo_is_the_same_each_time(data: dict[str, bytes]) -> None:
    assert dict(specimens()) == data


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("scaled_to", [None, SCALED_TO], ids=["exact", "scaled"])
@pytest.mark.parametrize("name", OUTCOMES)
def test_a_specimen_comes_out_as_expected(name: str, scaled_to: tuple[int, int] | None, data: dict[str, bytes]) -> None:
    assert outcome(data[name], scaled_to) == EXPECTED[name]


@pytest.mark.parametrize("name", [name for name in OUTCOMES if name.startswith("orientation-")])
def test_a_turned_picture_is_shown_upright(name: str, data: dict[str, bytes]) -> None:
    image = decode(data[name], 10**6).image
    assert _difference(image, quarters()) <= (60 if name.endswith(".jpg") else 0)


@pytest.mark.parametrize("name", ["cmyk-adobe.jpg", "cmyk-plain.jpg", "cmyk.tif", "animated.gif", "three-pages.tif"])
def test_odd_pictures_show_what_they_showed_before(name: str, data: dict[str, bytes]) -> None:
    assert _difference(decode(data[name], 10**6).image, quarters()) <= 90


def _difference(image: Image.Image, expected: Image.Image) -> int:
    return int(np.abs(np.asarray(image, np.int16) - np.asarray(expected, np.int16)).max())


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """The whole zoo decoded in a process of its own."""
    folder = tmp_path_factory.mktemp("witness")
    make(folder)
    command = [sys.executable, "-m", "tests.zoo.witness", str(folder)]
    return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)


def test_no_specimen_takes_much_memory(witness: subprocess.CompletedProcess[str]) -> None:
    witnessed = {line["name"]: line for line in map(json.loads, witness.stdout.splitlines())}
    assert {name: line["outcomes"] for name, line in witnessed.items()} == {
        name: [expected, expected] for name, expected in EXPECTED.items()
    }
    growth = {name: line["peak_growth_bytes"] for name, line in witnessed.items()}
    assert max(growth.values()) <= MAX_GROWTH_BYTES, max(growth, key=growth.__getitem__)


def test_no_specimen_fills_the_log(witness: subprocess.CompletedProcess[str]) -> None:
    assert len(witness.stderr.splitlines()) < len(EXPECTED), witness.stderr[-1000:]


def test_a_worker_outlives_the_zoo(start_worker, producer, zoo: Path) -> None:
    worker = start_worker()
    job = producer.submit([(zoo / name).as_uri() for name in EXPECTED], "<OD>", job_id="zoo")
    status = job.wait(120)
    failures = sum("code" in expected for expected in EXPECTED.values())
    assert (status.state, status.ok, status.failed) == (JobState.DONE, len(EXPECTED) - failures, failures)
    assert {Path(row.image.uri).name: _outcome(row) for row in job.results()} == EXPECTED
    good = producer.submit([(zoo / "plain.jpg").as_uri()], "<OD>", job_id="good").wait(60)
    assert (good.state, good.ok, good.failed) == (JobState.DONE, 1, 0)
    assert worker.process.poll() is None


def _outcome(row: ResultRow) -> dict[str, object]:
    if row.status is Status.FAILED:
        assert row.error is not None
        return {"code": row.error.code}
    return {"width": row.image.width, "height": row.image.height, "format": row.image.format}
