"""The `arno` command against a real Valkey; a hand plays the worker."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from arno_producer import Producer
from arno_producer.cli.progress import Speed, describe
from arno_shared.dead_letters import DeadLetter, LetterKind
from arno_shared.ledger import JobState
from arno_shared.messages import GenerationOptions, Prompt
from arno_shared.names import Lane
from arno_shared.prompts import Answer
from arno_shared.results import Status
from arno_shared.settings import Settings
from tests.producer.conftest import Hand, Ran

Arno = Callable[..., Ran]
OD = ("-p", "OD")


def started(settings: Settings, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", "from arno_producer.cli import main; main()", *arguments],
        env=os.environ | {"ARNO_REDIS_URL": settings.redis_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def submitted(producer: Producer, *, images: int = 2) -> str:
    return producer.submit([f"s3://b/{n}.jpg" for n in range(images)], "<OD>").id


# --- submit -----------------------------------------------------------------------------------------------------------


def test_submit_prints_the_job_and_nothing_else(arno: Arno, hand: Hand) -> None:
    ran = arno("submit", "s3://b/a.jpg", "s3://b/b.jpg", "s3://b/c.jpg", *OD)
    assert ran.code == 0
    chunks = hand.take_all()
    assert [chunk.job_id for chunk in chunks] == [ran.out.strip()] * 2
    assert "3 images in 2 chunks" in ran.err
    assert chunks[0].output.prefix in ran.err


def test_submit_takes_everything_that_a_job_can_have(arno: Arno, hand: Hand, tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("path,key\ns3://b/a.jpg,A\n")
    region = '{"task": "<REGION_TO_OCR>", "region": [1, 2, 3, 4]}'
    ran = arno(
        *("submit", str(table), "--uri-column", "path", "--id-column", "key", "--lane", "interactive", "--inline"),
        *("-p", "<CAPTION_TO_PHRASE_GROUNDING>a red car", "--prompt", region, "--format", "parquet"),
        *("--output", f"file://{tmp_path}/out", "--job-id", "all", "--json"),
        *("--num-beams", "1", "--max-new-tokens", "99"),
    )
    (chunk,) = hand.take_all(Lane.INTERACTIVE)
    assert (chunk.images[0].uri, chunk.images[0].id, chunk.job_id) == ("s3://b/a.jpg", "A", "all")
    assert [prompt.task for prompt in chunk.prompts] == ["<CAPTION_TO_PHRASE_GROUNDING>", "<REGION_TO_OCR>"]
    assert (chunk.prompts[0].text, chunk.prompts[1].region) == ("a red car", (1, 2, 3, 4))
    assert chunk.output.model_dump() == {"prefix": f"file://{tmp_path}/out/", "format": "parquet", "inline": True}
    assert chunk.generation == GenerationOptions(num_beams=1, max_new_tokens=99)
    (line,) = ran.lines
    assert (line["job_id"], line["images"], line["output_format"]) == ("all", 1, "parquet")


def test_submit_takes_fine_tunes_own_prompts_after_all_tasks(arno: Arno, hand: Hand) -> None:
    own = '{"raw": "first?", "parse": "quads"}'
    arno("submit", "s3://b/a.jpg", "--raw", " <VQA>{what}?", "-p", own, *OD, "--raw", "<OD>", "--parse", "boxes")
    (chunk,) = hand.take_all()
    assert chunk.prompts == (
        Prompt(raw="first?", parse=Answer.QUADS),
        Prompt(task="<OD>"),
        Prompt(raw=" <VQA>{what}?", parse=Answer.BOXES),
        Prompt(raw="<OD>", parse=Answer.BOXES),
    )


def test_submit_reads_standard_input(arno: Arno, hand: Hand) -> None:
    assert arno("submit", "-", *OD, typed="s3://b/a.jpg\n# no\ns3://b/b.jpg\n").code == 0
    assert [image.uri for chunk in hand.take_all() for image in chunk.images] == ["s3://b/a.jpg", "s3://b/b.jpg"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("submit", "s3://b/a.jpg"), "nothing is asked: give --prompt, or --raw, or both"),
        (("submit", "s3://b/a.jpg", "-p", "<DocVQA>when?"), 'is written as {"raw": …}'),
        (("submit", "s3://b/a.jpg", "--raw", " "), "`raw` is blank"),
        (("submit", "s3://b/a.jpg", "--raw", "what?", "--parse", "ocr"), "boxes_or_polygons"),
        (("submit", "s3://b/a.jpg", *OD, "--parse", "text"), "--parse is for prompts in --raw"),
        (("submit", *OD), "SOURCE"),
        (("submit", "s3://b/a.jpg", "-p", "OCD"), "'OCD' is not a task"),
        (("submit", "nothing.csv", *OD), "no file or folder 'nothing.csv'"),
        (("submit", "s3://b/a.jpg", *OD, "--format", "xml"), "format"),
        (("submit", "s3://b/a.jpg", *OD, "--lane", "fast"), "interactive"),
        (("submit", "s3://b/a.jpg", *OD, "--num-beams", "0"), "num_beams"),
        (("submit", "s3://b/a.jpg", *OD, "--max-new-tokens", "many"), "--max-new-tokens"),
        (("submit", "-", *OD), "no images"),
        (("submit", "s3://b/a.jpg", *OD, "--job-id", "a b"), "job id"),
        (("dead", "purge", "1-0"), "no such dead letters: 1-0"),
        (("dead", "replay", "1-0"), "no such dead letters: 1-0"),
    ],
)
def test_what_is_asked_wrongly_exits_with_2_and_a_word(arno: Arno, arguments: tuple[str, ...], said: str) -> None:
    ran = arno(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_a_job_that_broke_off_says_how_to_go_on(arno: Arno, hand: Hand, tmp_path: Path) -> None:
    table = tmp_path / "list.txt"
    good = "".join(f"s3://b/{n}.jpg\n" for n in range(30))
    table.write_text(f"{good}bad\n")
    ran = arno("submit", str(table), *OD, "--job-id", "broken")
    assert ran.code == 2
    assert f"{table}, line 31" in ran.err
    assert "--job-id broken" in ran.err
    table.write_text(good)
    assert arno("submit", str(table), *OD, "--job-id", "broken").code == 0


def test_a_job_that_never_began_does_not(arno: Arno, tmp_path: Path) -> None:
    table = tmp_path / "list.txt"
    table.write_text("bad\n")
    assert "--job-id" not in arno("submit", str(table), *OD).err
    assert arno("submit", "s3://b/a.jpg", *OD, "--job-id", "mine").code == 0
    conflict = arno("submit", "s3://b/other.jpg", *OD, "--job-id", "mine")
    assert conflict.code == 2
    assert "--job-id" not in conflict.err


# --- status, watch, results, cancel -----------------------------------------------------------------------------------


def test_status_of_one_job(arno: Arno, producer: Producer, hand: Hand) -> None:
    job_id = submitted(producer, images=4)
    hand.commit(hand.take_all()[0], failed={"s3://b/1.jpg": "not_found"})
    ran = arno("status", job_id)
    assert ran.code == 0
    assert all(word in ran.out for word in (job_id, "running", "not_found 1", "1 of 2 committed", "/results/"))
    (line,) = arno("status", job_id, "--json").lines
    assert (line["ok"], line["failed"], line["images"], line["state"]) == (1, 1, 4, "running")


def test_status_of_the_latest_jobs(arno: Arno, producer: Producer) -> None:
    ids = [submitted(producer), submitted(producer)]
    producer.redis.delete(f"arno:job:{submitted(producer)}")  # as when its time in the ledger is over
    assert all(job_id in arno("status").out for job_id in ids)
    assert [line["job_id"] for line in arno("status", "--json").lines] == ids[::-1]


@pytest.mark.parametrize("command", ["status", "watch", "results", "cancel"])
def test_an_unknown_job(arno: Arno, command: str) -> None:
    ran = arno(command, "no")
    assert (ran.code, ran.out) == (1, "")
    assert "'no'" in ran.err


def test_watch_follows_a_job_to_its_end(producer: Producer, hand: Hand, settings: Settings) -> None:
    job_id = submitted(producer, images=4)
    first, second = hand.take_all()
    hand.commit(first, failed={"s3://b/1.jpg": "timeout"})
    with started(settings, "watch", job_id) as process:
        assert process.stderr
        assert process.stderr.readline() == b"running: 2 of 4 images, timeout 1\n"
        hand.commit(second)
        assert process.stderr.read().splitlines()[-1] == b"done: 4 of 4 images, timeout 1"
    assert process.returncode == 0


def test_watch_in_json(arno: Arno, producer: Producer, hand: Hand) -> None:
    job_id = submitted(producer)
    hand.commit(hand.take_all()[0])
    ran = arno("watch", job_id, "--json")
    assert [(line["state"], line["ok"]) for line in ran.lines] == [("done", 2)]
    assert ran.err == ""


def test_watch_tells_by_its_exit_code(arno: Arno, producer: Producer, hand: Hand) -> None:
    dead, cancelled = submitted(producer), submitted(producer)
    hand.bury(hand.take_all()[0])
    producer.job(cancelled).cancel()
    assert [arno("watch", job_id).code for job_id in (dead, cancelled)] == [1, 1]
    assert "dead 2" in arno("watch", dead).err


def test_submit_can_watch(arno: Arno, producer: Producer, hand: Hand) -> None:
    submit = ("submit", "s3://b/a.jpg", *OD, "--job-id", "seen")
    arno(*submit)
    hand.commit(hand.take_all()[0])
    ran = arno(*submit, "--watch")
    assert ran.code == 0
    assert "done: 1 of 1 images" in ran.err


def test_results_are_json_lines(arno: Arno, producer: Producer, hand: Hand) -> None:
    job_id = submitted(producer)
    hand.commit(hand.take_all()[0], failed={"s3://b/1.jpg": "not_found"})
    assert [line["image"]["uri"] for line in arno("results", job_id).lines] == ["s3://b/0.jpg", "s3://b/1.jpg"]
    (line,) = arno("results", job_id, "--failed").lines
    assert (line["status"], line["error"]["code"]) == (Status.FAILED, "not_found")


def test_cancel(arno: Arno, producer: Producer, hand: Hand) -> None:
    job_id = submitted(producer)
    ran = arno("cancel", job_id, "--json")
    assert ran.lines == [{"job_id": job_id, "state": "cancelled"}]
    assert producer.job(job_id).status().state is JobState.CANCELLED
    done = submitted(producer)
    hand.commit(hand.take_all()[1])
    assert "was done already" in arno("cancel", done).err


def test_speed_and_what_is_left() -> None:
    speed = Speed()
    assert speed.images_per_s(0, 100.0) == 0
    assert speed.images_per_s(50, 110.0) == 5
    # The first ten seconds have left the window by then.
    assert speed.images_per_s(650, 140.0) == 20


def test_the_words_of_progress(producer: Producer) -> None:
    status = producer.job(submitted(producer)).status().model_copy(update={"images": 10_000, "ok": 4_000})
    assert describe(status, 20.0) == "running: 4,000 of 10,000 images, 20.0/s, 5 min left"
    growing = status.model_copy(update={"sealed": False, "put_off": 3})
    assert describe(growing, 20.0) == "running: 4,000 of 10,000 images so far, 20.0/s, put off 3"


# --- dead letters -----------------------------------------------------------------------------------------------------


@pytest.fixture
def letters(producer: Producer, hand: Hand) -> list[str]:
    """Entry ids: of a chunk, of images, and of a message that cannot be read."""
    submitted(producer)
    hand.bury(hand.take_all()[0])
    submitted(producer)
    hand.commit(hand.take_all()[0], failed={"s3://b/1.jpg": "timeout"}, give_up=True)
    raw = '"https://h/a?key=hush'
    producer.dead_letters.add(
        DeadLetter(kind=LetterKind.MESSAGE, code="invalid_message", reason="no [/b]", raw=raw, worker="hand")
    )
    return [filed.entry_id for filed in producer.dead_letters.list()]


@pytest.mark.parametrize(("move", "state"), [("cancel", "cancelled"), ("pause", "paused")])
def test_what_stands_still_is_not_woken_by_submitting_it_again(
    arno: Arno, producer: Producer, hand: Hand, move: str, state: str
) -> None:
    call = ("submit", "s3://b/a.jpg", *OD, "--job-id", "mine")
    assert "stays so" not in arno(*call).err
    hand.take_all()
    getattr(producer.job("mine"), move)()
    ran = arno(*call)
    assert (ran.code, ran.out) == (0, "mine\n")
    assert f"Job mine is {state}, and stays so until arno resume mine brings it back." in ran.err
    assert (producer.job("mine").status().state, hand.take_all()) == (state, [])
    arno("resume", "mine")
    assert producer.job("mine").status().state is JobState.RUNNING


def test_dead_letters_are_listed_without_secrets(arno: Arno, letters: list[str]) -> None:
    shown = arno("dead", "list").out
    assert all(word in shown for word in (*letters, "worker_lost", "timeout", "no [/b]", "s3://b/?***"))
    in_json = arno("dead", "list", "--json")
    assert [line["entry_id"] for line in in_json.lines] == letters
    assert "hush" not in shown + in_json.out


def test_dead_letters_are_chosen(arno: Arno, producer: Producer, letters: list[str]) -> None:
    def listed(*filters: str) -> list[str]:
        return [line["entry_id"] for line in arno("dead", "list", "--json", *filters).lines]

    job_id = next(producer.dead_letters.list(code="timeout")).letter.job_id
    assert job_id is not None
    assert listed("--code", "timeout") == listed("--job", job_id) == [letters[1]]
    assert listed("--limit", "2") == letters[:2]


def test_dead_letters_are_replayed(arno: Arno, producer: Producer, hand: Hand, letters: list[str]) -> None:
    assert "1 replayed" in arno("dead", "replay", letters[1]).err
    assert [chunk.attempt for chunk in hand.take_all()] == [2]
    ran = arno("dead", "replay")
    assert ran.code == 1
    assert letters[2] in ran.err
    assert "1 replayed" in ran.err
    assert [chunk.attempt for chunk in hand.take_all()] == [1]
    assert [filed.entry_id for filed in producer.dead_letters.list()] == letters[2:]


def test_letters_of_a_cancelled_job_stay_and_others_are_replayed(arno: Arno, producer: Producer, hand: Hand) -> None:
    for job_id in ("stopped", "going"):
        producer.submit(["s3://b/0.jpg"], "<OD>", job_id=job_id)
        (chunk,) = hand.take_all()
        hand.commit(chunk, failed={"s3://b/0.jpg": "timeout"}, give_up=True)
        # Its other chunk is still to be done, so that it can be cancelled.
        producer.submit([f"s3://b/{number}.jpg" for number in range(3)], "<OD>", job_id=f"{job_id}-too")
        hand.commit(hand.take_all()[0], failed={"s3://b/1.jpg": "timeout"}, give_up=True)
    producer.job("stopped-too").cancel()
    ran = arno("dead", "replay")
    assert ran.code == 1
    assert "job 'stopped-too' was cancelled" in ran.err
    assert "3 replayed" in ran.err
    assert [filed.letter.job_id for filed in producer.dead_letters.list()] == ["stopped-too"]
    assert "arno resume stopped-too" in ran.err


def test_dead_letters_are_purged_after_a_question(arno: Arno, producer: Producer, letters: list[str]) -> None:
    def left() -> list[str]:
        return [filed.entry_id for filed in producer.dead_letters.list()]

    for typed in ("n\n", ""):
        ran = arno("dead", "purge", typed=typed)
        assert ran.code == 1
        assert "3 dead letters" in ran.err
        assert left() == letters
    assert arno("dead", "purge", "--code", "timeout", typed="y\n").code == 0
    assert left() == [letters[0], letters[2]]
    assert "2 purged" in arno("dead", "purge", "--yes").err
    assert left() == []


# --- the process ------------------------------------------------------------------------------------------------------


def test_version(arno: Arno) -> None:
    assert arno("--version").out == "arno 0.1.0\n"


@pytest.mark.parametrize("command", [("status",), ("submit", "s3://b/a.jpg", *OD), ("results", "x"), ("dead", "list")])
def test_redis_away(arno: Arno, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int, command: tuple[str, ...]) -> None:
    monkeypatch.setenv("ARNO_REDIS_URL", f"redis://me:hush@127.0.0.1:{free_tcp_port}/0")
    ran = arno(*command)
    assert (ran.code, ran.out) == (1, "")
    assert f"redis://***@127.0.0.1:{free_tcp_port}/0" in ran.err
    assert "ARNO_REDIS_URL" in ran.err
    assert "hush" not in ran.err


def test_storage_away(arno: Arno, bucket: str, monkeypatch: pytest.MonkeyPatch, free_tcp_port: int) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{free_tcp_port}")
    for command in (("submit", f"s3://{bucket}/x/", *OD), ("submit", f"s3://{bucket}/x.csv", *OD)):
        ran = arno(*command)
        assert ran.code == 1
        assert str(free_tcp_port) in ran.err
        assert "AWS_ENDPOINT_URL_S3" in ran.err


@pytest.mark.parametrize(
    ("name", "value"), [("ARNO_REDIS_URL", "localhost"), ("ARNO_WORKER__DTYPE", "int3"), ("ARNO_LIMITS__NO", "1")]
)
def test_a_wrong_setting_is_named(arno: Arno, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    ran = arno("status")
    assert ran.code == 2
    assert name in ran.err


def test_a_reader_that_goes_away_is_no_error(producer: Producer, hand: Hand, settings: Settings) -> None:
    # More than a pipe holds, so that the command still writes when nobody reads.
    job = producer.submit([{"uri": f"s3://b/{n}.jpg", "id": "x" * 1000} for n in range(200)], "<OD>")
    for chunk in hand.take_all():
        hand.commit(chunk)
    with started(settings, "results", job.id) as process:
        assert process.stdout
        assert process.stderr
        assert json.loads(process.stdout.readline())["job_id"] == job.id
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_ctrl_c_exits_with_130(producer: Producer, settings: Settings) -> None:
    with started(settings, "watch", submitted(producer)) as process:
        assert process.stderr
        assert b"running" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 130
