"""A model from the hub is downloaded whole, once, at the commit that was asked for, or the error says what to do."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from arno_shared.settings import WorkerSettings
from arno_workers.engine.checkpoint.load import Sources, load_checkpoint
from arno_workers.engine.checkpoint.locate import BUNDLED, Located
from tests.hub_server import HubServer
from tests.servers import free_port
from tests.workers.engine.checkpoint.locating import Outcome, located

NAME = "somebody/Florence-2-small"
FILES = {
    "README.md": b"# A model",
    "config.json": b"{}",
    "generation_config.json": b'{"num_beams": 3}',
    "model.safetensors": bytes(range(256)) * 400,
    "tokenizer.json": b'{"version": "1.0"}',
}
READ = sorted(set(FILES) - {"README.md"})


IMPATIENT = "import time; time.sleep = lambda _: None"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(NAME, dict(FILES)) as hub:
        yield hub


def _located(hub: HubServer, cache: Path, *arguments: str, revision: str = "main", **environment: str) -> Outcome:
    return located(NAME, cache, *arguments, revision=revision, HF_ENDPOINT=hub.endpoint, **environment)


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_model_of_the_hub_is_downloaded_and_answers(tmp_path: Path) -> None:
    from arno_workers.engine.florence import FlorenceReplica

    files = {path.name: path.read_bytes() for path in (BUNDLED / "arno-tiny").iterdir()}
    with HubServer(NAME, files) as hub:
        found = _located(hub, tmp_path, revision=hub.commit)
    assert found.error == ""
    assert found.commit == hub.commit == found.folder.name
    replica = FlorenceReplica(
        load_checkpoint(Sources(Located(NAME, found.folder, found.commit))), WorkerSettings(model=NAME, slots=1), "cpu"
    )
    replica.warm_up()
    assert (replica.model.id, replica.model.revision) == (NAME, hub.commit)


def test_only_what_is_read_is_downloaded_and_only_once(hub: HubServer, tmp_path: Path) -> None:
    hub.files |= {"pytorch_model.bin": b"twice", "modeling_florence2.py": b"raise SystemExit", "model.onnx": b"other"}
    found = _located(hub, tmp_path)
    assert found.commit == hub.commit
    assert _names(found.folder) == READ == sorted(hub.fetched())
    assert {name: (found.folder / name).read_bytes() for name in READ} == {name: FILES[name] for name in READ}
    (begun,), (done,) = found.said("downloading"), found.said("downloaded")
    assert (begun["model"], begun["files"], begun["bytes"]) == (NAME, len(READ), sum(len(FILES[x]) for x in READ))
    assert done["bytes"] == begun["bytes"]

    again = _located(hub, tmp_path)
    assert again.folder == found.folder
    assert again.said("downloading") == []
    assert len(hub.fetched()) == len(READ)


def test_weights_in_bin_are_downloaded_where_there_are_no_others(hub: HubServer, tmp_path: Path) -> None:
    del hub.files["model.safetensors"]
    hub.files |= {"pytorch_model-00001-of-00002.bin": b"1", "pytorch_model-00002-of-00002.bin": b"2"}
    found = _located(hub, tmp_path)
    assert [name for name in _names(found.folder) if name.endswith(".bin")] == [
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model-00002-of-00002.bin",
    ]


def test_a_processor_is_downloaded_without_weights(hub: HubServer, tmp_path: Path) -> None:
    hub.files["preprocessor_config.json"] = b"{}"
    found = _located(hub, tmp_path, "processor")
    assert _names(found.folder) == ["preprocessor_config.json", "tokenizer.json"]


def test_an_adapter_that_is_named_as_the_model_is_known_for_one(hub: HubServer, tmp_path: Path) -> None:
    hub.files = {
        "adapter_config.json": b'{"base_model_name_or_path": "some/base"}',
        "adapter_model.safetensors": b"1",
    }
    assert "name it in ARNO_WORKER__ADAPTER, and its base 'some/base'" in _located(hub, tmp_path).error
    assert hub.fetched() == ["adapter_config.json"]


def test_a_download_that_breaks_off_goes_on_where_it_stopped(hub: HubServer, tmp_path: Path) -> None:
    # The library writes ten MiB at a time.
    hub.files["model.safetensors"] = weights = FILES["model.safetensors"] * 250
    hub.breaks = {"model.safetensors": 1}
    found = _located(hub, tmp_path)
    assert (found.folder / "model.safetensors").read_bytes() == weights
    assert [request.range for request in hub.requests if request.range] == [f"bytes={10 * 2**20}-"]


def test_a_download_that_ends_in_the_middle_is_not_taken_for_a_model(hub: HubServer, tmp_path: Path) -> None:
    hub.breaks = {"model.safetensors": 100}
    error = _located(hub, tmp_path, "model", IMPATIENT).error
    assert f"{NAME} could not be downloaded from {hub.endpoint}" in error
    assert "not whole" in _located(hub, tmp_path, HF_HUB_OFFLINE="1").error
    hub.breaks = {}
    before = len(hub.fetched())
    assert _located(hub, tmp_path).error == ""
    assert hub.fetched()[before:] == ["model.safetensors"]


def test_a_damaged_file_is_downloaded_anew(hub: HubServer, tmp_path: Path) -> None:
    weights = _located(hub, tmp_path).folder / "model.safetensors"
    weights.write_bytes(b"half")
    assert "damaged" in _located(hub, tmp_path, HF_HUB_OFFLINE="1").error
    before = len(hub.fetched())
    found = _located(hub, tmp_path)
    assert weights.read_bytes() == FILES["model.safetensors"]
    assert hub.fetched()[before:] == ["model.safetensors"]
    assert found.said("what is kept of it is damaged, downloading it anew")


def test_bytes_that_are_not_those_of_the_list_are_never_a_model(hub: HubServer, tmp_path: Path) -> None:
    hub.wrong = {"model.safetensors"}
    error = _located(hub, tmp_path).error
    assert f"of {NAME}, model.safetensors came from {hub.endpoint} with other bytes than are listed there" in error
    hub.wrong = set()
    found = _located(hub, tmp_path)
    assert (found.folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert found.said("what is kept of it is damaged, downloading it anew")


@pytest.mark.parametrize("trouble", ["busy", "expired"])
def test_what_passes_is_waited_for(trouble: str, hub: HubServer, tmp_path: Path) -> None:
    setattr(hub, trouble, {"model.safetensors": 2})
    found = _located(hub, tmp_path, "model", IMPATIENT)
    assert found.error == ""
    assert (found.folder / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert found.said("the download broke off, going on")


@pytest.mark.parametrize(("trouble", "status"), [("busy", 503), ("expired", 403)])
def test_what_does_not_pass_is_nobody_s_token_s_fault(
    trouble: str, status: int, hub: HubServer, tmp_path: Path
) -> None:
    setattr(hub, trouble, {"model.safetensors": 100})
    error = _located(hub, tmp_path, "model", IMPATIENT).error
    assert error == (
        f"{hub.endpoint}/{NAME} could not be downloaded ({status}): start again later, what came whole is kept"
    )


@pytest.mark.parametrize("by", ["branch", "commit"])
def test_offline_what_was_downloaded_before_is_used(by: str, hub: HubServer, tmp_path: Path) -> None:
    revision = hub.commit if by == "commit" else "main"
    first = _located(hub, tmp_path, revision=revision)
    asked = len(hub.requests)
    found = _located(hub, tmp_path, revision=revision, HF_HUB_OFFLINE="1")
    assert (found.folder, found.commit) == (first.folder, hub.commit)
    assert len(hub.requests) == asked


def test_a_branch_is_known_offline_though_its_commit_was_downloaded_by_its_hash(hub: HubServer, tmp_path: Path) -> None:
    _located(hub, tmp_path, revision=hub.commit)
    _located(hub, tmp_path)
    assert _located(hub, tmp_path, HF_HUB_OFFLINE="1").commit == hub.commit


def test_offline_without_a_download_is_refused(hub: HubServer, tmp_path: Path) -> None:
    error = _located(hub, tmp_path, HF_HUB_OFFLINE="1").error
    assert f"{NAME} at revision 'main' is not in the hub's cache ({tmp_path}/hub)" in error
    assert "HF_HUB_OFFLINE is set" in error
    assert hub.requests == []


@pytest.mark.parametrize("trouble", ["nobody answers", "503"])
def test_where_the_hub_is_away_what_was_downloaded_before_is_used(trouble: str, hub: HubServer, tmp_path: Path) -> None:
    endpoint = hub.endpoint if trouble == "503" else f"http://127.0.0.1:{free_port()}"
    hub.status = 503
    error = located(NAME, tmp_path, HF_ENDPOINT=endpoint).error
    assert "not in the hub's cache" in error
    assert f"the hub at {endpoint}" in error
    hub.status = 0
    first = _located(hub, tmp_path)
    hub.status = 503
    found = located(NAME, tmp_path, HF_ENDPOINT=endpoint)
    assert found.folder == first.folder
    (warned,) = found.said("the hub cannot be reached, using what was downloaded before")
    assert warned["level"] == "warning"


def test_what_answers_but_is_no_hub_is_told_apart(tmp_path: Path, hub: HubServer) -> None:
    endpoint = f"{hub.endpoint}/{NAME}/resolve/main/README.md?"
    error = located(NAME, tmp_path, HF_ENDPOINT=endpoint).error
    assert "cannot be asked (JSONDecodeError" in error


def test_a_full_disk_is_said(hub: HubServer, tmp_path: Path) -> None:
    full = """
