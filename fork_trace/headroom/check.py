"""How near this host is to each limit of a fork: readings gathered, judged and told. No BPF, no fork.

What the numbers mean is `limits`'. Who holds what is near is looked for last, and only there.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from fork_trace import __version__
from fork_trace.diagnosis.advice import advise
from fork_trace.diagnosis.causes import BY_SLUG
from fork_trace.diagnosis.causes.tasks import PID_MAX, PIDS_CGROUP
from fork_trace.errors import ForkTraceError
from fork_trace.headroom import limits, scan
from fork_trace.headroom.limits import Big, CgroupLimit, Headroom, Memory, Most, Numbers
from fork_trace.host import cgroup, holders, procfs
from fork_trace.model.records import Evidence
from fork_trace.probes import kernel

# Of the fullest only: each is a pass over /proc of its own.
_HOLDERS = 5
# smaps walks page tables and maps is long: so many processes are looked into.
_LOOKED_INTO = 3
_MAPPINGS_BUDGET_S = 1.0
_ZOMBIES = 5
_HIDDEN = "its /proc entries are readable only with CAP_SYS_PTRACE"
_NO_PID = re.compile(r"\bPID\b")


def examine(near: float, full: float, root: str = "/") -> dict[str, Any]:
    """Read all limits and return what was found as one JSON object; "level" is the worst known."""
    begin_s = time.monotonic()
    proc = os.path.join(root, "proc")
    sysctls = kernel.limits(root)
    pid_max, last = sysctls["kernel.pid_max"], procfs.number("loadavg", proc, 4)
    try:
        seen = scan.take(proc, limits.first_number(last), pid_max)
    except OSError as error:
        raise ForkTraceError(
            f"cannot read {proc}: {error.strerror}.",
            "Mount proc there: `mount -t proc proc /proc`.",
        ) from None
    # Only where the answer matters: it is read from some MB.
    kinds = None
    if seen.user_lineages or seen.pid_tasks or seen.own_pid != limits.INITIAL_PID_NAMESPACE:
        kinds = kernel.btf_has(("UCOUNT_RLIMIT_NPROC", "register_pidns_sysctls"), root)
    found = [
        limits.threads(procfs.threads(proc), sysctls["kernel.threads-max"]),
        *_numbers(seen, pid_max, last, kinds),
        *_users(seen, kinds),
        *_cgroups(proc),
        *_memory(seen, sysctls["vm.overcommit_memory"], near, proc),
        limits.open_files(
            procfs.number("sys/fs/file-nr", proc), procfs.number("sys/fs/file-max", proc)
        ),
        *limits.descriptor_tables(
            _tables(seen, sysctls["fs.nr_open"], proc), sysctls["fs.nr_open"]
        ),
        *limits.mappings(_mappings(seen, proc), sysctls["vm.max_map_count"]),
    ]
    found = limits.order(found, near, full)
    pools = [_told(each, near, full) for each in found]
    for headroom, pool in list(zip(found, pools))[:_HOLDERS]:
        if pool["level"] in ("full", "near"):
            _add_holders(headroom, pool, proc)
    counts = {level: sum(pool["level"] == level for pool in pools) for level in limits.LEVELS}
    return {
        "type": "check",
        "time": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "host": os.uname().nodename,
        "kernel": os.uname().release,
        "tool": f"fork-trace {__version__}",
        "near_percent": near,
        "full_percent": full,
        "level": next((level for level in ("full", "near") if counts[level]), "fine"),
        "counts": counts,
        "tasks": seen.tasks,
        "processes": seen.processes,
        "unseen": seen.unseen,
        "zombies": _zombies(seen, proc),
        "zombies_total": sum(seen.zombies.values()),
        "limits": pools,
        "seconds": round(time.monotonic() - begin_s, 3),
    }


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
        found.append(limits.host_numbers(Numbers(None, None, None, False, why), limits.HOST))
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


def _cgroups(proc: str) -> list[Headroom]:
    found = cgroup.pids_limits(proc)
    if found is None:
        why = "no cgroup hierarchy with the pids controller is mounted here"
        where = "pids cgroups"
        return [limits.headroom(PIDS_CGROUP, None, None, where, why)]
    return limits.cgroups(CgroupLimit(*each) for each in found)


def _memory(seen: scan.Survey, mode: int | None, near: float, proc: str) -> list[Headroom]:
    kib = procfs.meminfo_kib(proc)
    state = Memory(
        mode,
        kib.get("Committed_AS"),
        kib.get("CommitLimit"),
        procfs.number("sys/vm/admin_reserve_kbytes", proc),
        procfs.number("sys/vm/user_reserve_kbytes", proc),
        kib["MemTotal"] + kib["SwapTotal"] if {"MemTotal", "SwapTotal"} <= kib.keys() else None,
    )
    biggest = []
    for each in seen.by_private[:_LOOKED_INTO]:
        pid, asks, largest = each.process.pid, each.private_kib, None
        why, is_estimate = None, True
        limit = state.ram_and_swap if mode == 0 else state.commit_limit
        already = 0 if mode == 0 else state.committed or 0
        if mode == 0:
            bytes_ = procfs.largest_writable(pid, proc)
            largest = None if bytes_ is None else bytes_ // 1024
        # smaps tells exactly what fork asks for, and costs: only if the estimate comes near.
        if limit is not None and (already + asks) * 100 >= near * limit:
            exact = procfs.accountable(pid, proc)
            if exact is not None:
                asks, largest, is_estimate = exact[0] // 1024, exact[1] // 1024, False
        if mode == 0:
            if largest is None and limit is not None and asks * 100 < near * limit:
                largest = asks  # all of them together are an upper bound that is far enough
            elif largest is None:
                why = _HIDDEN
            else:
                is_estimate = False
        biggest.append(
            Big(each.process, each.total_kib, asks, largest, each.is_admin, is_estimate, why)
        )
    return limits.memory(state, biggest)


def _tables(seen: scan.Survey, nr_open: int | None, proc: str) -> list[Most]:
    found = []
    for each in seen.by_slots[:_LOOKED_INTO]:
        value = procfs.highest_descriptor(each.process.pid, proc)
        if value is not None:
            found.append(Most(each.process, value))
        elif nr_open is not None and each.slots * 2 <= nr_open:
            found.append(Most(each.process, each.slots - 1))  # no descriptor is above its table
        elif _is_there(each, proc):
            found.append(Most(each.process, None, _HIDDEN))
    return found


def _mappings(
    seen: scan.Survey, proc: str, clock: Callable[[], float] = time.monotonic
) -> list[Most]:
    end_s = clock() + _MAPPINGS_BUDGET_S
    found: list[Most] = []
    hidden: list[Most] = []
    for each in seen.by_total:
        if clock() > end_s:
            break
        value = procfs.mapping_count(each.process.pid, proc)
        if value is not None:
            found.append(Most(each.process, value))
        elif _is_there(each, proc):
            hidden.append(Most(each.process, None, _HIDDEN))
    found.sort(key=lambda each: -(each.value or 0))
    return found[:_LOOKED_INTO] + hidden[:_LOOKED_INTO]


def _is_there(size: scan.Size, proc: str) -> bool:
    return os.path.exists(f"{proc}/{size.process.pid}")


def _told(headroom: Headroom, near: float, full: float) -> dict[str, Any]:
    level = headroom.level(near, full)
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
    # How to verify and mitigate it. What is for a process that failed fits nobody here.
    return [
        asdict(each)
        for each in found[:2]
        if not _NO_PID.search(" ".join((each.text, *each.commands)))
    ]


def _add_holders(headroom: Headroom, pool: dict[str, Any], proc: str) -> None:
    place = _pool_of(headroom, proc)
    who = holders.read(place, proc) if place else None
    if who is not None:
        pool["holders"] = [asdict(each) for each in who.top]
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
    found = []
    for parent, count in seen.zombies.most_common(_ZOMBIES):
        raw = holders.slurp(f"{proc}/{parent}/status") if parent else None
        comm = holders.text(holders.comm_of(raw)) if raw else None
        found.append({"pid": parent or None, "comm": comm, "zombies": count})
    return found
