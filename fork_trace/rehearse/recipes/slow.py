"""How forks are made to take long: much memory, much of it swapped out, a process moved between cgroups.

Each fork's own time is taken around the system call, as near to it as Python comes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from fork_trace import files
from fork_trace.errors import ForkTraceError, NotHereError
from fork_trace.rehearse.child import Stage, die_with_parent, kill, name_process
from fork_trace.rehearse.recipes.limits import map_memory
from fork_trace.rehearse.recipes.memory import room_bytes
from fork_trace.rehearse.recipes.threads import create_idle
from fork_trace.rehearse.restore import Borrowed, PidsCgroups, write_text
from fork_trace.rehearse.syscalls import prepared_clone

Act = Callable[[Stage], None]

MOVER = "ft-mover"
_MIB = 1 << 20
_SLOW_MS = 30.0  # what a fork shall take at least; then nobody needs a fine scale to see it
_TRIES = 3
_PAUSE_S = 0.002  # after each fork: on one processor the mover runs in it, or not at all
_PATIENCE_FORKS = 60  # for each that is to be slow, where another process decides
_MADV_PAGEOUT = 21  # Linux 5.4, include/uapi/asm-generic/mman-common.h
_FIRST_THREADS, _MORE_THREADS, _MOST_THREADS = 400, 100, 4000
_THREAD_STACK_BYTES = 64 << 10


def slow_page_tables(borrowed: Borrowed) -> Act:
    """Fork a process with so much memory, in pages of the smallest size, that copying its tables takes long."""

    def act(stage: Stage) -> None:
        with _calm():
            size = _grown(stage, _most_memory() // 4, _touch)
            _fork_slowly(stage)
        stage.notes.append(f"The process had {size // _MIB} MiB without huge pages.")

    return act


def slow_swap(borrowed: Borrowed) -> Act:
    """Fork a process of which nearly all memory is swapped out."""
    room = room_bytes("swap", _kib("/proc/meminfo", "SwapFree") * 1024)
    if room < 128 * _MIB:
        raise NotHereError(
            f"there are {room // _MIB} MiB of free swap for it, and it takes 128 MiB.",
            "Rehearse it where swap is on (`swapon --show`; memory.swap.max of the cgroup).",
        )

    def act(stage: Stage) -> None:
        with _calm():
            size = _grown(stage, room // 2, _swap_out)
            _fork_slowly(stage)
        swapped = _kib("/proc/self/status", "VmSwap") // 1024
        stage.notes.append(f"{swapped} MiB of {size // _MIB} MiB were swapped out.")

    return act


def slow_cgroup(borrowed: Borrowed) -> Act:
    """Fork while a process of many threads is moved to and fro between two cgroups."""
    cgroup = borrowed.plain_cgroup()

    def act(stage: Stage) -> None:
        with _calm():
            usual_ms = sorted(_fork_ms(stage) for _ in range(_TRIES))[_TRIES // 2]
        ready_from, ready_to = os.pipe()
        mover = os.fork()
        if mover == 0:
            _move(cgroup, ready_to)
        os.close(ready_to)
        try:
            os.read(ready_from, 1)  # nothing, if it could not
            with _calm():
                _fork_slowly(stage, usual_ms)
        finally:
            os.close(ready_from)
            kill([mover])
        stage.notes.append(f"{MOVER} moved itself between {cgroup.shown(cgroup.top)} and the root.")

    return act


def _most_memory() -> int:
    """Return how much memory there is for this process: on the host, and by its cgroups."""
    return room_bytes("memory", _kib("/proc/meminfo", "MemAvailable") * 1024)


def _fork_slowly(stage: Stage, usual_ms: float = 0.0) -> None:
    """Fork until `count` forks took as long as they shall; keep each one's own time."""
    # On a busy host each fork takes long: those are meant that wait besides.
    least_ms = max(_SLOW_MS, 3 * usual_ms)
    left = stage.count * _PATIENCE_FORKS
    first = len(stage.times_ms)
    while stage.slow < stage.count and left and not stage.ended_by():
        stage.slow += _fork_ms(stage) >= least_ms
        left -= 1
        if usual_ms:
            time.sleep(_PAUSE_S)
    forks = len(stage.times_ms) - first
    stage.notes.append(f"{stage.slow} of {forks} forks took {least_ms:.3g} ms or longer.")


