"""A short torture: each process killed at each named point and at random. `make torture` runs the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_io.fail_points import POINTS
from tests.acceptance.torture import Torture


@pytest.mark.slow
def test_every_promise_holds(tmp_path: Path) -> None:
    torture = Torture(tmp_path, images=16, seed=1)
    kills = 2 * len(POINTS)
    assert torture.run(kills) == []
    assert torture.shortfalls(kills, share=2 / 3) == [], torture.kills
