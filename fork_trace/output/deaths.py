"""Processes that the OOM killer ended, counted by where and why, and told in sentences. Pure.

What the causes mean and what helps is `diagnosis`'; deaths are counted apart from failed forks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import field
from typing import Any, NamedTuple

from fork_trace.diagnosis.causes.late import COPY_ON_WRITE, HOST, HUGE_PAGE_COPY, POOL
from fork_trace.escape import safe
from fork_trace.model.dataclass import dataclass
from fork_trace.model.places import path_of
from fork_trace.model.records import Advice, Death, Evidence, Level
from fork_trace.output.paragraph import Told
from fork_trace.output.times import span
from fork_trace.output.units import amount, count
from fork_trace.output.wording import Remedy, remedy

_MOST = 256  # places kept apart; the rest are their cause's others
_MOST_NAMES = 16  # commands that one place tells apart
_MOST_LINES = 10
_MOST_RELATIVES = 6
_OF_FORKS = frozenset({COPY_ON_WRITE.slug, HUGE_PAGE_COPY.slug})
_V1 = "/sys/fs/cgroup/memory/"


class Key(NamedTuple):
    """What tells one place from another."""

    cause: str
    host: str
    where: str | None  # of the limit that was hit; None: not known, or the place of all others
    comm: str | None


@dataclass
class Group:
    """The deaths of one place."""

    key: Key
    latest: Death
    count: int = 0
    certainties: Counter[str] = field(default_factory=Counter)


class Deaths:
    """All deaths so far."""

    name = "death_places"

    def __init__(self) -> None:
        self._groups: dict[Key, Group] = {}
        self.by_cause: Counter[str] = Counter()

    def add(self, death: Death) -> None:
        """Count one."""
        where = death.levels[0].where if death.levels else None
        key = Key(death.cause, death.host, where, death.comm)
        if key not in self._groups and len(self._groups) >= _MOST:
            key = key._replace(where=None, comm=None, host="")
        group = self._groups.setdefault(key, Group(key, death))
        group.count += 1
        group.certainties[death.certainty] += 1
        if death.time >= group.latest.time:
            group.latest = death
        self.by_cause[death.cause] += 1

    def is_failure(self) -> bool:
        """Say whether a fork is behind any of them."""
        return not _OF_FORKS.isdisjoint(self.by_cause)

    def groups(self) -> list[Group]:
        """Return the places: those with a fork behind them first, then most deaths first."""
        return sorted(
            self._groups.values(),
            key=lambda each: (each.key.cause not in _OF_FORKS, -each.count, str(each.key)),
        )

    def headline(self) -> str:
        """Say how many there were and of which cause; "": none."""
        if not self.by_cause:
            return ""
        causes = ", ".join(
            f"{number} by {safe(cause)}"
            for cause, number in sorted(self.by_cause.items(), key=lambda each: (-each[1], each[0]))
        )
        killed = count(sum(self.by_cause.values()), "process", "processes")
        worst = self.groups()[0]
        who = "SIGBUS" if set(self.by_cause) == {HUGE_PAGE_COPY.slug} else "the OOM killer"
        if who != "SIGBUS" and HUGE_PAGE_COPY.slug in self.by_cause:
            who += " or SIGBUS"
        return f"{who} ended {killed} ({causes}); worst: {_name(worst.latest)}" + (
            f" at {_limit(worst.latest.levels[0])}" if worst.latest.levels else ""
        )

    def told(self, names_host: bool = False) -> list[Told]:
        """Explain each cause: one with a fork behind it whole, the others in a line for each place."""
        by_cause: dict[str, list[Group]] = {}
        for group in self.groups():
            by_cause.setdefault(group.key.cause, []).append(group)
        return [_told(found, names_host) for found in by_cause.values()]

    def as_json(self) -> list[dict[str, Any]]:
        """Return the places with their counts, the latest death of each, and what to do."""
        return [
            {
                "cause": group.key.cause,
                "host": group.latest.host,
                "where": group.key.where,
                "comm": group.key.comm,
                "count": group.count,
                "certainties": dict(group.certainties),
                "latest": {"type": "death", **vars(group.latest)},
                "advice": [
                    {**vars(each), "commands": list(each.commands)}
                    for each in advice_of(group.latest)
                ],
            }
            for group in self.groups()
        ]


def advice_of(death: Death) -> tuple[Advice, ...]:
    """Return what to do about a death; it follows from the rest of the record."""
    from fork_trace.diagnosis.advice import About, advise  # not on the way to "Watching"

    pid = death.fork.parent_pid if death.fork else death.pid
    about = About(has_ended=None if death.fork else True)
    return advise(death.cause, evidence_of(death), death.uid, death.cgroup, pid, about)


def evidence_of(death: Death) -> tuple[Evidence, ...]:
    """Return the limit that was hit, as evidence of a failure has it; (): it is no cgroup's."""
    first = death.levels[0] if death.levels else None
    if first is None or not first.where.startswith("/") or first.where.startswith(POOL):
        return ()
    used, limit = (None if each is None else each >> 10 for each in (first.used, first.limit))
    return (Evidence(_setting(first), used, limit, "KiB", first.where, "kernel"),)


