"""limits.py KIND COUNT: reaches a limit, is refused COUNT times, and prints the kernel's own numbers.

One JSON object: `value` and `limit` as cgroupfs, /proc or getrlimit(2) tell them while the forks
fail, in the unit of the evidence, `refused`, and its `pid`.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import json
import mmap
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import own_cgroups

COUNT = int(sys.argv[2])
UID = 61007
SLEEPERS = 5
MIB = 1 << 20
PAGE = mmap.PAGESIZE

sleepers: list[int] = []


def sleepers_are_made() -> None:
    for _ in range(SLEEPERS):
        pid = os.fork()
        if pid == 0:
            signal.pause()
        sleepers.append(pid)


def refused(ask: Callable[[], int] = os.fork) -> int:
    found = 0
    for _ in range(COUNT):
        try:
            pid = ask()
        except (OSError, RuntimeError):
            found += 1
            continue
        if pid == 0:
            os._exit(0)
    return found


def number(path: str) -> int:
    return int(Path(path).read_text().split()[0])


def meminfo(name: str) -> int:
    (line,) = (x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1])


@contextmanager
def cgroup() -> Iterator[Path]:
    base = Path("/sys/fs/cgroup")
    with own_cgroups.made(base, "ft-limits", "+pids +memory") as place:
        (place / "cgroup.procs").write_text("0")
        try:
            yield place
            time.sleep(2)  # for the reader, who looks for the path
        finally:
            for pid in sleepers:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            sleepers.clear()
            (base / "cgroup.procs").write_text("0")


@contextmanager
def sysctl(path: str, value: int) -> Iterator[None]:
    file = Path("/proc/sys") / path
    before = file.read_text()
    file.write_text(str(value))
    try:
        yield
    finally:
        file.write_text(before)


def pids() -> tuple[int, int, int]:
    with cgroup() as place:
        sleepers_are_made()
        (place / "pids.max").write_text(str(SLEEPERS + 1))
        times = refused()
        return number(f"{place}/pids.current"), number(f"{place}/pids.max"), times


def user() -> tuple[int, int, int]:
    resource.setrlimit(resource.RLIMIT_NPROC, (SLEEPERS + 1, SLEEPERS + 1))
    os.setresuid(UID, UID, UID)
    sleepers_are_made()
    times = refused()
    tasks = 0
    for status in Path("/proc").glob("[0-9]*/task/*/status"):
        with contextlib.suppress(OSError):
            (line,) = (x for x in status.read_text().splitlines() if x.startswith("Uid:"))
            tasks += line.split()[1] == str(UID)
    return tasks, resource.getrlimit(resource.RLIMIT_NPROC)[0], times


def descriptors() -> tuple[int, int, int]:
    high = 5000
    resource.setrlimit(resource.RLIMIT_NOFILE, (high + 1, high + 1))
    os.dup2(0, high)
    with sysctl("fs/nr_open", 4096):
        times = refused()
        # The table is copied in whole words of 64 slots.
        return high // 64 * 64 + 64, number("/proc/sys/fs/nr_open"), times


def threads() -> tuple[int, int, int]:
    with sysctl("kernel/threads-max", 21):
        times = refused()
        total = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
        return total, number("/proc/sys/kernel/threads-max"), times


def address_space() -> tuple[int, int, int]:
    _thread.stack_size(64 * MIB)
    used = number("/proc/self/statm") * PAGE
    resource.setrlimit(resource.RLIMIT_AS, (used + 32 * MIB, resource.RLIM_INFINITY))
    times = refused(lambda: _thread.start_new_thread(signal.pause, ()))
    # glibc adds the guard to what it maps: a page, and on arm64 64 KiB at least (ARCH_MIN_GUARD_SIZE).
    guard = max(PAGE, 64 << 10) if os.uname().machine == "aarch64" else PAGE
    asked = 64 * MIB + guard
    total = number("/proc/self/statm") * PAGE + asked
    return total // 1024, resource.getrlimit(resource.RLIMIT_AS)[0] // 1024, times


def commit() -> tuple[int | None, int, int]:
    with mmap.mmap(-1, 64 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
        kbytes = meminfo("Committed_AS") + 32 * 1024 - meminfo("SwapTotal")
        with sysctl("vm/overcommit_kbytes", kbytes), sysctl("vm/overcommit_memory", 2):
            times = refused()
            size = number("/proc/self/statm")
            limit = meminfo("CommitLimit")
            # mm/util.c, __vm_enough_memory: what is kept back from any one process.
            reserve = number("/proc/sys/vm/user_reserve_kbytes") // (PAGE // 1024)
            limit -= min(size // 32, reserve) * (PAGE // 1024)
            return None, limit, times


def memory() -> tuple[None, int, int]:
    Path("/proc/self/oom_score_adj").write_text("-1000")
    # 16 MiB of page tables, each of a page of eight-byte entries, and a page in each of them.
    tables, reach = 16 * MIB // PAGE, PAGE // 8 * PAGE
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000  # MAP_NORESERVE
    with mmap.mmap(-1, tables * reach, flags=flags) as spread:
        with contextlib.suppress(OSError):
            spread.madvise(mmap.MADV_NOHUGEPAGE)
        for each in range(tables):
            spread[each * reach] = 1
        with cgroup() as place:
            limit = number(f"{place}/memory.current") + 8 * MIB
            (place / "memory.max").write_text(str(limit // PAGE * PAGE))
            times = 0
            for _ in range(COUNT):
                times += refused_once()
            return None, number(f"{place}/memory.max") // 1024, times


def refused_once() -> int:
    time.sleep(0.05)  # what the last one took is given back after a grace period
    try:
        pid = os.fork()
    except OSError:
        return 1
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return 0


KINDS = {
    "pids-cgroup": pids,
    "rlimit-nproc": user,
    "fd-table-limit": descriptors,
    "threads-max": threads,
    "thread-stack": address_space,
    "overcommit-never": commit,
    "memory-cgroup": memory,
}

ctypes.CDLL(None).prctl(15, b"ft-limits", 0, 0, 0)
value, limit, times = KINDS[sys.argv[1]]()
for pid in sleepers:
    os.kill(pid, signal.SIGKILL)
print(json.dumps({"pid": os.getpid(), "value": value, "limit": limit, "refused": times}))
