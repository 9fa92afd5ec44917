"""When to try again: pure functions of what happened so far."""

from __future__ import annotations

ANALYSIS_FIRST, ANALYSIS_MOST = 5.0, 300.0
"""Seconds that an analysis is put off after its first failed attempt, and at most."""


def backoff(attempts: int, *, first: float, most: float, jitter: float) -> float:
    """Return how long to wait, in seconds, after `attempts` failed attempts.

    Doubles each time up to `most`, then takes off up to half of it at random, so that many deliveries that failed
    together do not come back together ("equal jitter": Brooker, AWS Architecture Blog, 2015).

    Parameters
    ----------
    attempts
        Failed attempts so far, from 1.
    first, most
        Seconds after the first attempt, and at most.
    jitter
        A random number in [0, 1).
    """
    whole = min(most, first * 2.0 ** min(attempts - 1, 62))
    return float(whole * (1 - jitter / 2))
