"""What a report lacks: captures that were not closed, times that nobody watched; and many captures told as few."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import field, fields, replace
from typing import Any

from fork_trace.model.dataclass import dataclass
from fork_trace.model.records import Checkpoint, Header, Mark, Summary

# Captures told of one by one; of more each host is told of, and of more hosts all together.
MOST_TOLD = 4
_MOST_KEPT = 2048  # captures told each by itself; later ones are added to others of their host
_MOST_GAPS = 1000
_MOST_LISTS = 256  # different lists of what cannot be observed

# Numbers of a summary that add up.
_ADDED = (
    *("duration_s", "failures", "lost", "rate_limited", "overflowed", "restarted", "killed"),
    *(
        "filtered",
        "before_fork",
        "untracked",
        "without_stack",
        "early",
        "step_misses",
        "mismatched",
    ),
)


@dataclass(frozen=True)
class Unclosed(Checkpoint):
    """Stands for the summary of a capture that has no totals at all: its numbers are not known."""


@dataclass(frozen=True)
class Several(Summary):
    """The summaries of several captures of one host."""

    captures: int = 1
    unclosed: int = 0


@dataclass
class Completeness:
    """What is not in the counts of a report, for whoever reads it."""

    is_lower_bound: bool = False
    others: int = 0  # failures that the filter leaves out
    gaps: list[Mark] = field(default_factory=list)  # "gap", "resumed", "clock"
    more_gaps: int = 0
    notes: list[str] = field(default_factory=list)

    def add_gap(self, mark: Mark) -> None:
        """Keep a gap, or count it."""
        if len(self.gaps) < _MOST_GAPS:
            self.gaps.append(mark)
        else:
            self.more_gaps += 1


def number_of(summaries: Iterable[Summary]) -> int:
    """Count the captures that summaries stand for."""
    return sum(each.captures if isinstance(each, Several) else 1 for each in summaries)


def unclosed(summaries: Iterable[Summary]) -> int:
    """Count the captures that were not closed."""
    return sum(
        each.unclosed if isinstance(each, Several) else isinstance(each, Checkpoint)
        for each in summaries
    )


def added(summaries: Sequence[Summary]) -> Several:
    """Add up summaries; `missed` and `oom_kills` are None if they are of any of them."""
    numbers = {name: sum(getattr(each, name) for each in summaries) for name in _ADDED}
    missed = [each.missed for each in summaries]
    killed = [each.oom_kills for each in summaries]
    return Several(
        time=max(each.time for each in summaries),
        **numbers,
        causes={},
        totals=(),
        missed=None if None in missed else sum(each or 0 for each in missed),
        oom_kills=None if None in killed else sum(each or 0 for each in killed),
        deaths=added_deaths(summaries),
        ended="several",
        captures=number_of(summaries),
        unclosed=unclosed(summaries),
    )


def added_deaths(summaries: Iterable[Summary]) -> dict[str, int] | None:
    """Add up the deaths of each cause; None: of one of the captures it is not known."""
    found: Counter[str] = Counter()
    for each in summaries:
        if each.deaths is None:
            return None
        # Of a file that others can have written.
        numbers = {name: value for name, value in each.deaths.items() if type(value) is int}
        found.update(numbers)
    return dict(sorted(found.items()))


class Captures:
    """Headers and summaries of the captures that a report is of: pairs, without what only a capture needs."""

    def __init__(self) -> None:
        self.headers: list[Header] = []
        self.summaries: list[Summary] = []
        self._place: dict[str, int] = {}  # of a host's latest capture
        self._lists: dict[str, tuple[dict[str, Any], ...]] = {}

    def add(self, header: Header, summary: Summary) -> None:
        """Take in one more capture."""
        # How a command ended is told of few captures.
        command = summary.command if len(self.headers) < MOST_TOLD else None
        summary = replace(summary, totals=(), rows=(), causes={}, command=command)
        place = self._place.get(header.host)
        if len(self.headers) >= _MOST_KEPT and self.headers:
            place = 0 if place is None else place
            self.summaries[place] = added([self.summaries[place], summary])
            return
        self._place[header.host] = len(self.headers)
        self.headers.append(
            replace(
                header,
                attached=(),
                limits={},
                missing=self._shared(header.missing),
                fallbacks=self._shared(header.fallbacks),
            )
        )
        self.summaries.append(summary)

    def _shared(self, items: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        # Of one host they are the same in each capture.
        key = json.dumps(items)
        if len(self._lists) >= _MOST_LISTS:
            self._lists.clear()
        return self._lists.setdefault(key, items)


def of_unclosed(
    header: Header, last: Summary | None, duration_s: float, failures: int
) -> Checkpoint:
    """Return what stands for the summary of a capture that was not closed."""
    if isinstance(last, Checkpoint):
        return replace(last, ended="unclosed")
    zeros: dict[str, Any] = {item.name: 0 for item in fields(Summary) if item.name in _ADDED}
    zeros.update(duration_s=duration_s, failures=failures)
    return Unclosed(time=header.time, **zeros, causes={}, totals=(), missed=None, ended="unclosed")