import errno
from huggingface_hub import file_download
def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")
file_download._download_to_tmp_and_move = full
"""
    error = _located(hub, tmp_path, "model", full).error
    assert error == f"there is no room for {NAME} in {tmp_path}/hub: make some, or name another folder in HF_HOME"


def test_a_private_model_needs_a_token(hub: HubServer, tmp_path: Path) -> None:
    hub.token = "hf_right"
    without = _located(hub, tmp_path).error
    assert f"no {hub.endpoint}/{NAME}, or it is private" in without
    assert "set HF_TOKEN to a token with read access" in without
    wrong = _located(hub, tmp_path, HF_TOKEN="hf_wrong").error
    assert "to this token, or to none (401): correct ARNO_WORKER__MODEL, or set HF_TOKEN to a token" in wrong
    assert "hf_wrong" not in wrong
    assert _located(hub, tmp_path, HF_TOKEN="hf_right").commit == hub.commit


def test_a_gated_model_says_where_access_is_requested(hub: HubServer, tmp_path: Path) -> None:
    hub.gated = True
    assert (
        f"{NAME} is gated: request access at {hub.endpoint}/{NAME}, then set HF_TOKEN" in _located(hub, tmp_path).error
    )


@pytest.mark.parametrize(
    ("wanted", "setting"), [("model", "ARNO_WORKER__REVISION"), ("adapter", "ARNO_WORKER__ADAPTER_REVISION")]
)
def test_a_revision_that_does_not_exist_is_refused(wanted: str, setting: str, hub: HubServer, tmp_path: Path) -> None:
    error = _located(hub, tmp_path, wanted, revision="no-such").error
    assert f"{NAME} has no revision 'no-such' at {hub.endpoint}: correct {setting}" in error


def test_a_model_that_does_not_exist_is_refused(hub: HubServer, tmp_path: Path) -> None:
    error = located("somebody/else", tmp_path, HF_ENDPOINT=hub.endpoint).error
    assert f"there is no folder 'somebody/else' here, and no {hub.endpoint}/somebody/else" in error


@pytest.mark.parametrize("name", ["some body/x", "somebody/x--y", "-a/b", "a/b.git", "ä/b"])
def test_a_name_that_no_hub_has_is_refused_without_asking(name: str, hub: HubServer, tmp_path: Path) -> None:
    assert "a hub id is owner/name" in located(name, tmp_path, HF_ENDPOINT=hub.endpoint).error
    assert hub.requests == []


def test_a_password_in_the_endpoint_is_not_shown(hub: HubServer, tmp_path: Path) -> None:
    endpoint = hub.endpoint.replace("http://", "http://me:secret@")
    shutil.rmtree(tmp_path)
    hub.status = 404
    found = located(NAME, tmp_path, HF_ENDPOINT=endpoint)
    assert "secret" not in found.error + str(found.log)
    assert hub.endpoint.removeprefix("http://") in found.error
