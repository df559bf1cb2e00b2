"""Sources: every kind of them, and what is said of a row that is wrong."""

import io
import json
import sys
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arno_producer.sources import Columns, images_from
from arno_shared.errors import InvalidRequest, MissingExtra, NotFound
from arno_shared.messages import ImageRef
from arno_shared.storage import ObjectStore
from arno_shared.uris import file_uri


def read(*sources: str | Path, columns: Columns | None = None) -> list[ImageRef]:
    return list(images_from(map(str, sources), ObjectStore(), columns))


def uris(*sources: str | Path) -> list[str]:
    return [image.uri for image in read(*sources)]


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refusal(*sources: str | Path, columns: Columns | None = None) -> str:
    with pytest.raises(InvalidRequest) as caught:
        read(*sources, columns=columns)
    return str(caught.value)


def test_uris_stand_for_themselves_and_sources_follow_each_other(tmp_path: Path) -> None:
    listed = write(tmp_path / "more.txt", "s3://b/2.png\n")
    web = "https://example.org/a?page=3&file=list.csv"
    assert uris("s3://b/100%25 sure?#1.JPG", listed, web) == ["s3://b/100%25 sure?#1.JPG", "s3://b/2.png", web]


def test_text_has_comments_blanks_a_byte_order_mark_and_windows_ends(tmp_path: Path) -> None:
    path = write(
        tmp_path / "list.TXT", b"\xef\xbb\xbfs3://b/a.jpg\r\n\r\n  # no\r\n s3://b/b#1.jpg \r\ns3://b/\xc3\xa9.jpg"
    )
    assert uris(path) == ["s3://b/a.jpg", "s3://b/b#1.jpg", "s3://b/é.jpg"]


def test_csv_takes_its_columns_and_passes_over_the_rest(tmp_path: Path) -> None:
    path = write(
        tmp_path / "list.csv",
        b'\xef\xbb\xbfid,uri,etag,label\r\n7,s3://b/a.jpg,abc,cat\r\n\r\n,"s3://b/x, y.jpg",,"two\r\nlines"\r\n',
    )
    assert read(path) == [ImageRef(uri="s3://b/a.jpg", id="7", etag="abc"), ImageRef(uri="s3://b/x, y.jpg")]


