"""How rehearsals make forks fail by what is asked of clone and clone3: flags, pids, pidfds, cgroups.

Which scenarios there are is rehearse's, and the system calls are calls'.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from fork_trace.errors import NotHereError
from fork_trace.rehearse import identity, syscalls
from fork_trace.rehearse.child import Stage, kill
from fork_trace.rehearse.recipes.limits import Act, unused_uid
from fork_trace.rehearse.restore import Borrowed, PidsCgroups

# One above the highest number that kernel.pid_max can allow on a 64-bit kernel
# (include/linux/threads.h, PID_MAX_LIMIT).
_TID_TOO_HIGH = 4 << 20
# The last bit to be given a meaning (include/uapi/linux/sched.h).
_UNKNOWN_FLAG = 1 << 63
# CLONE_ARGS_SIZE_VER0 is 64.
_SIZE_TOO_SMALL = 56
# Never mapped: below vm.mmap_min_addr.
_NO_POINTER = 8


def by_clone3(flags: int, *, cgroup: int = 0, pidfd: int = 0, tid: int = 0) -> Callable[[], int]:
    """Return a call of clone3 with these arguments; NotHereError if there is no such clone3."""
    set_tid = (tid,) if tid else ()

    def ask() -> int:
        try:
            return syscalls.clone3(flags, cgroup=cgroup, pidfd=pidfd, set_tid=set_tid)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.E2BIG):
                raise
            raise NotHereError(
                f"clone3 cannot be asked for it here: {error.strerror}.",
                "Use Linux 5.7 or later, outside containers whose seccomp profile hides clone3.",
            ) from None

    return ask


def invalid_flags(borrowed: Borrowed) -> Act:
    """Refuse CLONE_THREAD without CLONE_SIGHAND, which contradicts itself."""

    def act(stage: Stage) -> None:
        stage.ask_until_refused(partial(syscalls.clone, syscalls.CLONE_THREAD, 0))
        stage.notes.append("Each call asked for CLONE_THREAD alone.")

    return act


def invalid_clone3(borrowed: Borrowed) -> Act:
    """Refuse arguments of clone3 that are shorter than its first version's."""

    def act(stage: Stage) -> None:
        stage.ask_until_refused(partial(syscalls.clone3, 0, size=_SIZE_TOO_SMALL))
        stage.notes.append(f"Each call told a size of {_SIZE_TOO_SMALL}; the least is 64.")

    return act


def unknown_clone3_flag(borrowed: Borrowed) -> Act:
    """Refuse a flag of clone3 that this kernel does not know (kernel/fork.c, clone3_args_valid())."""

    def act(stage: Stage) -> None:
        stage.ask_until_refused(by_clone3(_UNKNOWN_FLAG))
        stage.notes.append(f"Each call asked for the flag {_UNKNOWN_FLAG:#x}.")

    return act


def set_tid_taken(borrowed: Borrowed) -> Act:
    """Refuse by a pid that is asked for and that the forking process has itself."""

    def act(stage: Stage) -> None:
        tid = os.getpid()
        stage.ask_until_refused(by_clone3(0, tid=tid))
        stage.notes.append(f"Each call asked for the pid {tid}, its own.")

    return act


def set_tid_denied(borrowed: Borrowed) -> Act:
    """Refuse a chosen pid to a process without CAP_CHECKPOINT_RESTORE."""

    def act(stage: Stage) -> None:
        identity.drop_privileges(stage)
        stage.ask_until_refused(by_clone3(0, tid=os.getpid()))
        stage.notes.append(f"User id {os.getuid()} asked for a pid of its choice.")

    return act


def set_tid_range(borrowed: Borrowed) -> Act:
    """Refuse a chosen pid that is above every possible kernel.pid_max."""

    def act(stage: Stage) -> None:
        stage.ask_until_refused(by_clone3(0, tid=_TID_TOO_HIGH))
        stage.notes.append(f"Each call asked for the pid {_TID_TOO_HIGH}.")

    return act


def pidfd_nofile(borrowed: Borrowed) -> Act:
    """Refuse CLONE_PIDFD by an RLIMIT_NOFILE that leaves no descriptor."""

    def act(stage: Stage) -> None:
        free = os.dup(0)
        os.close(free)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        pidfd = ctypes.c_int()
        ask = by_clone3(syscalls.CLONE_PIDFD, pidfd=ctypes.addressof(pidfd))
        # The lowest free number is the first that the limit forbids.
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            stage.ask_until_refused(ask)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        stage.notes.append(f"RLIMIT_NOFILE was {free}, and descriptors 0 to {free - 1} were open.")

    return act


