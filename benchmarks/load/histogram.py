"""Latencies as a histogram: from the pacer's counts to percentiles, and to a text for tools.

What enters: pairs of a value in nanoseconds and its count, three significant digits apart.
What leaves: percentiles in microseconds, and the histogram in HdrHistogram's own compressed form.
The arithmetic is the library's. It must never average percentiles: histograms are added instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

VALUE_NS_MAX: Final = 1 << 45
DIGITS: Final = 3


class Histogram:
    """Counted times. A new one is empty; `counts` are pairs of nanoseconds and how many."""

    def __init__(self, counts: Iterable[tuple[int, int]] = ()) -> None:
        self._inner = HdrHistogram(1, VALUE_NS_MAX, DIGITS)
        for value, count in counts:
            self._inner.record_value(value, count)

    @property
    def total(self) -> int:
        """How many times were counted."""
        return int(self._inner.get_total_count())

    @property
    def max_us(self) -> float:
        """The longest, in microseconds."""
        return round(float(self._inner.get_max_value()) / 1000, 1) if self.total else 0.0

    def percentile_us(self, percent: float) -> float:
        """Return the time that `percent` of all do not exceed, in microseconds."""
        if not self.total:
            return 0.0
        return round(float(self._inner.get_value_at_percentile(percent)) / 1000, 1)

    def add(self, other: Histogram) -> None:
        """Count the times of another as well."""
        self._inner.add(other._inner)

    def encode(self) -> str:
        """Encode in HdrHistogram's compressed form (base64), which its tools read."""
        return str(self._inner.encode().decode("ascii"))
