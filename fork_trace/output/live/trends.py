"""How many failures each interval brought, for each row and for all. Pure; bounded."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Optional

MOST = 60  # intervals
_RATE = 10  # of them that a rate is the mean of
_MOST_ROWS = 1024

_Key = tuple[Optional[str], ...]


class Trends:
    """The last intervals; rows of which nothing was seen for as long are forgotten, and of too many the calmest."""

    def __init__(self, interval_s: float = 1.0) -> None:
        self.interval_s = interval_s
        self._rows: dict[_Key, deque[int]] = {}
        self._all: deque[int] = deque(maxlen=MOST)
        self._at: int | None = None

    def add(self, new: Mapping[_Key, int], elapsed_s: float) -> None:
        """Count what is new by now, in the interval that this instant is in."""
        at = round(elapsed_s / self.interval_s)
        steps = MOST if self._at is None else min(MOST, max(0, at - self._at))
        if self._at is None:
            steps = 1
        self._at = at if self._at is None else max(at, self._at)
        for _ in range(steps):
            self._all.append(0)
            for values in self._rows.values():
                values.append(0)
        for key, number in new.items():
            self._all[-1] += number
            # The last that failed stands last.
            values = self._rows.pop(key) if key in self._rows else deque([0] * len(self._all), MOST)
            values[-1] += number
            self._rows[key] = values
            if len(self._rows) > _MOST_ROWS:
                del self._rows[next(iter(self._rows))]
        self._rows = {key: values for key, values in self._rows.items() if any(values)}

    def grouped(self, group: Callable[[Any], _Key]) -> Trends:
        """Return the same counts by other keys, to be looked at and not added to."""
        other = Trends(self.interval_s)
        other._all = self._all
        for key, values in self._rows.items():
            known = other._rows.get(group(key))
            both = values if known is None else map(operator.add, known, values)
            other._rows[group(key)] = deque(both, maxlen=MOST)
        return other

    def of(self, key: _Key | None = None) -> list[int]:
        """Return the counts of a row, or of all, the newest last; empty: nothing failed there of late."""
        values = self._all if key is None else self._rows.get(key, ())
        return list(values) if any(values) else []

    def rate(self, key: _Key | None = None) -> float:
        """Return failures per second of late: the mean of some seconds."""
        last = self.of(key)[-_RATE:]
        return sum(last) / (len(last) * self.interval_s) if last else 0.0

    def peak_text(self, most: int = MOST, key: _Key | None = None) -> str:
        """Say how much the highest of the last intervals is, and how long these are."""
        values = self.of(key)[-most:]
        highest = rate_text(max(values, default=0) / self.interval_s, "0")
        return f"peak {highest} in {len(values) * self.interval_s:.0f} s"


def rate_text(per_second: float, none: str = "-") -> str:
    """Write a rate in few characters."""
    if per_second <= 0:
        return none
    return f"{per_second:.0f}" if per_second >= 10 else f"{per_second:.1f}"