def pidfd_file_max(borrowed: Borrowed) -> Act:
    """Refuse CLONE_PIDFD by fs.file-max 0, which binds all but root."""
    limit = borrowed.sysctl("fs/file-max")
    uid = unused_uid()

    def act(stage: Stage) -> None:
        pidfd = ctypes.c_int()
        ask = by_clone3(syscalls.CLONE_PIDFD, pidfd=ctypes.addressof(pidfd))
        with stage.changed((limit, 0)), identity.without_privileges(stage, uid):
            stage.ask_until_refused(ask)

    return act


def pidfd_pointer(borrowed: Borrowed) -> Act:
    """Refuse CLONE_PIDFD with an address that the descriptor cannot be written to."""

    def act(stage: Stage) -> None:
        stage.ask_until_refused(by_clone3(syscalls.CLONE_PIDFD, pidfd=_NO_POINTER))
        stage.notes.append(f"Each call gave {_NO_POINTER:#x} as the address for the pidfd.")

    return act


def into_cgroup_busy(borrowed: Borrowed) -> Act:
    """Refuse CLONE_INTO_CGROUP by a cgroup that hands pids down to a cgroup with processes."""
    cgroups = borrowed.pids_cgroups("leaf", limit="max", versions=(2,))

    def act(stage: Stage) -> None:
        cgroups.enter()
        with _directory(cgroups) as fd:
            stage.ask_until_refused(by_clone3(syscalls.CLONE_INTO_CGROUP, cgroup=fd))
        stage.notes.append(_target(cgroups) + " The process was in the cgroup below.")

    return act


def into_cgroup_removed(borrowed: Borrowed) -> Act:
    """Refuse CLONE_INTO_CGROUP by a cgroup that was removed after it was opened."""
    cgroups = borrowed.plain_cgroup()

    def act(stage: Stage) -> None:
        with _directory(cgroups) as fd:
            os.rmdir(cgroups.top)
            stage.ask_until_refused(by_clone3(syscalls.CLONE_INTO_CGROUP, cgroup=fd))
        stage.notes.append(_target(cgroups))

    return act


def into_cgroup_denied(borrowed: Borrowed) -> Act:
    """Refuse CLONE_INTO_CGROUP by a cgroup that only root may write."""
    cgroups = borrowed.plain_cgroup()
    uid = unused_uid()

    def act(stage: Stage) -> None:
        with _directory(cgroups) as fd, identity.without_privileges(stage, uid):
            stage.ask_until_refused(by_clone3(syscalls.CLONE_INTO_CGROUP, cgroup=fd))
        stage.notes.append(_target(cgroups))

    return act


def into_cgroup_bad_fd(borrowed: Borrowed) -> Act:
    """Refuse CLONE_INTO_CGROUP by a descriptor that is a pipe's."""

    def act(stage: Stage) -> None:
        fd, other = os.pipe()
        stage.ask_until_refused(by_clone3(syscalls.CLONE_INTO_CGROUP, cgroup=fd))
        stage.notes.append(f"Each call gave descriptor {fd}, a pipe, as the cgroup.")
        os.close(fd)
        os.close(other)

    return act


def into_cgroup_full(borrowed: Borrowed) -> Act:
    """Refuse CLONE_INTO_CGROUP by pids.max 1 of the cgroup to be entered, not of the caller's own."""
    cgroups = borrowed.pids_cgroups(versions=(2,))

    def act(stage: Stage) -> None:
        sleepers: list[int] = []
        with _directory(cgroups) as fd:
            ask = by_clone3(syscalls.CLONE_INTO_CGROUP, cgroup=fd)
            try:
                stage.ask_until_refused(ask, keep=sleepers.append)
                stage.notes.append(f"{_target(cgroups)} It held {cgroups.counts()}.")
            finally:
                kill(sleepers)

    return act


@contextmanager
def _directory(cgroups: PidsCgroups) -> Iterator[int]:
    fd = os.open(cgroups.top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _target(cgroups: PidsCgroups) -> str:
    return f"Each call asked for the cgroup {cgroups.shown(cgroups.top)}."
