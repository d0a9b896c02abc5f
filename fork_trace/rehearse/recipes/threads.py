"""How threads are refused: no room for the stack, a full pids cgroup, an execve in progress.

Threads are made by libc's pthread_create(3) and run a function of libc, or one that only calls
execve. Asking and counting is stage's; what is borrowed of the host is borrowed's.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fork_trace import files
from fork_trace.errors import NotHereError
from fork_trace.rehearse.child import Stage
from fork_trace.rehearse.recipes.limits import (
    committable_kib,
    glibc_version,
    map_memory,
    room_for_half,
    spawns_by_clone3,
)
from fork_trace.rehearse.restore import Borrowed

_libc = ctypes.CDLL(None, use_errno=True)

# glibc reserved a stack without access and opened it by mprotect, which then meets the limits of
# writable and of split mappings; since 2.42 it maps the stack writable at once (glibc commit
# "nptl: Add support for setup guard pages with MADV_GUARD_INSTALL"). musl does as the old one.
STACK_STEP = "mmap" if glibc_version() >= (2, 42) else "mprotect"
THREAD_SYSCALL = "clone3" if spawns_by_clone3() else "clone"

_PAGE_BYTES = mmap.PAGESIZE
_KIB = 1 << 10
_MIB = 1 << 20
_STACK_BYTES = 64 * _MIB
# A usual vm.max_map_count is 65530; some distributions set 1048576, and so many mappings take
# 200 MiB of kernel memory.
_MOST_MAPPINGS = 100_000
_LOWERED_MAPPINGS = 65530
# Threads that may be made before one falls into an execve: on one processor few do.
_PATIENCE_THREADS = 100_000
# include/uapi/linux/memfd.h, Linux 6.3: with vm.memfd_noexec=1 a file must ask for it.
_MFD_EXEC = 0x10
# Room enough for every libc's pthread_attr_t (glibc: 56 or 64 bytes, musl: 56).
_ATTRIBUTES_BYTES = 256

_StartRoutine = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
# Returns at once, and so ends the thread.
_END_AT_ONCE = ctypes.cast(_libc.getpid, ctypes.c_void_p)

Act = Callable[[Stage], None]


def thread_stack_address_space(borrowed: Borrowed) -> Act:
    """Refuse thread stacks of 64 MiB by RLIMIT_AS with room for half of one."""

    def act(stage: Stage) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        used_bytes = int(files.text("/proc/self/statm").split()[0]) * _PAGE_BYTES
        limit_bytes = used_bytes + _STACK_BYTES // 2
        if hard != resource.RLIM_INFINITY:
            limit_bytes = min(limit_bytes, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit_bytes, hard))
        try:
            _ask_for_threads(stage)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        stage.notes.append(
            f"RLIMIT_AS was {limit_bytes // _MIB} MiB with {used_bytes // _MIB} MiB in use;"
            f" each thread's stack was to have {_STACK_BYTES // _MIB} MiB."
        )

    return act


def thread_stack_mappings(borrowed: Borrowed) -> Act:
    """Refuse thread stacks by vm.max_map_count, with all but one mapping taken by the process."""
    most = int(files.text("/proc/sys/vm/max_map_count"))
    limit = borrowed.sysctl("vm/max_map_count") if most > _MOST_MAPPINGS else None

    def act(stage: Stage) -> None:
        lowered = stage.changed((limit, _LOWERED_MAPPINGS)) if limit else contextlib.nullcontext()
        allowed = _LOWERED_MAPPINGS if limit else most
        with lowered, _all_mappings(allowed):
            _ask_for_threads(stage)
        stage.notes.append(f"The process had all but one of {allowed} mappings.")

    return act


@contextmanager
def _all_mappings(most: int) -> Iterator[None]:
    # Splitting needs a count below the limit, a new mapping one up to it (mm/vma.c, split_vma();
    # mm/mmap.c, do_mmap()): leave one, which the stack takes before it is to be split. Counted
    # and not tried, so that nothing is refused but stacks.
    wanted = most - 1 if STACK_STEP == "mprotect" else most + 1
    size_bytes = (most + 2) * _PAGE_BYTES
    start = map_memory(None, size_bytes, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    shared: list[mmap.mmap] = []
    try:
        # [vsyscall] is the kernel's, and not counted (mm->map_count).
        lines = files.text("/proc/self/maps").splitlines()
        count = sum(not line.endswith("[vsyscall]") for line in lines)
        page_bytes = ctypes.c_size_t(_PAGE_BYTES)
        # A page of another protection than its neighbours makes two mappings more.
        for page in range(1, most - count, 2):
            address = ctypes.c_void_p(start + page * _PAGE_BYTES)
            if _libc.mprotect(address, page_bytes, mmap.PROT_READ):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            count += 2
        while count > wanted:
            _libc.munmap(ctypes.c_void_p(start), page_bytes)  # the first page is one by itself
            count -= 1
        while count < wanted:
            # Shared ones are never merged, each being a file of its own.
            shared.append(mmap.mmap(-1, _PAGE_BYTES))
            count += 1
        yield
    finally:
        _libc.munmap(ctypes.c_void_p(start), ctypes.c_size_t(size_bytes))
        for each in shared:
            each.close()


def thread_stack_commit(borrowed: Borrowed) -> Act:
    """Refuse thread stacks by a commit limit that has room for half of one."""
    kbytes, mode = borrowed.commit_limit()
    # In mode 2 the counter may be wrong by RAM/256 (mm/mm_init.c, mm_compute_batch()).
    size_kib = committable_kib(max(256 * _KIB, _memory_kib() // 64), mode)

    def act(stage: Stage) -> None:
        with room_for_half(stage, kbytes, mode, size_kib) as room:
            _ask_for_threads(stage, size_kib * _KIB)
        stage.notes.append(room.replace("each fork", "each stack"))

    return act


def pids_cgroup_thread(borrowed: Borrowed) -> Act:
    """Refuse threads by pids.max of the process's own cgroup."""
    cgroups = borrowed.pids_cgroups()

    def act(stage: Stage) -> None:
        cgroups.enter()
        _ask_for_threads(stage)
        stage.notes.append(f"The cgroup {cgroups.shown(cgroups.top)} held {cgroups.counts()}.")

    return act


