"""Of two workers that do the same chunk, the first to write says what became of it."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from arno_shared.errors import (
    AccessDenied,
    ArnoError,
    CredentialsRefused,
    HouseError,
    ItemError,
    JobConflict,
    NotFound,
    StorageRefused,
    Throttled,
    Timeout,
    Unavailable,
)
from arno_shared.messages import Chunk, ImageRef, Output, Prompt
from arno_shared.parts import CONTENT_TYPES, decode_part, encode_part
from arno_shared.results import Failure, ImageFacts, ModelFacts, PromptResult, ResultRow, Status
from arno_shared.storage import ObjectStore
from arno_workers.pipeline.result_writer import ResultWriter
from arno_workers.pipeline.rows import Settled
from tests.servers import make_bucket

FORMATS = ("jsonl", "parquet")
OD = Prompt(task="<OD>")
OCR_BELOW = Prompt(task="<REGION_TO_OCR>", region=(0, 0.5, 10, 20))
RED_CAR = Prompt(task="<CAPTION_TO_PHRASE_GROUNDING>", text="ein rötliches Auto")
A = ImageRef(uri="s3://b/ä.png", id="first", version_id="v1", etag='"e"')
B = ImageRef(uri="https://host/b.png?sig=1")
C = ImageRef(uri="s3://b/c.png")


def make_chunk(folder: Path, *images: ImageRef, format: str = "jsonl", prompts: Iterable[Prompt] = (OD,)) -> Chunk:
    output = Output.model_validate({"prefix": folder.as_uri(), "format": format})
    return Chunk(images=images, prompts=tuple(prompts), output=output, job_id="run-7", index=3)


def row(chunk: Chunk, image: ImageRef, code: str | None = None, worker: str = "w1") -> ResultRow:
    answers = tuple(
        PromptResult(
            task=prompt.task,
            text=prompt.text,
            region=prompt.region,
            prompt="asked",
            raw="</s>",
            parsed={"labels": ["ä"]},
            tokens=3,
            truncated=False,
        )
        for prompt in chunk.prompts
    )
    return ResultRow(
        job_id=chunk.job_id,
        index=chunk.index,
        attempts=chunk.attempt,
        image=ImageFacts.asked(image),
        status=Status.FAILED if code else Status.OK,
        error=Failure(code=code, message="-") if code else None,
        prompts=() if code else answers,
        model=ModelFacts(id="fake", revision="0", dtype="none"),
        worker=worker,
        finished_at=datetime.now(UTC),
    )


def all_ok(chunk: Chunk, worker: str = "w1") -> Settled:
    return Settled(rows=[row(chunk, image, worker=worker) for image in chunk.images], put_off=None, given_up=None)


def next_attempt(chunk: Chunk, *places: int) -> Chunk:
    return chunk.retry_of([chunk.images[place] for place in places], places)


@pytest.fixture
def store() -> ObjectStore:
    return ObjectStore()


@pytest.fixture
def writer(store: ObjectStore) -> ResultWriter:
    return ResultWriter(store, 3)


def workers_in(store: ObjectStore, uri: str, format: str = "jsonl") -> list[str]:
    """Who made the rows that stand there."""
    return [each.worker for each in decode_part(store.get(uri), format)]


@pytest.mark.parametrize("format", FORMATS)
def test_rows_are_written_where_the_chunk_says(
    format: str, writer: ResultWriter, store: ObjectStore, tmp_path: Path
) -> None:
    chunk = make_chunk(tmp_path, A, B, format=format)
    settled = all_ok(chunk)
    uri, standing = writer.write(chunk, settled)
    assert uri == f"{tmp_path.as_uri()}/part-000000003.{format}"
    assert standing is settled
    assert decode_part(store.get(uri), format) == settled.rows


@pytest.mark.parametrize("format", FORMATS)
def test_what_stands_first_is_the_truth(format: str, writer: ResultWriter, store: ObjectStore, tmp_path: Path) -> None:
    chunk = make_chunk(tmp_path, A, B, C, format=format, prompts=(OD, OCR_BELOW, RED_CAR))
    uri, _ = writer.write(chunk, all_ok(chunk, worker="first"))
    failures = [row(chunk, image, "not_found", worker="second") for image in (A, B)]
    late = Settled(rows=failures, put_off=chunk.retry_of([C]), given_up=None)
    same_uri, standing = writer.write(chunk, late)
    assert same_uri == uri
    assert workers_in(store, uri, format) == ["first"] * 3
    assert [each.status for each in standing.rows] == [Status.OK] * 3
    assert (standing.put_off, standing.given_up, standing.failures) == (None, None, [])


@pytest.mark.parametrize("format", FORMATS)
def test_what_the_first_put_off_is_put_off_though_the_second_had_better_luck(
    format: str, writer: ResultWriter, store: ObjectStore, tmp_path: Path
) -> None:
    chunk = make_chunk(tmp_path, A, B, C, format=format)
    writer.write(chunk, Settled(rows=[row(chunk, B)], put_off=chunk.retry_of([A, C]), given_up=None))
    uri, standing = writer.write(chunk, all_ok(chunk, worker="second"))
    assert workers_in(store, uri, format) == ["w1"]
    assert standing.put_off == next_attempt(chunk, 0, 2)
    assert standing.given_up is None


@pytest.mark.parametrize("format", FORMATS)
def test_all_may_have_been_put_off(format: str, writer: ResultWriter, tmp_path: Path) -> None:
    chunk = make_chunk(tmp_path, A, B, format=format)
    writer.write(chunk, Settled(rows=[], put_off=chunk.retry_of([A, B]), given_up=None))
    _, standing = writer.write(chunk, all_ok(chunk))
    assert (standing.rows, standing.put_off) == ([], next_attempt(chunk, 0, 1))


def test_an_image_that_a_chunk_has_twice_is_put_off_as_often_as_it_has_no_row(
    writer: ResultWriter, tmp_path: Path
) -> None:
    chunk = make_chunk(tmp_path, A, A, A, B)
    writer.write(chunk, Settled(rows=[row(chunk, A), row(chunk, B)], put_off=chunk.retry_of([A, A]), given_up=None))
    _, standing = writer.write(chunk, all_ok(chunk))
    assert standing.put_off == next_attempt(chunk, 1, 2)


@pytest.mark.parametrize("code", ["timeout", "throttled", "unavailable", "connection_failed", "worker_lost"])
def test_what_the_first_gave_up_is_given_up(code: str, writer: ResultWriter, tmp_path: Path) -> None:
    chunk = make_chunk(tmp_path, A, B, C)
    rows = [row(chunk, A), row(chunk, B, code), row(chunk, C, "not_found")]
    writer.write(chunk, Settled(rows=rows, put_off=None, given_up=chunk.model_copy(update={"images": (B,)})))
    _, standing = writer.write(chunk, all_ok(chunk))
    assert standing.rows == rows
    assert standing.put_off is None
    assert standing.given_up == chunk.only([1])


def test_later_attempts_have_objects_of_their_own(writer: ResultWriter, store: ObjectStore, tmp_path: Path) -> None:
    chunk = make_chunk(tmp_path, A, B)
    first, _ = writer.write(chunk, Settled(rows=[row(chunk, A)], put_off=chunk.retry_of([B]), given_up=None))
    again = chunk.retry_of([B])
    later, standing = writer.write(again, all_ok(again, worker="later"))
    assert (workers_in(store, first), workers_in(store, later)) == (["w1"], ["later"])
    assert [each.attempts for each in standing.rows] == [2]


FOREIGN = {
    "another job's": {"job_id": "another"},
    "another chunk's": {"index": 4},
    "another attempt's": {"attempt": 2},
    "of other prompts": {"prompts": (Prompt(task="<OCR>"),)},
    "of another text": {"prompts": (RED_CAR.model_copy(update={"text": "ein Auto"}),)},
    "of fewer prompts": {"prompts": (OD,)},
    "of other images": {"images": (A, ImageRef(uri="s3://b/other.png"))},
    "of another version of an image": {"images": (A.model_copy(update={"version_id": "v2"}), B)},
    "of more images": {"images": (A, B, B)},
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("foreign", FOREIGN)
def test_rows_that_are_not_of_this_chunk_are_never_replaced(
    foreign: str, format: str, writer: ResultWriter, store: ObjectStore, tmp_path: Path
) -> None:
    chunk = make_chunk(tmp_path, A, B, format=format, prompts=(RED_CAR, OD))
    standing = all_ok(chunk.model_copy(update=FOREIGN[foreign]), worker="foreign")
    uri = f"{tmp_path.as_uri()}/part-000000003.{format}"
    store.put(uri, encode_part(standing.rows, format), CONTENT_TYPES[format])
    for _ in range(2):
        with pytest.raises(JobConflict, match="rows that are not of this chunk of job"):
            writer.write(chunk, all_ok(chunk))
    assert not writer.has_written(chunk)
    assert set(workers_in(store, uri, format)) == {"foreign"}


def test_where_nobody_may_look_indices_begin_with_the_first(
    writer: ResultWriter, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = make_chunk(tmp_path, A)
    assert writer.next_index(chunk.output) == 0
    writer.write(chunk, all_ok(chunk))
    assert writer.next_index(chunk.output) == 4

    def refused(_: str) -> None:
        raise AccessDenied("you may not list")

    monkeypatch.setattr(store, "list", refused)
    assert writer.next_index(chunk.output) == 0


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("third", "own"), [((B,), True), ((C,), False), (None, False)])
def test_whose_an_object_without_rows_is_the_next_that_has_some_says(
    third: tuple[ImageRef, ...] | None, own: bool, format: str, writer: ResultWriter, tmp_path: Path
) -> None:
    chunk = make_chunk(tmp_path, A, B, format=format)
    second = chunk.retry_of(chunk.images)
    for attempt in (chunk, second):
        writer.write(attempt, Settled(rows=[], put_off=attempt.retry_of(attempt.images), given_up=None))
    if third:
        later = second.retry_of(third)
        writer.write(later, all_ok(later))
    assert writer.has_written(chunk) is own
    if third == (C,):
        with pytest.raises(JobConflict):
            writer.write(chunk, all_ok(chunk))
    else:
        # One whose writer died before it said so stands as well.
        _, standing = writer.write(chunk, all_ok(chunk))
        assert standing.put_off
        assert standing.put_off.images == (A, B)


def test_what_was_written_and_deleted_since_counts_as_the_chunk_s(writer: ResultWriter, tmp_path: Path) -> None:
    assert writer.has_written(make_chunk(tmp_path, A, B))


def test_rows_of_another_job_in_an_object_that_cannot_be_read_whole_are_never_replaced(
    writer: ResultWriter, store: ObjectStore, tmp_path: Path
) -> None:
    chunk = make_chunk(tmp_path, A)
    uri = f"{tmp_path.as_uri()}/part-000000003.jsonl"
    data = encode_part(all_ok(chunk.model_copy(update={"job_id": "another"})).rows, "jsonl") + b'{"job_id": "ano'
    store.put(uri, data, "text/plain")
    with pytest.raises(JobConflict):
        writer.write(chunk, all_ok(chunk))
    assert store.get(uri) == data


def test_an_object_of_its_own_that_was_cut_short_is_replaced(
    writer: ResultWriter, store: ObjectStore, tmp_path: Path
) -> None:
    chunk = make_chunk(tmp_path, A, B)
    uri = f"{tmp_path.as_uri()}/part-000000003.jsonl"
    store.put(uri, encode_part(all_ok(chunk, worker="torn").rows, "jsonl")[:-20], "text/plain")
    writer.write(chunk, all_ok(chunk))
    assert workers_in(store, uri) == ["w1", "w1"]


SOMEBODY_ELSES = {
    "text": b"not rows at all",
    "bytes": b"\xff\x00",
    "an object": b"{}\n",
    "a list": b'[{"job_id": "run-7", "index": 3, "attempts": 1}]\n',
    "another tool's": b'{"image": "x", "label": "cat"}\n{"image": "y", "label": "dog"}\n',
    "another job's, cut short": b'{"job_id":"another","index":3,"posi',
    "another chunk's, cut short": b'{"job_id":"run-7","index":4,"posi',
    "another attempt's, beside a cut one": b'{"job_id":"run-7","index":3,"attempts":2}\n{"job_id":"run-7","index":3,',
    "half a table": b"PAR1PAR1",
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("data", SOMEBODY_ELSES.values(), ids=SOMEBODY_ELSES)
def test_an_object_of_which_nobody_knows_whose_it_is_is_never_replaced(
    data: bytes, format: str, writer: ResultWriter, store: ObjectStore, tmp_path: Path
) -> None:
    chunk = make_chunk(tmp_path, A, format=format)
    uri = f"{tmp_path.as_uri()}/part-000000003.{format}"
    store.put(uri, data, "text/plain")
    with pytest.raises(JobConflict, match="remove what is there"):
        writer.write(chunk, all_ok(chunk))
    assert store.get(uri) == data


def test_a_table_that_is_somebody_else_s_is_never_replaced(
    writer: ResultWriter, store: ObjectStore, tmp_path: Path
) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "part-000000003.parquet"
    pq.write_table(pa.table({"a": [1, 2, 3]}), path)
    data = path.read_bytes()
    with pytest.raises(JobConflict):
        writer.write(chunk := make_chunk(tmp_path, A, format="parquet"), all_ok(chunk))
    assert path.read_bytes() == data


@pytest.mark.parametrize("cut", [0, 1, 9, 30, -2, -40])
def test_what_broke_off_of_its_own_is_replaced(
    cut: int, writer: ResultWriter, store: ObjectStore, tmp_path: Path
) -> None:
    chunk = make_chunk(tmp_path, A, B).model_copy(update={"attempt": 3})
    uri = f"{tmp_path.as_uri()}/part-000000003.3.jsonl"
    store.put(uri, encode_part(all_ok(chunk, worker="torn").rows, "jsonl")[:cut], "text/plain")
    writer.write(chunk, all_ok(chunk))
    assert workers_in(store, uri) == ["w1", "w1"]


@pytest.mark.parametrize("format", FORMATS)
def test_in_s3_as_well_what_stands_first_is_the_truth(
    format: str, moto_s3: str, writer: ResultWriter, store: ObjectStore, tmp_path: Path
) -> None:
    chunk = make_chunk(tmp_path, A, B, format=format)
    output = Output.model_validate({"prefix": f"s3://{make_bucket()}/results/", "format": format})
    chunk = chunk.model_copy(update={"output": output})
    writer.write(chunk, Settled(rows=[row(chunk, A)], put_off=chunk.retry_of([B]), given_up=None))
    uri, standing = writer.write(chunk, all_ok(chunk, worker="second"))
    assert workers_in(store, uri, format) == ["w1"]
    assert standing.put_off == next_attempt(chunk, 1)


# What storage may answer


class AilingStore(ObjectStore):
    """Fails at one of its methods, once something stands."""

    def __init__(self, method: str, error: Exception) -> None:
        super().__init__()
        self.error = error
        setattr(self, method, self._fail)

    def _fail(self, *_: object, **__: object) -> bytes:
        raise self.error


@pytest.mark.parametrize("method", ["put_new", "get"])
def test_credentials_that_are_refused_are_waited_for(method: str, writer: ResultWriter, tmp_path: Path) -> None:
    chunk = make_chunk(tmp_path, A)
    writer.write(chunk, all_ok(chunk))
    with pytest.raises(HouseError, match="wrong key"):
        ResultWriter(AilingStore(method, CredentialsRefused("wrong key")), 3).write(chunk, all_ok(chunk))


@pytest.mark.parametrize("error", [HouseError("away"), Timeout("slow"), Throttled("slower"), Unavailable("503")])
def test_what_stands_and_cannot_be_read_just_now_is_waited_for(
    error: Exception, writer: ResultWriter, store: ObjectStore, tmp_path: Path
) -> None:
    chunk = make_chunk(tmp_path, A)
    uri, _ = writer.write(chunk, all_ok(chunk, worker="first"))
    with pytest.raises(HouseError):
        ResultWriter(AilingStore("get", error), 3).write(chunk, all_ok(chunk, worker="second"))
    assert workers_in(store, uri) == ["first"]


@pytest.mark.parametrize(
    ("error", "said"),
    [(NotFound("vanished meanwhile"), HouseError), (AccessDenied("may be written, and not read"), StorageRefused)],
)
def test_what_stands_and_cannot_be_compared_is_not_replaced(
    error: ItemError, said: type[ArnoError], writer: ResultWriter, store: ObjectStore, tmp_path: Path
) -> None:
    chunk = make_chunk(tmp_path, A)
    uri, _ = writer.write(chunk, all_ok(chunk, worker="first"))
    with pytest.raises(said):
        ResultWriter(AilingStore("get", error), 3).write(chunk, all_ok(chunk, worker="second"))
    assert workers_in(store, uri) == ["first"]


def test_a_place_that_can_never_be_written_is_said_to_be_one(writer: ResultWriter, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where a folder should be")
    chunk = make_chunk(blocked, A)
    with pytest.raises(StorageRefused):
        writer.write(chunk, all_ok(chunk))
