"""Failures counted by command and caller, or by whatever is asked for. Pure; holds no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import field

from fork_trace.diagnosis.evidence import is_at_limit
from fork_trace.model.dataclass import dataclass
from fork_trace.model.records import Evidence, Failure
from fork_trace.output import times
from fork_trace.output.columns import DEFAULT_BY
from fork_trace.output.completeness import Completeness
from fork_trace.output.incidents import Incidents
from fork_trace.output.place import Key, Place, Places, Remembered, first_of

# Rows: of a run that lasts for weeks there are ever more. What comes later is counted without its
# command, then without its user and place.
_MOST = 4096
_MOST_PARTS = 16  # places that one row tells apart
_OTHERS = frozenset({"command", "caller", "parent"})

_MINUTE_NS = 60 * 10**9


@dataclass
class Part:
    """What a row has of one place: how many failures, and the latest number that decided."""

    key: Key
    count: int = 0
    first: Evidence | None = None
    certainty: str = "inferred"
    time_ns: int = 0

    def is_told_better_by(self, first: Evidence, time_ns: int) -> bool:
        """Say whether a number is later, or the one that was compared where the known one is not."""
        if self.first is None or is_at_limit(first) != is_at_limit(self.first):
            return self.first is None or is_at_limit(first)
        return time_ns >= self.time_ns


@dataclass
class Row:
    """All failures that share the asked-for columns."""

    key: tuple[str | None, ...]
    count: int = 0
    errnos: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    first_ns: int = 0
    last_ns: int = 0
    latest: Failure | None = None
    sample: Failure | None = None  # the latest one that has a stack, an unwound one rather than not
    # The numbers of each place that its failures were refused at, as of the latest of them.
    parts: dict[Key, Part] = field(default_factory=dict)
    elsewhere: int = 0  # failures at places beyond those
    has_numbers: bool = False

    def at(self) -> tuple[Part | None, int]:
        """Return the part that has most failures and numbers, and how many places and causes it leaves out."""
        known = [part for part in self.parts.values() if part.first is not None]
        known.sort(key=lambda part: (-part.count, -part.time_ns, str(part.key)))
        explained = {part.key.cause for part in known}
        more = len(known) + len(self.causes.keys() - explained) + bool(self.elsewhere)
        return (known[0] if known else None), more - 1

    def _take_part(self, other: Part) -> None:
        part = self._part(other.key)
        part.count += other.count
        if other.first is not None and part.is_told_better_by(other.first, other.time_ns):
            part.first, part.certainty, part.time_ns = other.first, other.certainty, other.time_ns

    def _part(self, key: Key) -> Part:
        """Return what is known of a place; of too many the one of fewest failures is not told apart."""
        part = self.parts.get(key)
        if part is None:
            if len(self.parts) >= _MOST_PARTS:
                least = min(self.parts.values(), key=lambda each: each.count)
                self.elsewhere += self.parts.pop(least.key).count
            part = self.parts[key] = Part(key)
        return part

    def note(self, key: Key, failure: Failure, count: int) -> None:
        """Keep the numbers of a failure beside those of its place; `count` failures are so."""
        part = self._part(key)
        part.count += count
        first = first_of(failure)
        self.has_numbers = self.has_numbers or first is not None
        if first is not None and part.is_told_better_by(first, failure.time_ns):
            part.first, part.certainty, part.time_ns = first, failure.certainty, failure.time_ns

    def take_over(self, other: Row) -> None:
        """Count another row's failures with these."""
        self.count += other.count
        self.errnos.update(other.errnos)
        self.causes.update(other.causes)
        self.first_ns = min(self.first_ns, other.first_ns)
        if other.last_ns >= self.last_ns:
            self.last_ns, self.latest = other.last_ns, other.latest
        self.sample = self.sample or other.sample
        self.elsewhere += other.elsewhere
        self.has_numbers = self.has_numbers or other.has_numbers
        for part in other.parts.values():
            self._take_part(part)

    def per_second(self) -> float | None:
        """Return how many failed in a second, from the first to the last; None: not to be told."""
        span_ns = self.last_ns - self.first_ns
        return (self.count - 1) / span_ns * 1e9 if span_ns > 0 and self.count > 1 else None


def _container(failure: Failure) -> str | None:
    if not failure.container:
        return None
    told = failure.container.get
    pod = told("pod_name") or told("pod")
    if pod and told("name"):
        return f"{pod}/{told('name')}"
    if told("id") and told("user") is not None:
        return f"{told('id')} of user {told('user')}"  # who calls it as he likes
    for value in (pod, told("name"), told("id"), told("unit")):
        if value:
            return str(value)
    return None


_VALUES: dict[str, Callable[[Failure], str | None]] = {
    "command": lambda failure: failure.comm,
    "caller": lambda failure: failure.caller,
    "cause": lambda failure: failure.cause,
    "step": lambda failure: failure.step,
    "cgroup": lambda failure: failure.cgroup,
    "container": _container,
    "user": lambda failure: None if failure.uid is None else str(failure.uid),
    "parent": lambda failure: failure.parent_comm,
}


