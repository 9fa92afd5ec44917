"""Who is to blame: the delivery where others pass, and maybe the destination where none does."""

from __future__ import annotations

from worker.deliver.suspects import Suspects


def test_where_others_pass_it_was_the_delivery() -> None:
    suspects = Suspects()
    assert not suspects.knows(1)
    assert suspects.enter_failure(1) == 1
    assert suspects.enter_failure(1) == 1
    assert suspects.enter_failure(2) == 2
    assert (suspects.knows(1), suspects.is_to_blame(1)) == (True, False)
    suspects.enter_answer(3)
    assert (suspects.is_to_blame(1), suspects.is_to_blame(2), suspects.knows(3)) == (True, True, False)
    assert suspects.enter_failure(1) == 0  # it does not speak against the destination
    assert suspects.enter_failure(4) == 1


def test_one_that_passes_after_all_is_to_blame_no_more() -> None:
    suspects = Suspects()
    suspects.enter_failure(1)
    suspects.enter_answer(1)
    assert not suspects.knows(1)
    suspects.enter_failure(1)
    suspects.enter_answer(2)
    suspects.enter_answer(1)
    assert not suspects.knows(1)
