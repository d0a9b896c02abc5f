"""Metrics in a file for the textfile collector of the node exporter: it has the old text or the new one, whole.

Who watches owns nothing any more, and so cannot rename in the collector's directory, which is root's. So
root makes a directory of the recorder's own beside the file, hidden from the collector, and the file is
a symbolic link into it. Mode 0644: the collector is another user, and there are only numbers and names.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress

from fork_trace.errors import ForkTraceError

_MODE = 0o644
_NAME = "metrics"


def replace(path: str, text: bytes, parent: int | None = None) -> None:
    """Write a file that another program may be reading. OSError; ValueError for what is no name."""
    partial = f"{path}.{os.getpid()}.tmp"
    with suppress(FileNotFoundError):
        os.unlink(
            partial, dir_fd=parent
        )  # of one that was killed: in a container each has the same pid
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(partial, flags, _MODE, dir_fd=parent)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, _MODE)  # whatever the umask is
            file.write(text)
        os.rename(partial, path, src_dir_fd=parent, dst_dir_fd=parent)
    except OSError:
        os.unlink(partial, dir_fd=parent)
        raise


def refused(path: str, error: Exception) -> ForkTraceError:
    """Say why a textfile cannot be written."""
    why = getattr(error, "strerror", None) or str(error)
    return ForkTraceError(
        f"cannot write {path or 'a file without a name'}: {why}.",
        "Name a file in the directory of the textfile collector.",
    )


class Textfile:
    """One file, of a process that may become `new_owner` after it was made."""

    def __init__(self, path: str, new_owner: int | None = None) -> None:
        self.path = path
        self._name, self._parent = path, None if new_owner is None else _prepared(path, new_owner)
        if self._parent is not None:
            self._name = _NAME

    def write(self, text: bytes) -> str | None:
        """Replace the text; return why that could not be done, or None."""
        try:
            replace(self._name, text, self._parent)
        except (OSError, ValueError) as error:
            return getattr(error, "strerror", None) or str(error)
        return None

    def close(self) -> None:
        """Leave it as it is."""
        if self._parent is not None:
            os.close(self._parent)
            self._parent = None


def _prepared(path: str, new_owner: int) -> int:
    """Make the file a link into a directory of the new owner's; return that directory, open."""
    above, name = os.path.split(path)
    own = f".{name}.d"
    link = f"{name}.{os.getpid()}.tmp"
    try:
        if not name or os.path.isdir(path):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        parent = os.open(above or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with suppress(FileExistsError):
                os.mkdir(own, 0o755, dir_fd=parent)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(own, flags, dir_fd=parent)
            try:
                if os.fstat(fd).st_uid not in (os.geteuid(), new_owner):
                    raise PermissionError(errno.EPERM, f"{own} beside it belongs to somebody else")
                os.fchmod(fd, 0o755)
                os.fchown(fd, new_owner, new_owner)
                with suppress(FileNotFoundError):
                    os.unlink(link, dir_fd=parent)
                os.symlink(f"{own}/{_NAME}", link, dir_fd=parent)
                os.rename(link, name, src_dir_fd=parent, dst_dir_fd=parent)
            except OSError:
                os.close(fd)
                raise
        finally:
            os.close(parent)
    except (OSError, ValueError) as error:
        raise refused(path, error) from None
    return fd
