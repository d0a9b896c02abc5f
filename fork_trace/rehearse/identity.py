"""As whom a rehearsal forks: a user without privileges, or root of a user namespace of its own.

Only for the child of a rehearsal. What it then asks of the kernel is the recipes'.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from fork_trace.errors import ForkTraceError, NotHereError
from fork_trace.rehearse import syscalls
from fork_trace.rehearse.child import Stage
from fork_trace.rehearse.recipes.limits import unused_uid

_PR_SET_DUMPABLE = 4

_libc = ctypes.CDLL(None, use_errno=True)


def drop_privileges(stage: Stage) -> None:
    """Become a user that nobody is, if root; capabilities(7) go with it."""
    if os.geteuid() != 0:
        return
    uid = unused_uid()
    try:
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise ForkTraceError(
            f"user id {uid} could not be taken: {error.strerror}.",
            "Run as root of the host: a user namespace may have no id to spare.",
        ) from None
    stage.end_with_parent()


@contextmanager
def without_privileges(stage: Stage, uid: int) -> Iterator[None]:
    """Let root be another user for as long as the block runs, and then give things back."""
    os.seteuid(uid)
    try:
        stage.end_with_parent()
        yield
    finally:
        os.seteuid(0)
        stage.end_with_parent()


def unshare(flags: int, what: str) -> None:
    """Enter new namespaces; the errors tell what cannot be made (`what`) and why."""
    try:
        syscalls.unshare(flags)
    except OSError as error:
        # EINVAL: the kernel is built without. ENOSPC: /proc/sys/user, for whoever asks.
        never = error.errno in (errno.EINVAL, errno.ENOSPC)
        raise (NotHereError if never else ForkTraceError)(
            f"cannot make {what}: {error.strerror}.",
            "Run as root on the host itself, or where user namespaces are allowed.",
        ) from None


def unshare_with_any_right(flags: int, what: str) -> None:
    """Enter new namespaces, first one of users if that is what gives the right to."""
    try:
        syscalls.unshare(flags)
    except OSError as error:
        if error.errno == errno.EPERM:
            enter_user_namespace()
        unshare(flags, what)


def enter_user_namespace() -> None:
    """Become root of a new user namespace, in which only the caller's own ids are mapped."""
    uid, gid = os.geteuid(), os.getegid()
    unshare(syscalls.CLONE_NEWUSER, "a user namespace")
    # The files below belong to root once a process has changed its user (fs/proc/base.c,
    # task_dump_owner()).
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    for name, text in (("setgroups", "deny"), ("gid_map", f"0 {gid} 1"), ("uid_map", f"0 {uid} 1")):
        write(f"/proc/self/{name}", text)


def write(path: str, text: str) -> None:
    """Write a file of /proc at once; OSError has its name."""
    with open(path, "wb", buffering=0) as file:
        try:
            file.write(text.encode())
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None
