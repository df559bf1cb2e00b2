"""The table of what is not run as it is written in the documents, each line with its reason.

A command or snippet of a fenced block that no line speaks of is run as it stands. Those in sentences and table cells
are looked at: they exist, and their options. A line that no document needs any more fails a test.
"""

import re
from typing import NamedTuple


class StandIn(NamedTuple):
    written: str
    used: str
    """`$VALKEY` and `$S3` are addresses of servers, `$HTTP_PORT` and `$FLOWER_PORT` are free."""
    why: str


class NotRun(NamedTuple):
    begins: str
    """How the command or snippet begins. That a command exists, and its options, is looked at all the same."""
    why: str


class Server(NamedTuple):
    begins: str
    """How a command begins that runs until it is stopped."""
    ready: str
    """A regular expression for what it prints once others may use it."""
    when_ready: str = "true"
    """A command."""
    then: str = ""
    """What succeeds some time after that, and the server is stopped. Without, it stays for the commands that follow."""


class Prints(NamedTuple):
    holds: str
    """What the command or snippet has in it, with what stands in."""
    pattern: str
    """A regular expression for what it prints."""


ENVIRONMENT = {
    # The model that README names is on a hub, and each takes seconds to load.
    "ARNO_WORKER__ENGINE": "null",
    # Where it is AWS, nothing has to say so.
    "AWS_ENDPOINT_URL_SQS": "$S3",
}

STAND_INS = (
    StandIn("redis://:password@redis.internal:6379/0", "$VALKEY", "a server of the test's own"),
    StandIn("https://s3.internal", "$S3", "a server of the test's own"),
    StandIn("AWS_ACCESS_KEY_ID=… AWS_SECRET_ACCESS_KEY=…", "AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b", "left out"),
    StandIn('["…"]', '["a-token"]', "left out"),
    StandIn("Bearer …", "Bearer a-token", "left out"),
    StandIn("serve --host 0.0.0.0", "serve --host 0.0.0.0 --port $HTTP_PORT", "8000 may be taken"),
    StandIn("http://127.0.0.1:8000", "http://127.0.0.1:$HTTP_PORT", "8000 may be taken"),
    StandIn("flower_app flower", "flower_app flower --port=$FLOWER_PORT", "5555 may be taken"),
    StandIn(
        "arno pause run-7; arno resume run-7",
        "arno submit http://absent.invalid/a.jpg -p OD --job-id run-8; arno pause run-8; arno resume run-8",
        "a job that is not done yet: its picture is tried again and again",
    ),
    StandIn(
        "arno resume run-7 --output",
        """python -c "import os, redis; redis.Redis.from_url(os.environ['ARNO_REDIS_URL']).flushall()"
        arno resume run-7 --output""",
        "Redis has lost its data",
    ),
    StandIn(
        "arno trigger sqs",
        "arno trigger install --bucket uploads --yes; arno trigger sqs",
        "its queue is there already",
    ),
    StandIn(
        "submit(uris, ", "submit([f's3://photos/2026/{name}.jpg' for name in (0, 1, 2, 'broken')], ", "the reader's"
    ),
    StandIn(
        "app.send_task(",
        "import celery, os\napp = celery.Celery(broker=os.environ['ARNO_REDIS_URL'])\napp.send_task(",
        "the reader's",
    ),
    StandIn(
        "duckdb -c",
        """mkdir run-7
        python -c "import boto3; boto3.client('s3').download_file('results', *['run-7/part-000000000.jsonl'] * 2)"
        duckdb -c""",
        "as below",
    ),
    StandIn("s3://models/my-finetune --json", "models/my-finetune --json", "the reader's"),
    StandIn("'s3://results/run-7/", "'run-7/", "what reads S3 is downloaded by DuckDB when it is first used"),
)

