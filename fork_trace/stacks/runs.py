"""Sorted numbers that come in pieces: each piece is sorted by itself, so none of them is ever sorted again. Pure.

Eight bytes a number: an address above, and below it what is found there.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

_WORD = (1 << 64) - 1


class Runs:
    """Pairs of an address and a number of that many bits, in all 64 bits wide."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.count = 0
        self._mask = (1 << bits) - 1
        self._runs: list[array[int]] = []

    @property
    def size(self) -> int:
        """How many bytes they take."""
        return 8 * self.count + 128 * len(self._runs)

    def add(self, pairs: Iterable[int]) -> None:
        """Add a piece: each pair is address << bits | number; an address too large is left out."""
        ordered = sorted(pairs)
        while ordered and ordered[-1] > _WORD:
            ordered.pop()
        run = array("Q", ordered)
        if run:
            self._runs.append(run)
            self.count += len(run)

    def before(self, address: int, most: int) -> list[tuple[int, int]]:
        """Return at most so many pairs whose address is not above one, nearest first."""
        top = (address + 1) << self.bits
        nearest: list[int] = []
        for run in self._runs:
            index = len(run) if top > _WORD else bisect_left(run, top)
            nearest += run[max(0, index - most) : index]
        nearest.sort(reverse=True)
        return [(pair >> self.bits, pair & self._mask) for pair in nearest[:most]]

    def latest(self, address: int) -> int | None:
        """Return the largest number at exactly one address."""
        lowest, found = address << self.bits, -1
        for run in self._runs:
            index = bisect_right(run, min(lowest | self._mask, _WORD)) - 1
            if index >= 0 and run[index] >= lowest:
                found = max(found, run[index] & self._mask)
        return None if found < 0 else found
