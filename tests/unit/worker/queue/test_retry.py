"""When to try again."""

from __future__ import annotations

import pytest

from worker.queue.retry import backoff


@pytest.mark.parametrize(
    ("attempts", "jitter", "seconds"),
    [(1, 0.0, 5.0), (2, 0.0, 10.0), (3, 0.0, 20.0), (3, 0.5, 15.0), (9, 0.0, 900.0), (10_000, 0.0, 900.0)],
)
def test_backoff_doubles_up_to_a_limit(attempts: int, jitter: float, seconds: float) -> None:
    assert backoff(attempts, first=5.0, most=900.0, jitter=jitter) == seconds
