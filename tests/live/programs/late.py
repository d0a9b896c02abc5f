"""Processes that the OOM killer ends in a memory cgroup, with a fork behind it or without: late.py DIRECTORY SITUATION COUNT.

DIRECTORY is an empty cgroup with the memory controller. Each situation has a command of its own, "lt-" and
its name. Prints how many were killed.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from fork_trace.rehearse.child import die_with_parent, name_process

MIB = 1 << 20
PAGE_BYTES = mmap.PAGESIZE
GROW = "import mmap; m = mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
GROW += "for at in range(0, len(m), 4096): m[at] = 1\n"


def touched(size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    write(memory, size)
    return memory


def write(memory: mmap.mmap, size: int) -> None:
    for at in range(0, size, PAGE_BYTES):
        memory[at] = 1


def forked(name: str, act: Callable[[], object]) -> int:
    """Fork a process that acts under that name, and ends with its parent."""
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent()
            name_process(name)
            act()
        finally:
            os._exit(0)
    return pid


def first_to_die(act: Callable[[str], object], place: Path, name: str) -> int:
    """Have a process act in the cgroup, the parent of what it forks; return how it ended."""

    def inside() -> None:
        (place / "cgroup.procs").write_text("0")
        act(name)

    return os.waitstatus_to_exitcode(os.waitpid(forked(name, inside), 0)[1])


def prefork(name: str) -> None:
    """Workers share what was loaded before; one of them takes memory of its own."""
    kept = touched(24 * MIB)
    idle = [forked(f"{name}-idle", signal.pause) for _ in range(3)]
    worker = forked(f"{name}-work", lambda: touched(256 * MIB))
    status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    for pid in idle:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    del kept
    os._exit(1 if status == -signal.SIGKILL else 0)


def reader(name: str) -> None:
    """A worker reads memory of its own before it writes it: what is copied is the zero page."""
    workers(name, mmap.mmap(-1, 256 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def filer(name: str) -> None:
    """A worker reads a file that is mapped privately, and then writes there: what is copied is the file's."""
    with tempfile.TemporaryFile(dir=".") as file:
        file.truncate(256 * MIB)
        workers(name, mmap.mmap(file.fileno(), 256 * MIB, flags=mmap.MAP_PRIVATE))


def workers(name: str, memory: mmap.mmap) -> None:
    """One of some workers reads all of that memory and writes it then, part by part."""
    kept = touched(24 * MIB)
    with contextlib.suppress(OSError):
        memory.madvise(mmap.MADV_NOHUGEPAGE)

    def read_and_write() -> None:
        for at in range(0, len(memory), PAGE_BYTES):
            assert memory[at] == 0
            memory[at] = 1

    worker = forked(f"{name}-work", read_and_write)
    status = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    del kept
    os._exit(1 if status == -signal.SIGKILL else 0)


def executed(name: str) -> None:
    """A child that executed a program takes memory of its own."""
    kept = touched(24 * MIB)
    child = os.fork()
    if child == 0:
        die_with_parent()
        os.execv(f"{name}-grow", [f"{name}-grow", "-c", GROW])
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    del kept
    os._exit(1 if status == -signal.SIGKILL else 0)


def crossed(name: str) -> None:
    """A child has copied most of what it shared, and the kill comes as it takes a little more."""
    memory = touched(40 * MIB)

    def copy_and_grow() -> None:
        write(memory, 36 * MIB)
        grow_slowly()

    child = forked(f"{name}-copy", copy_and_grow)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(1 if status == -signal.SIGKILL else 0)


def grouped(name: str) -> None:
    """A child copies what it shares; where one of them is killed, so is the whole cgroup."""
    memory = touched(40 * MIB)
    child = forked(f"{name}-copy", lambda: write(memory, 40 * MIB))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(1 if status == -signal.SIGKILL else 0)


HUGE = 2 * MIB
POOL = Path("/proc/sys/vm/nr_hugepages")


def huge(name: str) -> None:
    """A child writes huge pages that it shares; all there are have been reserved by its parent."""
    memory = huge_pages()
    child = forked(f"{name}-copy", lambda: write(memory, len(memory)))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(1 if status == -signal.SIGBUS else 0)


def taken(name: str) -> None:
    """A parent writes huge pages that it shares; its child, whose they were too, reads them then."""
    memory = huge_pages()
    read_end, write_end = os.pipe()

    def read() -> None:
        os.read(read_end, 1)
        assert sum(memory[at] for at in range(0, len(memory), HUGE))

    child = forked(f"{name}-read", read)
    write(memory, len(memory))
    os.write(write_end, b"x")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(1 if status == -signal.SIGBUS else 0)


def huge_pages() -> mmap.mmap:
    """All huge pages of the pool, touched."""
    map_hugetlb = 0x40000  # include/uapi/asm-generic/mman-common.h
    size = int(POOL.read_text()) * HUGE
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | map_hugetlb)
    for at in range(0, size, HUGE):
        memory[at] = 1
    return memory


def grow_slowly() -> None:
    for _ in range(256):
        KEPT.append(touched(MIB))


def crowded(name: str) -> None:
    """A process takes all memory of the host; nobody else is to be killed for it."""

    def grow_first() -> None:
        Path("/proc/self/oom_score_adj").write_text("1000")
        while True:
            KEPT.append(touched(16 * MIB))

    status = os.waitstatus_to_exitcode(os.waitpid(forked(f"{name}-grow", grow_first), 0)[1])
    os._exit(1 if status == -signal.SIGKILL else 0)


KEPT: list[mmap.mmap] = []

# Limit in MiB, and what is done.
SITUATIONS: dict[str, tuple[int, Callable[[str], object]]] = {
    "prefork": (64, prefork),
    "reader": (64, reader),
    "filer": (64, filer),
    "executed": (64, executed),
    "huge": (64, huge),  # for a virtual machine, as is the next one
    "taken": (64, taken),
    "grouped": (64, grouped),
    "crossed": (80, crossed),
    "crowded": (1 << 30, crowded),  # for a virtual machine
}


def main() -> None:
    directory, situation, count = sys.argv[1:]
    place = Path(directory)
    limit, act = SITUATIONS[situation]
    is_v2 = (place / "memory.max").exists()
    (place / ("memory.max" if is_v2 else "memory.limit_in_bytes")).write_text(str(limit * MIB))
    swap = place / ("memory.swap.max" if is_v2 else "memory.swappiness")
    if swap.exists():
        swap.write_text("0")
    if situation in ("huge", "taken"):
        POOL.write_text("4")
    if situation == "grouped" and is_v2:
        (place / "memory.oom.group").write_text("1")
    name = f"lt-{situation}"
    program = Path(f"{name}-grow")
    if situation == "executed":
        program.symlink_to(os.path.realpath(sys.executable))
    killed = 0
    try:
        for _ in range(int(count)):
            killed += first_to_die(act, place, name) in (1, -signal.SIGKILL)
    finally:
        program.unlink(missing_ok=True)
    print(killed)


main()
