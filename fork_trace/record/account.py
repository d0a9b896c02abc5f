"""A stream of captures added up into one report, by what is asked for. Holds a table, not the stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from fork_trace.model.reading import Ending
from fork_trace.model.records import INCIDENTS, Failure, Forks, Header, Mark, Record, Slow, Summary
from fork_trace.output import times
from fork_trace.output.aggregate import Table
from fork_trace.output.completeness import Captures, of_unclosed
from fork_trace.record.selection import Selection
from fork_trace.record.times import iso_ns

_SLACK_NS = 60 * 10**9  # whom does a minute more or less matter
_QUIET_NS = 600 * 10**9 + _SLACK_NS
_GAPS = ("gap", "resumed", "clock")


class Account:
    """The failures that are asked for, counted; and the captures that they are of."""

    def __init__(self, by: Sequence[str], selection: Selection) -> None:
        self.counted = Table(by)
        self.captures = Captures()
        self.hosts: set[str] = set()
        self._selection = selection
        self._header: Header | None = None
        self._taken = self._read = 0  # failures of the capture that is being read
        self._first_ns = 0  # when the first capture began

    def take(self, items: Iterable[Record | Ending]) -> Iterator[Record]:
        """Count a stream; yield those of its records that are asked for, and each capture's Summary last."""
        for item in items:
            if isinstance(item, Failure):
                self._read += item.count
                if self._header and self._selection.takes(item):
                    self._taken += item.count
                    self.counted.add(item, self._header.host)
                    yield item
                else:
                    self.counted.completeness.others += item.count
            elif isinstance(item, Header):
                self._taken = self._read = 0
                is_asked = self._selection.takes_capture(item)
                self._header = item if is_asked else None
                if is_asked:
                    yield item
            elif isinstance(item, INCIDENTS):
                if self._header and self._selection.takes_incident(item):
                    self.counted.incidents.add(item)
                    yield item
            elif isinstance(item, Mark):
                if self._header and self._selection.takes_mark(item):
                    if item.kind in _GAPS:
                        self.counted.completeness.add_gap(item)
                    yield item
            elif isinstance(item, (Slow, Forks)):
                if self._header and self._selection.takes_timed(item):
                    yield item
            elif isinstance(item, Ending):
                yield from self._end(item)

    def unrecorded(self) -> list[str]:
        """Say if nobody recorded in the time that was asked for, or at its begin: a gap never looks like calm."""
        since_ns = self._selection.since_ns
        if not self._selection.has_times or len(self.hosts) > 1:
            return []
        if not self.hosts:
            return ["nothing was recorded in that time: that it has no failures says nothing"]
        if since_ns is None or not self._first_ns or since_ns > self._first_ns - _SLACK_NS:
            return []
        return [f"nothing was recorded before {times.moment(self._first_ns)}"]

    def _end(self, ending: Ending) -> Iterator[Record]:
        header, self._header = self._header, None
        if header is None or ending.is_of_latency:
            return
        begin_ns, end_ns = iso_ns(header.time), iso_ns(ending.last_time)
        selection = self._selection
        if selection.has_times and begin_ns and end_ns:
            # One that goes on says so every WATCHING_S of recorder.py; and a minute is no matter.
            known_ns = end_ns if ending.is_closed else end_ns + _QUIET_NS
            is_before = selection.since_ns is not None and known_ns < selection.since_ns
            is_after = selection.until_ns is not None and begin_ns > selection.until_ns
            if (is_before or is_after) and not self._taken:
                return  # not of that time
        lacks = not ending.is_closed
        for failure in ending.uncounted:
            self._read += failure.count
            if selection.has_times:
                lacks = True  # nobody knows when they were
            elif selection.takes(failure):
                failure = failure if failure.time_ns else replace(failure, time_ns=end_ns or 0)
                self.counted.add(failure, header.host)
                yield failure
        self.hosts.add(header.host)
        if begin_ns is not None:
            self._first_ns = min(begin_ns, self._first_ns or begin_ns)
        summary = self._summary(ending, begin_ns, end_ns)
        self.captures.add(header, summary)
        yield summary
        if lacks:
            self.counted.completeness.is_lower_bound = True

    def _summary(self, ending: Ending, begin_ns: int | None, end_ns: int | None) -> Summary:
        if ending.is_closed and ending.summary is not None:
            return ending.summary
        known = begin_ns is not None and end_ns is not None and end_ns >= begin_ns
        duration_s = ((end_ns or 0) - (begin_ns or 0)) / 1e9 if known else 0.0
        return of_unclosed(ending.header, ending.summary, round(duration_s, 3), self._read)
