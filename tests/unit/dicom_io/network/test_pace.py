"""A peer's rate is measured while it is waited for, and only then."""

from __future__ import annotations

from dicom_io.network.pace import Pace


def waited(pace: Pace, seconds: float, start: float = 0.0) -> list[float]:
    """Wait in steps of 0.1 s; return the moments at which the peer was too slow."""
    moments = [start + step / 10 for step in range(round(seconds * 10) + 1)]
    return [moment for moment in moments if pace.wait(moment)]


def test_a_peer_that_sends_nothing_is_too_slow_after_the_period() -> None:
    assert 9.8 < waited(Pace(100, 10), 12)[0] < 10.3


def test_a_peer_that_sends_enough_is_not() -> None:
    pace = Pace(100, 10)
    for second in range(40):
        pace.came(101)
        assert waited(pace, 0.9, float(second)) == []


def test_a_fast_beginning_does_not_last_for_ever() -> None:
    pace = Pace(100, 10)
    pace.came(100_000)
    assert waited(pace, 10.5) == []
    assert waited(pace, 11, 10.6) != []


def test_time_in_which_we_did_not_read_is_not_counted() -> None:
    pace = Pace(100, 10)
    for moment in range(0, 400, 20):
        assert not pace.wait(float(moment))
        pace.busy(moment + 19.9)


def test_slowness_is_known_before_the_period_ends() -> None:
    pace = Pace(100, 60)
    waited(pace, 7)
    assert pace.is_slow(5)
    pace.came(1000)
    assert not pace.is_slow(5)


def test_any_rate_will_do_where_none_is_asked_for() -> None:
    assert waited(Pace(0, 1), 5) == []
