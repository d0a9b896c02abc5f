"""Copy-on-write: children that were forked and have executed nothing since, and what they still share.

How much room there is for copies is `cgroup_limits`' and /proc/meminfo's; what it means, `limits` says.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from fork_trace.budget import Budget
from fork_trace.headroom import limits
from fork_trace.headroom.limits import Family, Headroom, Room
from fork_trace.headroom.scan import Anonymous, Survey
from fork_trace.host import cgroup_limits, procfs

# By size: so many are shown, looked into, and of each so many children.
_FAMILIES, _PARENTS, _CHILDREN = 20, 64, 16
# smaps_rollup walks 4 KiB pages, some 100 ns each, and holds the lock of the mappings meanwhile: so
# not more than 11 GiB.
_WALK_UNITS, _KIB_A_UNIT = 300_000, 40
_HIDDEN = "its smaps_rollup is readable only with CAP_SYS_PTRACE"
_TOO_LARGE = "it is too large to walk its page tables"


def exposures(seen: Survey, proc: str = "/proc", budget: Budget | None = None) -> list[Headroom]:
    """Compare one copy of what each family shares with the memory there is for it; no process is made."""
    families = _families(seen, proc, budget or Budget(_WALK_UNITS))
    if not families:
        return []
    meminfo = procfs.meminfo_kib(proc)
    return [limits.exposure(each, _rooms(each, meminfo, proc)) for each in families]


def _families(seen: Survey, proc: str, budget: Budget) -> list[Family]:
    related: dict[int, list[Anonymous]] = {}
    for each in seen.anonymous.values():
        if each.parent in seen.anonymous:
            related.setdefault(each.parent, []).append(each)
    for children in related.values():
        children.sort(key=lambda each: -each.kib)
    largest = sorted(related.items(), key=lambda item: -_at_most(item[1][0], seen))
    found: list[Family] = []
    for parent, children in largest[:_PARENTS]:
        stats = [(each, procfs.stat(each.process.pid, proc)) for each in children[:_CHILDREN]]
        forked = [(each, stat) for each, stat in stats if stat is not None and stat.is_forked]
        if not forked:
            continue
        # If those that were looked at are all alike, so are the rest.
        count = len(children) if len(forked) == len(stats) else len(forked)
        found.append(_family(seen.anonymous[parent], forked[0], count, seen, proc, budget))
        if len(found) >= _FAMILIES:
            break
    return found


def _at_most(child: Anonymous, seen: Survey) -> int:
    return min(child.kib, seen.anonymous[child.parent].kib)


def _family(
    parent: Anonymous,
    largest: tuple[Anonymous, procfs.Stat],
    children: int,
    seen: Survey,
    proc: str,
    budget: Budget,
) -> Family:
    # The largest child stands for all: one parent that writes everything makes one copy.
    child, stat = largest
    shared, why = None, _TOO_LARGE
    units = child.kib / _KIB_A_UNIT
    # Not on credit: a process may be larger than all that may be walked.
    if units <= budget.left:
        budget.pay(units)
        shared, why = procfs.still_shared_kib(child.process.pid, proc), _HIDDEN
    uptime = procfs.uptime_ticks(proc)
    age_s = None
    if uptime is not None:
        age_s = max(uptime - stat.start_ticks, 0) / os.sysconf("SC_CLK_TCK")
    return Family(
        *(parent.process, child.process, children, shared, _at_most(child, seen), age_s),
        why=why if shared is None else None,
    )


def _rooms(family: Family, meminfo: Mapping[str, int], proc: str) -> list[Room]:
    swap = meminfo.get("SwapFree", 0)
    found = []
    available = meminfo.get("MemAvailable")
    if available is not None:
        found.append(Room(limits.HOST, 0, available + swap, available))
    for level in cgroup_limits.memory_levels(family.child.pid, swap, proc) or ():
        found.append(Room(level.directory, level.held, level.limit + level.swap, level.limit))
    return found
