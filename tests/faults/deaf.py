"""A worker whose consumer asks for nothing once it has started, as after a reconnection that went wrong."""

from arno_shared.delivery.channel import Channel
from arno_workers import cli

if __name__ == "__main__":
    Channel._brpop_start = lambda self, timeout=None: None  # type: ignore[method-assign]
    cli.main()
