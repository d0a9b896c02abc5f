"""Slow forks by command and caller: each `Seen` in, records out. Bounded, however many there are."""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from fork_trace.collect.slow import Seen
from fork_trace.diagnosis.slow import BY_SLUG, UNKNOWN, Judged, judge
from fork_trace.diagnosis.verdict import INFERRED, OBSERVED
from fork_trace.latency.times import MOST_GROUPS, OTHERS, Times
from fork_trace.model import events
from fork_trace.model.latency import WAITS, SlowFork
from fork_trace.model.records import Evidence, Slow

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_LEAST_COPIED_NS = 1_000_000
_CLONE_VM, _FLAGS_UNKNOWN = 0x100, 1 << 63  # include/uapi/linux/sched.h; bpf/wire.h


def _ms(ns: float) -> float:
    return round(ns / 1e6, 3)


def _worth(fork: SlowFork) -> tuple[bool, bool, bool, int]:
    """Order forks by how much one of them tells: of those of which most is known, the slowest."""
    return fork.holder is not None, bool(fork.phases), fork.cpu_ns is not None, fork.total_ns


class _Group:
    """The slow forks of one command and caller."""

    def __init__(self) -> None:
        self.times = Times()
        # Reason -> time and number of the forks that were slow for it; of these, the one that is told.
        self.reasons: dict[str, Times] = {}
        self.observed_ns: Counter[str] = Counter()
        self.sample: dict[str, Seen] = {}
        self.last = ""

    def add(self, seen: Seen, judged: Judged) -> None:
        ns, slug = seen.fork.total_ns, judged.reason.slug
        self.times.add(ns)
        self.last = max(self.last, seen.time)
        times = self.reasons.setdefault(slug, Times())
        if slug not in self.sample or _worth(seen.fork) >= _worth(self.sample[slug].fork):
            self.sample[slug] = seen
        times.add(ns)
        self.observed_ns[slug] += ns if judged.certainty == OBSERVED else 0

    def reason(self) -> tuple[str, str | None]:
        """Return what took most of the time, and how sure that is."""
        slug = max(self.reasons, key=lambda each: self.reasons[each].total_ns)
        if slug == UNKNOWN.slug:
            return slug, None
        is_observed = self.observed_ns[slug] * 2 >= self.reasons[slug].total_ns
        return slug, OBSERVED if is_observed else INFERRED


class Account:
    """The slow forks of a run."""

    def __init__(self, host: str, over_ms: float, most_groups: int = MOST_GROUPS) -> None:
        self._host, self._over_ms, self._most_groups = host, over_ms, most_groups
        self._groups: dict[tuple[str, str | None], _Group] = {}
        self.count = 0

    def add(self, seen: Seen) -> str:
        """Take in one slow fork; return why it took long."""
        self.count += 1
        key = (seen.fork.event.key.comm, seen.caller)
        if key not in self._groups and len(self._groups) >= self._most_groups:
            key = OTHERS
        judged = judge(seen.fork, _PAGE_BYTES)
        self._groups.setdefault(key, _Group()).add(seen, judged)
        return judged.reason.slug

    def records(self, forks: Mapping[str, int]) -> list[Slow]:
        """Return a record for each command and caller, the longest stall first; `forks` are all of a command."""
        made = [
            self._record(comm, caller, group, forks.get(comm))
            for (comm, caller), group in self._groups.items()
        ]
        return sorted(made, key=lambda each: -each.total_ms)

    def _record(self, comm: str, caller: str | None, group: _Group, forks: int | None) -> Slow:
        slug, certainty = group.reason()
        seen = group.sample[slug]
        fork = seen.fork
        times = group.times
        return Slow(
            time=group.last,
            host=self._host,
            comm=comm,
            pid=fork.event.pid,
            caller=caller,
            count=times.count,
            total_ms=_ms(times.total_ns),
            p50_ms=_ms(times.percentile_ns(0.5)),
            p99_ms=_ms(times.percentile_ns(0.99)),
            max_ms=_ms(times.max_ns),
            phases={name: _ms(ns) for name, ns in fork.phases.items()} or None,
            reason=slug,
            certainty=certainty,
            evidence=tuple(evidence(fork)),
            over_ms=self._over_ms,
            sample_ms=_ms(fork.total_ns),
            reasons={name: each.count for name, each in sorted(group.reasons.items())},
            times_ms=times.as_ms(),
            holder=_holder(fork),
            forks=forks,
            exe=seen.exe,
            uid=fork.event.key.uid,
            cgroup=seen.cgroup,
            syscall=fork.event.key.syscall,
            flags=events.flag_names(fork.event.flags),
            stack=seen.stack,
            advice=tuple(
                replace(each, commands=tuple(_filled(text, seen) for text in each.commands))
                for each in BY_SLUG[slug].advice
            ),
        )


