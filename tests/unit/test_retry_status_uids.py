"""The small pure functions: when to try again, what a status means, which UID a result has."""

from __future__ import annotations

import pytest
from pydicom.uid import UID

from dicom_io.network.status import Verdict, verdict_of
from dicom_io.uids import derived_uid, digest
from worker.queue.retry import backoff


@pytest.mark.parametrize(
    ("attempts", "jitter", "seconds"),
    [(1, 0.0, 5.0), (2, 0.0, 10.0), (3, 0.0, 20.0), (3, 0.5, 15.0), (9, 0.0, 900.0), (10_000, 0.0, 900.0)],
)
def test_backoff_doubles_up_to_a_limit(attempts: int, jitter: float, seconds: float) -> None:
    assert backoff(attempts, first=5.0, most=900.0, jitter=jitter) == seconds


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


def test_a_derived_uid_is_valid_and_depends_on_all_three() -> None:
    uid = derived_uid("1.2.3", "model-1", "secondary-capture")
    assert UID(uid).is_valid
    assert uid == derived_uid("1.2.3", "model-1", "secondary-capture") == "2.25.19455560823871031821222264235053524469"
    others = {
        derived_uid("1.2.4", "model-1", "secondary-capture"),
        derived_uid("1.2.3", "model-2", "secondary-capture"),
    }
    assert len({uid, *others, derived_uid("1.2.3", "model-1", "series")}) == 4


def test_a_digest_hides_the_uid() -> None:
    assert digest("1.2.3") == "c47f5b18b8a4"
