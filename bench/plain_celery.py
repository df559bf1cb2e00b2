"""The honest alternative for bench/overhead.py: plain Celery, one message an image, doing the same for each.

It reads the file, decodes the picture, writes a result that survives a crash and announces it on a stream. Late
acknowledgement as in Arno; no guards, no limits, no retries, no ledger.
"""

import hashlib
import json
import os
from io import BytesIO
from pathlib import Path

import redis
from celery import Celery
from PIL import Image

app = Celery("plain", broker=os.environ["BENCH_REDIS_URL"])
app.conf.update(task_acks_late=True, task_ignore_result=True, worker_hijack_root_logger=False)
topic = redis.Redis.from_url(os.environ["BENCH_REDIS_URL"])


@app.task(name="plain.annotate")
def annotate(path: str, result: str) -> None:
    data = Path(path).read_bytes()
    picture = Image.open(BytesIO(data)).convert("RGB")
    row = {
        "image": {"uri": path, "sha256": hashlib.sha256(data).hexdigest(), "width": picture.width},
        "status": "ok",
        "prompts": [{"task": "<CAPTION>", "raw": "", "parsed": None}],
    }
    write_durably(Path(result), json.dumps(row))
    topic.xadd("plain:topic", {"result": result}, maxlen=100_000, approximate=True)


def write_durably(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
