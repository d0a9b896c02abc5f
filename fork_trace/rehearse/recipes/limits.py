"""How each failure of a rehearsal is made, in the child process whose forks fail.

A recipe borrows in the parent and returns the act for the child. Which scenarios there are is
rehearse's, the child's counting is stage's, and sysctls and cgroups are borrowed's.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fork_trace import files
from fork_trace.errors import ForkTraceError
from fork_trace.rehearse.child import Stage, die_with_parent, kill, name_process
from fork_trace.rehearse.restore import Borrowed, PidsCgroups, Sysctl

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000

# posix_spawn and popen are shown this often at most: each runs a shell while the limit is low.
_SPAWNS = 5
# Not in Python's mmap module (include/uapi/asm-generic/mman-common.h; alpha and parisc differ).
_MAP_FIXED = 0x10
_PAGE_BYTES = mmap.PAGESIZE
_KIB = 1 << 10
_MIB = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)

Act = Callable[[Stage], None]


def pids_cgroup(borrowed: Borrowed) -> Act:
    """Refuse by pids.max of the forking process's own cgroup."""
    return _fork_in(borrowed.pids_cgroups())


def pids_cgroup_ancestor(borrowed: Borrowed) -> Act:
    """Refuse by pids.max of the grandparent; parent and leaf have no limit."""
    return _fork_in(borrowed.pids_cgroups("middle", "leaf"))


def pids_cgroup_three_up(borrowed: Borrowed) -> Act:
    """Refuse by pids.max three cgroups above the forking process's own."""
    return _fork_in(borrowed.pids_cgroups("upper", "middle", "leaf"))


def _fork_in(cgroups: PidsCgroups) -> Act:
    def act(stage: Stage) -> None:
        cgroups.enter()
        stage.fork_until_refused()
        stage.notes.append(
            f"The cgroup {cgroups.shown(cgroups.top)} held {cgroups.counts()};"
            f" the process forked in {cgroups.shown(cgroups.leaf)}."
        )

    return act


def rlimit_nproc(borrowed: Borrowed) -> Act:
    """Refuse by RLIMIT_NPROC 1, as root under a user id that nobody uses."""
    uid = unused_uid() if os.geteuid() == 0 else os.getuid()

    def act(stage: Stage) -> None:
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
        if uid != os.getuid():
            try:
                # Drops every capability too, capabilities(7); root itself is exempt.
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
                stage.end_with_parent()
            except OSError as error:
                # Root of a user namespace without that uid; its processes are not exempt.
                stage.notes.append(f"User id {uid} could not be taken: {error.strerror}.")
        stage.fork_until_refused()
        stage.notes.append(f"User id {os.getuid()} forked with a soft RLIMIT_NPROC of 1.")

    return act


def unused_uid() -> int:
    """Return a user id that no process has, of the range that systemd's UIDS-GIDS.md leaves free."""
    used: set[str] = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            status = files.text(f"/proc/{pid}/status")
        except OSError:
            continue
        used.update(*(line.split()[1:] for line in status.splitlines() if line.startswith("Uid:")))
    return next(uid for uid in range(60578, 61184) if str(uid) not in used)


def pid_namespace_dead(borrowed: Borrowed) -> Act:
    """Refuse by a pid namespace whose init has ended (kernel/pid.c, disable_pid_allocation())."""

    def act(stage: Stage) -> None:
        if _libc.unshare(_CLONE_NEWPID) and _libc.unshare(_CLONE_NEWUSER | _CLONE_NEWPID):
            raise ForkTraceError(
                f"cannot make a pid namespace: {os.strerror(ctypes.get_errno())}.",
                "Run as root, or where user namespaces are allowed.",
            )
        init = os.fork()
        if init == 0:
            os._exit(0)
        os.waitpid(init, 0)
        stage.fork_until_refused()
        stage.notes.append(
            f"The init of the new pid namespace (pid {init} outside, 1 inside) had ended."
        )

    return act