def exec_in_progress(borrowed: Borrowed) -> Act:
    """Refuse threads while another thread of the process is in execve (fs->in_exec)."""

    def act(stage: Stage) -> None:
        path = _file_of_no_known_format()
        # A thread's arguments, made once: while it runs, this one must stay quick.
        argv = (ctypes.c_char_p * 2)(path, None)
        envp = (ctypes.c_char_p * 1)(None)
        _libc.execve(path, argv, envp)
        if ctypes.get_errno() != errno.ENOEXEC:
            raise NotHereError(
                "execve of a file in memory is refused before it looks at the format:"
                f" {os.strerror(ctypes.get_errno())}.",
                "Set vm.memfd_noexec to 0 or 1, or loosen the security module.",
            )
        done: list[bool] = []

        def keep_executing(_argument: int | None) -> int:
            while not done:
                _libc.execve(path, argv, envp)
            return 0

        routine = _StartRoutine(keep_executing)
        attributes = _attributes(_STACK_BYTES)
        executing = _create(attributes, ctypes.cast(routine, ctypes.c_void_p))
        try:
            stage.ask_until_refused(lambda: _create(attributes), _join, _PATIENCE_THREADS)
        finally:
            done.append(True)
            _join(executing)
        stage.notes.append(
            f"One thread called execve all the time; {stage.successes} threads were made between"
            " its calls."
        )

    return act


def _file_of_no_known_format() -> bytes:
    # Printable: for other bytes the kernel would look for a module (fs/exec.c,
    # search_binary_handler()).
    text = b"of no known format\n"
    try:
        fd = os.memfd_create("no-program", os.MFD_CLOEXEC | _MFD_EXEC)
    except OSError:
        fd = os.memfd_create("no-program", os.MFD_CLOEXEC)
    os.write(fd, text)
    os.fchmod(fd, 0o700)
    # Who may write to a file keeps it from being executed (ETXTBSY).
    readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(fd)
    return b"/proc/self/fd/%d" % readable


def _ask_for_threads(stage: Stage, stack_bytes: int = _STACK_BYTES) -> None:
    attributes = _attributes(stack_bytes)
    stage.ask_until_refused(lambda: _create(attributes), keep=_join)


def create_idle(stack_bytes: int) -> None:
    """Make a thread that waits for a signal; OSError if there is no room for it."""
    _create(_attributes(stack_bytes), ctypes.cast(_libc.pause, ctypes.c_void_p))


def _attributes(stack_bytes: int) -> ctypes.Array[ctypes.c_char]:
    attributes = ctypes.create_string_buffer(_ATTRIBUTES_BYTES)
    _libc.pthread_attr_init(attributes)
    code = _libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(stack_bytes))
    if code:
        raise OSError(code, os.strerror(code))
    return attributes


def _create(
    attributes: ctypes.Array[ctypes.c_char], routine: ctypes.c_void_p = _END_AT_ONCE
) -> int:
    thread = ctypes.c_ulong()
    ctypes.set_errno(0)
    code = _libc.pthread_create(ctypes.byref(thread), attributes, routine, None)
    if code:
        # pthread_create says EAGAIN for ENOMEM; errno still has what the system call said.
        told = ctypes.get_errno() or code
        raise OSError(told, os.strerror(told))
    return thread.value


def _join(thread: int) -> None:
    _libc.pthread_join(ctypes.c_ulong(thread), None)


def _memory_kib() -> int:
    return os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES // _KIB
