"""The one queue of all work: tasks with a lease, breakers, backoff, and the bell that wakes a process.

Doors: `claim.Queue`, `breaker.Breakers`, `wake.ring`.
"""
