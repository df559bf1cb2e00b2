"""Reading images that strangers name: what may be reached, and what it may cost.

`reader.py` is the door. Only `pipeline` comes in, and `node.py`, which makes the reader.
"""

from arno_workers.fetch.reader import ImageReader

__all__ = ["ImageReader"]