def column(failure: Failure, name: str, host: str | None) -> str | None:
    """Return the value of one column; None where it is not known."""
    return host if name == "host" else _VALUES[name](failure)


def _shows_better(failure: Failure, known: Failure) -> bool:
    if (failure.stack_by == "unwinding") != (known.stack_by == "unwinding"):
        return failure.stack_by == "unwinding"
    return failure.time_ns >= known.time_ns


class Table:
    """Counts failures by the asked-for columns."""

    def __init__(self, by: Sequence[str] = DEFAULT_BY) -> None:
        self.by = tuple(by)
        self._rows: dict[tuple[str | None, ...], Row] = {}
        self.failures = 0
        self.completeness = Completeness()
        self.incidents = Incidents()  # apart from the failures
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.causes: Counter[str] = Counter()
        self._places = Places()
        self._keys = Remembered(self._key)

    def _key(self, failure: Failure, host: str | None) -> tuple[str | None, ...]:
        return tuple(column(failure, name, host) for name in self.by)

    def key_of(self, key: tuple[str | None, ...]) -> tuple[str | None, ...]:
        """Return the key of the row that counts what has these values: its own, as long as there is room."""
        if len(self._rows) >= _MOST and key not in self._rows:
            key = tuple(None if name in _OTHERS else value for name, value in zip(self.by, key))
        if len(self._rows) >= 2 * _MOST and key not in self._rows:
            key = (None,) * len(self.by)
        return key

    def add(self, failure: Failure, host: str | None = None) -> tuple[str | None, ...]:
        """Count one record, as many failures as it stands for; return the key of its row."""
        key = self.key_of(self._keys.of(failure, host))
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = Row(key, first_ns=failure.time_ns)
        row.count += failure.count
        row.errnos[failure.errno or "?"] += failure.count
        row.causes[failure.cause] += failure.count
        row.first_ns = min(row.first_ns, failure.time_ns)
        if row.latest is None or failure.time_ns >= row.last_ns:
            row.latest = failure
        if failure.stack and (row.sample is None or _shows_better(failure, row.sample)):
            row.sample = failure
        row.last_ns = max(row.last_ns, failure.time_ns)
        self.failures += failure.count
        at_ns = failure.time_ns
        self.first_ns = at_ns if self.first_ns is None else min(self.first_ns, at_ns)
        self.last_ns = at_ns if self.last_ns is None else max(self.last_ns, at_ns)
        self.causes[failure.cause] += failure.count
        row.note(*self._places.add(failure, host), failure.count)
        return key

    def drop_first_column(self) -> None:
        """Group no more by the first column."""
        self.by = self.by[1:]
        self._keys = Remembered(self._key)
        rows, self._rows = self._rows, {}
        for key, row in rows.items():
            row.key = key[1:]
            known = self._rows.setdefault(row.key, row)
            if known is not row:
                known.take_over(row)

    def grouped(self, by: Sequence[str]) -> Table:
        """Return the same failures by fewer of these columns, to be looked at and not added to."""
        other = Table(by)
        for name in ("failures", "completeness", "first_ns", "last_ns", "causes", "_places"):
            setattr(other, name, getattr(self, name))
        at = [self.by.index(name) for name in by]
        for row in self._rows.values():
            key = tuple(row.key[n] for n in at)
            known = other._rows.get(key)
            if known is None:
                known = other._rows[key] = Row(key, first_ns=row.first_ns)
            known.take_over(row)
        return other

    def spans_days(self) -> bool:
        """Say whether a time of day alone would not tell when something failed."""
        if self.first_ns is None or self.last_ns is None:
            return False
        return times.day(self.first_ns) != times.day(self.last_ns)

    def when(self, time_ns: int) -> str:
        """Say when something was, after a comma; "": all was within a minute, and that is told."""
        if self.first_ns is None or self.last_ns is None:
            return ""
        is_short = self.last_ns - self.first_ns < _MINUTE_NS
        return "" if is_short else f", {times.clock(time_ns, self.spans_days())}"

    def look_again(self, has_ended: Callable[[int], bool | None]) -> None:
        """Tell of a process that has ended since its record; `has_ended`: None where that is not known."""
        for place in self._places.all():
            place.has_ended = has_ended

    def places(self) -> list[Place]:
        """Return where failures were refused: cause, limit, where that is, and host; most first."""
        return self._places.all()

    def by_cause(self) -> dict[str, list[Place]]:
        """Return the places of each cause, that of most failures first, and so the causes."""
        found: dict[str, list[Place]] = {}
        for each in self.places():
            found.setdefault(each.key.cause, []).append(each)
        return found

    def rows(self) -> list[Row]:
        """Return the rows, most failures first; of as many those with numbers, in the order of their columns."""
        return sorted(
            self._rows.values(),
            key=lambda row: (
                -row.count,
                not row.has_numbers,
                [value or "" for value in row.key],
            ),
        )