def threads_max(borrowed: Borrowed) -> Act:
    """Refuse by kernel.threads-max at 20 (kernel/fork.c, MIN_THREADS)."""
    threads = int(files.text("/proc/loadavg").split()[3].split("/")[1])
    if threads < 20:
        raise ForkTraceError(
            f"the host has only {threads} threads, fewer than the 20 that this rehearsal allows.",
            "Start some processes, or rehearse pids-cgroup.",
        )
    limit = borrowed.sysctl("kernel/threads-max")

    def act(stage: Stage) -> None:
        with stage.changed((limit, 20)):
            stage.fork_until_refused()
        stage.notes.append(f"The host had {threads} threads.")

    return act


def least_pid_max() -> int:
    """Return the least that the kernel takes for kernel.pid_max (kernel/pid.c, pid_idr_init())."""
    # RESERVED_PIDS + 1, or PIDS_PER_CPU_MIN for each possible CPU.
    possible = (
        int(files.text("/sys/devices/system/cpu/possible").replace("-", ",").split(",")[-1]) + 1
    )
    return max(301, 8 * possible)


def pid_max(borrowed: Borrowed) -> Act:
    """Refuse by kernel.pid_max at its least, with every number below it taken by a sleeper."""
    least = least_pid_max()
    limit = borrowed.sysctl("kernel/pid_max")

    def act(stage: Stage) -> None:
        sleepers: list[int] = []
        # Once the cursor has passed 300, numbers below are not given again (kernel/pid.c,
        # alloc_pid()): on a host that just booted this spares 300 sleepers.
        for _ in range(400):
            pid = os.fork()
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            if pid > 300:
                break
        try:
            with stage.changed((limit, least)):
                stage.fork_until_refused(keep=sleepers.append)
        finally:
            kill(sleepers)
        stage.notes.append(f"Processes that held the last free numbers: {len(sleepers)}.")

    return act


def fd_table_limit(borrowed: Borrowed) -> Act:
    """Refuse by fs.nr_open below a descriptor that the forking process has open."""
    limit = borrowed.sysctl("fs/nr_open")
    # As high as costs little (dup_fd() copies a table of that size) and the hard limit allows:
    # few processes have such descriptors, so hardly any other fork of the host is refused.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    # A hard limit above fs.nr_open cannot be set again (kernel/sys.c, do_prlimit()).
    original = int(limit.original)
    highest = original if hard == resource.RLIM_INFINITY else min(hard, original)
    lowered = min(65536, original // 2, highest - 64) // 64 * 64
    high_fd = lowered + 10
    if lowered < 64:
        raise ForkTraceError(
            f"the hard limit on open files is {hard}, too low for this rehearsal.",
            "Raise it to 256 or more: ulimit -Hn 256.",
        )

    def act(stage: Stage) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (high_fd + 1, highest))
        os.dup2(limit.fd, high_fd)
        with stage.changed((limit, lowered)):
            stage.fork_until_refused()
        stage.notes.append(f"The process had descriptor {high_fd} open.")

    return act


def overcommit_heuristic(borrowed: Borrowed) -> Act:
    """Refuse by one private writable mapping larger than RAM and swap, in mode 0."""
    mode = None
    if files.text("/proc/sys/vm/overcommit_memory").strip() != "0":
        mode = borrowed.sysctl("vm/overcommit_memory")

    def act(stage: Stage) -> None:
        whole_bytes = (_meminfo_kib("MemTotal") + _meminfo_kib("SwapTotal")) * _KIB
        half_bytes = whole_bytes * 7 // 10 // _PAGE_BYTES * _PAGE_BYTES
        changes = [(mode, 0)] if mode else []
        # Unmapped before the mode is put back: in mode 2 nobody else could commit anything.
        with stage.changed(*changes), _two_mappings_in_one(half_bytes):
            stage.fork_until_refused()
        stage.notes.append(
            f"One mapping of {2 * half_bytes // _MIB} MiB was to be copied, untouched;"
            f" RAM and swap are {whole_bytes // _MIB} MiB."
        )

    return act


