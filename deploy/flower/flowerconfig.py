"""Flower's configuration: it says of each task what it was, changes nothing, and lets in who may look.

FLOWER_BASIC_AUTH=user:password celery -A arno_producer.flower_app flower --conf=deploy/flower/flowerconfig.py
"""

import ipaddress
from typing import Any

from flower.options import options
from flower.views.tasks import TASK_COLUMNS

from arno_shared.summary import Summary
from arno_shared.uris import redact


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


# Said on the command line or in FLOWER_ADDRESS, which Flower reads before this file; else nobody should reach it.
address = options.address or "127.0.0.1"
if not (_is_loopback(address) or options.basic_auth or options.auth):
    raise SystemExit(f"anybody who reaches {address} could look: set FLOWER_BASIC_AUTH to user:password")

# Whoever may look may not also revoke tasks or stop workers.
read_only = True
persistent = True
state_save_interval = 60_000
# Each is some kB in memory, and Flower's default is 100,000.
max_tasks = 20_000
purge_offline_workers = 600

_OURS = {"job": "Job", "chunk": "Chunk", "images": "Images", "prompts": "Prompts", "outcome": "Outcome"}
TASK_COLUMNS.update(_OURS)
tasks_columns = "uuid,state,job,chunk,images,prompts,outcome,received,runtime,worker"


def format_task(task: Any) -> Any:
    """The task, a copy of Flower's own, with our columns in it. Any text of it may quote a presigned URI."""
    for field in ("args", "kwargs", "result", "exception", "traceback"):
        shown = getattr(task, field, None)
        if shown is not None:
            setattr(task, field, redact(str(shown)))
    summary = Summary.read(task.kwargs or "") or Summary("", "", "", "")
    for column, value in summary._asdict().items():
        setattr(task, column, value)
    task.outcome = (task.result or task.exception or "").strip("'\"")
    task._fields = (*task._fields, *_OURS)
    return task
