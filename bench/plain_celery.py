"""The honest alternative for bench/overhead.py: plain Celery, one message an image, doing the same for each.

It reads the file, decodes the picture and writes a result file, with Celery's late acknowledgement and nothing else.
"""

import hashlib
import json
import os
from io import BytesIO
from pathlib import Path

from celery import Celery
from PIL import Image

app = Celery("plain", broker=os.environ["BENCH_REDIS_URL"])
app.conf.update(task_acks_late=True, task_ignore_result=True, worker_hijack_root_logger=False)


@app.task(name="plain.annotate")
def annotate(path: str, result: str) -> None:
    data = Path(path).read_bytes()
    picture = Image.open(BytesIO(data)).convert("RGB")
    row = {
        "image": {"uri": path, "sha256": hashlib.sha256(data).hexdigest(), "width": picture.width},
        "status": "ok",
        "prompts": [{"task": "<CAPTION>", "raw": "", "parsed": None}],
    }
    Path(result).write_text(json.dumps(row))
