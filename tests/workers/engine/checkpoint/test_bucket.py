"""A model in object storage is downloaded whole and right, once for all processes of a machine, or not at all."""

import errno
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from structlog.testing import capture_logs

from arno_shared.checkpoint.files import Wanted
from arno_shared.errors import ModelUnusable
from arno_shared.storage import ObjectStore
from arno_workers.engine.checkpoint import transfer
from arno_workers.engine.checkpoint.locate import BUNDLED, Located, locate
from arno_workers.engine.checkpoint.revision import revision_of
from tests.servers import free_port, make_bucket
from tests.shared.storage.stores import S3_CLIENTS, make_store
from tests.workers.engine.checkpoint.locating import ended, start

WEIGHTS = bytes(range(250)) * 40
FILES = {"config.json": b"{}", "tokenizer.json": b'{"version": "1.0"}', "model.safetensors": WEIGHTS}

Get = Callable[..., bytes]


@pytest.fixture
def model(moto_s3: str) -> str:
    """The URI of a folder with FILES."""
    return _put(f"s3://{make_bucket()}/models/mine")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", 1000)


def _put(uri: str, **files: bytes) -> str:
    store = ObjectStore()
    for name, data in {**FILES, **files}.items():
        store.put(f"{uri}/{name}", data, "application/octet-stream")
    return uri


def _folder(uri: str, cache: Path, wanted: Wanted = Wanted.MODEL) -> Path:
    found = locate(uri, "main", wanted, cache, ObjectStore())
    assert found.commit is None
    return found.folder


def _read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _kept(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.name != ".locks"]


@pytest.fixture
def tampered(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Get, str, int], bytes]], list[str]]:
    """Has something else done in place of each reading of a part; the URIs of those are listed."""

    def tamper(instead: Callable[[Get, str, int], bytes]) -> list[str]:
        real, uris = ObjectStore.get_range, []

        def get_range(store: ObjectStore, uri: str, start: int, stop: int, **pins: Any) -> bytes:
            uris.append(uri)
            return instead(lambda: real(store, uri, start, stop, **pins), uri, start)

        monkeypatch.setattr(ObjectStore, "get_range", get_range)
        return uris

    return tamper


def test_a_model_is_downloaded_once_and_again_when_it_changes(moto_s3: str, tmp_path: Path, tampered: Any) -> None:
    tiny = {path.name: path.read_bytes() for path in (BUNDLED / "arno-tiny").iterdir()}
    uri = _put(f"s3://{make_bucket()}/models/tiny", **tiny)
    transfer.PART_BYTES = 2**20
    first = _folder(uri, tmp_path)
    names = [file.name for file in (BUNDLED / "arno-tiny").iterdir()]
    kept, bundled = (Located("arno-tiny", folder, None) for folder in (first, BUNDLED / "arno-tiny"))
    assert revision_of(kept, names) == revision_of(bundled, names)
    asked = tampered(lambda real, *_: real())
    assert _folder(uri, tmp_path) == first
    assert asked == []
    ObjectStore().put(f"{uri}/config.json", b"{ }", "application/json")
    assert _folder(uri, tmp_path) != first


