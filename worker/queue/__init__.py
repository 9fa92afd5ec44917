"""When work is tried again, and how a process is woken for it.

Doors: `retry.backoff`, `wake.WakeSignal`.
"""
