"""What reading the files of strangers may cost: work that is paid for before it is done, and memory that is counted.

Work is counted and not timed, so that an honest file is read on a slow host too: one unit is what
CPython does in about a microsecond on a usual one. Only a whole stack has a deadline as well.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Generic, TypeVar

_BYTES_A_UNIT = 1024

_K = TypeVar("_K")
_V = TypeVar("_V")


class OverBudgetError(Exception):
    """It would cost more than it may now; what was done so far is kept for the next time."""


class Budget:
    """An allowance of work, earned back as time goes by."""

    refusals = 0  # of all budgets together

    def __init__(self, most: float, per_s: float = 0.0, above: Budget | None = None) -> None:
        self.most, self.per_s, self.above = most, per_s, above
        self.left, self.spent = most, 0.0
        self._earned_at_s = time.monotonic()
        self._deadline_s: float | None = None

    def within(self, most_s: float | None) -> None:
        """Refuse all work once this process has run for so long from now; None: not by time.

        It is its own time: on a host without CPU to spare everything takes longer.
        """
        self._deadline_s = None if most_s is None else time.process_time() + most_s

    def pay(self, entries: float = 1, size: int = 0) -> None:
        """Pay for as many entries and bytes, here and above; OverBudgetError if that cannot be paid."""
        cost = entries + size / _BYTES_A_UNIT
        budget: Budget | None = self
        while budget is not None:
            budget._demand(cost)
            budget = budget.above
        budget = self
        while budget is not None:
            budget.left -= cost
            budget.spent += cost
            budget = budget.above

    def _demand(self, cost: float) -> None:
        if self._deadline_s is None and self.left >= cost:
            return
        if self._deadline_s is not None and time.process_time() >= self._deadline_s:
            Budget.refusals += 1
            raise OverBudgetError
        now_s = time.monotonic()
        self.left = min(self.most, self.left + (now_s - self._earned_at_s) * self.per_s)
        self._earned_at_s = now_s
        # What costs more than can ever be had at once is paid off later.
        if self.left < min(cost, self.most):
            Budget.refusals += 1
            raise OverBudgetError


def of_a_file(above: Budget | None = None) -> Budget:
    """Return what one file may cost: a tenth of a second at once, and a tenth of the time."""
    return Budget(100_000, 100_000, above)


class Kept(Generic[_K, _V]):
    """What is kept of that much memory; what was not asked for the longest goes first."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.size = 0
        self._items: OrderedDict[_K, tuple[_V, int]] = OrderedDict()

    def __contains__(self, key: _K) -> bool:
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: _K) -> _V | None:
        """Return what is kept under a key; None: nothing, or that it is known to be nothing."""
        found = self._items.get(key)
        if found is None:
            return None
        self._items.move_to_end(key)
        return found[0]

    def put(self, key: _K, value: _V, size: int) -> None:
        """Keep something whose size in bytes is told; what is too large for all room is not kept."""
        self.drop(key)
        if size > self.most_bytes:
            return
        self._items[key] = (value, size)
        self.size += size
        while self.size > self.most_bytes:
            _, (_, oldest) = self._items.popitem(last=False)
            self.size -= oldest

    def drop(self, key: _K) -> None:
        """Forget what is kept under a key."""
        found = self._items.pop(key, None)
        if found is not None:
            self.size -= found[1]

    def clear(self) -> None:
        """Forget all."""
        self._items.clear()
        self.size = 0