def _setting(level: Level) -> str:
    return "memory.limit_in_bytes" if level.where.startswith(_V1) else "memory.max"


def _told(found: list[Group], names_host: bool) -> Told:
    first, others = found[0], found[1:]
    cause = first.key.cause
    lines = tuple(Remedy(in_a_line(each, names_host)) for each in others[:_MOST_LINES])
    rest = others[_MOST_LINES:]
    more = ""
    if rest:
        killed = count(sum(each.count for each in rest), "death", "deaths")
        more = f"... and {count(len(rest), 'more place', 'more places')} with {killed}"
    if cause not in _OF_FORKS:
        return Told(f"{safe(cause)}: {in_a_line(first, names_host)}", (), (), lines, more)
    from fork_trace.diagnosis.advice import means

    facts = [in_a_line(first, names_host), *_facts(first.latest)]
    advice = tuple(map(remedy, advice_of(first.latest)))
    return Told(f"{safe(cause)}: {means(cause)}", tuple(facts), advice, lines, more)


def in_a_line(group: Group, names_host: bool = False) -> str:
    """Tell a place in a line: how often, who, where, at which limit."""
    death = group.latest
    how = ", ".join(f"{number} {safe(each)}" for each, number in group.certainties.most_common())
    how = f" ({how if len(group.certainties) > 1 else safe(death.certainty)})"
    text = f"{group.count} x killed{how if death.cause in _OF_FORKS else ''}: "
    text += _name(death) if group.key.comm is not None else "several commands"
    text += f"{', the last' if group.count > 1 else ''} at {safe(death.time[:19])}Z,"
    text += f" on {safe(death.host)}" if names_host else ""
    text += f" in cgroup {safe(death.cgroup)}" if death.cgroup is not None else ""
    text += f" at {_limit(death.levels[0])}" if death.levels else ""
    if death.cause not in _OF_FORKS:
        is_known = death.certainty == "observed"
        text += "; no fork is known to be behind it" if is_known else "; a fork may be behind it"
    return text


def _facts(death: Death) -> list[str]:
    """Return the sentences about the fork behind a death, and about the family that shares memory."""
    facts = []
    fork = death.fork
    if fork is not None:
        parent = f"{safe(fork.parent_comm or '?')}[{fork.parent_pid}]"
        age = "" if fork.age_s is None else f" {_age(fork.age_s)} before"
        by = f" from {safe(fork.caller)}" if fork.caller is not None else ""
        memory = (
            f"; anonymous memory: parent {_size(fork.parent_anon_bytes)}, child "
            f"{_size(fork.child_anon_bytes)}, of which at most {_size(fork.unshared_bytes_max)} "
            "was copied since"
        )
        facts.append(
            f"fork: {parent} forked [{fork.child_pid}]{age}{by}, which has executed no program "
            f"since{memory if death.cause == COPY_ON_WRITE.slug else ''}"
        )
    if death.allocator is not None:
        asked = death.allocator
        facts.append(f"memory was asked for by {safe(asked.comm)}[{asked.pid}], thread {asked.tid}")
    if death.certainty == "observed":
        pool_was_empty = "no huge page was free that was not reserved for another mapping"
        copying = "the kernel was copying a shared page when it killed"
        is_huge = death.cause == HUGE_PAGE_COPY.slug
        facts.append(f"observed: {pool_was_empty if is_huge else copying}")
    if death.thp is not None:
        facts.append(f"transparent huge pages: {safe(death.thp)}")
    alive = [
        f"{safe(each.comm)}[{each.pid}] ({safe(each.kind)}, {_size(each.anon_bytes)})"
        for each in death.relatives[:_MOST_RELATIVES]
    ]
    rest = len(death.relatives) - len(alive)
    if alive:
        facts.append(f"alive of the family: {', '.join(alive)}{f' and {rest} more' * bool(rest)}")
    return facts


def _age(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else span(seconds)


def _name(death: Death) -> str:
    return f"{safe(death.comm or '?')}[{'?' if death.pid is None else death.pid}]"


def _limit(level: Level) -> str:
    numbers = f"{_size(level.used)} of {_size(level.limit)}"
    if level.where.startswith(POOL):
        size = level.where[len(POOL) + 1 :]
        return f"huge pages of {safe(size)}, {numbers} in use or reserved"
    if level.where.startswith("/"):
        return f"{_setting(level)} {numbers} of cgroup {safe(path_of(level.where, None))}"
    confined = level.where[len(HOST) :] if level.where.startswith(HOST) else f" ({level.where})"
    return f"the host's memory{safe(confined)}, {numbers}"


def _size(value: int | None) -> str:
    return amount(None if value is None else value >> 10, "KiB")
