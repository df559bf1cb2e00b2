"""Flower's configuration: it looks and does not touch, asks for a password, and shows no secrets."""

import os
from typing import Any

from arno_shared.uris import redact

# Without it Flower would serve its pages to anybody.
if not os.environ.get("FLOWER_BASIC_AUTH"):
    raise SystemExit("set FLOWER_BASIC_AUTH to user:password")

# Behind a container's published port this is overridden with --address; elsewhere nobody else should reach it.
address = "127.0.0.1"
port = 5555
# Whoever may look may not also revoke tasks or stop workers.
read_only = True

persistent = True
state_save_interval = 60_000
# Each is some kB in memory, and Flower's default is 100,000.
max_tasks = 20_000
purge_offline_workers = 600
tasks_columns = "name,uuid,state,kwargs,received,started,runtime,worker"


def format_task(task: Any) -> Any:
    """Presigned URIs carry keys in their query strings, and any field may quote a URI."""
    for field in ("args", "kwargs", "result", "exception", "traceback"):
        shown = getattr(task, field, None)
        if shown is not None:
            setattr(task, field, redact(str(shown)))
    return task
