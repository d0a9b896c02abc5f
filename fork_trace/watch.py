"""The two ways to watch: `live`, a table that is kept fresh, and `capture`, one run into one report.

Owns the loops, the signals that end them, the capture file and the command that a capture may run.
What is gathered is `session`'s, how it looks is `render`'s.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

from fork_trace import aggregate, catalogue, destination, formats, records, report, screen
from fork_trace.errors import ForkTraceError
from fork_trace.names import safe
from fork_trace.records import Failure, Header, Summary
from fork_trace.report import PLAIN, More
from fork_trace.session import Session
from fork_trace.terminal import Terminal, is_dumb

_TICK_S = 0.1  # how long somebody may wait at the keyboard, or for the end of a command
_PATIENCE_S = 5.0  # for a command that was told to end
# Of records that a file cannot take: some 6,000 samples, and not all of the memory.
_MOST_WAITING_BYTES = 32 << 20


class Ending:
    """Notes the signals that end a run, so that it ends with its report; at the second one, at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.count = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self.count += 1


class Output:
    """The capture file. What it cannot take now is kept and tried again.

    A tmpfs answers ENOSPC for as long as the commit limit is exhausted, which is just when there
    is something to write.
    """

    def __init__(self, path: str, force: bool) -> None:
        self.path = path
        self.failed: str | None = None
        self.dropped = 0  # records that found no room among those that wait
        self._told = False
        self._waiting = bytearray()
        self._fd, self._is_new = destination.open_named(path, force)
        # Not before there is something to write: a run that cannot begin spares the old capture.
        self._truncates = stat.S_ISREG(os.fstat(self._fd).st_mode)

    def discard(self) -> None:
        """Take the file away again if it was made here: nothing could be watched."""
        os.close(self._fd)
        if self._is_new:
            os.unlink(self.path)

    def write(self, record: records.Record) -> None:
        """Write one record, or keep it until the file can take it."""
        if self._truncates:
            os.ftruncate(self._fd, 0)
            self._truncates = False
        # The header and the summary are kept whatever happens: with them the counts are.
        if isinstance(record, Failure) and len(self._waiting) > _MOST_WAITING_BYTES:
            self.dropped += 1
        else:
            self._waiting += (records.to_json(record) + "\n").encode("ascii")
        self.flush()

    def flush(self) -> None:
        """Try to write what waits; said once when it begins to fail."""
        try:
            while self._waiting:
                del self._waiting[: os.write(self._fd, self._waiting)]
            self.failed = None
        except OSError as error:
            self.failed = error.strerror or str(error)
            # The reader of a pipe may be slow without being told off for it.
            if not self._told and not isinstance(error, BlockingIOError):
                self._told = True
                print(
                    f"fork-trace: cannot write {safe(self.path)} now: {self.failed}. "
                    "Watching goes on; the records are kept and tried again.",
                    file=sys.stderr,
                )

    def close(self, ending: Ending | None = None) -> None:
        """Write the rest, with a little patience, and close the file."""
        deadline = time.monotonic() + _PATIENCE_S
        self.flush()
        while self.failed and time.monotonic() < deadline:
            if ending is not None and ending.count > 1:
                break
            time.sleep(0.1)
            self.flush()
        if self.dropped and not self.failed:
            self.failed = f"{self.dropped} records did not fit while it could not be written"
        if self.failed:
            print(
                f"fork-trace: {safe(self.path)} is not whole: {self.failed}. Free space and capture "
                "again; the report holds the exact counts.",
                file=sys.stderr,
            )
        os.close(self._fd)


def _cannot_run(name: str, why: str | None) -> ForkTraceError:
    return ForkTraceError(f"cannot run {name}: {why}", "Give a command that exists, after `--`.")


def demand_command(argv: Sequence[str]) -> None:
    """Refuse a command that does not exist, before anything has begun."""
    if argv and shutil.which(argv[0]) is None:
        raise _cannot_run(argv[0], "no such program")