NOT_RUN = (
    NotRun("ARNO_TEST_CHECKPOINT=", "no real checkpoint"),
    NotRun("pip install", "what is tried is the checkout"),
    NotRun("pip download", "it needs a network"),
    NotRun(
        "PYTHONPATH=site:shared:workers:producer python bench/device.py", "no GPU; its parts are tried in tests/bench"
    ),
    NotRun("arno-worker --device cuda", "no GPU"),
    NotRun("docker compose", "no Docker engine"),
    NotRun("make demo", "minutes; tests/acceptance/test_demo.py runs it"),
    NotRun("make test", "these are the tests"),
    NotRun("make long", "these are the tests"),
    NotRun("make faults", "half an hour; its short form is among the tests"),
    NotRun("make soak", "as many minutes as it is told"),
    NotRun("make fuzz", "as many seconds as it is told, and needs an extra"),
    NotRun("make check", ".ci/run runs it"),
    NotRun("make format", "writes into the checkout"),
    NotRun("make schemas", "writes into the checkout"),
    NotRun("make errors", "writes into the checkout"),
    NotRun("mypy --strict", "`make check` runs it"),
    NotRun("make train", "an hour and more"),
    NotRun("make evaluate", "minutes"),
    NotRun("make bench", "minutes, of a machine that does nothing else"),
    NotRun("work = scheduler.schedule()", "lines of the engine's loop"),
)

SERVERS = (
    Server("arno-worker", r" ready\."),
    Server("ARNO_KEY_PREFIX=invoices: ARNO_WORKER__ADAPTER", r" ready\."),
    Server("ARNO_KEY_PREFIX=plants: ARNO_WORKER__ADAPTER", r" ready\."),
    Server("ARNO_HTTP__TOKENS", "the door is open"),
    Server(
        "arno trigger install --bucket photos",
        "trigger starts",
        "curl -fsS -T a.jpg $S3/photos/new.jpg",
        'curl -fsS "$S3/results?prefix=photos/" | grep part-',
    ),
    Server(
        "arno trigger sqs",
        "trigger starts",
        "curl -fsS -T a.jpg $S3/uploads/receipts/new.jpg",
        'curl -fsS "$S3/results?prefix=receipts/" | grep part-',
    ),
    Server(
        "arno trigger redis",
        "trigger starts",
        "python -c \"import os, redis; bus = redis.Redis.from_url(os.environ['ARNO_REDIS_URL']); "
        "bus.rpush('bucketevents', open('events.jsonl').read())\"",
        'curl -fsS "$S3/results?prefix=scans/" | grep part-',
    ),
    Server(
        "celery -A arno_producer.flower_app", "Visit me at", then="curl -fsS http://127.0.0.1:$FLOWER_PORT/healthcheck"
    ),
)

PRINTS = (
    Prints("arno model models/my-finetune", "will run it"),
    Prints("--adapter models/my-adapter", r"lora of rank 4, 33 weights|is written"),
    Prints("ARNO_KEY_PREFIX=plants: arno submit", "done: 4 of 4 images, not_an_image 1"),
    Prints("arno submit s3://photos/2026/", "done: 4 of 4 images, not_an_image 1"),
    Prints("arno status run-7", r"state +done"),
    Prints("arno results run-7 | head", r'"uri":"s3://photos/2026/0\.jpg".*"status":"ok"'),
    Prints("arno cancel run-7", "run-7 was done already"),
    Prints("arno pause run-8", "run-8 is paused"),
    Prints("arno resume run-8", "run-8 goes on"),
    Prints("arno resume run-7", "1 of 1 chunks were found done"),
    Prints("cat events.jsonl", "1 images in 1 chunks"),
    Prints("for row in job.results()", r"s3://photos/2026/0\.jpg ok"),
    Prints('\'prompts={"raw"', '"prompt":"<VQA>what is it\\?".*"parse":"text"'),
    Prints("/v1/jobs", '"job_id":"key-.*"images":1'),
    Prints("/v1/annotate", '"status":"ok"'),
    Prints("TopicReader", "s3://results/photos/.*ok=1"),
    Prints("arno dead replay", "0 replayed"),
)


def with_stand_ins(text: str) -> str:
    for line in STAND_INS:
        text = text.replace(line.written, line.used)
    return text


def is_run(text: str) -> bool:
    return not any(re.match(rf"{re.escape(line.begins)}(?![\w-])", text) for line in NOT_RUN)
