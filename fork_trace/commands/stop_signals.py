"""The signals that end a run."""

from __future__ import annotations

import signal
from types import FrameType


class StopSignals:
    """Notes the signals that end a run, so that it ends with its report; at the second one, at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self.count += 1
