"""Exits with 0 when a worker of this container answers a ping over the broker.

A living process is not enough: what matters is that it still consumes.
"""

import socket
import sys

from arno_shared.broker import celery_app
from arno_shared.settings import Settings

# Only this container's nodes answer, however many workers share the broker.
inspect = celery_app(Settings()).control.inspect(pattern=f"*@{socket.gethostname()}", matcher="glob", timeout=5)
sys.exit(0 if inspect.ping() else 1)
