"""How near this host is to each limit of a fork: readings gathered, judged and told. No BPF, no fork.

What the numbers mean is `limits`'. Who holds what is near is looked for last, and only there.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from fork_trace import __version__
from fork_trace.diagnosis.advice import advise
from fork_trace.diagnosis.causes import BY_SLUG
from fork_trace.diagnosis.causes.tasks import PID_MAX, PIDS_CGROUP
from fork_trace.errors import ForkTraceError
from fork_trace.headroom import exposure, limits, processes, scan, units
from fork_trace.headroom.limits import CgroupLimit, Headroom, Numbers
from fork_trace.host import cgroup, cgroup_limits, holders, procfs
from fork_trace.model.records import Evidence
from fork_trace.probes import kernel

# Of the fullest only: each is a pass over /proc of its own.
_HOLDERS = 5
_ZOMBIES = 5
_REFUSALS = 100  # cgroups that are named
# Zombies of one parent are growing if there are as many, the first is as old, and the last is not much
# older than the time from one to the next.
_GROWING, _GROWING_S, _GROWING_GAPS = 5, 60, 3
_NO_PID = re.compile(r"\bPID\b")


def examine(
    near: float, full: float, root: str = "/", least_left: int = limits.LEAST_LEFT
) -> dict[str, Any]:
    """Read all limits and return what was found as one JSON object; "level" is the worst of them."""
    begin_s = time.monotonic()
    proc = os.path.join(root, "proc")
    sysctls = kernel.limits(root)
    seen = _scan(proc, sysctls["kernel.pid_max"])
    walked = cgroup_limits.walk(proc)
    found = limits.order(_found(seen, walked, sysctls, near, root), near, full, least_left)
    pools = [_told(each, each.level(near, full, least_left)) for each in found]
    for headroom, pool in list(zip(found, pools))[:_HOLDERS]:
        if pool["level"] in ("full", "near"):
            _add_holders(headroom, pool, proc)
    counts = {level: sum(pool["level"] == level for pool in pools) for level in limits.LEVELS}
    return {
        "type": "check",
        "time": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "host": procfs.host_name(),
        "kernel": os.uname().release,
        "tool": f"fork-trace {__version__}",
        "near_percent": near,
        "full_percent": full,
        "near_tasks_left": least_left,
        "level": _level(found, pools),
        "counts": counts,
        "tasks": seen.tasks,
        "processes": seen.processes,
        "unseen": "; ".join(filter(None, (seen.unseen, walked.unseen))) or None,
        "zombies": _zombies(seen, proc),
        "zombies_total": sum(seen.zombies.values()),
        **_refusals(walked, proc),
        "limits": pools,
        "seconds": round(time.monotonic() - begin_s, 3),
    }


def _level(found: Sequence[Headroom], pools: Sequence[Mapping[str, Any]]) -> str:
    """Return the worst level; of what is unknown only what everybody may read counts."""
    levels = {pool["level"] for pool in pools}
    for level in ("full", "near"):
        if level in levels:
            return level
    is_unknown = any(
        headroom.is_vital and pool["level"] == "unknown" for headroom, pool in zip(found, pools)
    )
    return "unknown" if is_unknown else "fine"


def _scan(proc: str, pid_max: int | None) -> scan.Survey:
    hint = "Mount proc there: `mount -t proc proc /proc`."
    if not procfs.is_mounted(proc):
        raise ForkTraceError(f"{proc} is not mounted, and all that is checked is read there.", hint)
    try:
        last = procfs.number("loadavg", proc, 4)
        return scan.take(proc, limits.first_number(last), pid_max)
    except OSError as error:
        raise ForkTraceError(f"cannot read {proc}: {error.strerror}.", hint) from None


def _found(
    seen: scan.Survey,
    walked: cgroup_limits.Walked,
    sysctls: Mapping[str, int | None],
    near: float,
    root: str,
) -> list[Headroom]:
    proc = os.path.join(root, "proc")
    pid_max, last = sysctls["kernel.pid_max"], procfs.number("loadavg", proc, 4)
    # Only where the answer matters: it is read from some MB.
    kinds = None
    if seen.user_lineages or seen.pid_tasks or seen.own_pid != limits.INITIAL_PID_NAMESPACE:
        kinds = kernel.btf_has(("UCOUNT_RLIMIT_NPROC", "register_pidns_sysctls"), root)
    default = units.default_tasks_max(sysctls["kernel.threads-max"], pid_max, root)
    nr_open = sysctls["fs.nr_open"]
    return [
        limits.threads(procfs.threads(proc), sysctls["kernel.threads-max"]),
        *_numbers(seen, pid_max, last, kinds),
        *_users(seen, kinds),
        *_cgroups(walked, default),
        *limits.memory_cgroups(
            limits.Room(each.directory, each.held, each.limit + each.swap, each.limit)
            for each in walked.memory
        ),
        *processes.memory(seen, sysctls["vm.overcommit_memory"], near, proc),
        limits.open_files(
            procfs.number("sys/fs/file-nr", proc), procfs.number("sys/fs/file-max", proc)
        ),
        *limits.descriptor_tables(processes.tables(seen, nr_open, proc), nr_open),
        *limits.mappings(processes.mappings(seen, proc), sysctls["vm.max_map_count"]),
        *processes.descriptors(seen, near, proc),
        *processes.stacks(seen),
        *processes.dead_namespaces(seen, proc),
        *processes.namespaces(seen, near, proc),
        *exposure.exposures(seen, proc),
    ]


def _numbers(
    seen: scan.Survey, pid_max: int | None, last: int | None, kinds: dict[str, bool] | None
) -> list[Headroom]:
    is_by_namespace = kinds["register_pidns_sysctls"] if kinds else None
    is_host = seen.own_pid == limits.INITIAL_PID_NAMESPACE
    numbers = Numbers(seen.numbers, pid_max, last, is_host and seen.unseen is not None)
    found = []
    if is_host:
        found.append(limits.host_numbers(Numbers(*_values(numbers), seen.unseen), limits.HOST))
    else:
        why = "they are visible only from the host's own pid namespace"
        found.append(limits.host_numbers(Numbers(None, None, None, False, why), limits.HOST, False))
        own = f"this pid namespace {seen.own_pid}"
        # Before Linux 6.14 the host's limit is shown here too, and holds for each level.
        found.append(limits.host_numbers(numbers, own))
    found += limits.nested_numbers(
        seen.pid_tasks, seen.pid_lineages, seen.own_pid, pid_max, is_by_namespace
    )
    if seen.unplaced:
        why = "their pid namespaces are visible only with CAP_SYS_PTRACE"
        where = "pid namespaces that cannot be identified"
        found.append(limits.headroom(PID_MAX, seen.unplaced, None, where, why))
    return found


def _values(numbers: Numbers) -> tuple[int | None, int | None, int | None, bool]:
    return numbers.used, numbers.pid_max, numbers.last, numbers.is_at_least


def _users(seen: scan.Survey, kinds: dict[str, bool] | None) -> list[Headroom]:
    is_by_namespace = kinds["UCOUNT_RLIMIT_NPROC"] if kinds else None
    return limits.users(
        seen.tallies, seen.user_lineages, seen.own_user, is_by_namespace, seen.unseen
    )


def _cgroups(walked: cgroup_limits.Walked, default: int | None) -> list[Headroom]:
    if walked.pids is None:
        why = "no cgroup hierarchy with the pids controller is mounted here"
        where = "pids cgroups"
        return [limits.headroom(PIDS_CGROUP, None, None, where, why, is_vital=True)]
    return limits.cgroups(
        CgroupLimit(
            *(each.directory, each.current, each.limit, each.hits, each.peak),
            "DefaultTasksMax" if default is not None and _is_default(each, default) else None,
        )
        for each in walked.pids
    )


def _is_default(each: cgroup_limits.PidsLimit, default: int) -> bool:
    return each.limit == default and each.directory.endswith(units.UNITS)


def _refusals(walked: cgroup_limits.Walked, proc: str) -> dict[str, Any]:
    """Tell what was refused or killed so far, most first: nobody counts when."""
    events = sorted(walked.events, key=lambda each: (-each.count, each.name, each.directory))
    total: dict[str, int] = {}
    for each in events:
        total[each.name] = total.get(each.name, 0) + each.count
    return {
        "refusals": [
            {"name": each.name, "where": each.directory, "count": each.count}
            for each in events[:_REFUSALS]
        ],
        "refusals_total": total,
        # Since Linux commit 8e675f7af507 ("mm/oom_kill: count global and memory cgroup oom kills")
        # (in v4.13). Before that, nobody counted.
        "oom_kills": procfs.vmstat("oom_kill", proc),
    }


def _told(headroom: Headroom, level: str) -> dict[str, Any]:
    percent = headroom.percent
    told: dict[str, Any] = {
        "cause": headroom.cause,
        "level": level,
        "percent": None if percent is None else round(percent, 1),
        "name": headroom.name,
        "used": headroom.used,
        "limit": headroom.limit,
        "unit": headroom.unit,
        "where": headroom.where,
        "setting": headroom.setting,
        "at_least": headroom.is_at_least,
        "why": headroom.why,
        "free": headroom.free,
        "refuses": headroom.refuses,
        "tasks_left": headroom.tasks_left,
        "peak": headroom.peak,
        "default": headroom.default,
        "note": headroom.note,
        "hits": headroom.hits,
        "uid": headroom.uid,
        "process": asdict(headroom.process) if headroom.process else None,
        "holders": None,
        "holders_total": None,
        "advice": [],
    }
    if level in ("full", "near"):
        told["advice"] = _advice(headroom)
    return told


def _advice(headroom: Headroom) -> list[dict[str, Any]]:
    # The value is left out: the advice calls it the one when the fork failed, and none has.
    setting = headroom.limit if headroom.setting is None else headroom.setting
    evidence = Evidence(headroom.name, None, setting, headroom.unit, headroom.where, "proc")
    pid = headroom.process.pid if headroom.process else None
    found = advise(headroom.cause, [evidence], headroom.uid, None, pid)
    # How to verify and mitigate it, and what that risks. What is for a process that failed fits nobody here.
    return [
        asdict(each)
        for each in (each for each in found if each.kind != "fix")
        if not _NO_PID.search(" ".join((each.text, *each.commands)))
    ]


def _add_holders(headroom: Headroom, pool: dict[str, Any], proc: str) -> None:
    place = _pool_of(headroom, proc)
    who = holders.read(place, proc) if place else None
    if who is not None:
        own = procfs.own_pid(proc)
        # We ourselves are gone when this is read; we count, as others.
        pool["holders"] = [
            asdict(each) for each in who.top if each.pid != own or each.processes != 1
        ]
        pool["holders_total"] = who.total


def _pool_of(headroom: Headroom, proc: str) -> holders.Pool | None:
    kind = BY_SLUG[headroom.cause].pool
    if kind == "cgroup":
        lines = [
            each
            for each in procfs.cgroups(os.getpid(), proc)
            if "pids" in each.controllers.split(",")
        ]
        hierarchy = lines[0].hierarchy if lines else 0
        paths = cgroup.CgroupPaths(proc)
        path = paths.relative(headroom.where)
        paths.close()
        return holders.Pool("cgroup", hierarchy=hierarchy, path=path)
    if kind == "user":
        return holders.Pool("user", uid=headroom.uid, namespace=headroom.namespace)
    if kind == "host":
        return holders.Pool("host")
    if kind == "pid-namespace":
        if headroom.namespace in (None, limits.INITIAL_PID_NAMESPACE):
            return holders.Pool("host")
        return holders.Pool("pid-namespace", namespace=headroom.namespace)
    return None


def _zombies(seen: scan.Survey, proc: str) -> list[dict[str, Any]]:
    uptime = procfs.uptime_ticks(proc)
    found = []
    for parent, count in seen.zombies.most_common(_ZOMBIES):
        raw = holders.slurp(f"{proc}/{parent}/status") if parent else None
        comm = holders.text(holders.comm_of(raw)) if raw else None
        oldest, newest = _ages_s(seen.zombie_pids.get(parent, ()), uptime, proc)
        is_growing = (
            oldest is not None
            and newest is not None
            and count >= _GROWING
            and oldest >= _GROWING_S
            and newest <= _GROWING_GAPS * oldest / count
        )
        found.append(
            {
                "pid": parent or None,
                "comm": comm,
                "zombies": count,
                "oldest_s": oldest,
                "newest_s": newest,
                "per_hour": round(count * 3600 / oldest, 1) if is_growing and oldest else None,
            }
        )
    return found


def _ages_s(
    pids: Sequence[int], uptime: int | None, proc: str
) -> tuple[float | None, float | None]:
    """Return how long ago the first and the last of these were started: they ended after that."""
    if uptime is None:
        return None, None
    stats = (procfs.stat(pid, proc) for pid in pids)
    ages = [max(uptime - each.start_ticks, 0) for each in stats if each is not None]
    if not ages:
        return None, None
    tick = os.sysconf("SC_CLK_TCK")
    return round(max(ages) / tick, 1), round(min(ages) / tick, 1)
