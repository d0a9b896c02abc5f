"""A file that the user names to be written: what may be one, and how it is opened without harm.

A capture holds names and paths of everybody's processes, and whoever takes it may be root. What is
written is the caller's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from fork_trace import files
from fork_trace.errors import ForkTraceError

_FOR_WRITING = os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_NULL, _FULL = os.makedev(1, 3), os.makedev(1, 7)  # Documentation/admin-guide/devices.txt
# Types of /proc/tty/drivers that are no terminal to write to: masters, and /dev/ptmx, which makes one.
_NO_TERMINALS = ("pty:master", "system")
# Of the file systems without a block device those that keep files, include/uapi/linux/magic.h or their
# own headers. All others are the kernel's: /proc, /sys, and dozens where writing acts.
_KEEP_FILES = frozenset(
    (
        *(0x01021994, 0x858458F6, 0x794C7630, 0xF15F),  # tmpfs, ramfs, overlayfs, ecryptfs
        *(0x9123683E, 0xCA451A4E, 0x2FC12FC1, 0x24051905),  # btrfs, bcachefs, zfs, ubifs
        *(0x65735546, 0x6969, 0xFF534D42, 0xFE534D42),  # fuse, nfs, cifs, smb2
        *(0x01021997, 0x786F4256, 0xBACBACBC, 0x00C0FFEE),  # 9p, vboxsf, vmhgfs, hostfs
        *(0x00C36400, 0x5346414F, 0x6B414653, 0x0BD00BD0),  # ceph, afs, kafs, lustre
        *(0x47504653, 0x20030528, 0x19830326, 0x61756673),  # gpfs, orangefs, beegfs, aufs
    )
)
_OWN = "Give a file that you own: a capture is readable only by its owner."
_IS_KERNELS = "is on a kernel file system such as /proc or /sys"
_KEPT = "Give --output a file on a disk or a tmpfs."


def open_named(path: str, force: bool) -> tuple[int, bool]:
    """Open what --output names for writing, without waiting; return it, and whether it was made here.

    ForkTraceError says why not. Nothing is opened before it is known what it is: opening a device acts.
    """
    if path == "":
        raise ForkTraceError("--output has an empty name", "Give --output a file.")
    if path == "-":
        raise ForkTraceError(
            "--output - is not a file: the report goes to stdout",
            "For records on stdout, use --format jsonl without --output. For a file of that name, give ./-",
        )
    directory, name = os.path.split(path)
    try:
        if name in ("", ".", ".."):
            raise _error(errno.EISDIR)
        parent = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _open_in(parent, name, path, force)
        finally:
            os.close(parent)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "its name contains a NUL byte"
        raise ForkTraceError(
            f"cannot write {path}: {why}",
            "Give --output a file in a directory you can write to; symlinks are not followed.",
        ) from None


def _open_in(parent: int, name: str, path: str, force: bool) -> tuple[int, bool]:
    # A link in a shared directory may be somebody's trap, and so may a pipe that nobody reads.
    try:
        seen = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    except FileNotFoundError:
        if not _keeps_files(parent, os.fstat(parent)):
            raise ForkTraceError(f"{path} {_IS_KERNELS}", _KEPT) from None
        flags = _FOR_WRITING | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        return os.open(name, flags, 0o600, dir_fd=parent), True
    try:
        status = os.fstat(seen)
        refusal = _why_not(path, seen, status, force)
        if refusal:
            raise ForkTraceError(*refusal)
        fd = os.open(f"/proc/self/fd/{seen}", _FOR_WRITING)
    finally:
        os.close(seen)
    if stat.S_ISREG(status.st_mode):
        os.fchmod(fd, 0o600)
    return fd, False


def _why_not(path: str, seen: int, status: os.stat_result, force: bool) -> tuple[str, str] | None:
    """Say why nothing may be written there, and what to do; None: it may."""
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, "it is a symbolic link")
    if stat.S_ISDIR(mode):
        raise _error(errno.EISDIR)
    if stat.S_ISREG(mode):
        if not _keeps_files(seen, status):
            return f"{path} {_IS_KERNELS}", _KEPT
        return _why_no_regular(path, status, force)
    if stat.S_ISCHR(mode) and not (
        status.st_rdev in (_NULL, _FULL) or _is_terminal(status.st_rdev)
    ):
        return f"{path} is a device, not a terminal", "Give --output a file."
    if not stat.S_ISFIFO(mode) and not stat.S_ISCHR(mode):
        return f"{path} is neither a file nor a pipe", "Give --output a file."
    if status.st_uid not in (0, os.geteuid()):
        return (
            f"{path} is a pipe or device that belongs to another user (uid {status.st_uid})",
            _OWN,
        )
    return None


def _why_no_regular(path: str, status: os.stat_result, force: bool) -> tuple[str, str] | None:
    if status.st_size and not force:
        return (
            f"{path} exists and is not empty",
            "Give another file, or use --force to overwrite it.",
        )
    if status.st_uid != os.geteuid():
        return f"{path} belongs to another user (uid {status.st_uid})", _OWN
    if status.st_nlink > 1:
        return (
            f"{path} has more than one hard link",
            "Give another file, or remove this one first.",
        )
    return None


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def _keeps_files(fd: int, status: os.stat_result) -> bool:
    """Say whether a file system keeps what is written there, rather than being the kernel's own."""
    if os.major(status.st_dev):
        return True  # on a block device
    libc = ctypes.CDLL(None, use_errno=True)
    found = (
        ctypes.c_ulong * 64
    )()  # struct statfs, its first field the type; twice as large as it is
    if libc.fstatfs(fd, found):
        raise _error(ctypes.get_errno())
    return found[0] & 0xFFFFFFFF in _KEEP_FILES


def _is_terminal(device: int) -> bool:
    """Say whether the kernel has a terminal of this number; opening one to ask may already act."""
    try:
        lines = files.text("/proc/tty/drivers").splitlines()
    except OSError:
        return False
    for line in lines:
        # A name that may have blanks in it, /dev/..., the major number, the minor ones, a type.
        major, minors, type_ = line.split()[-3:]
        first, _, last = minors.partition("-")
        is_within = int(first) <= os.minor(device) <= int(last or first)
        if os.major(device) == int(major) and is_within and type_ not in _NO_TERMINALS:
            return True
    return False
