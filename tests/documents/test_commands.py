"""Every command and snippet of the documents is run, in their order, in one shell; stand_ins.py lists what is not."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Any

import boto3
import pyarrow
import pyarrow.parquet
import pytest

from tests import servers
from tests.acceptance.arno_worker import eventually
from tests.acceptance.test_trigger import picture
from tests.checkpoints import make_adapter, make_original
from tests.documents.blocks import DOCUMENTS, ROOT, Command, blocks, commands, spans
from tests.documents.shell import Shell
from tests.documents.stand_ins import ENVIRONMENT, NOT_RUN, PRINTS, SERVERS, STAND_INS, Server, is_run, with_stand_ins
from tests.programs import program

BIN = Path(sys.executable).parent
IN_ORDER = sorted(DOCUMENTS, key=lambda document: document != "README.md")
EVENT = {"eventSource": "aws:s3", "eventName": "ObjectCreated:Put"}


def to_run(document: str) -> Iterator[Command]:
    """The commands and Python snippets, with what stands in."""
    for block in blocks(document):
        block = block._replace(text=with_stand_ins(block.text))
        if block.language == "sh":
            yield from (command for command in commands(block) if is_run(command.text))
        elif block.language == "python" and is_run(block.text):
            yield Command(f"python - <<'END'\n{block.text}END", document, block.line)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """In a folder with the reader's pictures and lists, with buckets of theirs."""
    folder, logs = tmp_path / "folder", tmp_path / "logs"
    for made in (folder, logs):
        made.mkdir()
    with servers.Valkey() as valkey, servers.moto_server() as s3:
        known = {"VALKEY": valkey.url, "S3": s3}
        known |= {name: str(servers.free_port()) for name in ("HTTP_PORT", "FLOWER_PORT")}
        fill_buckets(s3)
        fill_folder(folder)
        env = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "AWS_EC2_METADATA_DISABLED": "true",
            **known,
            **{name: Template(value).substitute(known) for name, value in ENVIRONMENT.items()},
        }
        with Shell(folder, logs, env) as opened:
            yield opened


def fill_buckets(s3: str) -> None:
    at = {"endpoint_url": s3, "region_name": "eu-west-1", "aws_access_key_id": "a", "aws_secret_access_key": "b"}
    client: Any = boto3.client("s3", **at)  # type: ignore[call-overload]
    for bucket in ("photos", "results", "uploads"):
        client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    for key in ("a.jpg", *(f"2026/{number}.jpg" for number in range(3))):
        client.put_object(Bucket="photos", Key=key, Body=picture())
    client.put_object(Bucket="photos", Key="2026/broken.jpg", Body=b"no picture")


def fill_folder(folder: Path) -> None:
    event = EVENT | {"s3": {"bucket": {"name": "photos"}, "object": {"key": "a.jpg"}}}
    (folder / "events.jsonl").write_text(json.dumps({"Records": [event]}) + "\n")
    (folder / "a.jpg").write_bytes(picture())
    (folder / "uris.txt").write_text("s3://photos/a.jpg\n")
    pyarrow.parquet.write_table(pyarrow.table({"url": ["s3://photos/a.jpg"]}), folder / "list.parquet")
    (rules,) = (block.text for block in blocks("README.md") if block.language == "toml")
    (folder / "rules.toml").write_text(rules)
    make_original(folder / "models/my-finetune")
    shutil.copytree(folder / "models/my-finetune", folder / "models/icon-captioner")
    (folder / "models/icon-captioner/tokenizer.json").unlink()
    make_adapter(folder / "models/my-adapter")
    (folder / "deploy").symlink_to(ROOT / "deploy")
    shutil.copy(ROOT / ".env.example", folder)


def test_every_command_and_snippet_runs(shell: Shell) -> None:
    for name in ("curl", "jq"):
        program(name)
    for document in IN_ORDER:
        for command in to_run(document):
            server = next((one for one in SERVERS if command.text.startswith(one.begins)), None)
            if server:
                serve(shell, command, server)
            else:
                ran = shell.run(command.text)
                assert ran.code == 0, f"{command}\n{ran.printed}"
                for expected in PRINTS:
                    if expected.holds in command.text:
                        assert re.search(expected.pattern, ran.printed), f"{command}\n{ran.printed}"
    assert {command: code for command, code in shell.stop().items() if code} == {}


def serve(shell: Shell, command: Command, server: Server) -> None:
    log = shell.start(command.text)

    def is_ready() -> bool:
        assert shell.runs(command.text), f"{command}\n{log.read_text()}"
        return bool(re.search(server.ready, log.read_text()))

    eventually(is_ready, f"{command} is ready")
    ran = shell.run(server.when_ready)
    assert ran.code == 0, f"{command}: {server.when_ready}\n{ran.printed}"
    if server.then:
        eventually(lambda: shell.run(server.then).code == 0, f"{command}: {server.then}")
        assert shell.stop(command.text) == {command.text: 0}


def test_the_table_has_no_line_that_nothing_needs() -> None:
    found = [block for document in DOCUMENTS for block in blocks(document)]
    written = [block.text for block in found]
    named = [command.text for document in DOCUMENTS for command in spans(document)]
    named += [command.text for block in found if block.language == "sh" for command in commands(block)]
    run = [command.text for document in DOCUMENTS for command in to_run(document)]
    unneeded = [
        *(line for line in STAND_INS if not any(line.written in text for text in written)),
        *(line for line in NOT_RUN if not any(text.startswith(line.begins) for text in (*named, *written))),
        *(line for line in SERVERS if not any(text.startswith(line.begins) for text in run)),
        *(line for line in PRINTS if not any(line.holds in text for text in run)),
    ]
    assert unneeded == []
