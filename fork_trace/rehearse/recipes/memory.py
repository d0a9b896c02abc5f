"""How a full memory cgroup refuses a fork, in a child whose cgroup may not be relieved by a kill.

Making the cgroup and giving it back is borrowed's; asking and counting is stage's.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from fork_trace import files
from fork_trace.errors import NotHereError
from fork_trace.rehearse.child import Stage
from fork_trace.rehearse.restore import Borrowed, places, write_text

_PAGE_BYTES = mmap.PAGESIZE
# What one table of the lowest level maps: 8 bytes an entry on every 64-bit architecture.
_TABLE_SPAN_BYTES = _PAGE_BYTES * (_PAGE_BYTES // 8)
_MIB = 1 << 20
# Room for all that a fork allocates before it copies page tables (some 100 KiB), for what the
# failed forks before it have not given back yet, and for the process's own few pages.
_ROOM_BYTES = 8 * _MIB
# More than that room and the 256 KiB that each processor may hold in advance (mm/memcontrol.c,
# MEMCG_CHARGE_BATCH) on a small host.
_TABLES_BYTES = 24 * _MIB
# Not in Python's mmap module before 3.12 (include/uapi/asm-generic/mman-common.h).
_MAP_NORESERVE = 0x4000
# How long what an earlier fork took may stay charged: page tables and tasks are freed after an
# RCU grace period.
_PATIENCE_S = 2.0

# The limit and the count, by cgroup version.
_FILES = {
    2: ("memory.max", "memory.current"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
}

# What a cgroup may take: each limit, and what is used of it.
_ROOM = {
    ("memory", 2): (("memory.max", "memory.current"), ("memory.high", "memory.current")),
    ("memory", 1): (_FILES[1],),
    ("swap", 2): (("memory.swap.max", "memory.swap.current"),),
    ("swap", 1): (),
}

Act = Callable[[Stage], None]


def room_bytes(what: str, most_bytes: int) -> int:
    """Return how much "memory" or "swap" this process may still take by its cgroups; at most so many bytes."""
    own = files.text("/proc/self/cgroup").splitlines()
    for version, mount in places(files.text("/proc/self/mountinfo"), "memory"):
        for _, controllers, path in (line.split(":", 2) for line in own):
            if (version == 2 and not controllers) or "memory" in controllers.split(","):
                found = room_below(mount, path, _ROOM[what, version])
                most_bytes = most_bytes if found is None else min(most_bytes, found)
    return most_bytes


def room_below(mount: str, path: str, pairs: Sequence[tuple[str, str]]) -> int | None:
    """Return the least that is left by these limits in a cgroup and all above it; None: none of them has one."""
    left: list[int] = []
    parts = [each for each in path.split("/") if each]
    # In a container the path can be the host's: then the cgroup that is seen as the top is its own.
    for depth in range(len(parts), -1, -1):
        directory = os.path.join(mount, *parts[:depth])
        for limit, usage in pairs:
            with suppress(OSError, ValueError):  # "max", or no such file at the top
                most = int(files.text(os.path.join(directory, limit)))
                used = int(files.text(os.path.join(directory, usage)))
                left.append(max(0, most - max(0, used - _cached(directory))))
    return min(left, default=None)


def _cached(directory: str) -> int:
    # Of what is charged, what the kernel drops first when more is needed.
    with suppress(OSError):
        stat = files.text(os.path.join(directory, "memory.stat"))
        lines = dict(line.split()[:2] for line in stat.splitlines() if len(line.split()) == 2)
        return int(lines.get("inactive_file", "0"))
    return 0


def memory_cgroup(borrowed: Borrowed) -> Act:
    """Refuse by the memory limit of the own cgroup, where nothing may be killed to relieve it."""
    if files.text("/proc/sys/vm/overcommit_memory").strip() == "2":
        # Many page tables need much address space, and in mode 2 all of it counts.
        raise NotHereError(
            "vm.overcommit_memory is 2, so that no process can have enough page tables.",
            "Rehearse it where vm.overcommit_memory is 0 or 1.",
        )
    cgroup = borrowed.memory_cgroup()
    limit, usage = (os.path.join(cgroup.top, name) for name in _FILES[cgroup.version])

    def act(stage: Stage) -> None:
        # Not by memory.oom_control of version 1: a process that touches a new page then sleeps
        # until somebody frees one, and nobody would.
        _exempt_from_kill()
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        tables = _TABLES_BYTES // _PAGE_BYTES
        with mmap.mmap(-1, tables * _TABLE_SPAN_BYTES, flags=flags) as spread:
            with suppress(OSError, AttributeError):
                # A huge page would need no table of its own; a kernel without them says EINVAL.
                spread.madvise(mmap.MADV_NOHUGEPAGE)
            # One page for each table: fork copies the tables, whatever they map.
            for number in range(tables):
                spread[number * _TABLE_SPAN_BYTES] = 1
            cgroup.enter()
            begin_bytes = int(files.text(usage))
            write_text(limit, str(begin_bytes + _ROOM_BYTES))

            def fork() -> int:
                _await(usage, begin_bytes + _ROOM_BYTES // 2)
                return os.fork()

            stage.ask_until_refused(fork)
        stage.notes.append(
            f"The cgroup {cgroup.shown(cgroup.top)} had room for {_ROOM_BYTES // _MIB} MiB;"
            f" each fork was to copy {_TABLES_BYTES // _MIB} MiB of page tables."
        )

    return act


def _exempt_from_kill() -> None:
    try:
        write_text("/proc/self/oom_score_adj", "-1000")
    except OSError as error:
        raise NotHereError(
            f"cannot exempt a process from the OOM killer: {error.strerror}. At the limit it would"
            " be killed, and no fork refused.",
            "Give CAP_SYS_RESOURCE, or run as root on the host.",
        ) from None


def _await(usage: str, most_bytes: int) -> None:
    give_up_s = time.monotonic() + _PATIENCE_S
    while _charged(usage, most_bytes) > most_bytes and time.monotonic() < give_up_s:
        time.sleep(0.001)


def _charged(usage: str, most_bytes: int) -> int:
    # To open a file and to read one takes memory of the same cgroup (fs/file_table.c,
    # alloc_empty_file; fs/seq_file.c, seq_buf_alloc). Who asks is refused too, and counts as much
    # as a fork does if nobody stops it here.
    try:
        return int(files.text(usage))
    except OSError:
        return most_bytes + 1
