"""Outside programs that tests hold our objects to: absent on some machines, required in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def tool(name: str) -> str:
    """Return the path of a program; skip the test where it is absent, fail it in CI."""
    path = shutil.which(name) or shutil.which(f"/usr/sbin/{name}")
    if path is None:
        reason = f"the program {name} is not installed (.ci/run names the Debian packages)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path
