"""How many failures each interval brought, for each row and for all. Pure; bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

MOST = 60  # intervals
_RATE = 10  # of them that a rate is the mean of
_MOST_ROWS = 1024

_Key = tuple[object, ...]


class Trends:
    """The last intervals; rows of which nothing was seen for as long are forgotten."""

    def __init__(self, interval_s: float = 1.0) -> None:
        self._interval_s = interval_s
        self._rows: dict[_Key, deque[int]] = {}
        self._all: deque[int] = deque(maxlen=MOST)
        self._at: int | None = None

    def add(self, new: Mapping[tuple[str | None, ...], int], elapsed_s: float) -> None:
        """Count what is new by now, in the interval that this instant is in."""
        at = round(elapsed_s / self._interval_s)
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
            if key not in self._rows and len(self._rows) < _MOST_ROWS:
                self._rows[key] = deque([0] * len(self._all), maxlen=MOST)
            if key in self._rows:
                self._rows[key][-1] += number
        self._rows = {key: values for key, values in self._rows.items() if any(values)}

    def of(self, key: _Key | None = None) -> list[int]:
        """Return the counts of a row, or of all, the newest last; empty: nothing failed there of late."""
        values = self._all if key is None else self._rows.get(key, ())
        return list(values) if any(values) else []

    def rate(self, key: _Key | None = None) -> float:
        """Return failures per second of late."""
        last = self.of(key)[-_RATE:]
        return sum(last) / (len(last) * self._interval_s) if last else 0.0


def rate_text(per_second: float) -> str:
    """Write a rate in few characters; "-" is none."""
    if per_second <= 0:
        return "-"
    return f"{per_second:.0f}" if per_second >= 10 else f"{per_second:.1f}"
