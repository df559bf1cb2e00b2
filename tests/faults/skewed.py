"""A worker whose clock is wrong by SKEW_S seconds."""

import os
import time

_right = time.time
_SKEW_S = float(os.environ["SKEW_S"])

if __name__ == "__main__":
    time.time = lambda: _right() + _SKEW_S
    from arno_workers import cli

    cli.main()
