"""How this process gives memory back: radiographs are large, and must not stay in the heap when they are done."""

from __future__ import annotations

import ctypes

_LARGE = 1_000_000
"""Bytes from which a block is the system's again when it is freed: far less than a radiograph."""
_RADIOGRAPH = 32 * 1024 * 1024
"""Bytes up to which blocks stay for the next image: all that one of five million pixels needs; glibc takes no more."""
_ARENAS = 2
"""Heaps that threads share. One for each thread keeps more than it gains."""
# The numbers of glibc's mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


def give_back() -> None:
    """Have the C library give back at once what is freed; call it before much is loaded.

    By itself glibc raises the size from which it does so to that of the largest block that was freed (mallopt(3)), so
    that the heap keeps the pieces of every radiograph. Other C libraries have no such setting and are left alone.
    """
    _set(_LARGE, _ARENAS)


def keep_for_the_next() -> None:
    """Have the C library keep what is freed until `give_back_all`; call it before much is loaded.

    For what reads one image after another: to get its 45 MB from the system each time, page by page, took 23 ms.
    One heap for all threads, since a radiograph's blocks in one are no use to the other.
    """
    _set(_RADIOGRAPH, 1)


def give_back_all() -> None:
    """Give back what is free (malloc_trim(3)); when there is nothing to do."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return


def _set(size: int, arenas: int) -> None:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for parameter, value in ((_TRIM_THRESHOLD, size), (_MMAP_THRESHOLD, size), (_ARENA_MAX, arenas)):
        mallopt(parameter, value)
