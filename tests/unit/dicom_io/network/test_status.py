"""What a status of C-STORE means for the delivery."""

from __future__ import annotations

import pytest

from dicom_io.network.status import Verdict, verdict_of


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (0x0000, Verdict.SENT),
        (0xB000, Verdict.SENT),
        (0xB006, Verdict.SENT),
        (0xB007, Verdict.SENT),
        (0xA700, Verdict.RETRY),
        (0xA7FF, Verdict.RETRY),
        (0x0110, Verdict.RETRY),
        (0x0122, Verdict.REFUSED),
        (0xA900, Verdict.REFUSED),
        (0xA901, Verdict.REFUSED),
        (0xC000, Verdict.REFUSED),
        (0xC211, Verdict.REFUSED),
        (0xFFFF, Verdict.RETRY),
    ],
)
def test_a_status_is_sorted(status: int, expected: Verdict) -> None:
    assert verdict_of(status) is expected
