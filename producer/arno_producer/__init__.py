"""Everything that puts work in: the client, the sources, the `arno` command."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arno_producer.client import Producer
    from arno_producer.job import Job

__all__ = ["Job", "Producer"]


def __getattr__(name: str) -> Any:
    """Imported when they are first used: the command's help and completion should not wait for Celery."""
    if name == "Producer":
        from arno_producer.client import Producer

        return Producer
    if name == "Job":
        from arno_producer.job import Job

        return Job
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
