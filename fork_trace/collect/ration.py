"""How much a run may write of failures, and keep: whole stacks, then short ones, then counts alone.

Who forks decides how often and how long; a disk that is full ends more than the capture. What has no
room as a record of its own is counted by the next one of its key, so that counts stay exact.
"""

from __future__ import annotations

from dataclasses import replace

from fork_trace.budget import Budget, OverBudgetError
from fork_trace.model.records import Failure, bounded, to_json

# In a minute that is 26 MB, and 7 MB more for the first record of each key. A record with the stack of
# an ordinary program has 5 KB: it is short, and a key with 24 samples a second is written whole.
_WHOLE_BYTES, _WHOLE_BYTES_PER_S = 4 << 20, 100_000
_SHORT_BYTES, _SHORT_BYTES_PER_S = 4 << 20, 200_000
SHORT_RECORD_BYTES = 8 << 10
_LATEST = 2048  # keys whose latest record is kept
WHOLE = 256  # keys whose latest record is kept with its stack, most of what it takes


class Ration:
    """What is left to be written, in bytes: earned back as time goes by."""

    def __init__(self) -> None:
        self._whole = Budget(_WHOLE_BYTES, _WHOLE_BYTES_PER_S)
        self._short = Budget(_SHORT_BYTES, _SHORT_BYTES_PER_S)

    def fitted(self, failure: Failure, is_first: bool) -> Failure | None:
        """Return a failure as it may be written; None: not by itself, unless it is the first of its key."""
        failure = bounded(failure)
        try:
            self._whole.pay(len(to_json(failure)))
            return failure
        except OverBudgetError:
            failure = bounded(failure, SHORT_RECORD_BYTES)
        try:
            self._short.pay(len(to_json(failure)))
        except OverBudgetError:
            return failure if is_first else None
        return failure


class Latest:
    """The latest record of each key, for those that are counted and not sampled: few, and of fewer the stack."""

    def __init__(self, lean: int = 1) -> None:
        self._most, self._most_whole = _LATEST // lean, WHOLE // lean
        self._by_key: dict[bytes, Failure] = {}
        self._whole: dict[bytes, None] = {}  # those of them that have their stack, oldest first

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: bytes) -> Failure | None:
        """Return what is kept of a key; None: nothing."""
        return self._by_key.get(key)

    def keep(self, key: bytes, failure: Failure) -> None:
        """Keep this one, and forget those that are older than all others if they are too many."""
        # New cgroups make new keys for ever.
        self._by_key.pop(key, None)
        self._by_key[key] = bounded(failure, SHORT_RECORD_BYTES)
        if len(self._by_key) > self._most:
            del self._by_key[next(iter(self._by_key))]
        self._whole.pop(key, None)
        self._whole[key] = None
        if len(self._whole) > self._most_whole:
            oldest = next(iter(self._whole))
            del self._whole[oldest]
            if oldest in self._by_key:
                self._by_key[oldest] = replace(self._by_key[oldest], stack=(), stack_by=None)

    def forget(self, key: bytes) -> None:
        """Forget a key that is not counted apart any more."""
        self._by_key.pop(key, None)
        self._whole.pop(key, None)
