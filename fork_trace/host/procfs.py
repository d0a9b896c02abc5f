"""/proc of one process, and of the host. Whatever is gone when it is read is None, never empty."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator

from fork_trace.model.dataclass import dataclass


@dataclass(frozen=True)
class Mapping:
    """One line of /proc/PID/maps that holds code (proc(5))."""

    start: int
    end: int
    file_offset: int
    device: str
    inode: int
    path: str | None  # None: it has no file


@dataclass(frozen=True)
class CgroupLine:
    """One line of /proc/PID/cgroup (cgroups(7))."""

    hierarchy: int
    controllers: str
    path: str


def is_initial_pid_namespace(root: str = "/proc") -> bool:
    """Say whether our pids are the host's (include/linux/proc_ns.h, PROC_PID_INIT_INO)."""
    try:
        return os.stat(f"{root}/self/ns/pid").st_ino == 0xEFFFFFFC
    except OSError:
        return False


def is_initial_cgroup_namespace(root: str = "/proc") -> bool:
    """Say whether cgroups have the host's paths for us (include/linux/proc_ns.h, PROC_CGROUP_INIT_INO)."""
    try:
        return os.stat(f"{root}/self/ns/cgroup").st_ino == 0xEFFFFFFB
    except OSError:
        return False


def host_name() -> str:
    """Return what records call this host: FORK_TRACE_HOST, as a container's own name says nothing, or its name."""
    return os.environ.get("FORK_TRACE_HOST") or os.uname().nodename


def boot_id(root: str = "/proc") -> str | None:
    """Return the id of this boot (drivers/char/random.c, proc_do_uuid); None: it cannot be read."""
    try:
        with open(f"{root}/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read(64).strip() or None
    except (OSError, ValueError):
        return None


def exe(pid: int, root: str = "/proc") -> str | None:
    """Return the path of the program that a process runs; None if it is gone or may not be seen."""
    try:
        return os.readlink(f"{root}/{pid}/exe")
    except OSError:
        return None


def process_of(pid: int, root: str = "/proc") -> int | None:
    """Return the process that a pid or tid belongs to; None: there is none that we may see."""
    try:
        status = _read(f"{root}/{pid}/status")
    except OSError:
        return None
    _, found, rest = status.partition(b"\nTgid:\t")
    return int(rest.split(b"\n", 1)[0]) if found else None


def cgroups(pid: int, root: str = "/proc") -> list[CgroupLine]:
    """Return the cgroups of a process, one for each hierarchy; none if it is gone."""
    lines = []
    try:
        text = _read(f"{root}/{pid}/cgroup").decode("utf-8", "backslashreplace")
        for line in text.rstrip("\n").split("\n"):
            hierarchy, controllers, path = line.split(":", 2)
            # Kept of many processes, which share most of them.
            lines.append(CgroupLine(int(hierarchy), sys.intern(controllers), sys.intern(path)))
    except (OSError, ValueError):
        return []
    return lines


# Executable ones, by their line in maps: start-end perms offset device inode path
_CODE = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) ..x. ([0-9a-f]+) ([0-9a-f]+:[0-9a-f]+) ([0-9]+)(?: +(.*))?$", re.M
)
_MOST_MAPS_BYTES = 64 << 20
# 65,530 mappings are some 6 MB, their paths aside; the code of a large browser is 300 of them.
_MOST_CODE_BYTES, _MOST_CODE_MAPPINGS = 16 << 20, 4096
_PIECE_BYTES = 1 << 16


def _read(path: str) -> bytes:
    # One read of that size would ask for the memory first, which a host at its limit has not.
    pieces, size = [], 0
    with open(path, "rb", buffering=0) as file:
        while size < _MOST_MAPS_BYTES and (piece := file.read(_PIECE_BYTES)):
            pieces.append(piece)
            size += len(piece)
    return b"".join(pieces)


def mappings(pid: int, root: str = "/proc") -> list[Mapping]:
    """Return where the code of a process lies; none if it is gone or may not be seen.

    Of a process that maps more than any honest one does these are not all.
    """
    found: list[Mapping] = []
    rest, size = b"", 0
    try:
        with open(f"{root}/{pid}/maps", "rb", buffering=0) as file:
            while size < _MOST_CODE_BYTES and len(found) < _MOST_CODE_MAPPINGS:
                piece = file.read(_PIECE_BYTES)
                whole, _, rest = (rest + piece).rpartition(b"\n")
                found += (_mapping(*each) for each in _CODE.findall(whole if piece else rest))
                size += len(piece)
                if not piece:
                    break
    except OSError:
        return []
    return found


