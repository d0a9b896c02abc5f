"""Failures counted by place: the cause, the limit that decided, where that stands, and the host.

One at a time, in bounded memory: of a run that lasts for weeks there are ever more places. Pure; holds
no clock. What a place is told as is `telling`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import field, replace
from typing import Any, Generic, NamedTuple, Optional, TypeVar

from fork_trace.diagnosis.evidence import is_at_limit
from fork_trace.model import places
from fork_trace.model.dataclass import dataclass
from fork_trace.model.records import Evidence, Failure

# Places kept apart; then those of fewest failures become their cause's others.
MOST = 512
# Processes of one command and cgroup that are places of their own, where a limit is each process's.
_MOST_PROCESSES = 32
# Commands, limits and steps that one place tells apart.
_MOST_NAMES = 64
# Callers of whom it is remembered where theirs were refused, and those of no known place.
_MOST_CALLERS = 1024
# In `Evidence.where`, what is a process's own; RAM and swap are the host's, but one process asks.
_PROCESS = ("process", "caller", "RAM and swap")
# Units of what is no number: a rule of the arguments, or why nothing was read.
_NO_NUMBER = ("rule", "not read")
# Rules of which there are many by one name.
_ARGUMENTS = ("flags", "arguments")
OTHERS = "other places"

_MOST_ALIKE = 4096
_T = TypeVar("_T")

_Caller = tuple[Optional[str], Optional[str], Optional[int]]  # command, cgroup and user


class Key(NamedTuple):
    """What tells one place from another; what is not known is None."""

    cause: str
    host: str | None
    limit: str | None  # name of the limit that decided
    kind: str  # of `where`: "cgroup", "user", "pid namespace", "process", "rule", "host", "others" or ""
    where: str | None  # as a person reads it
    pid: int | None = None  # of a process


class How(NamedTuple):
    """How a cause is known."""

    certainty: str
    step: str
    function: str | None
    possible_steps: tuple[str, ...]  # where only that it was one of them is known


@dataclass
class Place:
    """All failures of one place."""

    key: Key
    first_ns: int
    last_ns: int
    latest: Failure
    count: int = 0
    errnos: Counter[str] = field(default_factory=Counter)
    commands: Counter[str | None] = field(default_factory=Counter)
    found: Counter[How] = field(default_factory=Counter)
    limits: Counter[int] = field(default_factory=Counter)  # of the deciding one, where they differ
    sample: Failure | None = None  # the latest with evidence
    held: Failure | None = None  # the latest that names who holds the pool
    # Says of a pid whether that process has ended by now, or None: it may have. None: as it was recorded.
    has_ended: Callable[[int], bool | None] | None = None

    @property
    def told(self) -> Failure:
        """The failure whose numbers and advice speak for the place."""
        return self.sample or self.latest

    def add(self, failure: Failure) -> None:
        """Count one record: as many failures as it stands for."""
        number = failure.count
        self.count += number
        _count(self.errnos, failure.errno or "?", number)
        _count(self.commands, failure.comm, number)
        steps = tuple(failure.possible_steps)
        how = How(failure.certainty, failure.step, failure.function, steps)
        _count(self.found, how, number)
        first = failure.evidence[0] if failure.evidence else None
        if first is not None and first.limit is not None:
            _count(self.limits, first.limit, number)
        self._see(failure, failure.time_ns, failure.time_ns)
        if failure.evidence:
            self.sample = _telling(self.sample, failure)
        if failure.holders and (self.held is None or failure.time_ns >= self.held.time_ns):
            self.held = failure

    def take_over(self, other: Place) -> None:
        """Count the failures of another place with these."""
        self.count += other.count
        for kind in ("errnos", "commands", "found", "limits"):
            for name, number in getattr(other, kind).items():
                _count(getattr(self, kind), name, number)
        self._see(other.latest, other.first_ns, other.last_ns)
        self.sample = _telling(self.sample, other.sample)
        self.held = _later(self.held, other.held)

    def _see(self, failure: Failure, first_ns: int, last_ns: int) -> None:
        self.first_ns = min(self.first_ns, first_ns)
        if last_ns >= self.last_ns:
            self.last_ns, self.latest = last_ns, failure

    def copy(self) -> Place:
        """Return one that can take others over without this one being changed."""
        return replace(
            self,
            errnos=Counter(self.errnos),
            commands=Counter(self.commands),
            found=Counter(self.found),
            limits=Counter(self.limits),
        )


def _count(counter: Counter[Any], name: Any, number: int) -> None:
    # What finds no room is in the place's count all the same.
    if name in counter or len(counter) < _MOST_NAMES:
        counter[name] += number


def _later(one: Failure | None, other: Failure | None) -> Failure | None:
    if one is None or other is None:
        return one or other
    return other if other.time_ns >= one.time_ns else one


def _telling(one: Failure | None, other: Failure | None) -> Failure | None:
    """Choose the sample that speaks for both: the later one, but rather one with the number that was compared."""
    if one is None or other is None:
        return one or other
    if one.evidence is other.evidence:
        return _later(one, other)  # as most of a storm are
    is_one, is_other = is_at_limit(one.evidence[0]), is_at_limit(other.evidence[0])
    return _later(one, other) if is_one == is_other else one if is_one else other


def where_of(failure: Failure) -> tuple[str, str | None, int | None]:
    """Say where the deciding limit stands: the kind, its name for a person, and the pid of a process.

    Without evidence it is the caller's cgroup, which seccomp filters and security modules go by.
    """
    first = failure.evidence[0] if failure.evidence else None
    if first is None:
        named = None if failure.cgroup is None else f"cgroup {failure.cgroup}"
        if failure.comm is None and failure.uid is not None:
            # Of several commands: whose they are is what tells them apart.
            named = f"uid {failure.uid}" + (f", {named}" if named else "")
        return "", named, None
    where = first.where
    if where.startswith("/"):
        return "cgroup", f"cgroup {places.path_of(where, failure.cgroup)}", None
    if where.startswith("cgroup id "):
        return "cgroup", where, None
    if where.startswith("uid "):
        return "user", where, None
    if where.startswith("pid namespace "):
        return "pid namespace", where.partition(",")[0], None
    if first.unit == "rule":
        # Whoever runs the same program breaks the same rule: each process is no place of its own.
        return "rule", failure.comm or "?", None
    if first.unit in _NO_NUMBER or any(word in where for word in _PROCESS):
        pid = "?" if failure.pid is None else failure.pid
        return "process", f"{failure.comm or '?'}[{pid}]", failure.pid
    return "host", "the whole host", None


def key_of(failure: Failure, host: str | None) -> Key:
    """Return the place of a failure."""
    first = failure.evidence[0] if failure.evidence else None
    kind, where, pid = where_of(failure)
    limit = first.name if first else None
    if first is not None and first.name in _ARGUMENTS:
        limit = f"{first.name}: {first.where}"  # which of them is broken
    return Key(failure.cause, host, limit, kind, where, pid)


class Remembered(Generic[_T]):
    """What follows from a failure and its host, but for when it was, how often, and its pid."""

    def __init__(self, find: Callable[[Failure, str | None], _T]) -> None:
        self._find = find
        self._known: dict[tuple[object, str | None], _T] = {}

    def of(self, failure: Failure, host: str | None) -> _T:
        """Return it; of one that is `alike` an earlier one without looking again."""
        alike = getattr(failure, "alike", None)
        if alike is None:
            return self._find(failure, host)
        found = self._known.get((alike, host))
        if found is None:
            if len(self._known) >= _MOST_ALIKE:
                self._known.clear()
            found = self._known[alike, host] = self._find(failure, host)
        return found


class Places:
    """The places of all failures so far."""

    def __init__(self) -> None:
        self._keys = Remembered(key_of)
        self._placed: dict[Key, Place] = {}
        # Those without a number: counted but not sampled, or of a cause that has none.
        self._unplaced: dict[tuple[str, str | None, _Caller], Place] = {}
        # Cause, host and caller -> the place of theirs; None: they have more than one.
        self._of_callers: dict[tuple[str, str | None, _Caller], Key | None] = {}
        self._sorted: list[Place] | None = None  # as of the last failure
        self._processes: Counter[tuple[Key, str | None, str | None]] = Counter()

    def add(self, failure: Failure, host: str | None) -> tuple[Key, Failure]:
        """Count one record; return its place, as far as it is known by now, and the sample to show for it."""
        self._sorted = None
        # Nobody looks at their stacks here, and of these there are ever more.
        thin = replace(failure, stack=()) if failure.stack else failure
        key = self._keys.of(thin, host)
        if key.pid is not None:
            key = key_of(thin, host)  # its own
        caller = (failure.comm, failure.cgroup, failure.uid)
        if not thin.evidence:
            whose = (failure.cause, host, caller)
            if whose not in self._unplaced and len(self._unplaced) >= _MOST_CALLERS:
                whose = (failure.cause, host, (None, None, None))
                key = key._replace(where=None)
            _add(self._unplaced, whose, key, thin)
            known = self._of_callers.get(whose)
            sample = self._placed[known].sample if known in self._placed else None
            return (known, sample) if known is not None and sample is not None else (key, thin)
        if key.kind == "process":
            key = self._process(key, thin)
        for name in (failure.comm, None):
            self._remember((failure.cause, host, (name, *caller[1:])), key)
        _add(self._placed, key, key, thin)
        if len(self._placed) > MOST:
            self._fold()
        return key, thin

    def _process(self, key: Key, failure: Failure) -> Key:
        """Return a process's own place; of a command with very many of them, that of the others."""
        if key in self._placed:
            return key
        others = key._replace(where=f"{failure.comm or '?'}, other processes", pid=None)
        kin = (others, failure.comm, failure.cgroup)
        if self._processes[kin] >= _MOST_PROCESSES or len(self._processes) > _MOST_CALLERS:
            return others
        self._processes[kin] += 1
        return key

    def _remember(self, whose: tuple[str, str | None, _Caller], key: Key) -> None:
        known = self._of_callers.get(whose, key)
        if whose in self._of_callers or len(self._of_callers) < 2 * _MOST_CALLERS:
            self._of_callers[whose] = key if known == key else None

    def _fold(self) -> None:
        """Count those of fewest failures with their cause's others."""
        order = sorted(
            (key for key in self._placed if key.kind != "others"),
            key=lambda key: self._placed[key].count,
        )
        for key in order[: len(self._placed) - MOST // 2]:
            place = self._placed.pop(key)
            others = key._replace(kind="others", where=OTHERS, pid=None)
            _take_over(self._placed, others, place)

    def _merged(self) -> dict[Key, Place]:
        """Put what was not sampled where its caller's samples were refused, if that is one place."""
        found = dict(self._placed)
        own: set[Key] = set()  # made here: the others must not be changed by looking at them
        for whose, place in self._unplaced.items():
            key = self._of_callers.get(whose)
            if key is None or key not in self._placed:
                # Of several places, or of none: whose they are is all that is known.
                key = place.key
            known = found.get(key)
            if known is None:
                found[key] = place
                continue
            if key not in own:
                own.add(key)
                known = found[key] = known.copy()
            known.take_over(place)
        return found

    def all(self) -> list[Place]:
        """Return the places, most failures first."""
        if self._sorted is None:
            found = self._merged().values()
            self._sorted = sorted(
                found, key=lambda each: (-each.count, -each.last_ns, _name(each.key))
            )
        return self._sorted

    def __iter__(self) -> Iterator[Place]:
        return iter(self.all())


def _name(key: Key) -> tuple[str, ...]:
    return tuple(str(each) for each in key)


def _add(found: dict[Any, Place], name: Any, key: Key, failure: Failure) -> None:
    place = found.get(name)
    if place is None:
        place = found[name] = Place(key, failure.time_ns, failure.time_ns, failure)
    place.add(failure)


def _take_over(found: dict[Key, Place], key: Key, other: Place) -> None:
    place = found.get(key)
    if place is None:
        found[key] = replace(other.copy(), key=key)
    else:
        place.take_over(other)


def first_of(failure: Failure | None) -> Evidence | None:
    """Return the number that decided; None: there is none."""
    return failure.evidence[0] if failure is not None and failure.evidence else None
