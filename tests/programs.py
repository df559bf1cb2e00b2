"""Programs that come with the operating system, and that a few tests look with.

Where one is missing its tests are skipped, with the package that has it; in CI they fail, so that nothing goes unseen.
"""

import os
import shutil

import pytest

_NAMES = {"chromium": ("chromium", "chromium-browser", "google-chrome"), "promtool": ("promtool",)}
_PACKAGES = {"promtool": "prometheus"}


def program(name: str) -> str:
    """Its path."""
    for known in _NAMES.get(name, (name,)):
        if found := shutil.which(known):
            return found
    words = f"needs {name}: apt-get install {_PACKAGES.get(name, name)}"
    if os.environ.get("CI"):
        pytest.fail(f"this test {words}")
    pytest.skip(words)
