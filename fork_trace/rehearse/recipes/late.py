"""Forks that go through, and what their copies cost later: counted, or by a kill for want of memory.

Making the cgroup and giving it back is borrowed's; counting is stage's.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import resource
import signal
from collections.abc import Callable

from fork_trace import files
from fork_trace.errors import NotHereError
from fork_trace.rehearse.child import Stage, die_with_parent
from fork_trace.rehearse.restore import Borrowed, PidsCgroups, write_text

_PAGE_BYTES = mmap.PAGESIZE
_MIB = 1 << 20
_SHOWN_BYTES = 100 * _MIB  # of the experiment
_SHARED_BYTES = 24 * _MIB
# Where the child is alone in the cgroup; where parent and child are, once what they share.
_CHILD_LIMIT_BYTES, _PARENT_LIMIT_BYTES = 16 * _MIB, 40 * _MIB
_LIMIT = {2: "memory.max", 1: "memory.limit_in_bytes"}
_SWAP = {2: ("memory.swap.max", "0"), 1: ("memory.swappiness", "0")}

Act = Callable[[Stage], None]


def cow(_borrowed: Borrowed) -> Act:
    """Fork a process of 100 MiB, have the child write all of it, and count minor faults and used memory."""

    def act(stage: Stage) -> None:
        with _touched(_SHOWN_BYTES) as memory:
            read_end, write_end = os.pipe()
            used = [_used_mib()]
            before = _faults()
            pid = os.fork()
            if pid == 0:
                try:
                    _play_child(memory, write_end)
                finally:
                    os._exit(0)
            after = _faults() - before
            os.close(write_end)
            with open(read_end, encoding="ascii") as told:
                lines = told.read().splitlines()
            os.waitpid(pid, 0)
            stage.successes += 1
        stage.notes.append(
            f"Parent: {used[0]} MiB of the host used before the fork, with {_SHOWN_BYTES // _MIB} MiB "
            f"of its own; {after} minor faults by the fork."
        )
        stage.notes += lines

    return act


def _play_child(memory: mmap.mmap, write_end: int) -> None:
    told = []
    for what in ("after the fork", "after reading all", "after writing all"):
        begin = _faults()
        for at in range(0, len(memory), _PAGE_BYTES) if what != "after the fork" else ():
            if what == "after writing all":
                memory[at] = 2
            else:
                memory[at]
        faults = _faults() - begin
        told.append(
            f"Child {what}: {faults} minor faults, {_used_mib()} MiB of the host used, "
            f"{_own_mib()} MiB its own."
        )
    os.write(write_end, "\n".join(told).encode())


def cow_oom(borrowed: Borrowed) -> Act:
    """Fork children that write what they share in a memory cgroup that has no room for the copies."""
    cgroup = _cgroup(borrowed, _CHILD_LIMIT_BYTES)

    def act(stage: Stage) -> None:
        with _touched(_SHARED_BYTES) as memory:
            while sum(stage.failures.values()) < stage.count and not stage.ended_by():
                pid = os.fork()
                if pid == 0:
                    try:
                        die_with_parent()
                        cgroup.enter()
                        _write(memory)
                    finally:
                        os._exit(0)
                if not _count(stage, pid):
                    return
        _note(stage, cgroup, "each child was to copy")

    return act


def cow_oom_parent(borrowed: Borrowed) -> Act:
    """Have a parent write what it shares with its child, in a memory cgroup without room for the copies."""
    cgroup = _cgroup(borrowed, _PARENT_LIMIT_BYTES)

    def act(stage: Stage) -> None:
        while sum(stage.failures.values()) < stage.count and not stage.ended_by():
            alive_from, alive_to = os.pipe()
            pid = os.fork()
            if pid == 0:
                try:
                    os.close(alive_from)
                    die_with_parent()
                    cgroup.enter()
                    _play_parent()
                finally:
                    os._exit(0)
            os.close(alive_to)
            is_killed = _count(stage, pid)
            # Its child holds the other end, and goes with it.
            os.read(alive_from, 1)
            os.close(alive_from)
            if not is_killed:
                return
        _note(stage, cgroup, "each parent was to copy")

    return act


def _play_parent() -> None:
    with _touched(_SHARED_BYTES) as memory:
        parent = os.getpid()
        if os.fork() == 0:
            die_with_parent()
            while os.getppid() == parent:
                signal.pause()
            os._exit(0)
        # Of two that hold the same, the OOM killer takes this one.
        write_text("/proc/self/oom_score_adj", "1000")
        _write(memory)


def _cgroup(borrowed: Borrowed, limit_bytes: int) -> PidsCgroups:
    cgroup = borrowed.memory_cgroup()
    name, value = _SWAP[cgroup.version]
    with contextlib.suppress(OSError):  # a host without swap may have no such file
        write_text(os.path.join(cgroup.top, name), value)
    write_text(os.path.join(cgroup.top, _LIMIT[cgroup.version]), str(limit_bytes))
    return cgroup


def _touched(size: int) -> mmap.mmap:
    """Return memory of which each page is there, all of them small ones."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError, AttributeError):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    _write(memory)
    return memory


def _write(memory: mmap.mmap) -> None:
    for at in range(0, len(memory), _PAGE_BYTES):
        memory[at] = 1


def _count(stage: Stage, pid: int) -> bool:
    """Wait for a process that is to be killed, and count it; say whether it was."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status != -signal.SIGKILL:
        stage.successes += 1
        return False
    stage.failures[signal.Signals.SIGKILL.name] += 1
    return True


def _note(stage: Stage, cgroup: PidsCgroups, what: str) -> None:
    limit = int(files.text(cgroup.top, _LIMIT[cgroup.version])) // _MIB
    stage.notes.append(
        f"The cgroup {cgroup.shown(cgroup.top)} had {limit} MiB; {what} {_SHARED_BYTES // _MIB} MiB."
    )


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def _used_mib() -> int:
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", files.text("/proc/meminfo"), re.MULTILINE))
    try:
        return (int(found["MemTotal"]) - int(found["MemAvailable"])) >> 10
    except KeyError:
        raise NotHereError(
            "/proc/meminfo does not tell what is available.", "Rehearse it on the host itself."
        ) from None


def _own_mib() -> int:
    text = files.text("/proc/self/smaps_rollup")
    return (
        sum(int(kib) for kib in re.findall(r"^Private_\w+:\s+(\d+) kB$", text, re.MULTILINE)) >> 10
    )
