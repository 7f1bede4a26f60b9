"""Latencies as counts: exact to 0.8 % over nine decades, in memory that does not grow.

What enters: nanoseconds, one by one, in constant time. What leaves: percentiles, mean, extremes.
The buckets are log-linear, as HdrHistogram's are: each power of two is cut into equal steps.
`pace` and `session` record; `report` reads. It must never drop a value: what is longer than the
last bucket counts in it, and `max` keeps it.
"""

from __future__ import annotations

from typing import Final

STEP_BITS: Final = 7
"""LIMIT: 128 steps in each power of two, so a bucket is at most 1/128 wide (0.8 %)."""
STEPS: Final = 1 << STEP_BITS
VALUE_BITS_MAX: Final = 43
"""LIMIT: 2**43 ns are 2.4 hours, longer than any run."""
BUCKETS: Final = (VALUE_BITS_MAX - STEP_BITS + 1) * STEPS


class Histogram:
    """Counts of values in nanoseconds; negative ones count as 0."""

    __slots__ = ("_counts", "count", "max", "total")

    def __init__(self) -> None:
        self._counts: Final = [0] * BUCKETS
        self.count = 0
        self.total = 0
        self.max = 0

    def record(self, value: int, times: int = 1) -> None:
        """Count one value, or one that came several times."""
        value = max(value, 0)
        self._counts[find_bucket(value)] += times
        self.count += times
        self.total += value * times
        self.max = max(self.max, value)

    def clear(self) -> None:
        """Forget everything."""
        self._counts[:] = [0] * BUCKETS
        self.count = self.total = self.max = 0

    @property
    def mean(self) -> float:
        """The exact mean; 0 when nothing was recorded."""
        return self.total / self.count if self.count else 0.0

    def find_percentile(self, percent: float) -> int:
        """Find the value that `percent` of the values do not exceed; 0 when there is none.

        It is the upper end of its bucket, so it is never less than the exact one.
        """
        return self.find_percentiles((percent,))[0]

    def find_percentiles(self, percents: tuple[float, ...]) -> list[int]:
        """Find several percentiles, in ascending order, with one walk over the buckets."""
        wanted = [rank_of(percent, self.count) for percent in percents]
        found: list[int] = []
        seen = 0
        for bucket, count in enumerate(self._counts):
            if len(found) == len(wanted):
                break
            seen += count
            while len(found) < len(wanted) and count and seen >= wanted[len(found)]:
                is_last = bucket == BUCKETS - 1  # It also counts what is longer.
                found.append(self.max if is_last else min(find_upper_end(bucket), self.max))
        return found + [0] * (len(wanted) - len(found))


def rank_of(percent: float, count: int) -> int:
    """Return which of `count` sorted values, counted from 1, the percentile is."""
    # WHY thousandths: 99.9 is no binary fraction, and the rank must not move by rounding.
    return max(1, -(-count * round(percent * 1000) // 100_000))


def find_bucket(value: int) -> int:
    """Find the bucket of a value."""
    shift = value.bit_length() - STEP_BITS - 1
    if shift <= 0:
        return value
    if shift >= VALUE_BITS_MAX - STEP_BITS:
        return BUCKETS - 1
    return (shift << STEP_BITS) + (value >> shift)


def find_upper_end(bucket: int) -> int:
    """Find the largest value that counts in a bucket."""
    if bucket < 2 * STEPS:
        return bucket
    shift = (bucket >> STEP_BITS) - 1
    step = bucket - (shift << STEP_BITS)
    return ((step + 1) << shift) - 1
