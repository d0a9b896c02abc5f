"""The recorder's loop: failures into files for weeks, with what a reader needs to trust what is not there.

One process, no thread, nothing pinned. It holds a session and its files; what it writes is a capture
after the other, each of which stands for itself.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from fork_trace.collect import clock
from fork_trace.model.records import Checkpoint, Failure, Header, Incident, Mark, Summary
from fork_trace.record.folding import Folder
from fork_trace.record.journal import Journal
from fork_trace.record.segments import Segments

CHECKPOINT_S = 60.0
WATCHING_S = 600.0  # how often a file says that nothing happened
_SETTLE_S = 10.0
_MOST_TOTALS = 256  # of a checkpoint or summary; the rest is added up by cause
_WHOSE = ("comm", "uid", "cgroup", "syscall", "creates")


class Watching(Protocol):
    """What is recorded: `collect.session.Session`."""

    def header(self) -> Header:
        """Say what is watched since the segment began."""

    def tick_s(self) -> float:
        """Say how long `poll` may wait."""

    def poll(self, timeout_s: float) -> list[Failure]:
        """Wait for failures."""

    def incidents(self) -> list[Incident]:
        """Return what was seen beside refused forks."""

    def settle(self) -> list[Failure]:
        """Return what was counted and not sampled."""

    def failures(self) -> int:
        """Count all failures since the start."""

    def totals(self, ended: str) -> Summary:
        """Return the totals of the segment so far."""

    def renew(self) -> tuple[list[Failure], Summary]:
        """End the segment."""

    def follow_clock(self) -> list[clock.Jump]:
        """Look at the clocks again."""

    def stop(self) -> list[Failure]:
        """Stop watching."""

    def finish(self, ended: str) -> Summary:
        """Return the totals of the last segment, and free everything."""


class Recorder:
    """Writes what a session sees into segments."""

    def __init__(
        self,
        session: Watching,
        segments: Segments,
        report: Callable[[str], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
        seen: Callable[[Sequence[Failure], Sequence[Incident]], None] = lambda _, __: None,
        journal: Journal | None = None,
    ) -> None:
        self._session, self._segments, self._report = session, segments, report
        self._monotonic, self._seen, self._journal = monotonic, seen, journal
        self._folder = Folder()
        self._host = ""
        self._causes: Counter[str] = Counter()  # of the records, for the status
        self._incidents = 0  # so far
        self._settled = 0  # failures by then
        self._checkpointed = (0, 0)  # failures and incidents by then
        self._settle_at_s = self._checkpoint_at_s = self._watching_at_s = 0.0
        self._told_failed: str | None = None
        self._is_asked = False  # for the next file

    def begin(self) -> None:
        """Begin to record: when nobody did until now is part of it."""
        last_ns = self._segments.last_ns()
        header = self._session.header()
        self._host = header.host
        self._segments.begin(header)
        self._mark("started")
        if last_ns is not None:
            self._mark("gap", clock.iso(last_ns), header.time)
        now_s = self._monotonic()
        self._settle_at_s, self._checkpoint_at_s = now_s + _SETTLE_S, now_s + CHECKPOINT_S
        self._watching_at_s = now_s + WATCHING_S

    def step(self, begins_anew: bool = False) -> None:
        """Wait for failures for a moment, and do what is due."""
        self._write(self._session.poll(self._session.tick_s()))
        now_s = self._monotonic()
        self._follow_clock()
        for failure in self._folder.due(now_s):
            self._segments.write(failure)
        if self._journal:
            self._journal.due(now_s)
        if now_s >= self._settle_at_s:
            self._settle_at_s = now_s + _SETTLE_S
            self._settle()
        if now_s >= self._checkpoint_at_s:
            self._checkpoint_at_s = now_s + CHECKPOINT_S
            self._checkpoint()
        self._is_asked |= begins_anew
        if (self._is_asked or self._segments.is_due()) and not self._segments.is_waiting:
            self._is_asked = False
            self._renew()
        self._segments.tend(is_now=False)
        self._segments.pack()
        self._tell_trouble()

    def end(self) -> Summary:
        """Stop watching and close the file."""
        self._write(self._session.stop())
        self._release()
        if self._journal:
            self._journal.due(self._monotonic(), is_all=True)
        summary = self._session.finish("signal")
        self._mark("stopped")
        self._segments.write(_bounded(summary))
        self._tell_trouble()
        return summary

    def status(self) -> str:
        """Say in a few words what was recorded."""
        causes = ", ".join(f"{cause} {number}" for cause, number in self._causes.most_common(3))
        failures = self._session.failures()
        text = f"{failures} failures" + (f" ({causes})" if causes else "")
        return f"{text}; {self._segments.failed}" if self._segments.failed else text

    def _write(self, failures: Sequence[Failure]) -> None:
        now_s = self._monotonic()
        incidents = self._session.incidents()
        self._seen(failures, incidents)
        for failure in failures:
            self._causes[failure.cause] += failure.count
            if self._journal:
                self._journal.take(failure, now_s)
            for each in self._folder.take(failure, now_s):
                self._segments.write(each)
        for incident in incidents:
            self._incidents += 1
            if self._journal:
                self._journal.take_death(incident, now_s)
            self._segments.write(incident)

    def _release(self) -> None:
        for failure in self._folder.due(self._monotonic(), is_all=True):
            self._segments.write(failure)

    def _settle(self) -> None:
        failures = self._session.failures()
        if failures != self._settled:
            self._settled = failures
            self._write(self._session.settle())

    def _checkpoint(self) -> None:
        self._segments.beat()
        counted = (self._session.failures(), self._incidents)
        if counted == self._checkpointed:
            if self._monotonic() >= self._watching_at_s:
                # Readers go by the times in a file: it may have been copied.
                self._watching_at_s = self._monotonic() + WATCHING_S
                self._mark("watching")
            return
        self._checkpointed = counted
        self._watching_at_s = self._monotonic() + WATCHING_S
        self._write(self._session.settle())
        self._release()
        totals = _bounded(self._session.totals("running"))
        self._segments.write(Checkpoint(**vars(totals)))

    def _renew(self) -> None:
        failures, summary = self._session.renew()
        self._write(failures)
        self._release()
        self._segments.write(_bounded(summary))
        self._folder.begin_segment()
        if self._journal:
            self._journal.forget()
        self._segments.begin(self._session.header())

    def _follow_clock(self) -> None:
        for jump in self._session.follow_clock():
            self._segments.clock_jumped()
            self._mark(jump.kind, clock.iso(jump.from_ns), clock.iso(jump.to_ns))

    def _mark(self, kind: str, from_: str | None = None, to: str | None = None) -> None:
        self._segments.write(Mark(clock.iso(time.time_ns()), self._host, kind, from_, to))

    def _tell_trouble(self) -> None:
        failed = self._segments.failed
        if failed != self._told_failed:
            self._told_failed = failed
            where = self._segments.directory
            if failed:
                self._report(f"cannot write in {where} for now: {failed}; still watching")
            else:
                lost = self._segments.dropped
                self._report(f"writing in {where} again; {lost} records were dropped so far")


def _bounded(summary: Summary) -> Summary:
    """Keep the largest totals, and add up the others: a file is full of failures, not of counts."""
    kept = summary.totals[:_MOST_TOTALS]
    rest: Counter[tuple[Any, ...]] = Counter()
    for total in summary.totals[_MOST_TOTALS:]:
        rest[tuple(total[name] for name in ("errno", "step", "cause", "certainty"))] += total[
            "count"
        ]
    others = (
        {
            **dict.fromkeys(_WHOSE),
            **dict(zip(("errno", "step", "cause", "certainty"), key)),
            "count": count,
        }
        for key, count in rest.items()
    )
    return replace(summary, totals=(*kept, *others))
