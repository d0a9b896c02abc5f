"""What was recorded, shown as it came: the loop of `fork-trace live --replay`."""

from __future__ import annotations

import sys
import time

from fork_trace.commands.live_run import LiveRequest
from fork_trace.commands.startup import TICK_S
from fork_trace.commands.stop_signals import StopSignals
from fork_trace.model import records
from fork_trace.model.records import Failure, Header, Summary
from fork_trace.output import report
from fork_trace.output.formats import jsonl
from fork_trace.output.live.terminal import Terminal
from fork_trace.output.live.views import Appended, Redrawn
from fork_trace.record.account import Account
from fork_trace.record.captures import Captures


def replay(account: Account, captures: Captures, request: LiveRequest) -> None:
    """Show each interval of recorded time as it was; on a terminal at its pace, with pauses cut short."""
    signals = StopSignals()
    terminal = Terminal(wants_lines=request.no_clear or request.as_json)
    counted = account.counted
    view: Redrawn | Appended | None = None
    if terminal.redraws:
        view = Redrawn(terminal, counted, "a recording", request.report, request.interval_s)
    elif not request.as_json:
        view = Appended(terminal, counted)
    try:
        terminal.enter()
        _show(account, captures, request, terminal, view, signals)
    finally:
        terminal.leave()
    counted.completeness.notes += captures.notes()
    found = account.captures
    if request.as_json:
        sys.stdout.write(jsonl.write(counted, found.summaries, found.headers, request.report))
        return
    if counted.failures and not terminal.redraws:
        print()
    sys.stdout.write(report.text(counted, found.summaries, found.headers, request.report))


def _show(
    account: Account,
    captures: Captures,
    request: LiveRequest,
    terminal: Terminal,
    view: Redrawn | Appended | None,
    signals: StopSignals,
) -> None:
    first_ns = due_ns = None
    host = None
    interval_ns = round(request.interval_s * 1e9)
    for record in account.take(captures.read()):
        if request.as_json and not isinstance(record, Summary):
            print(records.to_json(record), flush=True)
        if isinstance(record, Header):
            host = record.host
        if not isinstance(record, Failure) or view is None:
            continue
        if isinstance(view, Redrawn):
            view.add(record, host)
        if first_ns is None or due_ns is None:
            first_ns, due_ns = record.time_ns, record.time_ns + interval_ns
        if record.time_ns >= due_ns:
            shown_ns, due_ns = due_ns, record.time_ns + interval_ns
            elapsed_s = (shown_ns - first_ns) / 1e9
            if isinstance(view, Redrawn):
                view.show(elapsed_s, 0, 0, now_ns=shown_ns)
                if _is_told_to_end(request.interval_s, terminal, view, signals):
                    return
            else:
                view.show(elapsed_s, 0, 0)
        if signals.signal is not None:
            return
    if view and not terminal.redraws:
        view.show(0.0, 0, 0)


def _is_told_to_end(wait_s: float, terminal: Terminal, view: Redrawn, signals: StopSignals) -> bool:
    """Wait as long as the interval was; say whether somebody wants no more."""
    until_s = time.monotonic() + wait_s
    while time.monotonic() < until_s:
        if signals.signal is not None or view.press(terminal.pressed()):
            return True
        terminal.attend()
        time.sleep(min(TICK_S, max(0.0, until_s - time.monotonic())))
    return False