@pytest.mark.parametrize("server", ["moto_s3", "rclone_s3"])
@pytest.mark.parametrize("client", S3_CLIENTS)
def test_whatever_the_server_the_client_and_the_name_of_the_folder(
    server: str, client: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    request.getfixturevalue(server)
    uri = _put(f"s3://{make_bucket()}/möd els+%20&=~/a (b) #1")
    with capture_logs() as log:
        found = locate(f"{uri}/", "main", Wanted.MODEL, tmp_path, make_store(client))
    assert _read(found.folder) == FILES
    (checked,) = (line for line in log if line["event"] == "checked")
    assert checked["by"] == dict.fromkeys(sorted(FILES), "md5")
    begun, done = (line for line in log if line["event"] in ("downloading", "downloaded"))
    assert (begun["files"], begun["bytes"]) == (3, sum(map(len, FILES.values())))
    assert done["bytes"] == begun["bytes"]


def test_only_what_is_read_is_downloaded(model: str, tmp_path: Path, tampered: Any) -> None:
    _put(model, **{"modeling.py": b"raise", "pytorch_model.bin": WEIGHTS, "optimizer.pt": WEIGHTS, "runs/1": b"1"})
    asked = tampered(lambda real, *_: real())
    assert _read(_folder(model, tmp_path)) == FILES
    assert {uri.removeprefix(f"{model}/") for uri in asked} == set(FILES)
    assert len(asked) == len(WEIGHTS) // 1000 + 2


def test_an_empty_file_is_kept_too(model: str, tmp_path: Path) -> None:
    _put(model, **{"merges.txt": b""})
    assert _read(_folder(model, tmp_path)) == FILES | {"merges.txt": b""}


def test_parts_are_fetched_at_the_same_time(model: str, tmp_path: Path, tampered: Any) -> None:
    under_way, enough = [], threading.Event()

    def wait_for_others(real: Get, uri: str, start: int) -> bytes:
        under_way.append(start)
        if len(under_way) == 8:
            enough.set()
        assert enough.wait(20)
        return real()

    tampered(wait_for_others)
    assert _read(_folder(model, tmp_path)) == FILES


def _wrong(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_wrong_bytes_are_fetched_once_more(model: str, tmp_path: Path, tampered: Any) -> None:
    spoilt = iter([_wrong])
    asked = tampered(
        lambda real, uri, start: next(spoilt, bytes)(real()) if (uri[-11:], start) == ("safetensors", 3000) else real()
    )
    with capture_logs() as log:
        assert _read(_folder(model, tmp_path)) == FILES
    assert next(spoilt, None) is None
    (warned,) = (line for line in log if line["log_level"] == "warning")
    assert warned["objects"] == [f"{model}/model.safetensors"]
    # Of the file that was wrong alone.
    assert len(asked) == 2 * (len(WEIGHTS) // 1000) + 2


def test_bytes_that_stay_wrong_are_refused_and_not_kept(model: str, tmp_path: Path, tampered: Any) -> None:
    tampered(lambda real, uri, _: _wrong(real()) if uri.endswith("config.json") else real())
    with pytest.raises(ModelUnusable, match=r"config\.json is not what storage says it is: its checksum differs"):
        _folder(model, tmp_path)
    assert _kept(tmp_path) == []


def test_a_part_that_comes_short_is_asked_for_again(model: str, tmp_path: Path, tampered: Any) -> None:
    short = iter([True])
    tampered(lambda real, uri, start: real()[:-1] if start == 3000 and next(short, False) else real())
    assert _read(_folder(model, tmp_path)) == FILES
    assert next(short, None) is None


def test_parts_that_always_come_short_are_refused(model: str, tmp_path: Path, tampered: Any) -> None:
    tampered(lambda real, uri, start: real()[:-1] if start == 3000 else real())
    with pytest.raises(ModelUnusable, match=r"999 bytes came of .*model\.safetensors where 1000 were due"):
        _folder(model, tmp_path)
    assert _kept(tmp_path) == []


def test_a_model_that_changes_while_it_is_downloaded_is_downloaded_as_it_is_then(
    model: str, tmp_path: Path, tampered: Any
) -> None:
    changes = iter([WEIGHTS[::-1]])

    def change_in_the_middle(real: Get, uri: str, start: int) -> bytes:
        if start == 3000 and (new := next(changes, None)):
            ObjectStore().put(uri, new, "application/octet-stream")
        return real()

    tampered(change_in_the_middle)
    assert _read(_folder(model, tmp_path)) == FILES | {"model.safetensors": WEIGHTS[::-1]}
    assert len(_kept(tmp_path)) == 1


def test_a_model_that_changes_all_the_time_is_refused(model: str, tmp_path: Path, tampered: Any) -> None:
    changed = iter(range(99))

    def change(real: Get, uri: str, start: int) -> bytes:
        if start == 3000:
            ObjectStore().put(uri, WEIGHTS + bytes([next(changed)]), "application/octet-stream")
        return real()

    tampered(change)
    with pytest.raises(ModelUnusable, match="changes while it is downloaded"):
        _folder(model, tmp_path)
    assert next(changed) == 2
    assert _kept(tmp_path) == []


def test_a_file_that_is_removed_while_it_is_downloaded_is_missed(model: str, tmp_path: Path, tampered: Any) -> None:
    def remove(real: Get, uri: str, start: int) -> bytes:
        if start == 3000:
            ObjectStore().delete(uri)
        return real()

    tampered(remove)
    with pytest.raises(ModelUnusable, match="lacks weights"):
        _folder(model, tmp_path)


def _upload_in_parts(uri: str, sizes: list[int]) -> bytes:
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"])
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    upload = {"Bucket": bucket, "Key": key}
    upload["UploadId"] = client.create_multipart_upload(**upload)["UploadId"]
    parts = [os.urandom(size) for size in sizes]
    etags = [client.upload_part(**upload, PartNumber=number, Body=part)["ETag"] for number, part in enumerate(parts, 1)]
    done = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
    client.complete_multipart_upload(**upload, MultipartUpload={"Parts": done})
    return b"".join(parts)


MIB = 2**20


@pytest.mark.parametrize(
    ("sizes", "by"), [([5 * MIB + 1, 5 * MIB + 1, 77], "md5"), ([7 * MIB], "md5"), ([6 * MIB, 5 * MIB, 3], "size")]
)
def test_what_was_uploaded_in_parts_is_checked_by_these_where_they_are_of_one_size(
    sizes: list[int], by: str, model: str, tmp_path: Path, tampered: Any
) -> None:
    transfer.PART_BYTES = MIB
    data = _upload_in_parts(f"{model}/model.safetensors", sizes)
    with capture_logs() as log:
        assert _read(_folder(model, tmp_path / "right"))["model.safetensors"] == data
    (checked,) = (line for line in log if line["event"] == "checked")
    assert checked["by"]["model.safetensors"] == by
    tampered(lambda real, uri, start: _wrong(real()) if start == MIB else real())
    if by == "md5":
        with pytest.raises(ModelUnusable, match="its checksum differs"):
            _folder(model, tmp_path / "wrong")


@pytest.mark.parametrize("damage", ["short", "gone"])
def test_what_is_damaged_in_the_cache_is_downloaded_anew(damage: str, model: str, tmp_path: Path) -> None:
    folder = _folder(model, tmp_path)
    if damage == "short":
        (folder / "model.safetensors").write_bytes(WEIGHTS[:-1])
    else:
        (folder / "tokenizer.json").unlink()
    assert _folder(model, tmp_path) == folder
    assert _read(folder) == FILES


@pytest.fixture
def slow_model(model: str) -> tuple[str, str]:
    """A model, and what makes a process stop in the middle of its download until there is a file `go` in the cache."""
    return (
        model,
        """
import time
from arno_workers.engine.checkpoint import transfer
transfer.PART_BYTES = 1000
real = ObjectStore.get_range
def get_range(store, uri, start, stop, **pins):
    if start == 5000:
        (cache / "middle").touch()
        while not (cache / "go").exists():
            time.sleep(0.01)
    with (cache / "asked").open("a") as asked:
        asked.write(f"{uri} {start}\\n")
    return real(store, uri, start, stop, **pins)
ObjectStore.get_range = get_range
""",
    )


def _wait_for(path: Path) -> None:
    appeared = threading.Event()
    deadline = 2000
    while not path.exists():
        deadline -= 1
        assert deadline, f"{path} has not appeared"
        appeared.wait(0.01)


def _wait_until_it_waits(process: subprocess.Popen[str]) -> None:
    assert process.stderr
    assert any("another worker downloads it, waiting" in line for line in process.stderr)


def test_what_a_killed_process_left_is_never_loaded(slow_model: tuple[str, str], tmp_path: Path) -> None:
    uri, slowly = slow_model
    process = start(uri, tmp_path, "model", slowly)
    _wait_for(tmp_path / "middle")
    process.kill()
    process.communicate()
    (partial,) = tmp_path.glob(".partial-*")
    assert (partial / "model.safetensors").stat().st_size == len(WEIGHTS)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir() and not path.name.startswith(".")] == []

    folder = _folder(uri, tmp_path)
    assert _read(folder) == FILES
    assert not partial.exists()


def test_two_processes_download_once(slow_model: tuple[str, str], tmp_path: Path) -> None:
    uri, slowly = slow_model
    first = start(uri, tmp_path, "model", slowly)
    _wait_for(tmp_path / "middle")
    second = start(uri, tmp_path, "model", slowly)
    _wait_until_it_waits(second)
    (tmp_path / "go").touch()
    one, two = ended(first), ended(second)
    assert one.error == two.error == ""
    assert one.folder == two.folder
    assert _read(one.folder) == FILES
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == len(set(asked)) == len(WEIGHTS) // 1000 + 2


def test_whoever_waited_for_one_that_was_killed_downloads_itself(slow_model: tuple[str, str], tmp_path: Path) -> None:
    uri, slowly = slow_model
    first = start(uri, tmp_path, "model", slowly)
    _wait_for(tmp_path / "middle")
    second = start(uri, tmp_path, "model", slowly)
    _wait_until_it_waits(second)
    (tmp_path / "middle").unlink()
    first.kill()
    first.communicate()
    (tmp_path / "go").touch()
    assert _read(ended(second).folder) == FILES


def test_leftovers_of_other_models_are_removed_unless_they_are_at_work(
    slow_model: tuple[str, str], moto_s3: str, tmp_path: Path
) -> None:
    uri, slowly = slow_model
    process = start(uri, tmp_path, "model", slowly)
    _wait_for(tmp_path / "middle")
    (at_work,) = tmp_path.glob(".partial-*")
    dead = tmp_path / ".partial-0123"
    dead.mkdir()
    (dead / "model.safetensors").write_bytes(b"half")
    other = _put(f"s3://{make_bucket()}/other")
    assert _read(_folder(other, tmp_path)) == FILES
    assert at_work.exists()
    assert not dead.exists()
    (tmp_path / "go").touch()
    assert _read(ended(process).folder) == FILES


def test_a_full_disk_is_said(model: str, tmp_path: Path, tampered: Any) -> None:
    def full(*_: object) -> bytes:
        raise OSError(errno.ENOSPC, "No space left on device")

    tampered(full)
    with pytest.raises(ModelUnusable, match=f"there is no room for {model} in {tmp_path}.*ARNO_WORKER__MODEL_CACHE"):
        _folder(model, tmp_path)
    assert _kept(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_said(model: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ModelUnusable, match=r"cannot be kept in .*/file/cache \(Not a directory\)"):
        _folder(model, tmp_path / "file/cache")


def test_storage_that_is_away_is_said(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ModelUnusable, match=f"the model at {model} cannot be read: .* cannot be reached"):
        _folder(model, tmp_path)


def test_a_folder_without_objects_is_refused(moto_s3: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="no object below"):
        _folder(f"s3://{make_bucket()}/nothing", tmp_path)


def test_a_bucket_that_does_not_exist_is_refused(moto_s3: str, tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="cannot be read: no such object"):
        _folder("s3://no-such-bucket-of-ours/model", tmp_path)


def test_an_adapter_that_is_named_as_the_model_is_known_for_one(moto_s3: str, tmp_path: Path) -> None:
    uri, store = f"s3://{make_bucket()}/lora", ObjectStore()
    store.put(f"{uri}/adapter_config.json", b'{"base_model_name_or_path": "some/base"}', "application/json")
    store.put(f"{uri}/adapter_model.safetensors", WEIGHTS, "application/octet-stream")
    with pytest.raises(ModelUnusable, match="name it in ARNO_WORKER__ADAPTER, and its base 'some/base' in"):
        _folder(uri, tmp_path)
    assert _read(_folder(uri, tmp_path, Wanted.ADAPTER)).keys() == {"adapter_config.json", "adapter_model.safetensors"}
