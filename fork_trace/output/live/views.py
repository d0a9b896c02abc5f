"""The two ways to show what fails while it does: a screen drawn again, or lines appended."""

from __future__ import annotations

import sys
import time

from fork_trace.output import report
from fork_trace.output.aggregate import Table
from fork_trace.output.live import screen
from fork_trace.output.live.terminal import Terminal
from fork_trace.output.report_options import ReportOptions


class Redrawn:
    """A screen that is kept fresh; what has changed last stays marked until something else does."""

    def __init__(
        self, terminal: Terminal, counted: Table, host: str, options: ReportOptions
    ) -> None:
        self._terminal, self._counted = terminal, counted
        self._host, self._options = host, options
        self._changes = screen.Changes()
        self._new: dict[tuple[str | None, ...], int] = {}

    def show(self, elapsed_s: float, lost: int, missed: int) -> None:
        """Draw the screen again."""
        self._new = self._changes.take(self._counted) or self._new
        last_ns = max((row.last_ns for row in self._counted.rows()), default=None)
        moment = screen.Moment(
            host=self._host,
            elapsed_s=elapsed_s,
            quiet_s=None if last_ns is None else (time.time_ns() - last_ns) / 1e9,
            keys_to_end=self._terminal.keys_to_end,
            lost=lost,
            missed=missed,
        )
        size = self._terminal.size()
        self._terminal.draw(screen.frame(self._counted, self._new, moment, size, self._options))


class Appended:
    """A line for each row that has changed, and each cause explained when it is first seen."""

    def __init__(self, terminal: Terminal, counted: Table) -> None:
        self._terminal, self._counted = terminal, counted
        self._lost = 0
        self._changes = screen.Changes()
        self._known: set[str] = set()

    def show(self, _elapsed_s: float, lost: int, missed: int) -> None:
        """Append what has changed since the last time."""
        counted = self._counted
        new = self._changes.take(counted)
        width = self._terminal.width()
        if new and not self._known:
            print(screen.heading(counted.by, width))
        for line in screen.appended(counted.rows(), counted.by, new, width):
            print(line)
        for cause in [cause for cause in counted.causes if cause not in self._known]:
            self._known.add(cause)
            latest = counted.hosts(cause)[0][1].latest
            print("\n".join(screen.introduced(report.tell_briefly(cause, latest))))
        if lost != self._lost:
            self._lost = lost
            print(screen.lost(lost, missed, width))
        sys.stdout.flush()
