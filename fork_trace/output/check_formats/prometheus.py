"""`check` in the Prometheus text format, for the textfile collector of the node exporter.

However many limits and names a host has, the number of series is bounded: what is fine shows in the
nearest limit of its cause alone.
"""

from __future__ import annotations

from calendar import timegm
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import strptime
from typing import Any

from fork_trace.diagnosis.causes import CAUSES
from fork_trace.output import exposition
from fork_trace.output.exposition import Family, gauge, label

_MOST_LIMITS = 50  # of those near or full
_LEVELS = ("fine", "near", "full", "unknown")
# What a cgroup counts -> what it is called here; v1 has another file for the same.
_EVENTS = {
    "pids.events max": "fork_refused",
    "memory.events oom_kill": "oom_kill",
    "memory.oom_control oom_kill": "oom_kill",
    "memory.events oom": "out_of_memory",
}


def write(found: Mapping[str, Any], is_all: bool) -> str:
    """Write everything as metrics; ForkTraceError where prometheus_client is not installed."""
    exposition.demand("--format prometheus", ", or use --json")
    return exposition.write(_families(found))[0].decode()


def _families(found: Mapping[str, Any]) -> Iterator[Family]:
    level = found["level"]
    yield Family(
        *("gauge", "fork_trace_check_level", "The worst level: 1 for it, 0 for the others."),
        ("level",),
        [((each,), float(each == level)) for each in _LEVELS],
    )
    yield Family(
        *("gauge", "fork_trace_check_limits", "Limits on each level."),
        ("level",),
        [((each,), found["counts"][each]) for each in _LEVELS],
    )
    yield gauge("fork_trace_check_timestamp_seconds", "When the check was made.", _seconds(found))
    yield gauge(
        *("fork_trace_check_duration_seconds", "How long it took.", found["seconds"]),
    )
    yield gauge(
        "fork_trace_check_zombies", "Processes that nobody has reaped.", found["zombies_total"]
    )
    yield Family(
        *("gauge", "fork_trace_check_info", "The version that made the check."),
        ("version",),
        [((found["tool"].rpartition(" ")[2],), 1)],
    )
    yield from _nearest(found["limits"])
    yield from _bad(found["limits"])
    yield from _refused(found)


def _seconds(found: Mapping[str, Any]) -> float:
    return timegm(strptime(found["time"], "%Y-%m-%dT%H:%M:%SZ"))


def _nearest(pools: Sequence[Mapping[str, Any]]) -> Iterator[Family]:
    """Tell of each cause how near its nearest limit is, and how many of its limits are not known."""
    ratio: dict[str, float] = {}
    unknown = {cause.slug: 0 for cause in CAUSES if cause.check is not None}
    for pool in pools:
        cause = pool["cause"]
        unknown[cause] = unknown.get(cause, 0) + (pool["level"] == "unknown")
        if pool["percent"] is not None:
            ratio[cause] = max(ratio.get(cause, 0.0), round(pool["percent"] / 100, 4))
    yield Family(
        *(
            "gauge",
            "fork_trace_check_limit_used_ratio",
            "Used part of the limit of a cause nearest to it.",
        ),
        ("cause",),
        [((cause,), number) for cause, number in sorted(ratio.items())],
    )
    yield Family(
        *("gauge", "fork_trace_check_limits_unknown", "Limits of a cause that could not be read."),
        ("cause",),
        [((cause,), number) for cause, number in sorted(unknown.items())],
    )


def _bad(pools: Sequence[Mapping[str, Any]]) -> Iterator[Family]:
    """Tell the numbers of what is near or full, worst first, so many of them."""
    bad = [pool for pool in pools if pool["level"] in ("full", "near")]
    shown: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for pool in bad[:_MOST_LIMITS]:
        key = (pool["cause"], label(pool["name"]), label(_where(pool)))
        shown.setdefault(key, pool)
    labels = ("cause", "setting", "where")
    numbers: tuple[tuple[str, str, Callable[[Mapping[str, Any]], Any]], ...] = (
        (
            "used",
            "Used of a limit that is near or full (bytes of memory).",
            lambda each: each["used"],
        ),
        ("max", "A limit that is near or full (bytes of memory).", lambda each: each["limit"]),
    )
    for suffix, what, number in numbers:
        samples = [
            (key, float(number(pool)) * (1024 if pool["unit"] == "KiB" else 1))
            for key, pool in shown.items()
            if number(pool) is not None
        ]
        yield Family("gauge", f"fork_trace_check_limit_{suffix}", what, labels, samples)
    yield gauge(
        "fork_trace_check_limits_left_out",
        "Limits near or full that have no series of their own.",
        len(bad) - len(shown),
    )


def _refused(found: Mapping[str, Any]) -> Iterator[Family]:
    """Tell what cgroups counted, the busiest of them.

    There is no sum: it would shrink with each cgroup that goes, which looks like a counter begun anew.
    """
    samples: dict[tuple[str, ...], float] = {}
    for each in found["refusals"]:
        key = (_EVENTS.get(each["name"], label(each["name"])), label(each["where"]))
        samples[key] = samples.get(key, 0) + each["count"]
    yield Family(
        *(
            "counter",
            "fork_trace_check_cgroup_events",
            "Forks refused, processes killed, by cgroup.",
        ),
        ("event", "cgroup"),
        list(samples.items()),
    )
    yield gauge(
        "fork_trace_check_cgroup_events_left_out",
        "Events of cgroups that have no series of their own.",
        sum(found["refusals_total"].values()) - sum(samples.values()),
    )
    if found["oom_kills"] is not None:
        what = "Processes that the OOM killer ended since the boot."
        yield Family("counter", "fork_trace_check_oom_kills", what, (), [((), found["oom_kills"])])


def _where(pool: Mapping[str, Any]) -> str:
    process = pool["process"]
    # Not by its number: each new process would be a series.
    return f"{process['comm']}" if process and pool["uid"] is None else pool["where"]
