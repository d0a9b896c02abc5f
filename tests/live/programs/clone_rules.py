"""Breaks the rules on the arguments of clone and clone3 one by one, each under a name of its own.

Prints JSON: name -> errno, as the kernel answered; null: it took them.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import sys

SIGCHLD = 17
VM, FS, SIGHAND, PIDFD, PARENT, THREAD = 0x100, 0x200, 0x800, 0x1000, 0x8000, 0x10000
SYSVSEM, PARENT_SETTID, DETACHED, NEWIPC = 0x40000, 0x100000, 0x400000, 0x8000000
CLEAR_SIGHAND, INTO_CGROUP = 1 << 32, 1 << 33
AUTOREAP, NNP, AUTOKILL, EMPTY_MNTNS = 1 << 34, 1 << 35, 1 << 36, 1 << 37
A_THREAD = VM | SIGHAND | THREAD
NR_CLONE, NR_CLONE3 = {"x86_64": (56, 435), "aarch64": (220, 435)}[os.uname().machine]
FIELDS = (
    *("flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls"),
    *("set_tid", "set_tid_size", "cgroup"),
)
PR_SET_NAME, NOWHERE = 15, 8

# Name -> the words of struct clone_args, or `size`, or `at`, an address in its place.
CLONE3: dict[str, dict[str, int]] = {
    "small": {"size": 56},
    "large": {"size": mmap.PAGESIZE + 8},
    "newer": {"size": 96},
    "fault": {"at": NOWHERE},
    "unknown-flag": {"flags": 1 << 62},
    "detached": {"flags": DETACHED},
    "flag-signal": {"flags": SIGCHLD},
    "clear-sighand": {"flags": VM | SIGHAND | CLEAR_SIGHAND},
    "thread-signal": {"flags": A_THREAD, "exit_signal": SIGCHLD},
    "no-stack-size": {"flags": VM, "stack": 1 << 20},
    "no-stack": {"flags": VM, "stack_size": 1 << 20},
    "no-signal": {"exit_signal": 65},
    "set-tid-size": {"set_tid_size": 1},
    "set-tid-fault": {"set_tid": NOWHERE, "set_tid_size": 1},
    "cgroup-small": {"flags": INTO_CGROUP, "size": 80},
    "pidfd-settid": {"flags": PIDFD | PARENT_SETTID, "pidfd": NOWHERE, "parent_tid": NOWHERE},
    "ipc-sysvsem": {"flags": VM | NEWIPC | SYSVSEM, "exit_signal": SIGCHLD},
    "reap-thread": {"flags": A_THREAD | AUTOREAP},
    "reap-parent": {"flags": PARENT | AUTOREAP},
    "reap-signal": {"flags": AUTOREAP, "exit_signal": SIGCHLD},
    "nnp-thread": {"flags": A_THREAD | NNP},
    "kill-no-pidfd": {"flags": AUTOKILL | AUTOREAP},
    "kill-no-reap": {"flags": AUTOKILL | PIDFD},
    "mntns-fs": {"flags": EMPTY_MNTNS | FS, "exit_signal": SIGCHLD},
}
# The same of clone, whose only word it is.
CLONE = {"old-no-signal": 65, "old-pidfd": PIDFD | PARENT_SETTID | SIGCHLD}
# As another user: what root may.
DENIED = {"kill-denied": {"flags": AUTOKILL | AUTOREAP | PIDFD}}
UID = 60004


def _call(libc: ctypes.CDLL, name: str, *words: object) -> int | None:
    libc.prctl(PR_SET_NAME, f"r-{name}".encode(), 0, 0, 0)
    found = libc.syscall(*words)
    if found == 0:
        os._exit(0)  # the child of what should have been refused
    return ctypes.get_errno() if found < 0 else None


def _clone3(libc: ctypes.CDLL, name: str, given: dict[str, int]) -> int | None:
    size = given.get("size", 88)
    # Of a newer version the first word beyond is set.
    words = [given.get(field, 0) for field in FIELDS] + [1] * 1024
    args = (ctypes.c_uint64 * len(words))(*words)
    at = given.get("at", ctypes.addressof(args))
    return _call(libc, name, ctypes.c_long(NR_CLONE3), ctypes.c_void_p(at), ctypes.c_size_t(size))


def main() -> int:
    """Break them all."""
    libc = ctypes.CDLL(None, use_errno=True)
    told = {name: _clone3(libc, name, given) for name, given in CLONE3.items()}
    for name, flags in CLONE.items():
        nothing = [ctypes.c_long(0)] * 4
        told[name] = _call(libc, name, ctypes.c_long(NR_CLONE), ctypes.c_ulong(flags), *nothing)
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)
    told |= {name: _clone3(libc, name, given) for name, given in DENIED.items()}
    json.dump(
        {name: number and errno.errorcode[number] for name, number in told.items()}, sys.stdout
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
