"""How much a run may write of failures: whole stacks, then short ones, then counts alone.

Who forks decides how often and how long; a disk that is full ends more than the capture. What has no
room as a record of its own is counted by the next one of its key, so that counts stay exact.
"""

from __future__ import annotations

from fork_trace.budget import Budget, OverBudgetError
from fork_trace.records import Failure, bounded, to_json

# In a minute that is 26 MB, and 7 MB more for the first record of each key. A record with the stack of
# an ordinary program has 5 KB: it is short, and a key with 30 samples a second is written whole.
_WHOLE_BYTES, _WHOLE_BYTES_PER_S = 4 << 20, 100_000
_SHORT_BYTES, _SHORT_BYTES_PER_S = 4 << 20, 200_000
SHORT_RECORD_BYTES = 8 << 10


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