class Command:
    """A program run by a capture. It is spawned, not forked: that asks for no commit."""

    def __init__(self, argv: Sequence[str], stdout_to_stderr: bool) -> None:
        self.argv = tuple(argv)
        self.status: int | None = None
        actions: list[tuple[Any, ...]] = []
        if stdout_to_stderr:
            actions.append((os.POSIX_SPAWN_DUP2, 2, 1))
        try:
            # Python ignores these two, and what is ignored stays so over exec.
            self._pid = os.posix_spawnp(
                argv[0],
                list(argv),
                os.environ,
                file_actions=actions,
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
            )
        except OSError as error:
            raise _cannot_run(argv[0], error.strerror) from None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def end(self, ending: Ending) -> None:
        """Hand on the signal that ends the capture, and wait a little."""
        if self.poll() is None:
            os.kill(self._pid, ending.signal or signal.SIGTERM)
            deadline = time.monotonic() + _PATIENCE_S
            while self.poll() is None and time.monotonic() < deadline and ending.count < 2:
                time.sleep(0.02)

    def as_json(self) -> dict[str, Any]:
        """Say what ran and how it ended; a status of None: it still ran."""
        return {"argv": list(self.argv), "status": self.status}


def _progress(session: Session, duration_s: float | None) -> str:
    failures = session.failures()
    text = f"{failures} failure{'' if failures == 1 else 's'} so far"
    if duration_s is None:
        return f"{session.elapsed_s():.0f} s, {text}; Ctrl-C ends"
    return f"{max(0.0, duration_s - session.elapsed_s()):.0f} s left, {text}"


def start_line(header: Header, how_to_end: str) -> str:
    """Say what is watched and how it ends."""
    if header.rung == "tracepoint":
        how = "by the system calls' exits; their causes are inferred"
    else:
        functions = {each["function"] for each in header.attached if not each.get("later")}
        which = (
            "their end alone, until one fails"
            if functions == {"copy_process"}
            else f"{len(functions)} kernel functions"
        )
        how = f"{which}, by {header.rung}"
    return f"Watching failed forks: {how}. {how_to_end}"


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


def capture(
    session: Session,
    ending: Ending,
    by: Sequence[str],
    duration_s: float | None,
    output: Output | None,
    argv: Sequence[str],
    format_: str,
    more: More = PLAIN,
) -> int:
    """Watch until the duration, the command or a signal ends it; print the report.

    Returns the exit code: 0 nothing failed, 1 failures were seen, 2 the file could not be written.
    """
    counted = aggregate.Table(by)
    header = session.header()
    session.heed(lambda: ending.count)
    progress = _Progress()

    def take(failures: Sequence[Failure]) -> None:
        for failure in failures:
            counted.add(failure)
            _emit(failure)

    def _emit(record: records.Record) -> None:
        if output:
            output.write(record)
        if format_ == "jsonl":
            print(records.to_json(record), flush=True)

    ways = [f"After {duration_s:g} s"] if duration_s is not None else []
    ways += ["with the command"] if argv else []
    how = " or ".join([*ways, "Ctrl-C ends it"])
    print(start_line(header, how[0].upper() + how[1:] + "."), file=sys.stderr, flush=True)
    _emit(header)
    # Not with more than it would have without us: descriptors; nor with less: privileges.
    session.descriptors.restore()
    command = Command(argv, stdout_to_stderr=format_ != "table") if argv else None
    session.descriptors.raise_()
    try:
        session.give_up_privileges(may_signal=command is not None)
    except ForkTraceError:
        if command:
            command.end(ending)
        raise
    ended = ""
    while not ended:
        progress.show(session, duration_s)
        # The command's end is looked for before its last failures are read.
        if command and command.poll() is not None:
            ended = "command"
        elif ending.signal is not None:
            ended = "signal"
        elif duration_s is not None and session.elapsed_s() >= duration_s:
            ended = "duration"
        timeout_s = _TICK_S if command or progress.is_on else session.tick_s()
        if duration_s is not None:
            timeout_s = min(timeout_s, max(0.0, duration_s - session.elapsed_s()))
        take(session.poll(0.0 if ended else timeout_s))
    if command and ended == "signal":
        command.end(ending)
    take(session.stop())
    summary = session.finish(ended, command.as_json() if command else None)
    summary = replace(summary, rows=tuple(formats.json_rows(counted, more)))
    progress.clear()
    _emit(summary)
    if format_ != "jsonl":
        sys.stdout.write(formats.write(format_, counted, [summary], [header], more))
        sys.stdout.flush()
    if command and command.status is None:
        print(f"fork-trace: {safe(argv[0])} still runs.", file=sys.stderr)
    if output:
        output.close(ending)
        if not output.failed:
            print(
                f"Captured to {safe(output.path)}. To show it again, here or for a ticket:\n"
                f"  fork-trace report {catalogue.shell(output.path)} [--format markdown]",
                file=sys.stderr,
            )
        else:
            return 2
    return 1 if summary.failures else 0