@contextmanager
def _two_mappings_in_one(half_bytes: int) -> Iterator[None]:
    # Each half is small enough for the heuristic; the kernel merges neighbours of one kind
    # (mm/vma.c, vma_merge_new_range()), and fork asks for the merged one at once.
    anonymous = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    writable = mmap.PROT_READ | mmap.PROT_WRITE
    # Room for both; PROT_NONE is not accounted (mm/vma.c, accountable_mapping()).
    start = map_memory(None, 2 * half_bytes, 0, anonymous)
    try:
        for half in (start, start + half_bytes):
            map_memory(half, half_bytes, writable, anonymous | _MAP_FIXED)
        if not _is_one_mapping(start, start + 2 * half_bytes):
            raise ForkTraceError(
                "the kernel keeps two adjacent mappings apart, so none exceeds RAM and swap.",
                "Rehearse overcommit-never instead.",
            )
        yield
    finally:
        _libc.munmap(ctypes.c_void_p(start), ctypes.c_size_t(2 * half_bytes))


def _is_one_mapping(start: int, end: int) -> bool:
    for line in files.text("/proc/self/maps").splitlines():
        first, last = (int(each, 16) for each in line.split()[0].split("-"))
        if first <= start < last:
            return end <= last and line.split()[1] == "rw-p"
    return False


