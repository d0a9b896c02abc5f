"""clone and clone3 as the kernel takes them, for rehearsals: the C library hides their arguments.

Each returns like os.fork: the child's pid in the parent, 0 in the child. The child runs on the
caller's stack, so no call here may share memory (CLONE_VM) unless it is sure to be refused.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Callable

# include/uapi/linux/sched.h
CLONE_VM = 0x00000100
CLONE_FS = 0x00000200
CLONE_FILES = 0x00000400
CLONE_SIGHAND = 0x00000800
CLONE_PIDFD = 0x00001000
CLONE_THREAD = 0x00010000
CLONE_NEWNS = 0x00020000
CLONE_NEWTIME = 0x00000080  # clone3 and unshare only: in clone it is part of the exit signal
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

_SYS_CLONE = {"x86_64": 56, "aarch64": 220}.get(os.uname().machine)
_SYS_CLONE3 = 435  # the same on every architecture
# struct clone_args, include/uapi/linux/sched.h, as of Linux 5.7 (CLONE_ARGS_SIZE_VER2).
_CLONE_ARGS = struct.Struct("=11Q")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def clone(flags: int, exit_signal: int = signal.SIGCHLD, tls: int = 0) -> int:
    """Call clone(2) with these CLONE_* flags and the caller's own stack."""
    if _SYS_CLONE is None:
        raise OSError(38, f"clone's number on {os.uname().machine} is not known here")
    arguments = [ctypes.c_ulong(each) for each in (flags | exit_signal, 0, 0, 0, tls)]
    return _checked(_libc.syscall(ctypes.c_long(_SYS_CLONE), *arguments))


def prepared_clone() -> Callable[[], int]:
    """Return a plain clone(2) that is ready to be called: nothing but the call takes time then.

    It returns like os.fork, or -1 with errno set.
    """
    if _SYS_CLONE is None:
        raise OSError(38, f"clone's number on {os.uname().machine} is not known here")
    call, zero = ctypes.c_long(_SYS_CLONE), ctypes.c_ulong(0)
    function, flags = _libc.syscall, ctypes.c_ulong(signal.SIGCHLD)
    return lambda: int(function(call, flags, zero, zero, zero, zero))


def clone3(
    flags: int,
    exit_signal: int = signal.SIGCHLD,
    pidfd: int = 0,
    set_tid: tuple[int, ...] = (),
    cgroup: int = 0,
    size: int | None = None,
) -> int:
    """Call clone3(2); `pidfd` is an address, `set_tid` innermost first, `cgroup` a descriptor.

    `size` is what the kernel is told instead of the true size of the arguments.
    """
    tids = (ctypes.c_int * len(set_tid))(*set_tid) if set_tid else None
    raw = _CLONE_ARGS.pack(
        *(flags, pidfd, 0, 0, exit_signal, 0, 0, 0),
        *(ctypes.addressof(tids) if tids else 0, len(set_tid), cgroup),
    )
    buffer = ctypes.create_string_buffer(raw, len(raw))
    told = ctypes.c_size_t(len(raw) if size is None else size)
    return _checked(_libc.syscall(ctypes.c_long(_SYS_CLONE3), buffer, told))


def unshare(flags: int) -> None:
    """Call unshare(2)."""
    _checked(_libc.unshare(ctypes.c_int(flags)))
