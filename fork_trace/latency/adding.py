"""Runs that were recorded, added up: of each host one. Records in, records out; holds rows, not the stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from fork_trace.latency.times import MOST_GROUPS, OTHERS, Times
from fork_trace.model.records import Forks, Record, Slow

_NONE = {"count": 0, "total_ms": 0, "slow": 0, "slow_ms": 0}
_SUMS = ("slow", "lost", "unpaired", "untallied", "unmeasured")


class _Row:
    """The slow forks of one command and caller, of several records."""

    def __init__(self) -> None:
        self._times = Times()
        self._total_ms = self._max_ms = 0.0
        self._reasons: Counter[str] = Counter()
        self._ms: Counter[str] = Counter()  # by what took most of the time of each record
        self._sample: dict[str, Slow] = {}
        self._last = ""

    def add(self, slow: Slow) -> None:
        for ms, number in slow.times_ms.items():
            ns = _ns(ms)
            if ns is not None and _is_count(number):
                self._times.add(ns, number)
        self._total_ms += slow.total_ms
        self._max_ms = max(self._max_ms, slow.max_ms)
        self._reasons.update(
            {name: number for name, number in slow.reasons.items() if _is_count(number)}
        )
        self._ms[slow.reason] += round(slow.total_ms)
        known = self._sample.get(slow.reason)
        if known is None or _worth(slow) >= _worth(known):
            self._sample[slow.reason] = slow
        self._last = max(self._last, slow.time)

    def slow(self, comm: str, caller: str | None, count: int) -> Slow:
        sample = self._sample[max(self._ms, key=self._ms.__getitem__)]
        return replace(
            sample,
            time=self._last,
            comm=comm,
            caller=caller,
            count=count,
            total_ms=round(self._total_ms, 3),
            p50_ms=min(self._max_ms, round(self._times.percentile_ns(0.5) / 1e6, 3)),
            p99_ms=min(self._max_ms, round(self._times.percentile_ns(0.99) / 1e6, 3)),
            max_ms=self._max_ms,
            reasons=dict(self._reasons),
            times_ms=self._times.as_ms(),
            forks=None,
        )


class _Host:
    """What was seen of one host in one way."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str | None], _Row] = {}
        self._counts: Counter[tuple[str, str | None]] = Counter()
        self._forks: Forks | None = None
        self._commands: dict[str, dict[str, Any]] = {}

    def add_slow(self, slow: Slow) -> None:
        key = (slow.comm, slow.caller)
        if key not in self._rows and len(self._rows) >= MOST_GROUPS:
            key = OTHERS
        self._counts[key] += slow.count
        self._rows.setdefault(key, _Row()).add(slow)

    def add(self, forks: Forks) -> None:
        for command in forks.commands:
            self._add_command(command)
        before = self._forks
        if before is None:
            self._forks = forks
            return
        has_missed = before.missed is not None and forks.missed is not None
        self._forks = replace(
            forks,
            time=max(before.time, forks.time),
            duration_s=round(before.duration_s + forks.duration_s, 3),
            missed=(before.missed or 0) + (forks.missed or 0) if has_missed else None,
            # "none": no fork was slow by then.
            waits=forks.waits if before.waits == "none" else before.waits,
            **{name: getattr(before, name) + getattr(forks, name) for name in _SUMS},
        )

    def _add_command(self, command: dict[str, Any]) -> None:
        name = str(command.get("comm"))
        if name not in self._commands and len(self._commands) >= MOST_GROUPS:
            name = OTHERS[0]
        known = self._commands.setdefault(name, {"comm": name, **_NONE})
        for each in _NONE:
            value = command.get(each)
            if _is_number(value):
                known[each] = round(known[each] + value, 3)
        buckets = command.get("buckets")
        if isinstance(buckets, (list, tuple)) and all(map(_is_count, buckets)):
            sums = zip_longest(known.get("buckets", ()), buckets, fillvalue=0)
            known["buckets"] = [a + b for a, b in sums]
        known.setdefault("buckets", [])

    def records(self) -> tuple[list[Slow], Forks] | None:
        if self._forks is None:
            return None
        slow = [row.slow(*key, self._counts[key]) for key, row in self._rows.items()]
        slow.sort(key=lambda each: -each.total_ms)
        return slow, replace(self._forks, commands=tuple(self._commands.values()))


class Runs:
    """Adds up what `latency` and the recorder wrote."""

    def __init__(self) -> None:
        self._hosts: dict[tuple[str, str, str, float], _Host] = {}
        self._waiting: list[Slow] = []  # until their Forks says how they were seen

    def take(self, record: Record) -> None:
        """Take in one record, in the order of its file; others than these two are nothing to it."""
        if isinstance(record, Slow):
            self._waiting.append(record)
        if not isinstance(record, Forks):
            return
        key = (record.host, record.kernel, record.attach, record.over_ms)
        host = self._hosts.setdefault(key, _Host())
        for slow in self._waiting:
            host.add_slow(slow)
        self._waiting = []
        host.add(record)

    def __bool__(self) -> bool:
        return bool(self._hosts)

    def all(self) -> tuple[Slow | Forks, ...]:
        """Return the records of all hosts."""
        found: list[Slow | Forks] = []
        for slow, forks in self.records():
            found += [*slow, forks]
        return tuple(found)

    def records(self) -> Iterator[tuple[list[Slow], Forks]]:
        """Yield for each host its rows, the longest stall first, and what is known of all forks."""
        for (name, *_), host in self._hosts.items():
            # Of a recorder that was killed in between, the last ones have nothing after them.
            for slow in [each for each in self._waiting if each.host == name]:
                host.add_slow(slow)
                self._waiting.remove(slow)
            found = host.records()
            if found is not None:
                yield found


def _ns(ms: str) -> int | None:
    # A file is what somebody wrote.
    try:
        return round(float(ms) * 1e6)
    except (ValueError, OverflowError):
        return None


def _worth(slow: Slow) -> tuple[bool, bool, float]:
    return slow.holder is not None, slow.phases is not None, slow.sample_ms or 0.0


def _is_count(value: object) -> bool:
    return isinstance(value, int) and _is_number(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
