"""Everything that puts work in: the client, the sources, the `arno` command."""

from arno_producer.client import Producer
from arno_producer.job import Job

__all__ = ["Job", "Producer"]
