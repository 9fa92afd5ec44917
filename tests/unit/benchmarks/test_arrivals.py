"""The benchmark counts images, not objects: held to arrivals that were made up."""

from __future__ import annotations

import pytest

from benchmarks.arrivals import Arrival, Transfer, completions, count

SENT = {
    "a": Transfer(begun=10.0, answered=10.5, status="Success"),
    "b": Transfer(begun=10.5, answered=11.5, status="Success"),
    "c": Transfer(begun=11.5, answered=12.0, status="Success"),
}


def arrivals(*moments: tuple[str, float]) -> list[Arrival]:
    """Return one new object for each pair of a study and a moment."""
    return [Arrival(f"{study}{number}", study, moment) for number, (study, moment) in enumerate(moments)]


def test_an_image_is_complete_with_its_last_object() -> None:
    came = arrivals(("a", 12.0), ("a", 11.0), ("b", 11.0), ("a", 15.0), ("b", 12.0), ("a", 20.0))
    assert completions(came, 1) == {"a": 11.0, "b": 11.0}
    assert completions(came, 2) == {"a": 12.0, "b": 12.0}
    assert completions(came, 3) == {"a": 15.0}
    assert completions(came, 5) == {}


def test_the_same_object_twice_is_one() -> None:
    twice = [Arrival("x", "a", 11.0), Arrival("x", "a", 12.0), Arrival("y", "a", 13.0)]
    assert completions(twice, 2) == {"a": 13.0}
    assert completions(twice, 3) == {}


def test_the_objects_of_some_images_do_not_stand_for_all() -> None:
    """Three images of three objects each: with five objects here, one image is complete, not three or five."""
    counts = count(SENT, arrivals(("a", 11.0), ("b", 12.0), ("a", 12.0), ("b", 13.0), ("a", 14.0)), 3)
    assert (counts.images, counts.complete, counts.missing, counts.refused) == (3, 1, 2, 0)
    assert counts.seconds == 4.0
    assert counts.images_per_second == 0.25


def test_the_time_ends_with_the_last_object_of_the_last_image() -> None:
    came = arrivals(
        *((study, moment) for study, last in (("a", 12), ("b", 14), ("c", 16)) for moment in (last - 1, last))
    )
    counts = count(SENT, came, 2)
    assert (counts.complete, counts.missing) == (3, 0)
    assert counts.seconds == 6.0
    assert counts.images_per_second == 0.5
    assert counts.answer_p50 == 0.5
    assert counts.results_p50 == pytest.approx(2.5)  # 12 - 10.5, 14 - 11.5, 16 - 12
    assert counts.results_p95 == pytest.approx(3.85)


def test_a_late_image_counts_and_slows_the_rest() -> None:
    counts = count(SENT, arrivals(("a", 12.0), ("b", 13.0), ("c", 110.0)), 1)
    assert (counts.complete, counts.missing) == (3, 0)
    assert counts.images_per_second == pytest.approx(0.03)


def test_results_that_came_before_the_answer_waited_for_nothing() -> None:
    counts = count(SENT, arrivals(("a", 10.4), ("b", 11.4), ("c", 11.9)), 1)
    assert (counts.results_p50, counts.results_p95) == (0.0, 0.0)
    assert counts.seconds == pytest.approx(1.9)


def test_what_was_refused_is_not_missing() -> None:
    sent = SENT | {
        "d": Transfer(begun=12.0, answered=12.1, status="Refused: OutOfResources"),
        "e": Transfer(begun=12.1),  # the association ended
    }
    counts = count(sent, arrivals(("a", 12.0), ("b", 13.0)), 1)
    assert (counts.images, counts.complete, counts.missing, counts.refused) == (5, 2, 1, 2)


def test_objects_of_other_images_do_not_count() -> None:
    counts = count(SENT, arrivals(("warm-up", 9.0), ("a", 12.0)), 1)
    assert (counts.complete, counts.seconds) == (1, 2.0)


def test_nothing_complete_is_no_measurement() -> None:
    with pytest.raises(ValueError, match="no image has all its results"):
        count(SENT, arrivals(("a", 11.0), ("b", 11.0)), 2)
