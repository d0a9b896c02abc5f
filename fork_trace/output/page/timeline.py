"""When failures were, by cause, in as few intervals as a picture can show. Pure; bounded, in any order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

_MOST = 120  # intervals
_LEAST_NS = 100_000_000
_MOST_CAUSES = 64
REST = "others"


class Timeline:
    """Counts in intervals that double as the time gets longer; they begin at multiples of their width."""

    def __init__(self) -> None:
        self.width_ns = _LEAST_NS
        self._counts: dict[int, Counter[str]] = {}
        self._causes: set[str] = set()
        self.untimed = 0  # counted without a sample: nobody knows when they were
        self.spread = 0  # counted between two instants: nobody knows when in between

    def add(self, time_ns: int, cause: str, count: int) -> None:
        """Count failures at an instant."""
        number = time_ns // self.width_ns
        self._counts.setdefault(number, Counter())[self._named(cause)] += count
        while max(self._counts) - min(self._counts) >= _MOST:
            self._halve()

    def add_between(self, begin_ns: int, end_ns: int, cause: str, count: int) -> None:
        """Count failures evenly over the time in which they were."""
        self.spread += count
        self.add(end_ns, cause, 0)  # with the width that there is then
        self.add(begin_ns, cause, 0)
        first, last = begin_ns // self.width_ns, end_ns // self.width_ns
        each, rest = divmod(count, last - first + 1)
        for number in range(first, last + 1):
            one_more = number > last - rest
            if each or one_more:
                self._counts.setdefault(number, Counter())[self._named(cause)] += each + one_more

    def _named(self, cause: str) -> str:
        if cause not in self._causes:
            cause = cause if len(self._causes) < _MOST_CAUSES else REST
            self._causes.add(cause)
        return cause

    def _halve(self) -> None:
        self.width_ns *= 2
        counts, self._counts = self._counts, {}
        for number, causes in counts.items():
            self._counts.setdefault(number // 2, Counter()).update(causes)

    def intervals(self) -> Iterator[tuple[int, Counter[str]]]:
        """Return each interval from the first to the last with failures: its begin in ns, and counts by cause."""
        if self._counts:
            for number in range(min(self._counts), max(self._counts) + 1):
                yield number * self.width_ns, self._counts.get(number, Counter())