def test_columns_may_have_other_names(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", "key,path,id\nk1,s3://b/a.jpg,9\n")
    assert read(path, columns=Columns("path", "key")) == [ImageRef(uri="s3://b/a.jpg", id="k1")]


def test_a_missing_column_is_told_with_those_that_are_there(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", "url,label\ns3://b/a.jpg,cat\n")
    said = refusal(path)
    assert all(part in said for part in (str(path), "'uri'", "url, label", "--uri-column"))
    assert "--id-column" in refusal(path, columns=Columns("url", "key"))


@pytest.mark.parametrize(
    ("name", "text", "where", "why"),
    [
        ("a.txt", "s3://b/a.jpg\ncat.jpg\n", "line 2", "write it in full"),
        ("a.txt", b"s3://b/a.jpg\n\xff\n", "line 2", "UTF-8"),
        ("a.txt", "s3://b/" + "a" * 2**20, "line 1", "longer than"),
        ("a.csv", "uri,id\ns3://b/a.jpg,1\n,2\n", "line 3", "names no image"),
        ("a.csv", "uri,id\ns3://b/a,b.jpg,1\n", "line 2", "quotes"),
        ("a.csv", 'uri\n"s3://b/a.jpg"x\n', "line 2", "not CSV"),
        ("a.csv", 'uri\n"s3://b/a\nb.jpg"\nnone\n', "line 4", "not a URI"),
        ("a.jsonl", '"s3://b/a.jpg"\n{"uri": \n', "line 2", "not JSON"),
        ("a.jsonl", '{"url": "s3://b/a.jpg"}\n', "line 1", "url"),
        ("a.jsonl", '{"uri": ["s3://b/a.jpg"]}\n', "line 1", "must be a text"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, name: str, text: str | bytes, where: str, why: str) -> None:
    path = write(tmp_path / name, text)
    said = refusal(path)
    assert f"{path}, {where}" in said
    assert why in said


def test_rows_before_a_bad_one_are_delivered(tmp_path: Path) -> None:
    images = images_from([str(write(tmp_path / "a.txt", "s3://b/1.jpg\ns3://b/2.jpg\nbad\n"))], ObjectStore())
    assert [next(images).uri, next(images).uri] == ["s3://b/1.jpg", "s3://b/2.jpg"]
    with pytest.raises(InvalidRequest):
        next(images)


def test_no_secret_of_a_bad_row_is_shown(tmp_path: Path) -> None:
    presigned = "s3://b/a.jpg?X-Amz-Signature=hush"
    assert "hush" not in refusal(write(tmp_path / "a.csv", f"{presigned}\n{presigned}\n"))
    assert "hush" not in refusal(write(tmp_path / "b.csv", f"uri\n/x {presigned}\n"))


def test_json_lines_are_strings_or_objects(tmp_path: Path) -> None:
    lines = [
        '"s3://b/a.jpg"',
        '{"uri": "s3://b/b.jpg", "id": 5, "version_id": "v", "label": "cat"}',
        "s3://b/c.jpg",
        "",
    ]
    assert read(write(tmp_path / "list.ndjson", "\n".join(lines))) == [
        ImageRef(uri="s3://b/a.jpg"),
        ImageRef(uri="s3://b/b.jpg", id="5", version_id="v"),
        ImageRef(uri="s3://b/c.jpg"),
    ]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = io.TextIOWrapper(io.BytesIO(b's3://b/a.jpg\n{"uri": "s3://b/b.jpg", "id": "b"}\n# no\n'))
    monkeypatch.setattr(sys, "stdin", typed)
    assert read("-") == [ImageRef(uri="s3://b/a.jpg"), ImageRef(uri="s3://b/b.jpg", id="b")]


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    numbers = range(2500)
    columns = {"n": list(numbers), "uri": [f"s3://b/{n}.jpg" for n in numbers], "label": ["cat"] * len(numbers)}
    pq.write_table(pa.table(columns), path, row_group_size=700)
    assert [(image.uri, image.id) for image in read(path, columns=Columns(id="n"))] == [
        (f"s3://b/{n}.jpg", str(n)) for n in numbers
    ]


def test_parquet_names_the_row(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"uri": ["s3://b/1.jpg", None]}), path)
    assert f"{path}, row 2" in refusal(path)
    assert "n, uri" not in refusal(path, columns=Columns("u"))
    assert "is not Parquet" in refusal(write(tmp_path / "no.parquet", "uri\n"))


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "list.parquet", "")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(MissingExtra, match=r"arno\[parquet\]"):
        read(path)


def test_a_folder_is_searched_to_the_bottom_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/a b%.JPG", "b/c/1.webp", "a.tiff", "notes.txt", "jpg"):
        write(tmp_path / name, "")
    names = ("a.tiff", "b/2.png", "b/a b%.JPG", "b/c/1.webp")
    expected = [file_uri(tmp_path / name) for name in names]
    assert uris(tmp_path) == expected
    assert uris(file_uri(tmp_path)) == expected
    assert uris(tmp_path / "a.tiff") == [file_uri(tmp_path / "a.tiff")]


@pytest.mark.parametrize("name", ["nothing.csv", "s3:/b/a.jpg"])
def test_what_is_not_there_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    good = write(tmp_path / "good.txt", "s3://b/a.jpg\n")
    with pytest.raises(InvalidRequest, match="no file or folder"):
        images_from([str(good), name], ObjectStore())


def test_a_file_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    assert ".parquet" in refusal(write(tmp_path / "list.xls", ""))


def test_no_manifest_is_read_further_than_it_must_be(tmp_path: Path) -> None:
    for name, head in (("a.txt", ""), ("a.csv", "uri\n"), ("a.jsonl", "")):
        path = write(tmp_path / name, head + "s3://b/a.jpg\n" * 20_000 + "bad\n")
        assert len(list(islice(images_from([str(path)], ObjectStore()), 19_000))) == 19_000


@pytest.fixture
def filled_bucket(bucket: str) -> str:
    for key in ("photos/1.jpg", "photos/deep/100%25 #2.PNG", "photos/notes.md", "photos-old/3.jpg", "lists/é.csv"):
        ObjectStore().put(f"s3://{bucket}/{key}", b"uri\ns3://x/1.jpg\n", "text/plain")
    return bucket


def test_a_bucket_is_listed_below_a_prefix(filled_bucket: str) -> None:
    photos = [f"s3://{filled_bucket}/photos/1.jpg", f"s3://{filled_bucket}/photos/deep/100%25 #2.PNG"]
    assert uris(f"s3://{filled_bucket}/photos/") == photos
    assert sorted(uris(f"s3://{filled_bucket}/photos")) == sorted([f"s3://{filled_bucket}/photos-old/3.jpg", *photos])
    assert len(uris(f"s3://{filled_bucket}")) == 3
    assert read(f"s3://{filled_bucket}/photos-old/")[0].etag is None


def test_a_manifest_in_a_bucket(filled_bucket: str) -> None:
    assert uris(f"s3://{filled_bucket}/lists/é.csv") == ["s3://x/1.jpg"]
    rows = {"uri": [f"s3://x/{n}.jpg" for n in range(20)]}
    pq.write_table(pa.table(rows), buffer := io.BytesIO())
    ObjectStore().put(f"s3://{filled_bucket}/list.parquet", buffer.getvalue(), "application/octet-stream")
    assert uris(f"s3://{filled_bucket}/list.parquet") == rows["uri"]


def test_a_large_manifest_in_a_bucket(filled_bucket: str) -> None:
    line = json.dumps({"uri": "s3://x/1.jpg", "label": "x" * 1000}) + "\n"
    ObjectStore().put(f"s3://{filled_bucket}/list.jsonl", line.encode() * 9_000, "application/x-ndjson")
    assert len(read(f"s3://{filled_bucket}/list.jsonl")) == 9_000


def test_a_manifest_that_is_not_in_the_bucket(filled_bucket: str) -> None:
    with pytest.raises(NotFound, match="nothing"):
        read(f"s3://{filled_bucket}/nothing.csv")