def _fork_ms(stage: Stage) -> float:
    """Fork, tell the stage how long it took, and return that."""
    clone = prepared_clone()
    begin_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    pid = clone()
    if pid == 0:
        os._exit(0)
    taken_ms = (time.clock_gettime_ns(time.CLOCK_MONOTONIC) - begin_ns) / 1e6
    if pid < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    os.waitpid(pid, 0)
    stage.successes += 1
    stage.times_ms.append(round(taken_ms, 3))
    return taken_ms


def _grown(stage: Stage, most_bytes: int, fill: Callable[[int, int], None]) -> int:
    """Take more and more memory until forks are slow; return how much it is. ForkTraceError: too little there."""
    size, step = 0, 64 * _MIB
    while size + step <= most_bytes and not stage.ended_by():
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        address = map_memory(None, step, mmap.PROT_READ | mmap.PROT_WRITE, flags)
        fill(address, step)
        size += step
        # The quickest of a few: anything can make one of them slow.
        if min(_fork_ms(stage) for _ in range(_TRIES)) >= 1.2 * _SLOW_MS:
            return size
        step = max(step, min(size // 2, most_bytes - size) // _MIB * _MIB)
    raise ForkTraceError(
        f"with {size // _MIB} MiB a fork does not take {_SLOW_MS:g} ms here.",
        "Rehearse it where there is more memory for it (memory.max of its cgroups counts), or on a "
        "slower host.",
    )


def _madvise(address: int, size: int, advice: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_int(advice)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _touch(address: int, size: int) -> None:
    with suppress(OSError):  # a kernel without huge pages says EINVAL
        _madvise(address, size, mmap.MADV_NOHUGEPAGE)
    ctypes.memset(address, 1, size)


def _swap_out(address: int, size: int) -> None:
    _touch(address, size)
    before = _kib("/proc/self/status", "VmSwap")
    _madvise(address, size, _MADV_PAGEOUT)
    gone = (_kib("/proc/self/status", "VmSwap") - before) * 1024
    if gone < size * 3 // 4:
        raise NotHereError(
            f"the kernel swapped out {gone // _MIB} of {size // _MIB} MiB that it was asked to.",
            "Rehearse it where swap is large and free.",
        )


@contextmanager
def _calm() -> Iterator[None]:
    """Let no child take the processor while its parent takes the time, where that may be asked for."""
    before = os.sched_getaffinity(0)
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
        # And on another one it would be the hypervisor's to share, where there are fewer than it shows.
        os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        with suppress(OSError):
            os.sched_setaffinity(0, before)
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _move(cgroup: PidsCgroups, ready_to: int) -> None:
    """Move this process to and fro until it is killed; the more threads it has, the longer each takes."""
    try:
        die_with_parent()
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        name_process(MOVER)
        threads = 0
        places = [os.path.join(place, "cgroup.procs") for place in (cgroup.top, cgroup.base)]
        while True:
            wanted = _FIRST_THREADS if not threads else min(threads + _MORE_THREADS, _MOST_THREADS)
            with suppress(OSError):  # a limit: then as many as there may be
                while threads < wanted:
                    create_idle(_THREAD_STACK_BYTES)
                    threads += 1
            for _ in range(10):
                for place in places:
                    write_text(place, "0")
            os.write(ready_to, b"1")
    finally:
        os._exit(1)


def _kib(path: str, name: str) -> int:
    for line in files.text(path).splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ForkTraceError(f"{path} has no {name}.", "Use a kernel of 3.14 or later.")
