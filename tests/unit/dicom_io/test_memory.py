"""The budget that all peers share."""

from __future__ import annotations

import pytest

from dicom_io.errors import OutOfResources
from dicom_io.memory import MemoryBudget, unbounded


def test_shares_hold_no_more_than_the_budget_together() -> None:
    budget = MemoryBudget(100)
    first, second = budget.share(), budget.share()
    first.hold(60)
    second.add(30)
    with pytest.raises(OutOfResources, match=r"scp\.max_memory_mb"):
        second.add(11)
    assert budget.held == 90
    first.hold(10)
    second.add(60)
    assert budget.held == 100


def test_what_is_held_is_given_back_at_the_end() -> None:
    budget = MemoryBudget(100)
    with budget.share() as share:
        share.add(70)
        assert budget.held == 70
    assert budget.held == 0
    with pytest.raises(OutOfResources), share:
        share.add(101)
    share.add(100)


def test_without_a_bound_nothing_is_refused() -> None:
    unbounded().add(1 << 50)
