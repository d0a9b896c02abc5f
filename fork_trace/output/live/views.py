"""The two ways to show what fails while it does: a screen drawn again, or lines appended."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fork_trace.escape import safe
from fork_trace.model.records import Failure
from fork_trace.output import report, telling, times
from fork_trace.output.aggregate import Table
from fork_trace.output.live import screen
from fork_trace.output.live.line import Line
from fork_trace.output.live.look import GROUPS, Look, RowKey, pressed
from fork_trace.output.live.terminal import Terminal
from fork_trace.output.live.trends import Trends
from fork_trace.output.live.waiting import Forks
from fork_trace.output.place import Key
from fork_trace.output.report_options import ReportOptions
from fork_trace.output.units import count
from fork_trace.output.wording import WIDTH, wrap

_MOST_PLACES = 5  # of one cause that are told at one time, each in a line
_MOST_KNOWN = 4096  # places of which it is remembered that they were told


class Redrawn:
    """A screen that is kept fresh; what has changed last stays marked until something else does."""

    def __init__(
        self,
        terminal: Terminal,
        counted: Table,
        host: str,
        options: ReportOptions,
        interval_s: float = 1.0,
    ) -> None:
        self._terminal, self._counted = terminal, counted
        self._host, self._options = host, options
        # By all that the person at the screen can group by.
        wanted = [name for group in GROUPS for name in group or ()]
        self._fine = Table(tuple(dict.fromkeys((*counted.by, "command", *wanted))))
        self._look = Look(is_ascii=terminal.is_ascii, is_slow=terminal.is_slow)
        # By the rows of that table: what came since the last time, what came last, and when.
        self._coming = Counter[RowKey]()
        self._new = Counter[RowKey]()
        self._trends = Trends(interval_s)
        self._moment: screen.Moment | None = None
        self.forks = Forks()

    def add(self, failure: Failure, host: str | None = None) -> None:
        """Count a record a second time, by all columns."""
        self._coming[self._fine.add(failure, host)] += failure.count

    def press(self, keys: Sequence[str]) -> bool:
        """Do what keys ask for, at once; say whether one of them ends it all."""
        for key in keys:
            if key in ("q", "Q") and not self._look.is_typing:
                return True
            rows = [row.key for row in screen.rows_of(self._shown(), self._look)]
            before, self._look = self._look, pressed(self._look, key, rows)
            if self._look.scrolled > before.scrolled and self._frame() == self._frame(before):
                self._look = before  # nothing is below
        if keys and self._moment is not None:
            self._terminal.draw(self._frame())
        return False

    def _shown(self) -> Table:
        group = GROUPS[self._look.group]
        return self._counted if group is None else self._fine.grouped(group)

    def show(
        self,
        elapsed_s: float,
        lost: int,
        missed: int,
        filtered: int = 0,
        now_ns: int | None = None,
    ) -> None:
        """Draw the screen again, unless it is paused."""
        self._trends.add(self._coming, elapsed_s)
        self._new, self._coming = self._coming or self._new, Counter()
        last_ns = max((row.last_ns for row in self._counted.rows()), default=None)
        now_ns = time.time_ns() if now_ns is None else now_ns
        moment = screen.Moment(
            host=self._host,
            elapsed_s=elapsed_s,
            quiet_s=None if last_ns is None else (now_ns - last_ns) / 1e9,
            keys_to_end=self._terminal.keys_to_end,
            lost=lost,
            missed=missed,
            filtered=filtered,
            now_ns=now_ns,
            forks=self.forks,
        )
        if self._moment is not None and (self._look.is_paused or self._terminal.is_busy):
            return
        self._moment = moment
        self._terminal.draw(self._frame())

    def _frame(self, look: Look | None = None, lines_less: int = 0) -> list[Line]:
        """Lay out the screen as it is to look like."""
        if self._moment is None:
            return []
        counted, look = self._shown(), look or self._look
        at = [self._fine.by.index(name) for name in counted.by]

        def row_key(key: RowKey) -> RowKey:
            return counted.key_of(tuple(key[number] for number in at))

        new = Counter[RowKey]()
        for key, number in self._new.items():
            new[row_key(key)] += number
        look = replace(look, trends=self._trends.grouped(row_key))
        columns, height = self._terminal.size()
        size = (columns, height - lines_less)
        return screen.frame(counted, new, self._moment, size, self._options, look)

    def final(self, lines_less: int) -> list[Line]:
        """Return what the screen shows in the end, as many lines shorter than the terminal, for nobody to press a key."""
        if self._moment is not None:
            self._moment = replace(self._moment, keys_to_end="")
        look = Look(is_ascii=self._look.is_ascii, is_slow=self._look.is_slow)
        return self._frame(look, lines_less)


class Appended:
    """A line for each row that has changed, and each cause explained when it is first seen."""

    def __init__(self, terminal: Terminal, counted: Table) -> None:
        self._terminal, self._counted = terminal, counted
        self._lost = 0
        self._changes = screen.Changes()
        self._known: set[Key] = set()
        self._day: str | None = None
        self._besides: list[str] = []

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
        besides = counted.incidents.headlines()
        if besides != self._besides:
            self._besides = besides
            print("\n".join(wrap(report.beside(besides), "", "  ", width or WIDTH)))
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
