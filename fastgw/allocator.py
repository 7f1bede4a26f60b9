"""The C library's allocator, told to give large blocks back.

What enters: nothing. What leaves: a process whose large blocks are mapped by themselves, and
unmapped when they are freed. `server` calls it before the first thread starts.
It must never fail: where the C library has no such setting, nothing changes.
"""

from __future__ import annotations

import ctypes
from typing import Final

M_TRIM_THRESHOLD: Final = -1
M_MMAP_THRESHOLD: Final = -3
"""SOURCE: mallopt(3)."""

MAPPED_BYTES_MIN: Final = 8 * 1024 * 1024
"""LIMIT: blocks from here on are mapped by themselves.

WHY: glibc raises its own threshold to the largest block that was freed. A password check frees
16 MiB, and from then on each thread that checks one keeps that much. WHY not lower: bodies of a
megabyte would be mapped and unmapped for each request.
"""

FREE_BYTES_KEPT: Final = 16 * 1024 * 1024
"""LIMIT: what stays at the end of the heap when it is freed, for the next bodies."""


def return_large_blocks() -> None:
    """Pin the thresholds of the C library, which otherwise rise."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES_MIN)
        mallopt(M_TRIM_THRESHOLD, FREE_BYTES_KEPT)
