"""Reading images that strangers name."""

from arno_workers.fetch.reader import ImageReader

__all__ = ["ImageReader"]