def overcommit_never(borrowed: Borrowed) -> Act:
    """Refuse by a commit limit that has room for half of one mapping more."""
    kbytes, mode = borrowed.commit_limit()
    # In mode 2 the counter may be wrong by RAM/256 (mm/mm_init.c, mm_compute_batch()).
    size_kib = committable_kib(max(256 * _KIB, _meminfo_kib("MemTotal") // 64), mode)

    def act(stage: Stage) -> None:
        mapping = mmap.mmap(-1, size_kib * _KIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with mapping, room_for_half(stage, kbytes, mode, size_kib) as room:
            stage.fork_until_refused()
        stage.notes.append(room)

    return act


def committable_kib(wish_kib: int, mode: Sysctl) -> int:
    """Return how large one private mapping can be, up to the wish: whole MiB, in KiB."""
    # In mode 2 already, the mapping itself must fit with room to spare.
    free_kib = _meminfo_kib("CommitLimit") - _meminfo_kib("Committed_AS")
    size_kib = min(wish_kib, free_kib // 2) if mode.original == b"2" else wish_kib
    if size_kib < 64 * _KIB:
        raise ForkTraceError(
            f"only {2 * max(size_kib, 0) // _KIB} MiB can be had for a process to be refused.",
            "Free memory first, or raise the commit limit if vm.overcommit_memory is 2.",
        )
    # A whole number of MiB: whole pages on every architecture.
    return size_kib // _KIB * _KIB


@contextmanager
def room_for_half(stage: Stage, kbytes: Sysctl, mode: Sysctl, size_kib: int) -> Iterator[str]:
    """Leave half of that size to be committed, as long as the block runs; yield a sentence on it.

    Other processes' small forks go through meanwhile.
    """
    swap_kib = _meminfo_kib("SwapTotal")
    # The limit is kbytes plus swap (mm/util.c, vm_commit_limit()) and kbytes 0 means "use the
    # ratio": with much swap, raise what is committed. fork never asks for a shared mapping.
    filler_kib = max(swap_kib - _meminfo_kib("Committed_AS"), 4)
    with mmap.mmap(-1, filler_kib * _KIB):
        committed_kib = _meminfo_kib("Committed_AS")
        # Kept back for root to recover: user_reserve or 1/32 of the process, the smaller one
        # (__vm_enough_memory()).
        reserve_kib = min(_vm_size_kib() // 32, int(files.text("/proc/sys/vm/user_reserve_kbytes")))
        limit_kib = committed_kib + reserve_kib + size_kib // 2
        changes = [(kbytes, limit_kib - swap_kib)]
        if mode.original != b"2":
            changes.append((mode, 2))
        sentence = (
            f"The commit limit was {limit_kib // _KIB} MiB with {committed_kib // _KIB} MiB"
            f" committed, and each fork asked for {size_kib // _KIB} MiB more."
        )
        with stage.changed(*changes):
            yield sentence


def fork_big(borrowed: Borrowed) -> Act:
    """Refuse a process that touched 800 MiB; let its small twin, posix_spawn and popen pass."""
    kbytes, mode = borrowed.commit_limit()
    # Half of what is available is far from the OOM killer.
    size_kib = committable_kib(min(800 * _KIB, _meminfo_kib("MemAvailable") // 2), mode)

    def act(stage: Stage) -> None:
        twin = _Twin(stage)
        try:
            size_bytes = size_kib * _KIB
            with mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as big:
                for offset in range(0, size_bytes, _PAGE_BYTES):
                    big[offset] = 1
                with room_for_half(stage, kbytes, mode, size_kib) as room:
                    stage.fork_until_refused()
                    small = twin.fork_all()
                    spawned, popened = _spawns(stage)
        finally:
            twin.end()
        refused = sum(stage.failures.values())
        asked = refused + stage.successes
        times = min(stage.count, _SPAWNS)
        stage.notes += [
            room,
            f"With {size_kib // _KIB} MiB touched, {refused} of {asked} forks were refused.",
            f"The same program without the memory, under the same limit: {small}.",
            f"The big process by posix_spawn: {spawned} of {times} went through; {popened}.",
            "These share its memory (CLONE_VM) instead of copying it.",
        ]

    return act


class _Twin:
    # The same program without the memory: made before it is touched, forks when told.

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._go_from, self._go = os.pipe()
        self._answer, self._answer_to = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._run()
            finally:
                os._exit(0)
        os.close(self._go_from)
        os.close(self._answer_to)

    def fork_all(self) -> str:
        os.write(self._go, b"!")
        while not self._stage.ended_by():
            if select.select([self._answer], [], [], 0.05)[0]:
                return os.read(self._answer, 200).decode() or "it crashed"
        return "ended early"

    def end(self) -> None:
        kill([self._pid])
        os.close(self._go)
        os.close(self._answer)

    def _run(self) -> None:
        die_with_parent()
        name_process("ft-fork-small")
        os.close(self._go)
        if not os.read(self._go_from, 1):
            return
        through = refused = 0
        while through + refused < self._stage.count and not self._stage.ended_by():
            try:
                pid = os.fork()
            except OSError:
                refused += 1
                continue
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            through += 1
        os.write(self._answer_to, f"{through} of {through + refused} forks went through".encode())


def _spawns(stage: Stage) -> tuple[int, str]:
    times = min(stage.count, _SPAWNS)
    spawned = popened = 0
    for _ in range(times):
        if stage.ended_by():
            break
        try:
            pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], {})
        except OSError:
            continue
        os.waitpid(pid, 0)
        spawned += 1
    # glibc's popen() forked through 2.28 and would add failures; since 2.29 it is posix_spawn
    # (glibc commit "posix: Use posix_spawn on popen"). musl's always was.
    if (0,) < glibc_version() < (2, 29):
        return spawned, "popen was not tried, as this old glibc's forks"
    _libc.popen.restype = ctypes.c_void_p
    for _ in range(times):
        if stage.ended_by():
            break
        stream = _libc.popen(b"exit 0", b"r")
        if stream:
            _libc.pclose(ctypes.c_void_p(stream))
            popened += 1
    return spawned, f"by popen: {popened} of {times}"


def glibc_version() -> tuple[int, ...]:
    """Return (2, 36) and the like, or (0,) where the C library is another one."""
    try:
        version = (os.confstr("CS_GNU_LIBC_VERSION") or "glibc 0").split()[1]
    except (ValueError, OSError):
        return (0,)
    return tuple(int(each) for each in version.split(".")[:2])


def spawns_by_clone3() -> bool:
    """Say whether the C library asks for threads, and by posix_spawn, with clone3.

    glibc does since 2.34 (commit "Add an internal wrapper for clone, clone2 and clone3"), on arm64 since
    2.38 (commit "aarch64: Add the clone3 wrapper").
    """
    return glibc_version() >= ((2, 38) if os.uname().machine == "aarch64" else (2, 34))


def map_memory(start: int | None, size_bytes: int, protection: int, flags: int) -> int:
    """Call mmap(2) and return the address, which Python's own mmap does not tell."""
    _libc.mmap.restype = ctypes.c_void_p
    size, offset = ctypes.c_size_t(size_bytes), ctypes.c_long(0)
    address = _libc.mmap(ctypes.c_void_p(start), size, protection, flags, -1, offset)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(address)


def _meminfo_kib(name: str) -> int:
    for line in files.text("/proc/meminfo").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise ForkTraceError(f"/proc/meminfo has no {name}.", "Use a kernel of 3.14 or later.")


def _vm_size_kib() -> int:
    return int(files.text("/proc/self/statm").split()[0]) * _PAGE_BYTES // _KIB
