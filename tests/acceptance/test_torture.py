"""A short torture: each process killed at each named point and at random. `make torture` runs the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_io.fail_points import POINTS
from tests.acceptance.torture import Torture


@pytest.mark.slow
def test_every_promise_holds(tmp_path: Path) -> None:
    torture = Torture(tmp_path, images=16, seed=1)
    problems = torture.run(kills=2 * (len(POINTS) - 1))
    assert problems == []
    assert len(torture.kills) > len(POINTS) // 2, torture.kills  # the points are where work comes by
