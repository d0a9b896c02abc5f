"""The metrics of a recorder: what they are called, and how many series there can be. Pure but for a clock given.

Each cause and errno is there from the beginning, at 0, so that the first failure is an increase.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from fork_trace.diagnosis.causes import CAUSES, late
from fork_trace.diagnosis.causes.state import UNKNOWN
from fork_trace.diagnosis.slow import REASONS
from fork_trace.model.records import Death, Failure, Header, Incident
from fork_trace.output.exposition import Buckets, Family, label
from fork_trace.output.place import where_of
from fork_trace.serve.owners import Owner, Owners, owner_of

_MOST_LIMITS = 50
_LIMIT_S = 600.0  # a limit that has refused nothing for so long may be anywhere
OTHER, NO_ERRNO = "other", "unknown"
# What a process dies of later is no failed fork.
DEATHS = (late.COPY_ON_WRITE.slug, late.MEMORY_CGROUP_OOM.slug, late.HOST_OOM.slug)
SLUGS = tuple(cause.slug for cause in CAUSES if cause.slug not in DEATHS)
_ANY = tuple(dict.fromkeys(name for cause in CAUSES for name in cause.errnos))
# Cause -> errnos that have a series; a seccomp filter returns any of 4095.
ERRNOS = {
    cause.slug: (
        *(cause.errnos or _ANY),
        OTHER,
        *((NO_ERRNO,) if cause.slug == UNKNOWN.slug else ()),
    )
    for cause in CAUSES
    if cause.slug in SLUGS
}


# Of the histogram: powers of two, from 33 microseconds to 34 seconds, each of which is a bound of the kernel's.
_FIRST_BOUND, _LAST_BOUND = 15, 35


# How many forks took less than 2 ** (n + 1) ns and no less than half of that, for each n; all of their time in ns.
Timing = tuple[Sequence[int], int]


class Watch(NamedTuple):
    """What the watching itself is like at a moment."""

    header: Header
    lost: int  # samples
    missed: int | None  # calls; None: this kernel does not count them
    is_over: bool = False


class _Limit(NamedTuple):
    used: int
    limit: int
    seen_at_s: float


class Metrics:
    """Counts failures, and tells what was counted as metrics."""

    def __init__(self) -> None:
        self._counts = Counter({(slug, name): 0 for slug in SLUGS for name in ERRNOS[slug]})
        self._deaths = Counter(dict.fromkeys(DEATHS, 0))
        self._owners = Owners()
        self._last_ns: dict[str, int] = {}  # by cause
        self._limits: dict[tuple[str, str], _Limit] = {}  # by cause and where, latest last
        self._slow = Counter(dict.fromkeys((each.slug for each in REASONS), 0))
        self._slow_s: dict[str, float] = dict.fromkeys(self._slow, 0.0)

    def add(self, failures: Sequence[Failure], now_s: float) -> None:
        """Count records: each stands for so many failures."""
        for failure in failures:
            cause = failure.cause if failure.cause in ERRNOS else UNKNOWN.slug
            name = NO_ERRNO if failure.errno is None else failure.errno
            name = name if name in ERRNOS[cause] else OTHER
            self._counts[cause, name] += failure.count
            owner = owner_of(failure)._replace(cause=cause)
            self._owners.add(owner, failure.count, now_s)
            self._last_ns[cause] = failure.time_ns
            self._note_limit(cause, failure, now_s)
        self._owners.tend(now_s)

    def add_incidents(self, incidents: Sequence[Incident]) -> None:
        """Count deaths."""
        for incident in incidents:
            if isinstance(incident, Death) and incident.cause in self._deaths:
                self._deaths[incident.cause] += 1

    def add_slow(self, forks: Sequence[tuple[str, float]]) -> None:
        """Count forks that took long: why, and how many seconds."""
        for reason, taken_s in forks:
            self._slow[reason] += 1
            self._slow_s[reason] += taken_s

    def _note_limit(self, cause: str, failure: Failure, now_s: float) -> None:
        first = failure.evidence[0] if failure.evidence else None
        if first is None or first.value is None or first.limit is None:
            return
        kind, where, _ = where_of(failure)
        if kind == "process":
            where = failure.comm  # not by its number: each new process would be a series
        key = (cause, label(where or ""))
        self._limits.pop(key, None)
        if len(self._limits) >= _MOST_LIMITS:
            del self._limits[next(iter(self._limits))]
        factor = 1024 if first.unit == "KiB" else 1
        self._limits[key] = _Limit(first.value * factor, first.limit * factor, now_s)

    def families(
        self, watch: Watch, now_s: float, timing: Timing | None = None
    ) -> Iterator[Family]:
        """Return all metrics; those of how long forks take where that is watched."""
        yield Family(
            "counter",
            "fork_trace_failures",
            "Forks and threads that failed since the recorder started.",
            ("cause", "errno"),
            list(self._counts.items()),
        )
        yield Family(
            "counter",
            "fork_trace_failures_by_owner",
            "The same by who failed: those who fail most, and (other).",
            Owner._fields,
            list(self._owners.counts(SLUGS)),
        )
        yield Family(
            "gauge",
            "fork_trace_last_failure_timestamp_seconds",
            "When the last one failed.",
            ("cause",),
            [((cause,), time_ns / 1e9) for cause, time_ns in sorted(self._last_ns.items())],
        )
        yield Family(
            "counter",
            "fork_trace_deaths",
            "Processes that the OOM killer ended; a fork is behind those of copy-on-write.",
            ("cause",),
            [((cause,), count) for cause, count in self._deaths.items()],
        )
        yield from self._full(now_s)
        if timing is not None:
            yield from self._timed(timing)
        yield from _watching(watch)

    def _timed(self, timing: Timing) -> Iterator[Family]:
        buckets, total_ns = timing
        bounds = range(_FIRST_BOUND, _LAST_BOUND + 1)
        up_to = [(repr(2.0**bound / 1e9), float(sum(buckets[:bound]))) for bound in bounds]
        up_to.append(("+Inf", float(sum(buckets))))
        yield Family(
            "histogram",
            "fork_trace_fork_duration_seconds",
            "How long forks took that succeeded or failed.",
            (),
            [((), Buckets(up_to, total_ns / 1e9))],
        )
        yield Family(
            "counter",
            "fork_trace_slow_forks",
            "Forks that took as long as --over or longer, by what took most of the time.",
            ("reason",),
            [((reason,), count) for reason, count in self._slow.items()],
        )
        yield Family(
            "counter",
            "fork_trace_slow_forks_seconds",
            "How long these took together.",
            ("reason",),
            [((reason,), total_s) for reason, total_s in self._slow_s.items()],
        )

    def _full(self, now_s: float) -> Iterator[Family]:
        for key in [key for key, each in self._limits.items() if now_s - each.seen_at_s > _LIMIT_S]:
            del self._limits[key]
        numbers = (
            ("used", "Used of a limit as it last refused a fork (bytes of memory)."),
            ("max", "That limit (bytes of memory)."),
        )
        for place, (suffix, what) in enumerate(numbers):
            samples = [(key, float(each[place])) for key, each in self._limits.items()]
            yield Family("gauge", f"fork_trace_limit_{suffix}", what, ("cause", "where"), samples)


def _watching(watch: Watch) -> Iterator[Family]:
    yield Family(
        "counter",
        "fork_trace_samples_lost",
        "Samples lost since a buffer was full; their failures are counted all the same.",
        (),
        [((), watch.lost)],
    )
    if watch.missed is not None:
        what = "Calls that no program saw; a failure among them is not counted."
        yield Family("counter", "fork_trace_missed_calls", what, (), [((), watch.missed)])
    attached = {_step(each): 0 for each in watch.header.missing}
    for each in watch.header.attached:
        attached[_step(each)] = int(not watch.is_over)
    yield Family(
        "gauge",
        "fork_trace_probe_attached",
        "1: the step is watched, now or as soon as a fork has failed; 0: not on this host.",
        ("step",),
        [((label(step),), number) for step, number in sorted(attached.items())],
    )
    tool = watch.header.tool.rpartition(" ")[2]
    yield Family(
        "gauge",
        "fork_trace_build_info",
        "The version that runs, and how it is attached.",
        ("version", "attach"),
        [((tool, watch.header.attach), 1)],
    )


def _step(probe: Mapping[str, object]) -> str:
    # The system calls' tracepoints are of no step.
    return str(probe["step"] or probe["function"])
