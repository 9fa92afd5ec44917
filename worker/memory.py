"""How this process gives memory back: radiographs are large, and must not stay in the heap when they are done."""

from __future__ import annotations

import ctypes

_LARGE = 1_000_000
"""Bytes from which a block is the system's again when it is freed: far less than a radiograph."""
_ARENAS = 2
"""Heaps that threads share. One for each thread keeps more than it gains."""
# The numbers of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def give_back() -> None:
    """Have the C library give back at once what is freed; call it before much is loaded.

    By itself glibc raises the size from which it does so to that of the largest block that was freed (mallopt(3)), so
    that the heap keeps the pieces of every radiograph. Other C libraries have no such setting and are left alone.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((_TRIM_THRESHOLD, _LARGE), (_MMAP_THRESHOLD, _LARGE), (_ARENA_MAX, _ARENAS)):
        mallopt(parameter, value)