class _Drawn:
    """A screen that is kept fresh; what has changed last stays marked until something else does."""

    def __init__(
        self, terminal: Terminal, session: Session, counted: aggregate.Table, host: str, more: More
    ) -> None:
        self._terminal, self._session, self._counted = terminal, session, counted
        self._host, self._more = host, more
        self._changes = screen.Changes()
        self._new: dict[tuple[str | None, ...], int] = {}

    def show(self) -> None:
        self._new = self._changes.take(self._counted) or self._new
        last_ns = max((row.last_ns for row in self._counted.rows()), default=None)
        lost, missed = self._session.lost()
        moment = screen.Moment(
            host=self._host,
            elapsed_s=self._session.elapsed_s(),
            quiet_s=None if last_ns is None else (time.time_ns() - last_ns) / 1e9,
            how_to_end=self._terminal.how_to_end,
            lost=lost,
            missed=missed,
        )
        size = self._terminal.size()
        self._terminal.draw(screen.frame(self._counted, self._new, moment, size, self._more))


class _Appended:
    """A line for each row that has changed, and each cause explained when it is first seen."""

    def __init__(self, terminal: Terminal, session: Session, counted: aggregate.Table) -> None:
        self._terminal, self._session, self._counted = terminal, session, counted
        self._lost = 0
        self._changes = screen.Changes()
        self._known: set[str] = set()

    def show(self) -> None:
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
        lost, missed = self._session.lost()
        if lost != self._lost:
            self._lost = lost
            print(screen.lost(lost, missed, width))
        sys.stdout.flush()


def live(
    session: Session,
    ending: Ending,
    by: Sequence[str],
    interval_s: float,
    duration_s: float | None,
    no_clear: bool,
    as_json: bool,
    more: More = PLAIN,
) -> Summary:
    """Show what fails at each interval until the duration, a signal or a key ends it; then a summary."""
    counted = aggregate.Table(by)
    header = session.header()
    terminal = Terminal(wants_lines=no_clear or as_json)
    how_to_end = f"{terminal.how_to_end} with a summary."
    session.give_up_privileges()
    print(start_line(header, how_to_end), file=sys.stderr, flush=True)
    if as_json:
        print(records.to_json(header), flush=True)
    view: _Drawn | _Appended | None = None
    if terminal.redraws:
        view = _Drawn(terminal, session, counted, header.host, more)
    elif not as_json:
        view = _Appended(terminal, session, counted)
    is_told = is_over = False
    session.heed(lambda: max(ending.count, is_told))
    try:
        terminal.enter()
        if view:
            view.show()
        while not is_over:
            due_s = session.elapsed_s() + interval_s
            if duration_s is not None:
                due_s = min(due_s, duration_s)
            while session.elapsed_s() < due_s and not is_told:
                tick_s = _TICK_S if terminal.redraws else session.tick_s()
                timeout_s = min(tick_s, max(0.0, due_s - session.elapsed_s()))
                _take(session.poll(timeout_s), counted, as_json)
                is_told = ending.signal is not None or terminal.is_told_to_end()
                if terminal.attend():
                    break
            is_over = is_told or (duration_s is not None and session.elapsed_s() >= duration_s)
            _take(session.stop() if is_over else session.settle(), counted, as_json)
            if view and not (is_over and terminal.redraws):
                view.show()
    finally:
        terminal.leave()
    summary = session.finish("signal" if is_told else "duration")
    summary = replace(summary, rows=tuple(formats.json_rows(counted, more)))
    if as_json:
        print(records.to_json(summary), flush=True)
        return summary
    if counted.failures and not terminal.redraws:
        print()
    sys.stdout.write(report.text(counted, [summary], [header], more))
    sys.stdout.flush()
    return summary


def _take(failures: list[Failure], counted: aggregate.Table, as_json: bool) -> None:
    for failure in failures:
        counted.add(failure)
        if as_json:
            print(records.to_json(failure), flush=True)
