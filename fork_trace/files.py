"""Files that others wrote, read without waiting for anybody and without reading too much.

Paths are strings here and in all that is loaded to watch: pathlib would take two thirds of a megabyte.
"""

from __future__ import annotations

import os
import stat


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


def open_regular(path: str, follows: bool = True) -> tuple[int, os.stat_result]:
    """Open a regular file and nothing else; OSError. Neither a pipe nor a device is waited for."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    fd = os.open(path, flags if follows else flags | os.O_NOFOLLOW)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise OSError(f"{path} is no regular file")
    return fd, status


def read_all(fd: int, most: int) -> bytes:
    """Read an open file to its end, or as much as is allowed."""
    pieces, size = [], 0
    while size < most:
        piece = os.read(fd, min(1 << 20, most - size))
        if not piece:
            break
        pieces.append(piece)
        size += len(piece)
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
