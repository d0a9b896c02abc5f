"""Samples that were read and are not records yet: their stacks take time, and the buffer must be read meanwhile."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable

from fork_trace.collect.compose import Sample
from fork_trace.model.records import Failure

# So many samples may wait, which is five looks; of more the oldest keep the frames that the
# kernel found by itself. scripts/bench tells how many stacks a second are unwound.
MOST = 500
_ONE_STACK_S = 0.25  # twice that at most, however odd the files of one stack are
HURRIED_S = 0.3  # for those that still wait at the end, and to settle, where somebody waits for it


class Owed:
    """Samples in the order in which they came, each until it is told.

    `tell` makes a record within a time, and hurries once it is late; None: it gets no record of its own.
    """

    def __init__(
        self, tell: Callable[[Sample, float, Callable[[], bool]], Failure | None], lean: int = 1
    ) -> None:
        self._tell, self._most = tell, MOST // lean
        self._samples: deque[Sample] = deque()
        self.signals: Callable[[], int] = lambda: 0  # by which the run was told to end

    def __len__(self) -> int:
        return len(self._samples)

    def add(self, samples: Iterable[Sample]) -> None:
        """Take in what is to be told."""
        self._samples += samples

    def told(self, budget_s: float, drains: bool = False) -> list[Failure]:
        """Make records of what is owed, until the time is up; what is left waits for the next look.

        More than may wait is told at once, and so is all with `drains`: then without unwinding, and
        with no names but those that are known.
        """
        failures = []
        until_s = time.monotonic() + budget_s

        def is_late() -> bool:
            nonlocal until_s
            signals, now_s = self.signals(), time.monotonic()
            if signals:
                until_s = min(until_s, now_s + HURRIED_S)
            return signals > 1 or (signals == 1 and now_s > until_s)

        while self._samples:
            left_s = until_s - time.monotonic()
            is_too_much = len(self._samples) > self._most
            if not (left_s > 0 or is_too_much or drains):
                break
            most_s = _ONE_STACK_S if left_s > 0 and not is_too_much else 0.0
            if drains:
                # It is unwound twice and named once at most.
                most_s = max(0.0, min(most_s, left_s / 3))
            failure = self._tell(self._samples.popleft(), most_s, is_late)
            if failure is not None:
                failures.append(failure)
        return failures
