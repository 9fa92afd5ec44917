"""Where the tests find the shared data and the yardstick: absent in a user's checkout, required in CI."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("CXRD_SHARED", Path(__file__).resolve().parents[3] / "shared"))


def shared(*parts: str) -> Path:
    """Return a path below the shared folder; skip the test where it is absent, fail it in CI."""
    path = ROOT.joinpath(*parts)
    if not path.exists():
        reason = (
            f"shared/{'/'.join(parts)} is not here (it is not part of the repository; set CXRD_SHARED to its folder)"
        )
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path
