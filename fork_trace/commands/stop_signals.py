"""The signals that end a run."""

from __future__ import annotations

import signal
from types import FrameType


class StopSignals:
    """Notes the signals that end a run, so that it ends with its report; at the second one, at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.count = 0
        self._before = {
            number: signal.signal(number, self._note)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        }

    def let_go(self) -> None:
        """Let them do again what they did before: what follows the run ends by them at once."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self.count += 1
