"""How a policy refuses a fork: the scheduler's deadlines, a seccomp filter, a security module.

And two causes at once, of which the kernel meets one first. Asking and counting is stage's; what
is borrowed of the host is borrowed's.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import struct
from collections.abc import Callable

from fork_trace import files
from fork_trace.errors import ForkTraceError, NotHereError
from fork_trace.probes.libbpf.bindings import Library
from fork_trace.probes.libbpf.loading import attached
from fork_trace.probes.objects import program
from fork_trace.rehearse.child import Stage
from fork_trace.rehearse.recipes.limits import committable_kib, room_for_half, unused_uid
from fork_trace.rehearse.restore import Borrowed

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

_MACHINE = os.uname().machine

_SYS_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}.get(_MACHINE)
# struct sched_attr, include/uapi/linux/sched/types.h, SCHED_ATTR_SIZE_VER0: size, policy, flags,
# nice, priority, then runtime, deadline and period in nanoseconds.
_SCHED_ATTR = struct.Struct("=IIQiIQQQ")
_SCHED_OTHER, _SCHED_DEADLINE = 0, 6
_MS_NS = 1_000_000

# AUDIT_ARCH_*, include/uapi/linux/audit.h.
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}.get(_MACHINE)
# What makes a process: clone, fork, vfork, clone3.
_MAKING = {"x86_64": (56, 57, 58, 435), "aarch64": (220, 435)}.get(_MACHINE, ())
# include/uapi/linux/prctl.h, seccomp.h, bpf_common.h.
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _REFUSE_ERRNO = 0x7FFF0000, 0x00050000
# struct seccomp_data: the system call's number, then the architecture.
_NUMBER_OFFSET, _ARCH_OFFSET = 0, 4

_LSM_LIST = "/sys/kernel/security/lsm"
_BOOT_BPF_LSM = "Boot with bpf in the list of lsm=, which needs CONFIG_BPF_LSM=y."

Act = Callable[[Stage], None]


def deadline(borrowed: Borrowed) -> Act:
    """Refuse because the process runs by SCHED_DEADLINE and children may not inherit it."""
    if _SYS_SCHED_SETATTR is None:
        raise _other_machine("sched_setattr")

    def act(stage: Stage) -> None:
        try:
            _schedule(_SCHED_DEADLINE, 10, 30, 100)
        except OSError as error:
            raise NotHereError(
                f"this process may not have SCHED_DEADLINE: {error.strerror}.",
                "Give CAP_SYS_NICE, all processors of the host, and a kernel.sched_rt_runtime_us"
                " with some room; a container often has none of them.",
            ) from None
        try:
            stage.fork_until_refused()
        finally:
            _schedule(_SCHED_OTHER, 0, 0, 0)
        stage.notes.append(
            "The process had SCHED_DEADLINE, 10 ms of each 100 ms, and no reset-on-fork."
        )

    return act


def _schedule(policy: int, runtime_ms: int, deadline_ms: int, period_ms: int) -> None:
    times_ns = (each * _MS_NS for each in (runtime_ms, deadline_ms, period_ms))
    raw = _SCHED_ATTR.pack(_SCHED_ATTR.size, policy, 0, 0, 0, *times_ns)
    number = ctypes.c_long(_SYS_SCHED_SETATTR or -1)
    if _libc.syscall(number, ctypes.c_long(0), raw, ctypes.c_long(0)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class _Program(ctypes.Structure):
    # struct sock_fprog, include/uapi/linux/filter.h
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def seccomp(borrowed: Borrowed) -> Act:
    """Refuse by a seccomp filter that answers EAGAIN to every clone and fork."""
    if _AUDIT_ARCH is None:
        raise _other_machine("clone")

    def act(stage: Stage) -> None:
        filter_ = _filter()
        instructions = ctypes.create_string_buffer(filter_, len(filter_))
        handed = _Program(len(filter_) // 8, ctypes.addressof(instructions))
        zero, one = ctypes.c_ulong(0), ctypes.c_ulong(1)
        # Without new privileges nobody has to be root, seccomp(2).
        if _libc.prctl(_PR_SET_NO_NEW_PRIVS, one, zero, zero, zero) or _libc.prctl(
            _PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(handed), zero, zero
        ):
            raise NotHereError(
                f"this kernel takes no seccomp filter: {os.strerror(ctypes.get_errno())}.",
                "It needs CONFIG_SECCOMP_FILTER=y.",
            )
        stage.fork_until_refused()
        stage.notes.append("A seccomp filter of the process itself answered EAGAIN.")

    return act


def _filter() -> bytes:
    # Classic BPF: each instruction is code, where to go if true and if false, and a value.
    refuse = len(_MAKING) + 4
    program_ = [
        (_LOAD_WORD, 0, 0, _ARCH_OFFSET),
        (_JUMP_IF_EQUAL, 0, len(_MAKING) + 1, _AUDIT_ARCH or 0),
        (_LOAD_WORD, 0, 0, _NUMBER_OFFSET),
    ]
    for number in _MAKING:
        program_.append((_JUMP_IF_EQUAL, refuse - len(program_) - 1, 0, number))
    program_ += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE_ERRNO | errno.EAGAIN)]
    return b"".join(struct.pack("=HBBI", *each) for each in program_)


def security_module(borrowed: Borrowed) -> Act:
    """Refuse by a BPF program at the hook task_alloc of the security modules."""
    try:
        modules = files.text(_LSM_LIST)
    except OSError:
        modules = ""  # securityfs is not mounted: then the first fork tells
    if modules and "bpf" not in modules.split(","):
        raise NotHereError(
            f"the security modules of this kernel are {modules.strip()}: bpf is not among them.",
            _BOOT_BPF_LSM,
        )
    image = files.contents(program("rehearse_lsm.bpf.o"))

    def act(stage: Stage) -> None:
        library = Library()
        try:
            with attached(library, image):
                # Forks that go through at all mean that nobody asks the program.
                stage.ask_until_refused(os.fork, patience=0)
        except OSError as error:
            raise NotHereError(
                f"this kernel takes no BPF program as security module: {error.strerror}.",
                f"{_BOOT_BPF_LSM} Lockdown forbids it, as does a lack of CAP_BPF and CAP_PERFMON.",
            ) from None
        if stage.successes and not stage.failures:
            raise NotHereError(
                "this kernel has no bpf among its active security modules.", _BOOT_BPF_LSM
            )
        stage.notes.append("A BPF program at the hook task_alloc answered EACCES.")

    return act


def two_causes(borrowed: Borrowed) -> Act:
    """Refuse by the commit limit, in a cgroup that is full too; the kernel asks for memory first."""
    cgroups = borrowed.pids_cgroups()
    kbytes, mode = borrowed.commit_limit()
    memory_kib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024
    # As overcommit-never.
    size_kib = committable_kib(max(256 * 1024, memory_kib // 64), mode)

    def act(stage: Stage) -> None:
        cgroups.enter()
        mapping = mmap.mmap(-1, size_kib * 1024, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with mapping, room_for_half(stage, kbytes, mode, size_kib) as room:
            stage.fork_until_refused()
        stage.notes += [room, f"Its cgroup held {cgroups.counts()}."]

    return act


def rlimit_and_pids(borrowed: Borrowed) -> Act:
    """Refuse by RLIMIT_NPROC, in a cgroup that is full too; the kernel asks for the user first."""
    uid = unused_uid()
    cgroups = borrowed.pids_cgroups()

    def act(stage: Stage) -> None:
        cgroups.enter()
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
        # The saved user id stays root's, to be able to leave the cgroup; the capabilities are
        # out of force meanwhile, capabilities(7).
        os.setresuid(uid, uid, 0)
        stage.end_with_parent()
        try:
            stage.fork_until_refused()
        finally:
            os.setresuid(0, 0, 0)
            stage.end_with_parent()
        stage.notes.append(
            f"User id {uid} forked with a soft RLIMIT_NPROC of 1; its cgroup held"
            f" {cgroups.counts()}."
        )

    return act


def _other_machine(call: str) -> ForkTraceError:
    return NotHereError(
        f"{call}'s number on {_MACHINE} is not known here.",
        "Rehearse it on x86_64 or aarch64.",
    )
