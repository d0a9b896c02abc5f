"""Closed files of the recorder, made smaller by gzip a little at a time: the loop goes on meanwhile."""

from __future__ import annotations

import os
import zlib
from contextlib import suppress

PACKED = ".gz"
_PART = ".packing"
_AT_ONCE = 128 << 10  # bytes: some 5 ms
_GZIP_WBITS = 31  # zlib.h: a window of 32 KB, and gzip's frame


class Packer:
    """Packs one file after the other of a directory; whatever fails leaves the file as it was."""

    def __init__(self, parent: int) -> None:
        self._parent = parent  # descriptor of the directory
        self._name = ""
        self._in = self._out = -1
        self._deflate = zlib.compressobj(wbits=_GZIP_WBITS)
        self.written = 0  # bytes of the one that is being written
        # Left by one that was killed.
        for name in os.listdir(parent):
            if name.endswith(".jsonl" + _PART):
                with suppress(OSError):
                    os.unlink(name, dir_fd=parent)

    @property
    def is_busy(self) -> bool:
        """Say whether a file was begun."""
        return bool(self._name)

    def begins(self, name: str) -> bool:
        """Begin with a file; False if it may not be read. OSError: there is no room."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._in = os.open(name, flags, dir_fd=self._parent)
        except OSError:
            return False
        self._name, self.written = name, 0
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            self._out = os.open(name + _PART, flags, 0o600, dir_fd=self._parent)
        except OSError:
            self.give_up()
            raise
        self._deflate = zlib.compressobj(wbits=_GZIP_WBITS)
        return True

    def work(self) -> str | None:
        """Pack some more; return the file's name once it is done, and is NAME.gz. OSError: it was given up."""
        try:
            data = os.read(self._in, _AT_ONCE)
            self._put(self._deflate.compress(data) if data else self._deflate.flush())
            if data:
                return None
            status = os.fstat(self._in)
            if status.st_nlink:  # it was not removed meanwhile
                os.utime(self._out, ns=(status.st_atime_ns, status.st_mtime_ns))
                name = self._name
                os.fsync(self._out)  # from here on it is the only copy
                both = {"src_dir_fd": self._parent, "dst_dir_fd": self._parent}
                os.rename(name + _PART, name + PACKED, **both)
                os.unlink(name, dir_fd=self._parent)
                return name
            return None
        except OSError:
            data = b""
            raise
        finally:
            if not data:
                self.give_up()

    def _put(self, data: bytes) -> None:
        while data:
            done = os.write(self._out, data)
            self.written += done
            data = data[done:]

    def give_up(self) -> None:
        """Leave the file as it is."""
        for fd in (self._in, self._out):
            if fd >= 0:
                os.close(fd)
        if self._name:
            with suppress(OSError):
                os.unlink(self._name + _PART, dir_fd=self._parent)
        self._name, self._in, self._out, self.written = "", -1, -1, 0
