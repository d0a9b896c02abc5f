"""What cgroupfs tells of limits: each limited pids cgroup, what was refused or killed, where memory ends.

Ids and paths of cgroups are `cgroup`'s; how near a limit is, `headroom` says.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field

from fork_trace.budget import Budget, OverBudgetError
from fork_trace.host import procfs
from fork_trace.host.cgroup import Mount, mounts
from fork_trace.model.dataclass import dataclass

# About 3 s: a cgroup takes some 50 us, so that is far beyond what hosts have.
_WALK_UNITS, _CGROUP_UNITS = 3_000_000, 50
# mm/page_counter.c: PAGE_COUNTER_MAX, "unlimited" in v1, is above all real sizes.
_NO_LIMIT_BYTES = 1 << 60
# So near to its limit a memory cgroup is worth a look.
_ROOM_BYTES = 4 << 20


@dataclass(frozen=True)
class PidsLimit:
    """One cgroup with a pids.max. What could not be read is None."""

    directory: str
    current: int | None
    limit: int | None
    hits: int | None = None  # "max" of pids.events
    peak: int | None = None  # pids.peak, since Linux 6.1: the most so far


@dataclass(frozen=True)
class Event:
    """What a cgroup counted since it was made: forks that were refused, processes that were killed."""

    directory: str
    name: str  # the file and its key: "pids.events max", "memory.events oom_kill"
    count: int


@dataclass(frozen=True)
class MemoryLevel:
    """A memory cgroup with a limit, in KiB: what it holds that cannot be dropped, and may still swap."""

    directory: str
    limit: int
    held: int
    swap: int


@dataclass
class Walked:
    """What the cgroups said. `pids` is None where no hierarchy with that controller is mounted."""

    pids: list[PidsLimit] | None = None
    events: list[Event] = field(default_factory=list)
    memory: list[MemoryLevel] = field(default_factory=list)  # those that are all but at their limit
    swap_free: int = 0  # the host's, in KiB
    unseen: str | None = None  # why cgroups are missing


def walk(root: str = "/proc", budget: Budget | None = None) -> Walked:
    """Read each pids cgroup that has a limit, and what all cgroups counted."""
    budget = budget or Budget(_WALK_UNITS)
    found = Walked(swap_free=procfs.meminfo_kib(root).get("SwapFree", 0))
    known = mounts(root)
    v1 = {
        name: [mount for mount in known if not mount.is_v2 and name in mount.controllers]
        for name in ("pids", "memory")
    }
    seen: set[tuple[int, int]] = set()
    try:
        for mount in known:
            if mount.is_v2:
                names = [name for name in ("pids", "memory") if not v1[name]]
            else:
                names = [name for name in ("pids", "memory") if name in mount.controllers]
            if names and _is_first(mount.path, seen):
                _walk(mount, names, found, budget)
    except OverBudgetError:
        found.unseen = "there are too many cgroups to read them all"
    return found


def _is_first(path: str, seen: set[tuple[int, int]]) -> bool:
    try:
        place = os.stat(path)
    except OSError:
        return False
    key = (place.st_dev, place.st_ino)
    is_new = key not in seen  # not one that is mounted twice
    seen.add(key)
    return is_new


def _walk(mount: Mount, names: Sequence[str], found: Walked, budget: Budget) -> None:
    if "pids" in names and (not mount.is_v2 or "pids" in _words(mount.path, "cgroup.controllers")):
        found.pids = found.pids or []
    below = [(mount.path, tuple(names))]
    while below:
        directory, left = below.pop()
        budget.pay(_CGROUP_UNITS)
        # Where a controller has no files none of those below has it either.
        readers = _READERS_V2 if mount.is_v2 else _READERS_V1
        has = tuple(name for name in left if readers[name](directory, found))
        if not has and directory != mount.path:
            continue
        try:
            with os.scandir(directory) as entries:
                below += [
                    (each.path, has or left)
                    for each in entries
                    if each.is_dir(follow_symlinks=False)
                ]
        except OSError:
            continue


def _pids(directory: str, found: Walked) -> bool:
    words = _words(directory, "pids.max")
    if not words:
        return False
    events = _events(directory, "pids.events")
    # Since Linux commit 73e75e6fc352 ("cgroup/pids: Separate semantics of pids.events related to
    # pids.max") (in v6.11), v2 counts where the limit is, for all above it too, and .local without
    # them. Before that, and in v1, the cgroup that forked is the one that counts.
    own = _events(directory, "pids.events.local") or events
    _add_event(directory, "pids.events max", own.get("max"), found)
    if words != ["max"] and found.pids is not None:
        found.pids.append(
            PidsLimit(
                _shown(directory),
                _count(_words(directory, "pids.current")),
                _count(words),
                events.get("max"),
                _count(_words(directory, "pids.peak")),
            )
        )
    return True


def _memory(directory: str, found: Walked) -> bool:
    # .local, since Linux commit 1e577f970f66 ("mm, memcg: introduce memory.events.local") (in v5.2),
    # is without those below. Before that, each directory told of all below it.
    events = local = _events(directory, "memory.events.local")
    if not local:
        events = local = _events(directory, "memory.events")
    # A kill is counted where its victim was, an "oom" where the limit is.
    _add_event(directory, "memory.events oom_kill", local.get("oom_kill"), found)
    if local.get("oom"):
        events = _events(directory, "memory.events")
        survived = events.get("oom", 0) - events.get("oom_kill", 0)
        _add_event(directory, "memory.events oom", survived, found)
    _add_memory(directory, found, ("memory.current", "memory.max"), _level)
    return bool(events)


def _memory_v1(directory: str, found: Walked) -> bool:
    # Documentation/admin-guide/cgroup-v1/memory.rst; oom_kill since Linux 4.13
    events = _events(directory, "memory.oom_control")
    _add_event(directory, "memory.oom_control oom_kill", events.get("oom_kill"), found)
    names = ("memory.usage_in_bytes", "memory.limit_in_bytes")
    _add_memory(directory, found, names, _level_v1)
    return bool(events)


_Reader = Callable[[str, Walked], bool]
_READERS_V2: dict[str, _Reader] = {"pids": _pids, "memory": _memory}
_READERS_V1: dict[str, _Reader] = {"pids": _pids, "memory": _memory_v1}


def _add_memory(
    directory: str,
    found: Walked,
    names: tuple[str, str],
    level: Callable[[str, int], MemoryLevel | None],
) -> None:
    # memory.stat makes the kernel add up what all CPUs hold: only where it can matter.
    current, limit = (_count(_words(directory, name)) for name in names)
    if current is not None and limit is not None and current + _ROOM_BYTES >= limit:
        told = level(directory, found.swap_free)
        if told is not None:
            found.memory.append(told)


def _add_event(directory: str, name: str, count: int | None, found: Walked) -> None:
    if count is not None and count > 0:
        found.events.append(Event(_shown(directory), name, count))


def memory_levels(pid: int, swap_free: int, root: str = "/proc") -> list[MemoryLevel] | None:
    """Return the limits of memory that bind a process, the innermost first; None: they cannot be read.

    `swap_free` is the host's, in KiB.
    """
    known = mounts(root)
    lines = procfs.cgroups(pid, root)
    v1 = [each for each in lines if "memory" in each.controllers.split(",")]
    for line in v1 or [each for each in lines if each.hierarchy == 0]:
        for mount in known:
            if mount.is_v2 == bool(v1) or (v1 and "memory" not in mount.controllers):
                continue
            top = mount.root.rstrip("/")
            if ".." in line.path.split("/") or not f"{line.path}/".startswith(f"{top}/"):
                continue
            inside = line.path[len(top) :].rstrip("/")
            level = _level_v1 if v1 else _level
            return [
                found
                for directory in _upwards(mount.path, inside)
                if (found := level(directory, swap_free)) is not None
            ]
    return None


def _upwards(top: str, inside: str) -> Iterator[str]:
    while inside:
        yield top + inside
        inside = inside.rpartition("/")[0]
    yield top


def _level(directory: str, swap_free: int) -> MemoryLevel | None:
    limit = _count(_words(directory, "memory.max"))
    current = _count(_words(directory, "memory.current"))
    if limit is None or current is None:
        return None
    swap_max = _count(_words(directory, "memory.swap.max"))
    if swap_max is not None:
        used = _count(_words(directory, "memory.swap.current")) or 0
        swap_free = min(swap_free, max(swap_max - used, 0) // 1024)
    stat = _events(directory, "memory.stat")
    names = ("inactive_file", "active_file", "slab_reclaimable")
    held = current - sum(stat.get(name, 0) for name in names)
    return MemoryLevel(_shown(directory), limit // 1024, max(held, 0) // 1024, swap_free)


def _level_v1(directory: str, swap_free: int) -> MemoryLevel | None:
    limit = _count(_words(directory, "memory.limit_in_bytes"))
    current = _count(_words(directory, "memory.usage_in_bytes"))
    if limit is None or current is None or limit >= _NO_LIMIT_BYTES:
        return None
    # memsw is memory and swap together.
    both = _count(_words(directory, "memory.memsw.limit_in_bytes"))
    if both is not None:
        used = (_count(_words(directory, "memory.memsw.usage_in_bytes")) or 0) - current
        swap_free = min(swap_free, max(both - limit - max(used, 0), 0) // 1024)
    stat = _events(directory, "memory.stat")
    held = current - sum(stat.get(name, 0) for name in ("total_inactive_file", "total_active_file"))
    return MemoryLevel(_shown(directory), limit // 1024, max(held, 0) // 1024, swap_free)


def _shown(directory: str) -> str:
    return os.fsencode(directory).decode("utf-8", "backslashreplace")


def _count(words: list[str]) -> int | None:
    return int(words[0]) if words and words[0].isdigit() else None


def _events(directory: str, name: str) -> dict[str, int]:
    words = _words(directory, name)
    return {key: int(value) for key, value in zip(words[::2], words[1::2]) if value.isdigit()}


def _words(directory: str, name: str) -> list[str]:
    # Nothing where it cannot be read: cgroups come and go.
    try:
        fd = os.open(f"{directory}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 1 << 16).decode("ascii", "replace").split()
        finally:
            os.close(fd)
    except OSError:
        return []
