"""What a worker makes of images: good ones answered, broken and forbidden ones failed alone, each with its reason."""

from io import BytesIO
from pathlib import Path

import boto3
import pytest
from PIL import Image

from arno_producer import Producer
from arno_shared.ledger import JobState
from arno_shared.results import Status
from arno_shared.scenes import draw, make_scene, matches
from arno_shared.settings import Settings
from arno_shared.topic import TopicReader
from tests.acceptance.arno_worker import arno_worker
from tests.servers import make_bucket


def _png(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("server", ["moto_s3", "rclone_s3"])
def test_scenes_in_s3_are_annotated_in_s3_and_announced(
    server: str, request: pytest.FixtureRequest, settings: Settings, tmp_path: Path
) -> None:
    request.getfixturevalue(server)
    bucket = make_bucket()
    s3 = boto3.client("s3")
    scenes = {f"{seed}": make_scene(50_000 + seed) for seed in range(12)}
    for name, scene in scenes.items():
        s3.put_object(Bucket=bucket, Key=f"in/{name} é+.png", Body=_png(draw(scene, size_px=256)))
    producer = Producer(settings)
    with arno_worker(settings, tmp_path, "tiny", {"ARNO_WORKER__ENGINE": "florence"}):
        job = producer.submit(
            [{"uri": f"s3://{bucket}/in/{name} é+.png", "id": name} for name in scenes],
            ["<CAPTION>", "<OD>", "<OCR>"],
            output=f"s3://{bucket}/out/",
            job_id=f"scenes-{bucket}",
        )
        status = job.wait(120)
        assert (status.state, status.ok, status.failed) == (JobState.DONE, 12, 0)
    rows = {row.image.id: row for row in job.results()}
    assert rows.keys() == scenes.keys()
    # The bundled model is small, not perfect; it does know what it looks at.
    right = sum(
        matches(scenes[name], answer.task, answer.parsed)
        for name, row in rows.items()
        for answer in row.prompts
        if answer.task == "<CAPTION>"
    )
    assert right >= 11
    assert all((row.image.width, row.image.height, row.image.format) == (256, 256, "PNG") for row in rows.values())
    ((_, event),) = TopicReader(producer.redis, "g", "c").read()
    assert event.data.result_uri == f"s3://{bucket}/out/part-000000000.jsonl"
    assert s3.get_object(Bucket=bucket, Key="out/part-000000000.jsonl")["Body"].read().count(b"\n") == 12


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, str]:
    """URI → the code that its row must carry."""
    good = _png(Image.effect_noise((64, 64), 50))
    folder = tmp_path / "broken"
    folder.mkdir()
    bomb = BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    contents = {
        "truncated.png": (good[: len(good) // 2], "broken_image"),
        "flipped.png": (good[:100] + bytes(60) + good[160:], "broken_image"),
        "text.jpg": (b"these are words", "not_an_image"),
        "empty.png": (b"", "not_an_image"),
        "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_an_image"),
        "bomb.png": (bomb.getvalue(), "too_many_pixels"),
    }
    for name, (data, _) in contents.items():
        (folder / name).write_bytes(data)
    (folder / "link.png").symlink_to("/etc/hostname")
    codes = {(folder / name).as_uri(): code for name, (_, code) in contents.items()}
    return codes | {
        (folder / "missing.png").as_uri(): "not_found",
        (folder / "link.png").as_uri(): "forbidden_path",
        "file:///etc/passwd": "forbidden_path",
        f"{folder.as_uri()}/../../../../../../etc/passwd": "forbidden_path",
        "ftp://example.org/a.png": "scheme_not_allowed",
        "not a uri": "invalid_uri",
    }


def test_each_broken_image_fails_alone_with_its_own_code(start_worker, producer, pictures, broken) -> None:
    worker = start_worker()
    good = pictures(20)
    mixed = [uri for pair in zip(good, broken, strict=False) for uri in pair] + good[len(broken) :]
    job = producer.submit(mixed, "<OD>", job_id="mixed")
    status = job.wait(60)
    assert (status.state, status.ok, status.failed) == (JobState.DONE, 20, len(broken))
    rows = {row.image.uri: row for row in job.results()}
    assert {uri: rows[uri].error.code for uri in broken} == broken
    assert all(rows[uri].status is Status.OK for uri in good)
    assert worker.process.poll() is None


def test_addresses_that_are_not_public_are_refused_and_never_reached(start_worker, producer, image_server) -> None:
    start_worker()
    port = image_server.url.rpartition(":")[2]
    forbidden = [
        f"http://127.0.0.1:{port}/a.png",
        f"http://localhost:{port}/a.png",
        f"http://2130706433:{port}/a.png",
        f"http://0x7f.1:{port}/a.png",
        f"http://0177.0.0.1:{port}/a.png",
        f"http://[::1]:{port}/a.png",
        f"http://[::ffff:127.0.0.1]:{port}/a.png",
        f"http://0.0.0.0:{port}/a.png",
        f"http://user:secret@127.0.0.1:{port}/a.png",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/a.png",
        "http://192.168.1.1/a.png",
        "http://[fd00::1]/a.png",
    ]
    job = producer.submit(forbidden, "<OD>", job_id="ssrf")
    assert job.wait(60).failed_by_code == {"forbidden_address": len(forbidden)}
    assert not image_server.hits
    (_, event), *_ = TopicReader(producer.redis, "g", "c").read()
    assert "secret" not in event.model_dump_json()


def test_a_redirect_leads_nowhere_that_is_forbidden(start_worker, producer, image_server) -> None:
    start_worker(ARNO_LIMITS__PRIVATE_ADDRESSES="true")
    image_server.redirects |= {
        "/to-file": "file:///etc/passwd",
        "/to-ftp": "ftp://example.org/a.png",
        "/round": "/round",
        "/on": "/good.png",
    }
    uris = {path: f"{image_server.url}{path}" for path in image_server.redirects}
    job = producer.submit(uris.values(), "<OD>", job_id="redirects")
    job.wait(60)
    codes = {row.image.uri: row.error.code if row.error else "ok" for row in job.results()}
    assert [codes[uris[path]] for path in ("/to-file", "/to-ftp", "/round", "/on")] == [
        "scheme_not_allowed",
        "scheme_not_allowed",
        "too_many_redirects",
        "ok",
    ]


def test_a_presigned_urls_secrets_stand_in_no_log(start_worker, producer, image_server) -> None:
    worker = start_worker(ARNO_LIMITS__PRIVATE_ADDRESSES="true", ARNO_LOG_LEVEL="debug")
    image_server.statuses["/gone.png?X-Amz-Signature=topsecret"] = 404
    uri = f"{image_server.url}/gone.png?X-Amz-Signature=topsecret"
    assert producer.submit([uri], "<OD>").wait(60).failed_by_code == {"not_found": 1}
    assert "topsecret" not in worker.log.read_text()
    assert "gone.png?***" in worker.log.read_text()


def test_parquet_results_are_read_like_any_others(start_worker, producer, pictures, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    start_worker()
    prefix = (tmp_path / "parquet").as_uri()
    job = producer.submit(pictures(3), "<OD>", output={"prefix": prefix, "format": "parquet"}, job_id="parquet")
    assert job.wait(60).ok == 3
    assert len(list(job.results())) == 3
    table = pq.read_table(tmp_path / "parquet" / "part-000000000.parquet")
    assert table.column("status").to_pylist() == ["ok"] * 3


def test_results_travel_in_the_event_when_they_are_asked_for(start_worker, producer, pictures, tmp_path) -> None:
    start_worker()
    output = {"prefix": (tmp_path / "inline").as_uri(), "inline": True}
    producer.submit(pictures(2), "<OD>", output=output, job_id="inline").wait(60)
    ((_, event),) = TopicReader(producer.redis, "g", "c").read()
    assert event.data.results is not None
    assert [row.status for row in event.data.results] == ["ok", "ok"]
