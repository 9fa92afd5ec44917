"""One line for each end, by its first cause."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from dicom_io.network.ending import Cause, Ending


def test_the_first_cause_counts_and_is_told_once() -> None:
    ending = Ending("10.0.0.1")
    ending.calling, ending.called = r"R\xd6", "CXRD"
    ending.note(Cause.SLOW, "3 bytes in 60 s")
    ending.note(Cause.LOST, "the peer closed the connection")
    with capture_logs() as lines:
        assert [ending.tell(), ending.tell()] == [Cause.SLOW, Cause.SLOW]
    (line,) = lines
    assert line == {
        "event": "association_ended",
        "log_level": "warning",
        "cause": "slow",
        "reason": "3 bytes in 60 s",
        "peer": "10.0.0.1",
        "calling_ae": r"R\xd6",
        "called_ae": "CXRD",
    }


@pytest.mark.parametrize(
    ("cause", "reason", "levels"),
    [
        (Cause.RELEASED, "", []),
        (Cause.RELEASED, "in the middle of an object", ["warning"]),
        (Cause.SILENT, "closed", ["info"]),
        (Cause.STOPPED, "stopping", ["info"]),
        (Cause.LOST, "reset", ["warning"]),
    ],
)
def test_only_a_release_leaves_no_line(cause: Cause, reason: str, levels: list[str]) -> None:
    ending = Ending("10.0.0.1")
    ending.note(cause, reason)
    with capture_logs() as lines:
        ending.tell()
    assert [line["log_level"] for line in lines] == levels


def test_an_end_without_a_cause_is_a_loss() -> None:
    with capture_logs() as lines:
        assert Ending("10.0.0.1").tell() is Cause.LOST
    assert lines[0]["reason"] == "the association ended without a release"
