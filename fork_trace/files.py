"""Files that others wrote or placed: the one way to open them, and how much is read of them.

Opening a device already acts: it starts a watchdog's timer, takes a terminal. So nothing is opened
before it is known to be a regular file: an O_PATH descriptor names a file without opening it, fstat
says what it is, and it is opened again through /proc/self/fd, which leads to just that one.

Paths are strings here and in all that is loaded to watch: pathlib would take two thirds of a megabyte.
"""

from __future__ import annotations

import ctypes
import functools
import os
import stat
from collections.abc import Container

from fork_trace.mounts import Mount, View

_NAMED = os.O_PATH | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# include/uapi/asm-generic/unistd.h, include/uapi/linux/openat2.h
_OPENAT2 = 437
_NO_XDEV, _NO_MAGICLINKS, _NO_SYMLINKS, _BENEATH, _IN_ROOT = 1, 2, 4, 8, 16


def contents(*parts: str) -> bytes:
    """Read a whole file of the kernel, the distribution or the package, by the parts of its path; OSError."""
    with open(os.path.join(*parts), "rb") as file:
        return file.read()


def text(*parts: str) -> str:
    """Read such a file as text, in which what is no UTF-8 comes back as surrogates; OSError."""
    return contents(*parts).decode("utf-8", "surrogateescape")


def exists(*parts: str) -> bool:
    """Say whether there is a file of this path, as far as can be seen."""
    return os.path.exists(os.path.join(*parts))


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


def _openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """Name what lies below a directory; OSError, also before 5.6, which has no other way as careful."""
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise OSError(f"{path!r} is no path")
    how = _How(_NAMED | flags, 0, resolve)
    fd: int = _libc().syscall(
        ctypes.c_long(_OPENAT2),
        ctypes.c_int(directory),
        ctypes.c_char_p(raw),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def below(root: str, path: str, view: View) -> tuple[int, Mount]:
    """Name what lies below a process' root, by a path without links; OSError.

    Name by name: one step leads onto another mount at most, whose file system is asked nothing before
    it is known which that is. Not to where a link points: whoever made the path put it there.
    """
    at = os.open(root, _NAMED | os.O_DIRECTORY)
    try:
        mount = view.demand(at)
        for name in filter(None, path.split("/")):
            step = _openat2(at, name, os.O_NOFOLLOW, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS)
            os.close(at)
            at = step
            mount = view.demand(at)
    except BaseException:
        os.close(at)
        raise
    return at, mount


def within(directory: str, path: str, view: View) -> tuple[int, Mount]:
    """Name what a directory of ours holds on its own mount; links lead nowhere outside of it. OSError."""
    top, mount = below("/", directory, view)
    try:
        return _openat2(top, path, 0, _IN_ROOT | _NO_MAGICLINKS | _NO_XDEV), mount
    finally:
        os.close(top)


def linked(path: str, view: View) -> tuple[int, Mount]:
    """Name what a link in /proc/PID leads to, the very file that the kernel holds; OSError."""
    fd = os.open(path, _NAMED)
    try:
        return fd, view.demand(fd)
    except BaseException:
        os.close(fd)
        raise


def regular(fd: int, owners: Container[int] | None = None) -> tuple[int, os.stat_result]:
    """Open what an O_PATH descriptor names if it is a regular file, of one of these; OSError.

    The descriptor is closed. Neither a pipe nor a lease is waited for.
    """
    try:
        named = os.fstat(fd)
        if not stat.S_ISREG(named.st_mode):
            raise OSError("not a regular file")
        if owners is not None and named.st_uid not in owners:
            raise OSError("a file of somebody else")
        opened = os.open(f"/proc/self/fd/{fd}", _READ)
    finally:
        os.close(fd)
    try:
        status = os.fstat(opened)
        is_same = (status.st_dev, status.st_ino) == (named.st_dev, named.st_ino)
        if not is_same or not stat.S_ISREG(status.st_mode):
            raise OSError("another file than was named")
    except BaseException:
        os.close(opened)
        raise
    return opened, status


def open_regular(path: str) -> tuple[int, os.stat_result]:
    """Open a regular file by a path of ours, whose directories nobody else can change; OSError."""
    return regular(os.open(path, _NAMED))


def piece(fd: int, size: int, offset: int) -> bytes:
    """Read a part of a stranger's file. Where it cannot be read it ends: nothing else depends on it."""
    try:
        return os.pread(fd, size, offset)
    except OSError:
        return b""


def read_all(fd: int, most: int) -> bytes:
    """Read an open file to its end, or as much as is allowed."""
    pieces, size = [], 0
    while size < most:
        part = os.read(fd, min(1 << 20, most - size))
        if not part:
            break
        pieces.append(part)
        size += len(part)
    return b"".join(pieces)


def read(path: str, most: int) -> bytes | None:
    """Read a small regular file; None if it is not there, or larger than that."""
    try:
        fd, status = open_regular(path)
    except (OSError, ValueError):
        return None
    try:
        return read_all(fd, most) if status.st_size <= most else None
    except OSError:
        return None
    finally:
        os.close(fd)
