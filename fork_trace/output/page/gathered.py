"""What is kept of a stream of records for a page, beside what a report counts. Pure; bounded."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import field
from typing import Any

from fork_trace.model import records
from fork_trace.model.dataclass import dataclass
from fork_trace.model.records import INCIDENTS, Failure, Forks, Header, Mark, Record, Slow, Summary
from fork_trace.output.page.archive import Archive
from fork_trace.output.page.timeline import Timeline

_MOST_STACKS = 2000  # different ones
_MOST_OTHERS = 200
_MOST_SINCE = 4096


@dataclass
class Stack:
    """Failures with the same stack, of the same command and cause."""

    sample: Failure
    count: int = 0
    hosts: Counter[str] = field(default_factory=Counter)


class Gathered:
    """What runs through, for the page at its end."""

    def __init__(self) -> None:
        self.archive = Archive()
        self.timeline = Timeline()
        self.stacks: dict[Any, Stack] = {}
        self.without_stack = 0  # failures whose stack is not known, or found no room here
        # Records of other types, as the values that JSON has: whatever later versions write.
        self.others: list[dict[str, Any]] = []
        self.more_others = 0
        self._host = "?"
        # Of commands and causes: since when failures of them may be only counted, and their last record.
        self._since: dict[Any, tuple[int, int]] = {}

    def take(self, record: Record) -> None:
        """Take in one record, in the order of the stream."""
        self.archive.take(record)
        if isinstance(record, Failure):
            self._take_failure(record)
        elif isinstance(record, Header):
            self._host = record.host
        elif not isinstance(record, (Summary, Mark, Slow, Forks, *INCIDENTS)):
            self._take_other(record)

    def _take_failure(self, failure: Failure) -> None:
        if failure.pid is None:
            self.timeline.untimed += failure.count
        else:
            self._place_in_time(failure)
        if not failure.stack:
            self.without_stack += failure.count
            return
        frames = tuple((each.symbol or each.address, each.file) for each in failure.stack)
        key = (failure.cause, failure.comm, frames)
        stack = self.stacks.get(key)
        if stack is None:
            if len(self.stacks) >= _MOST_STACKS:
                self.without_stack += failure.count
                return
            stack = self.stacks[key] = Stack(failure)
        stack.count += failure.count
        stack.hosts[self._host] += failure.count

    def _place_in_time(self, failure: Failure) -> None:
        """Put a failure where it was, and those that were only counted between this record and the one before."""
        key = (self._host, failure.comm, failure.uid, failure.cgroup, failure.step, failure.cause)
        at = failure.time_ns
        first, last = self._since.get(key, (at, at))
        if failure.count == 1:
            self.timeline.add(at, failure.cause, 1)
        else:
            # At the end of a capture, as the last sample says again: all that came since the first, or
            # since what was counted so before.
            begin = first if last == at else last
            self.timeline.add_between(min(begin, at), at, failure.cause, failure.count)
            first = at
        if key in self._since or len(self._since) < _MOST_SINCE:
            self._since[key] = first, at

    def _take_other(self, record: Any) -> None:
        if len(self.others) < _MOST_OTHERS:
            self.others.append({"host": self._host, **json.loads(records.to_json(record))})
        else:
            self.more_others += 1
