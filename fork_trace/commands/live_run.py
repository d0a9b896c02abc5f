"""What fails, shown while it does: the loop of `fork-trace live`."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from fork_trace.collect.session import Session, has_ended
from fork_trace.commands.startup import TICK_S, start_line
from fork_trace.commands.stop_signals import StopSignals
from fork_trace.model import records
from fork_trace.model.records import Failure, Summary
from fork_trace.output import report, summary
from fork_trace.output.aggregate import Table
from fork_trace.output.live.last import is_last
from fork_trace.output.live.line import Line
from fork_trace.output.live.screen import QUIET_S
from fork_trace.output.live.terminal import Terminal
from fork_trace.output.live.views import Appended, Redrawn
from fork_trace.output.live.waiting import Forks
from fork_trace.output.report_options import PLAIN, ReportOptions

if TYPE_CHECKING:
    from fork_trace.headroom.nearest import Near, Nearest


class LiveRequest(NamedTuple):
    """What to show, how often, until when."""

    by: Sequence[str]
    interval_s: float = 1.0
    duration_s: float | None = None  # None: until a signal or a key
    no_clear: bool = False
    as_json: bool = False
    report: ReportOptions = PLAIN


def live(session: Session, signals: StopSignals, request: LiveRequest) -> Summary:
    """Show what fails at each interval until the duration, a signal or a key ends it; then the report."""
    counted = Table(request.by)
    header = session.header()
    terminal = Terminal(wants_lines=request.no_clear or request.as_json)
    # Loaded now: without its privileges the process may not be able to read the package.
    nearest = _nearest() if terminal.redraws else None
    session.give_up_privileges()
    how_to_end = f"Press {terminal.keys_to_end} to stop and print the report."
    print(start_line(header, how_to_end), file=sys.stderr, flush=True)
    if request.as_json:
        print(records.to_json(header), flush=True)
    view: Redrawn | Appended | None = None
    if terminal.redraws:
        view = Redrawn(terminal, counted, header.host, request.report, request.interval_s)
    elif not request.as_json:
        view = Appended(terminal, counted)
    try:
        terminal.enter()
        ended = _Loop(session, signals, request, terminal, view, counted, nearest).run()
    finally:
        terminal.leave()
    last = session.finish(ended)
    counted.look_again(has_ended)
    last = replace(last, rows=tuple(summary.json_rows(counted, request.report)))
    if request.as_json:
        print(records.to_json(last), flush=True)
        return last
    if (counted.failures or counted.incidents.headlines()) and not terminal.redraws:
        print()
    # It may have another size by now.
    shown = request.report._replace(width=terminal.width())
    text = report.text(counted, [last], [header], shown)
    sys.stdout.write(text)
    sys.stdout.flush()
    if isinstance(view, Redrawn) and text.count("\n") > terminal.size()[1] and is_last():
        # A console keeps no more than it shows: what was last on the screen, and a line that asks for a key.
        terminal.append([Line(""), *view.final(lines_less=3)])
    return last


class _Loop(NamedTuple):
    session: Session
    signals: StopSignals
    request: LiveRequest
    terminal: Terminal
    view: Redrawn | Appended | None
    counted: Table
    nearest: Nearest | None

    def run(self) -> str:
        """Read failures and show them until the run ends; return what ended it."""
        session, duration_s = self.session, self.request.duration_s
        is_told = is_over = False
        session.heed(lambda: max(self.signals.count, is_told))
        self._show()
        while not is_over:
            # At multiples of the interval: a trend has no gap because of the time that drawing takes.
            interval_s = self.request.interval_s
            due_s = (session.elapsed_s() // interval_s + 1) * interval_s
            if duration_s is not None:
                due_s = min(due_s, duration_s)
            while session.elapsed_s() < due_s and not is_told:
                tick_s = TICK_S if self.terminal.redraws else session.tick_s()
                timeout_s = min(tick_s, max(0.0, due_s - session.elapsed_s()))
                self._take(session.poll(timeout_s))
                is_told = self.signals.signal is not None or self._is_told_to_end()
                if self.terminal.attend():
                    break
            is_over = is_told or (duration_s is not None and session.elapsed_s() >= duration_s)
            self._take(session.stop() if is_over else session.settle())
            if not (is_over and self.terminal.redraws):
                self._show()
        return "signal" if is_told else "duration"

    def _is_told_to_end(self) -> bool:
        return isinstance(self.view, Redrawn) and self.view.press(self.terminal.pressed())

    def _show(self) -> None:
        if self.view is None:
            return
        elapsed_s = self.session.elapsed_s()
        if self.nearest and isinstance(self.view, Redrawn) and self._is_quiet():
            self.view.forks = _forks(self.nearest.now(elapsed_s))
        lost, missed = self.session.unseen()
        self.view.show(elapsed_s, lost, missed or 0, self.session.filtered())

    def _is_quiet(self) -> bool:
        """Say whether nothing fails, or no more: then there is time to read how near the limits are."""
        last_ns = self.counted.last_ns
        return last_ns is None or time.time_ns() - last_ns > QUIET_S * 1e9

    def _take(self, failures: Sequence[Failure]) -> None:
        incidents = self.session.incidents()
        for failure in failures:
            self.counted.add(failure)
            if isinstance(self.view, Redrawn):
                self.view.add(failure)
        for incident in incidents:
            self.counted.incidents.add(incident)
        if self.request.as_json:
            told: tuple[records.Record, ...] = (*failures, *incidents)
            for record in told:
                print(records.to_json(record), flush=True)


def _nearest() -> Nearest:
    from fork_trace.headroom.nearest import Nearest

    return Nearest()


def _forks(near: Near) -> Forks:
    from fork_trace.output import check_bars

    return Forks(tuple(map(check_bars.gauge, near.limits)), *near[1:])
