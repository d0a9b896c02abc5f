"""What single processes have against their limits: memory asked for, tables, mappings, soft limits, namespaces.

Which processes are worth a look is `scan`'s, what the numbers mean `limits`'.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from fork_trace.headroom import limits, scan
from fork_trace.headroom.limits import Big, Headroom, Memory, Most
from fork_trace.host import holders, procfs

# smaps walks page tables and maps is long: so many processes are looked into.
_LOOKED_INTO = 3
_MAPPINGS_BUDGET_S = 1.0
_NAMESPACES_BUDGET_S = 1.0
_HIDDEN = "not readable without CAP_SYS_PTRACE"
# The stack of a thread where RLIMIT_STACK is unlimited (glibc, ARCH_STACK_DEFAULT_SIZE on x86-64).
_DEFAULT_STACK_KIB = 2048
# Each with its link in /proc/PID/ns; what the scan reads anyway stands first.
_NAMESPACES = ("user", "pid", "mnt", "uts", "ipc", "cgroup", "net", "time")


def memory(seen: scan.Survey, mode: int | None, near: float, proc: str) -> list[Headroom]:
    """Compare the largest processes with what the overcommit mode in force allows."""
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
        has_reaped = None
        if limit is not None and (already + asks) * 100 >= near * limit:
            stat = procfs.stat(pid, proc)
            has_reaped = stat.has_reaped if stat else None
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
            Big(
                *(each.process, each.total_kib, asks, largest, each.is_admin, is_estimate),
                why=why,
                has_reaped=has_reaped,
            )
        )
    return limits.memory(state, biggest)


def tables(seen: scan.Survey, nr_open: int | None, proc: str) -> list[Most]:
    """Return the highest descriptors of the largest tables."""
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


def mappings(
    seen: scan.Survey, proc: str, clock: Callable[[], float] = time.monotonic
) -> list[Most]:
    """Return the processes with the most mappings, among the largest."""
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


def descriptors(seen: scan.Survey, near: float, proc: str) -> list[Headroom]:
    """Compare open descriptors with RLIMIT_NOFILE, for the processes whose table is near it."""
    found, soft = [], {}
    for each in seen.by_files[:_LOOKED_INTO]:
        # No process has more open than its table has slots.
        if each.limits is None or each.limits.files is None or each.nearest("files") * 100 < near:
            continue
        value = procfs.descriptors(each.process.pid, proc)
        if value is None and not _is_there(each, proc):
            continue
        soft[each.process.pid] = each.limits.files
        found.append(Most(each.process, value, None if value is not None else _HIDDEN))
    return limits.open_descriptors(found, soft)


def stacks(seen: scan.Survey) -> list[Headroom]:
    """Compare VmSize and VmData with RLIMIT_AS and RLIMIT_DATA, for the processes nearest to these."""
    found = []
    for kind, name in (("address_space", "RLIMIT_AS"), ("data", "RLIMIT_DATA")):
        sizes = seen.by_address_space if kind == "address_space" else seen.by_data
        for each in sizes[:_LOOKED_INTO]:
            if each.limits is None or not each.nearest(kind):
                continue
            used = each.total_kib if kind == "address_space" else each.data_kib
            limit = each.limits.address_space if kind == "address_space" else each.limits.data
            stack = each.limits.stack
            kib = _DEFAULT_STACK_KIB if stack in (None, limits.UNLIMITED) else (stack or 0) // 1024
            found.append(limits.stacks(name, each.process, used, kib, (limit or 0) // 1024))
    return found


def dead_namespaces(
    seen: scan.Survey, proc: str, clock: Callable[[], float] = time.monotonic
) -> list[Headroom]:
    """Find who can make no child any more, as the init of the namespace that it would join has ended."""
    found = [limits.unseen_namespaces(seen.unjoined)] if seen.unjoined else []
    places: dict[int, list[scan.Elsewhere]] = {}
    for each in seen.elsewhere:
        if each.namespace not in seen.inits:
            places.setdefault(each.namespace, []).append(each)
    if not places:
        return found
    why, living = None, None
    if seen.unplaced or (seen.unseen and seen.own_pid == limits.INITIAL_PID_NAMESPACE):
        why = "its init may be among the processes that are hidden here"
    else:
        # Its init may have been made, and others have ended, while /proc was read.
        living = _living(set(places), proc, clock, clock() + _NAMESPACES_BUDGET_S)
        why = None if living is not None else "there are too many processes to look for its init"
    dead = [each for each in places if each not in (living or ())]
    return found + [
        limits.dead_namespace(each.process, namespace, each.tasks, why)
        for namespace in dead[: scan.LARGEST]
        for each in places[namespace][:_LOOKED_INTO]
        if _children_join(each, proc) == namespace
    ]


def _living(
    inodes: set[int], proc: str, clock: Callable[[], float], end_s: float
) -> set[int] | None:
    """Return those pid namespaces that a process lives in; None: there was no time for all of /proc."""
    found: set[int] = set()
    for pid in holders.pids(proc):
        if clock() > end_s:
            return None
        try:
            inode = holders.namespace_of(f"{proc}/{pid}/ns/pid")
        except OSError:
            continue
        if inode in inodes and _lives(pid, proc):
            found.add(inode)
    return found


def _lives(pid: int, proc: str) -> bool:
    raw = holders.slurp(f"{proc}/{pid}/status") or b""
    _, _, state = raw.partition(b"\nState:\t")
    # Its main thread may have ended before the others.
    _, _, threads = raw.partition(b"\nThreads:\t")
    return bool(state) and (state[:1] not in (b"Z", b"X") or int(threads.split()[0]) > 1)


def _children_join(each: scan.Elsewhere, proc: str) -> int | None:
    try:
        return holders.namespace_of(f"{proc}/{each.process.pid}/ns/pid_for_children")
    except OSError:
        return None


def namespaces(
    seen: scan.Survey, near: float, proc: str, clock: Callable[[], float] = time.monotonic
) -> list[Headroom]:
    """Compare the namespaces of each type with user.max_*_namespaces of our own user namespace."""
    found = []
    end_s = clock() + _NAMESPACES_BUDGET_S
    for kind in _NAMESPACES:
        limit = procfs.number(f"sys/user/max_{kind}_namespaces", proc)
        if limit is None:
            continue
        why = None
        if kind == "user":
            used: int | None = len(set(seen.user_namespaces) - {seen.own_user})
        elif kind == "pid":
            used = len(seen.pid_lineages)
        elif seen.processes * 100 >= near * limit:
            used = _different(f"ns/{kind}", proc, clock, end_s) if limit else 0
            why = None if used is not None else "there are too many processes to look into all"
        else:
            continue  # each process is in one: so few cannot come near
        found.append(limits.namespaces(kind, used, limit, seen.own_user, why))
    return found


def _different(link: str, proc: str, clock: Callable[[], float], end_s: float) -> int | None:
    inodes = set()
    for pid in holders.pids(proc):
        if clock() > end_s:
            return None
        try:
            inodes.add(holders.namespace_of(f"{proc}/{pid}/{link}"))
        except OSError:
            continue
    # Not the one that is there from the boot on.
    return max(len(inodes - {None}) - 1, 0)