def _mapping(
    start: bytes, end: bytes, offset: bytes, device: bytes, inode: bytes, path: bytes
) -> Mapping:
    return Mapping(
        int(start, 16),
        int(end, 16),
        int(offset, 16),
        sys.intern(device.decode()),
        int(inode),
        sys.intern(os.fsdecode(path)) if path.startswith(b"/") else None,
    )


# Private and readable ones, as _CODE: start-end, device, inode, path.
_PRIVATE = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) r..p [0-9a-f]+ ([0-9a-f]+:[0-9a-f]+) ([0-9]+)(?: +(.*))?$", re.M
)
_MOST_OWN_BYTES = 2 << 20


def own_memory(pid: int, file: tuple[str, int], root: str = "/proc") -> list[tuple[int, int]]:
    """Return where the private memory of a process lies that has no file, or that one: device and inode.

    In the order of their addresses; OSError: it is gone, may not be seen, or has absurdly many.
    """
    with open(f"{root}/{pid}/maps", "rb", buffering=0) as maps:
        pieces, size = [], 0
        while piece := maps.read(_PIECE_BYTES):
            pieces.append(piece)
            size += len(piece)
            if size > _MOST_OWN_BYTES:
                raise OSError(errno.EFBIG, "too many mappings")
    return [
        (int(start, 16), int(end, 16))
        for start, end, device, inode, path in _PRIVATE.findall(b"".join(pieces))
        # [vvar] and the like are the kernel's.
        if (inode == b"0" and not path.startswith(b"[v")) or (device.decode(), int(inode)) == file
    ]


