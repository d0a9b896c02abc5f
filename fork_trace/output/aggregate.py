"""Failures counted by command and caller, or by whatever is asked for. Pure; holds no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from fork_trace.errors import ForkTraceError
from fork_trace.model.records import Failure
from fork_trace.output.completeness import Completeness

DEFAULT_BY: tuple[str, ...] = ("command", "caller", "cause")

# Rows, and commands in their cgroups: of a run that lasts for weeks there are ever more. What comes
# later is counted without its command, then without its user and place.
_MOST = 4096
_OTHERS = frozenset({"command", "caller", "parent"})

# What `--by` takes; host tells apart when files of several hosts are merged.
COLUMNS: tuple[str, ...] = (
    "command",
    "caller",
    "cause",
    "step",
    "cgroup",
    "container",
    "user",
    "parent",
    "host",
)


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

    def take_over(self, other: Row) -> None:
        """Count another row's failures with these."""
        self.count += other.count
        self.errnos.update(other.errnos)
        self.causes.update(other.causes)
        self.first_ns = min(self.first_ns, other.first_ns)
        if other.last_ns >= self.last_ns:
            self.last_ns, self.latest = other.last_ns, other.latest
        self.sample = self.sample or other.sample

    def per_second(self) -> float | None:
        """Return how many failed in a second, from the first to the last; None: not to be told."""
        span_ns = self.last_ns - self.first_ns
        return (self.count - 1) / span_ns * 1e9 if span_ns > 0 and self.count > 1 else None


@dataclass
class Group:
    """All failures of one cause on one host, or of one command in one cgroup among them."""

    count: int
    latest: Failure  # a whole sample rather than a later one without evidence


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


def _speaks_better(failure: Failure, known: Failure) -> bool:
    if not failure.evidence:
        return False
    if bool(failure.holders) != bool(known.holders):
        return bool(failure.holders)
    return failure.time_ns >= known.time_ns


def _shows_better(failure: Failure, known: Failure) -> bool:
    if (failure.stack_by == "unwinding") != (known.stack_by == "unwinding"):
        return failure.stack_by == "unwinding"
    return failure.time_ns >= known.time_ns


_Key = TypeVar("_Key")


def _group(groups: dict[_Key, Group], key: _Key, failure: Failure, is_thin: bool = False) -> None:
    group = groups.get(key)
    if group is None:
        thin = replace(failure, stack=()) if is_thin and failure.stack else failure
        groups[key] = Group(failure.count, thin)
        return
    group.count += failure.count
    if _speaks_better(failure, group.latest):
        group.latest = replace(failure, stack=()) if is_thin and failure.stack else failure


class Table:
    """Counts failures by the asked-for columns."""

    def __init__(self, by: Sequence[str] = DEFAULT_BY) -> None:
        self.by = tuple(by)
        self._rows: dict[tuple[str | None, ...], Row] = {}
        self.failures = 0
        self.completeness = Completeness()
        self.causes: Counter[str] = Counter()
        # The latest whole sample of each speaks for all: its evidence and advice. Whoever holds
        # the pool is read seldom, so a sample that names them stands for later ones.
        self._on: dict[str, dict[str | None, Group]] = {}  # by cause and host
        # And by command and cgroup; of several commands, by their user.
        self._in: dict[str, dict[tuple[str | int | None, ...], Group]] = {}

    def add(self, failure: Failure, host: str | None = None) -> None:
        """Count one record: as many failures as it stands for."""
        key = tuple(column(failure, name, host) for name in self.by)
        if len(self._rows) >= _MOST and key not in self._rows:
            key = tuple(None if name in _OTHERS else value for name, value in zip(self.by, key))
        if len(self._rows) >= 2 * _MOST and key not in self._rows:
            key = (None,) * len(self.by)
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
        self.causes[failure.cause] += failure.count
        _group(self._on.setdefault(failure.cause, {}), host, failure)
        whose: tuple[str | int | None, ...] = (
            *(host, failure.comm, failure.cgroup),
            failure.uid if failure.comm is None else None,
        )
        found = self._in.setdefault(failure.cause, {})
        if len(found) >= _MOST and whose not in found:
            whose = (host, None, None, None)
        # Of these there are ever more, and nobody looks at their stacks.
        _group(found, whose, failure, is_thin=True)

    def drop_first_column(self) -> None:
        """Group no more by the first column."""
        self.by = self.by[1:]
        rows, self._rows = self._rows, {}
        for key, row in rows.items():
            row.key = key[1:]
            known = self._rows.setdefault(row.key, row)
            if known is not row:
                known.take_over(row)

    def hosts(self, cause: str) -> list[tuple[str | None, Group]]:
        """Return the hosts that a cause was seen on, most failures first."""
        found = self._on[cause].items()
        return sorted(found, key=lambda item: (-item[1].count, item[0] or ""))

    def worst(self) -> tuple[str | None, Group]:
        """Return host and failures of the command and cgroup that the worst cause hit most."""
        cause = self.causes.most_common(1)[0][0]
        found = self._in[cause].items()
        key, group = max(found, key=lambda item: item[1].count)
        return None if key[0] is None else str(key[0]), group

    def others(self, cause: str) -> list[Group]:
        """Return what was counted without its command, by user and cgroup, most failures first."""
        found = (group for key, group in self._in[cause].items() if key[1] is None)
        return sorted(found, key=lambda group: -group.count)

    def rows(self) -> list[Row]:
        """Return the rows, most failures first; of as many those with numbers, in the order of their columns."""
        return sorted(
            self._rows.values(),
            key=lambda row: (
                -row.count,
                row.latest is None or not row.latest.evidence,
                [value or "" for value in row.key],
            ),
        )


def parse_by(text: str) -> tuple[str, ...]:
    """Read a `--by` list; ForkTraceError names a column that does not exist."""
    names: list[str] = []
    for name in (part.strip() for part in text.split(",")):
        if name not in COLUMNS:
            raise ForkTraceError(
                f"--by has no column {name!r}",
                f"Give a comma-separated list of: {', '.join(COLUMNS)}.",
            )
        if name not in names:
            names.append(name)
    return tuple(names)
