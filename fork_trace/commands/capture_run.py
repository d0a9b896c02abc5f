"""One run into one report: the loop of `fork-trace capture`, its file and its command."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from fork_trace.collect.session import Session, has_ended
from fork_trace.commands.child import Child
from fork_trace.commands.startup import TICK_S, start_line
from fork_trace.commands.stop_signals import StopSignals
from fork_trace.diagnosis import advice
from fork_trace.errors import ForkTraceError
from fork_trace.escape import safe
from fork_trace.model import records
from fork_trace.model.records import Failure, Incident
from fork_trace.output import formats, summary
from fork_trace.output.aggregate import Table
from fork_trace.output.capture_file import CaptureFile
from fork_trace.output.live.terminal import is_dumb
from fork_trace.output.report_options import PLAIN, ReportOptions


class CaptureRequest(NamedTuple):
    """What to watch until when, and the report to print."""

    by: Sequence[str]
    duration_s: float | None = None  # None: until the command or a signal
    argv: Sequence[str] = ()  # empty: no command
    format_: str = "table"  # one of formats.FORMATS
    report: ReportOptions = PLAIN

    def how_to_end(self) -> str:
        """Say what ends the run."""
        ways = [f"after {self.duration_s:g} s"] if self.duration_s is not None else []
        ways += ["when the command ends"] if self.argv else []
        return f"Stops {' or '.join(ways)}, or on Ctrl-C." if ways else "Press Ctrl-C to stop."


class _Progress:
    """One line on stderr that keeps itself up to date, only where that is a terminal."""

    def __init__(self) -> None:
        self.is_on = sys.stderr.isatty() and not is_dumb()
        self._next = 0.0

    def show(self, session: Session, duration_s: float | None) -> None:
        if self.is_on and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.5
            sys.stderr.write(f"\r\033[K{_progress(session, duration_s)}")
            sys.stderr.flush()

    def clear(self) -> None:
        if self.is_on:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def _progress(session: Session, duration_s: float | None) -> str:
    failures = session.failures()
    text = f"{failures} failure{'' if failures == 1 else 's'} so far"
    if duration_s is None:
        return f"{session.elapsed_s():.0f} s, {text}; Ctrl-C to stop"
    return f"{max(0.0, duration_s - session.elapsed_s()):.0f} s left, {text}"


class _Records:
    """Counts the failures, and hands every record on to whoever is to have it."""

    def __init__(self, request: CaptureRequest, file: CaptureFile | None, host: str) -> None:
        self.counted = Table(request.by)
        self._host = host
        self._file = file
        self._prints = request.format_ == "jsonl"

    def take(self, failures: Sequence[Failure]) -> None:
        for failure in failures:
            self.counted.add(failure, self._host)
            self.emit(failure)

    def take_incidents(self, incidents: Sequence[Incident]) -> None:
        for incident in incidents:
            self.counted.incidents.add(incident)
            self.emit(incident)

    def emit(self, record: records.Record) -> None:
        if self._file:
            self._file.write(record)
        if self._prints:
            print(records.to_json(record), flush=True)


def capture(
    session: Session, signals: StopSignals, file: CaptureFile | None, request: CaptureRequest
) -> int:
    """Watch until the duration, the command or a signal ends it; print the report.

    Returns the exit code: 0 nothing failed, 1 failures were seen, 2 the file could not be written.
    """
    # Loaded now: without its privileges the process may not be able to read the package.
    write = formats.writer(request.format_)
    header = session.header()
    sink = _Records(request, file, header.host)
    session.heed(lambda: signals.count)
    print(start_line(header, request.how_to_end()), file=sys.stderr, flush=True)
    sink.emit(header)
    child = _started(session, request)
    try:
        session.give_up_privileges(may_signal=child is not None)
    except ForkTraceError:
        if child:
            child.end(signals)
        raise
    progress = _Progress()
    ended = _watch(session, signals, request, child, sink, progress)
    if child and ended == "signal":
        child.end(signals)
    sink.take(session.stop())
    sink.take_incidents(session.incidents())
    last = session.finish(ended, child.as_json() if child else None)
    sink.counted.look_again(has_ended)
    last = replace(last, rows=tuple(summary.json_rows(sink.counted, request.report)))
    progress.clear()
    sink.emit(last)
    if request.format_ != "jsonl":
        sys.stdout.write(write(sink.counted, [last], [header], request.report))
        sys.stdout.flush()
    if child and child.status is None:
        print(f"fork-trace: {safe(request.argv[0])} is still running.", file=sys.stderr)
    if file and not _closed(file, signals):
        return 2
    return 1 if last.failures or sink.counted.incidents.is_failure() else 0


def _started(session: Session, request: CaptureRequest) -> Child | None:
    if not request.argv:
        return None
    # Not with more than it would have without us: descriptors; nor with less: privileges.
    session.descriptors.restore()
    child = Child(request.argv, stdout_to_stderr=request.format_ != "table")
    session.descriptors.raise_()
    return child


def _watch(
    session: Session,
    signals: StopSignals,
    request: CaptureRequest,
    child: Child | None,
    sink: _Records,
    progress: _Progress,
) -> str:
    """Read failures until the run ends; return what ended it."""
    duration_s = request.duration_s
    ended = ""
    while not ended:
        progress.show(session, duration_s)
        # The command's end is looked for before its last failures are read.
        if child and child.poll() is not None:
            ended = "command"
        elif signals.signal is not None:
            ended = "signal"
        elif duration_s is not None and session.elapsed_s() >= duration_s:
            ended = "duration"
        timeout_s = TICK_S if child or progress.is_on else session.tick_s()
        if duration_s is not None:
            timeout_s = min(timeout_s, max(0.0, duration_s - session.elapsed_s()))
        sink.take(session.poll(0.0 if ended else timeout_s))
        sink.take_incidents(session.incidents())
    return ended


def _closed(file: CaptureFile, signals: StopSignals) -> bool:
    file.close(lambda: signals.count > 1)
    if file.failed:
        return False
    print(to_show_again(file.path, os.environ), file=sys.stderr)
    return True


def to_show_again(path: str, environment: Mapping[str, str]) -> str:
    """Say where the capture is, and the command that shows it."""
    # The file is for its owner alone: of a run by sudo that is root.
    sudo = "sudo " if "SUDO_UID" in environment else ""
    return (
        f"Captured to {safe(path)}. To show it again (for a ticket, add --format markdown or html):\n"
        f"  {sudo}fork-trace report {advice.shell(path)}"
    )