def memory(pid: int, root: str = "/proc") -> int:
    """Open the memory of a process for reading; OSError. Once it runs another program, there is none to read."""
    return os.open(f"{root}/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)


def inner_tid(pid: int, tid: int, root: str = "/proc") -> int | None:
    """Return the number by which a thread knows itself, in its own pid namespace; None: it is gone."""
    try:
        with open(f"{root}/{pid}/task/{tid}/status", "rb", buffering=0) as file:
            found = re.search(rb"^NSpid:[\t0-9]*\t([0-9]+)$", file.read(_PIECE_BYTES), re.M)
    except OSError:
        return None
    return int(found[1]) if found else None


def descriptors(pid: int, root: str = "/proc") -> int | None:
    """Count the open descriptors of a process; None if it is gone or may not be seen."""
    try:
        return len(os.listdir(f"{root}/{pid}/fd"))
    except OSError:
        return None


def threads(root: str = "/proc") -> int | None:
    """Count all threads of the host (proc(5), loadavg); None where it does not tell."""
    try:
        with open(f"{root}/loadavg", encoding="ascii") as file:
            return int(file.read().split()[3].partition("/")[2])
    except (OSError, ValueError, IndexError):
        return None


def forks(root: str = "/proc") -> int | None:
    """Count the processes and threads made since the boot (proc(5), stat: processes); None: not told."""
    try:
        with open(f"{root}/stat", encoding="ascii") as file:
            _, _, rest = file.read().partition("\nprocesses ")
        return int(rest.partition("\n")[0])
    except (OSError, ValueError):
        return None


def number(path: str, root: str = "/proc", field: int = 0) -> int | None:
    """Read one number of a file such as sys/fs/file-nr; None where it does not tell."""
    try:
        with open(f"{root}/{path}", encoding="ascii") as file:
            return int(file.read().split()[field])
    except (OSError, ValueError, IndexError):
        return None


def has_accountable_mapping(pid: int, above_bytes: int, root: str = "/proc") -> bool | None:
    """Say whether one accountable mapping of a process is larger than that; None if it is gone.

    Accountable is what fork asks the overcommit rule for: VM_ACCOUNT, "ac" among the VmFlags of smaps
    (proc(5)). smaps walks page tables, so it is read only if some private writable mapping is so large.
    """
    try:
        # Line by line: 65,530 mappings of a file whose path is long are 260 MB.
        largest = -1
        with open(f"{root}/{pid}/maps", "rb") as file:
            for line in file:
                largest = max(largest, _size(line))
        if largest < 0:
            return None  # a zombie has none left
        if largest <= above_bytes:
            return False
        return any(size > above_bytes for size in _accountable(pid, root))
    except (OSError, ValueError):
        return None


def accountable(pid: int, root: str = "/proc") -> tuple[int, int] | None:
    """Return the bytes that a fork of a process asks the overcommit rule for, and the largest part.

    It walks page tables, which takes long where they are large. None: gone, or may not be seen.
    """
    try:
        sizes = list(_accountable(pid, root))
    except (OSError, ValueError):
        return None
    return sum(sizes), max(sizes, default=0)


def _accountable(pid: int, root: str) -> Iterator[int]:
    # Each mapping that fork asks for, by itself. "dc" (VM_DONTCOPY) is not copied and not asked for.
    size = 0
    with open(f"{root}/{pid}/smaps", "rb") as file:
        for line in file:
            if line.startswith(b"VmFlags:"):
                flags = line.split()
                if b"ac" in flags and b"dc" not in flags:
                    yield size
            elif b":" not in line.split(None, 1)[0]:
                start, _, end = line.split(None, 1)[0].partition(b"-")
                size = int(end, 16) - int(start, 16)


def largest_writable(pid: int, root: str = "/proc") -> int | None:
    """Return the bytes of the largest private writable mapping; None: gone, or may not be seen."""
    try:
        with open(f"{root}/{pid}/maps", "rb") as file:
            return max(map(_size, file), default=0)
    except (OSError, ValueError):
        return None


def mapping_count(pid: int, root: str = "/proc") -> int | None:
    """Count the mappings of a process as vm.max_map_count does; None: gone, or may not be seen."""
    try:
        with open(f"{root}/{pid}/maps", "rb") as file:
            # [vsyscall] is shown to everybody and belongs to nobody (fs/proc/task_mmu.c).
            return sum(not line.endswith(b"[vsyscall]\n") for line in file)
    except OSError:
        return None


def highest_descriptor(pid: int, root: str = "/proc") -> int | None:
    """Return the highest open descriptor, -1 if none; None: gone, or may not be seen."""
    try:
        return max(map(int, os.listdir(f"{root}/{pid}/fd")), default=-1)
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class SoftLimits:
    """The soft limits of a process that bear on a fork, RLIM_INFINITY for "unlimited"; None: not told."""

    processes: int | None
    files: int | None
    address_space: int | None  # bytes
    data: int | None  # bytes
    stack: int | None  # bytes


_LIMITS = (
    *(b"\nMax processes", b"\nMax open files", b"\nMax address space", b"\nMax data size"),
    b"\nMax stack size",
)


def soft_limits(pid: int, root: str = "/proc") -> SoftLimits:
    """Read the soft limits of a process (proc(5), limits)."""
    try:
        fd = os.open(f"{root}/{pid}/limits", os.O_RDONLY | os.O_CLOEXEC)
        try:
            raw = os.read(fd, 4096)
        finally:
            os.close(fd)
    except OSError:
        raw = b""
    return SoftLimits(*(_soft(raw, label) for label in _LIMITS))


def _soft(raw: bytes, label: bytes) -> int | None:
    at = raw.find(label)
    words = raw[at + len(label) : at + len(label) + 48].split(None, 1) if at >= 0 else []
    if not words:
        return None
    if words[0] == b"unlimited":
        return (1 << 64) - 1
    return int(words[0]) if words[0].isdigit() else None


@dataclass(frozen=True)
class Stat:
    """What /proc/PID/stat tells of the past of a process (proc(5))."""

    is_forked: bool  # it was forked, and has not executed a program since
    start_ticks: int  # after the boot, in clock ticks
    has_reaped: bool  # it has waited for a child that had used some CPU time or memory


# include/linux/sched.h
_PF_FORKNOEXEC = 0x40


def stat(pid: int, root: str = "/proc") -> Stat | None:
    """Read /proc/PID/stat; None: gone. It adds up all threads, so it is not for every process."""
    try:
        with open(f"{root}/{pid}/stat", "rb", buffering=0) as file:
            # The name may hold anything, parentheses too.
            words = file.read(4096).rpartition(b")")[2].split()
        flags, start = int(words[6]), int(words[19])
        reaped = any(int(words[each]) for each in (8, 10, 13, 14))  # cminflt cmajflt cutime cstime
    except (OSError, ValueError, IndexError):
        return None
    return Stat(bool(flags & _PF_FORKNOEXEC), start, reaped)


def has_ended(pid: int, root: str = "/proc") -> bool:
    """Say whether a process has ended, a zombie too."""
    try:
        with open(f"{root}/{pid}/stat", "rb", buffering=0) as file:
            return file.read(4096).rpartition(b")")[2].split()[:1] in ([b"Z"], [b"X"])
    except (FileNotFoundError, ProcessLookupError):
        return not _is_hidden(pid)
    except OSError:
        return False


def _is_hidden(pid: int) -> bool:
    """Say whether there is a process of others that /proc does not show (hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def uptime_ticks(root: str = "/proc") -> int | None:
    """Return the time since the boot in the ticks of `stat`; None: not told."""
    try:
        with open(f"{root}/uptime", encoding="ascii") as file:
            return int(float(file.read().split()[0]) * os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return None


def still_shared_kib(pid: int, root: str = "/proc") -> int | None:
    """Return how much anonymous memory of a process others map too; None: gone, or may not be seen.

    A lower bound, exact where few share it. smaps_rollup walks the page tables.
    """
    found = {}
    try:
        with open(f"{root}/{pid}/smaps_rollup", encoding="ascii", errors="replace") as file:
            for line in file:
                words = line.split()
                if len(words) == 3 and words[2] == "kB":
                    found[words[0].rstrip(":")] = int(words[1])
    except (OSError, ValueError):
        return None
    anonymous = found.get("Anonymous")
    if anonymous is None:
        return None
    # Pages of files are among the private ones too; of Pss_Anon (since Linux 5.4) each sharer has
    # its part. Either is at least what is this process' alone.
    private = found.get("Private_Clean", 0) + found.get("Private_Dirty", 0)
    return max(anonymous - min(private, found.get("Pss_Anon", private)), 0)


def anonymous(pid: int, root: str = "/proc") -> int | None:
    """Return the anonymous memory of a process in bytes, shared or not; None: it is gone, or hidden."""
    try:
        status = _read(f"{root}/{pid}/status")
    except OSError:
        return None
    found = re.search(rb"^RssAnon:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0  # what is dead, or the kernel's, has none


def huge_pages(root: str = "/sys") -> str | None:
    """Return the mode of transparent huge pages: always, madvise or never; None: the kernel has none."""
    try:
        with open(f"{root}/kernel/mm/transparent_hugepage/enabled", encoding="ascii") as file:
            found = re.search(r"\[(\w+)\]", file.read(200))
    except (OSError, ValueError):
        return None
    return found[1] if found else None


def own_pid(root: str = "/proc") -> int | None:
    """Return our own number in that /proc; None: not told."""
    try:
        link = os.readlink(f"{root}/self")
    except OSError:
        return None
    return int(link) if link.isdigit() else None


def is_mounted(root: str = "/proc") -> bool:
    """Say whether that is procfs: it always has an entry for whoever looks."""
    return os.path.lexists(f"{root}/self")


def vmstat(name: str, root: str = "/proc") -> int | None:
    """Return one counter of /proc/vmstat; None: this kernel has none of that name."""
    try:
        with open(f"{root}/vmstat", encoding="ascii") as file:
            for line in file:
                key, _, value = line.partition(" ")
                if key == name:
                    return int(value)
    except (OSError, ValueError):
        return None
    return None


def meminfo_kib(root: str = "/proc") -> dict[str, int]:
    """Return what /proc/meminfo has in kB, by name; empty where it does not tell."""
    found = {}
    try:
        with open(f"{root}/meminfo", encoding="ascii") as file:
            for line in file:
                name, _, rest = line.partition(":")
                if rest.endswith("kB\n"):
                    found[name] = int(rest.split()[0])
    except (OSError, ValueError, IndexError):
        return {}
    return found


def _size(line: bytes) -> int:
    """Return the bytes of a private writable mapping, by its line in maps or smaps; 0 for others."""
    span, permissions = line.split(None, 2)[:2]
    if permissions[1:2] != b"w" or permissions[3:4] != b"p":
        return 0
    start, _, end = span.partition(b"-")
    return int(end, 16) - int(start, 16)


def ram_and_swap(root: str = "/proc") -> int | None:
    """Return MemTotal and SwapTotal together, in bytes (proc(5), meminfo); None: not told."""
    found = meminfo_kib(root)
    return (found.get("MemTotal", 0) + found.get("SwapTotal", 0)) * 1024 or None
