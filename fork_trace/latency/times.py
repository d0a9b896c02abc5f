"""Times of many forks, in a few numbers. Pure."""

from __future__ import annotations

import math
from collections import Counter

# The names of commands are anybody's: what is too many is told together.
MOST_GROUPS, OTHERS = 1024, ("(others)", None)
_STEP = math.log(1.01)  # between two times that are told apart in a percentile


class Times:
    """How often which time was seen: percentiles to a hundredth of their value, whatever the number."""

    def __init__(self) -> None:
        self.count = self.total_ns = self.max_ns = 0
        self._buckets: Counter[int] = Counter()

    def add(self, ns: int, count: int = 1) -> None:
        """Take in one time, or several that are alike."""
        self.count += count
        self.total_ns += ns * count
        self.max_ns = max(self.max_ns, ns)
        self._buckets[round(math.log(max(1, ns)) / _STEP)] += count

    def as_ms(self) -> dict[str, int]:
        """Return them as a record has them: milliseconds, to a hundredth, and how many."""
        return {
            f"{math.exp(bucket * _STEP) / 1e6:.4g}": number
            for bucket, number in sorted(self._buckets.items())
        }

    def percentile_ns(self, part: float) -> float:
        """Return the time that so many of all are no longer than, by the nearest rank."""
        rank, seen = max(1, math.ceil(part * self.count)), 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= rank:
                return min(self.max_ns, math.exp(bucket * _STEP))
        return 0.0