def _filled(command: str, seen: Seen) -> str:
    command = command.replace("/proc/PID/", f"/proc/{seen.fork.event.pid}/")
    path = seen.cgroup
    if path is None or not path.startswith("/") or shlex.quote(path) != path:
        return command  # a name that a shell would not take as it stands
    units = [each for each in path.split("/") if each.endswith((".service", ".scope"))]
    command = command.replace(" UNIT ", f" {units[-1]} ") if units else command
    return command.replace("/sys/fs/cgroup/PATH/", f"/sys/fs/cgroup{path.rstrip('/')}/")


def _holder(fork: SlowFork) -> dict[str, object] | None:
    if fork.holder is None:
        return None
    return {**fork.holder._asdict(), "of": fork.held}


def copied_bytes(fork: SlowFork) -> int | None:
    """Return how much memory fork had to copy the page tables of; None: not known."""
    pages = [fork.sizes.get(name) for name in ("anon", "swap")]
    return None if None in pages else sum(each or 0 for each in pages) * _PAGE_BYTES


def evidence(fork: SlowFork) -> Iterable[Evidence]:
    """Yield the numbers of one slow fork."""
    where = f"process {fork.event.pid}"
    pages = {name: fork.sizes.get(name) for name in ("file", "anon", "shmem", "swap", "virtual")}
    kib = {
        name: None if value is None else value * _PAGE_BYTES // 1024
        for name, value in pages.items()
    }
    tables = fork.sizes.get("pgtables")
    parts = [kib[name] for name in ("file", "anon", "shmem")]
    rss = None if None in parts else sum(each or 0 for each in parts)
    told: list[tuple[str, int | None, str]] = [
        ("pgtables", None if tables is None else tables // 1024, "KiB"),
        ("rss", rss, "KiB"),
        ("anonymous", kib["anon"], "KiB"),
        ("swap", kib["swap"], "KiB"),
        ("virtual", kib["virtual"], "KiB"),
        ("mappings", fork.sizes.get("mappings"), "mappings"),
        ("copied_per_second", _speed(fork), "MB/s"),
    ]
    told += [(f"wait_{name}".replace("-", "_"), fork.waits.get(name), "ns") for name in WAITS]
    told.append(("cpu", fork.cpu_ns, "ns"))
    for name, value, unit in told:
        if unit == "ns":
            value, unit = None if value is None else value // 1000, "us"
        yield Evidence(name, value, None, unit, where, "kernel")


def _speed(fork: SlowFork) -> int | None:
    """Return how fast the memory was copied, in MB/s, in the phase that does that; None: not known."""
    if fork.event.flags & (_FLAGS_UNKNOWN | _CLONE_VM):
        return None  # nothing is copied, or nobody knows
    copied = copied_bytes(fork)
    ns = fork.phases.get("memory", 0) - sum(each or 0 for each in fork.waits.values())
    if copied is None or ns < _LEAST_COPIED_NS:
        return None
    return round(copied / ns * 1000)
