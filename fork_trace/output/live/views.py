"""The two ways to show what fails while it does: a screen drawn again, or lines appended."""

from __future__ import annotations

import sys
import time

from fork_trace.escape import safe
from fork_trace.output import telling, times
from fork_trace.output.aggregate import Table
from fork_trace.output.live import screen
from fork_trace.output.live.terminal import Terminal
from fork_trace.output.place import Key
from fork_trace.output.report_options import ReportOptions
from fork_trace.output.units import count
from fork_trace.output.wording import WIDTH

_MOST_PLACES = 5  # of one cause that are told at one time, each in a line
_MOST_KNOWN = 4096  # places of which it is remembered that they were told


class Redrawn:
    """A screen that is kept fresh; what has changed last stays marked until something else does."""

    def __init__(
        self, terminal: Terminal, counted: Table, host: str, options: ReportOptions
    ) -> None:
        self._terminal, self._counted = terminal, counted
        self._host, self._options = host, options
        self._changes = screen.Changes()
        self._new: dict[tuple[str | None, ...], int] = {}

    def show(self, elapsed_s: float, lost: int, missed: int, filtered: int = 0) -> None:
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
            filtered=filtered,
        )
        size = self._terminal.size()
        self._terminal.draw(screen.frame(self._counted, self._new, moment, size, self._options))


class Appended:
    """A line for each row that has changed, and each cause explained when it is first seen."""

    def __init__(self, terminal: Terminal, counted: Table) -> None:
        self._terminal, self._counted = terminal, counted
        self._lost = 0
        self._changes = screen.Changes()
        self._known: set[Key] = set()
        self._day: str | None = None

    def show(self, _elapsed_s: float, lost: int, missed: int, _filtered: int = 0) -> None:
        """Append what has changed since the last time."""
        counted = self._counted
        new = self._changes.take(counted)
        width = self._terminal.width()
        if new and not self._known:
            print(screen.heading(counted.by, width))
        if new and counted.last_ns is not None:
            # The lines tell the time of day alone.
            day = times.day(counted.last_ns)
            if self._day not in (None, day):
                print(f"--- {day} ---")
            self._day = day
        for line in screen.appended(counted.rows(), counted.by, new, width):
            print(line)
        if new:
            self._introduce(width)
        if lost != self._lost:
            self._lost = lost
            print(screen.lost(lost, missed, width))
        sys.stdout.flush()

    def _introduce(self, width: int | None) -> None:
        """Explain each cause when it is first seen, and tell each further place of it in a line."""
        causes = {key.cause for key in self._known}
        for cause, places in self._counted.by_cause().items():
            fresh = [each for each in places if each.key not in self._known]
            if fresh and cause not in causes:
                told = telling.tell_briefly(fresh[:1])
                print("\n".join(screen.introduced(told, width or WIDTH)))
                self._note(fresh.pop(0).key)
            for place in fresh[:_MOST_PLACES]:
                remedy = telling.in_a_line(place)
                print("\n".join(remedy.lines((width or WIDTH) - 2, "  + ", "    ")))
            for place in fresh:
                self._note(place.key)
            if fresh[_MOST_PLACES:]:
                more = count(len(fresh) - _MOST_PLACES, "more place", "more places")
                print(f"  + ... {more} of {safe(cause)}")

    def _note(self, key: Key) -> None:
        if len(self._known) < _MOST_KNOWN:
            self._known.add(key)
