"""What is taken at the start, for during the incident there may be none left: memory, descriptors.

A host whose commit limit is reached gives nobody another page, not even to the one who can tell why.
"""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress

_HEAP_BYTES = 8 << 20
_LARGE_BYTES = 1 << 20  # what is larger is given back at once when it is freed
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_DESCRIPTORS = 256  # programs, links and maps of the uppermost attach mode are 140


def memory() -> None:
    """Keep some heap for later: committed now, resident once it is used; what was used before is given back."""
    trim(0)
    libc = ctypes.CDLL(None)
    # Only glibc has it. CPython goes to malloc when it gets no arena by mmap.
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is None:
        return
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.free.restype = None
    # From the heap and not by mmap; freed, it stays on top of the heap, where malloc looks first.
    mallopt(_M_TRIM_THRESHOLD, 2 * _HEAP_BYTES)
    mallopt(_M_MMAP_THRESHOLD, 2 * _HEAP_BYTES)
    libc.free(libc.malloc(_HEAP_BYTES))
    mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def trim(keep_bytes: int = _HEAP_BYTES) -> None:
    """Give back what was taken and freed, but for what `memory` keeps."""
    trimmed = getattr(ctypes.CDLL(None), "malloc_trim", None)  # only glibc has it
    if trimmed is not None:
        trimmed.argtypes = [ctypes.c_size_t]
        trimmed(keep_bytes)


class Descriptors:
    """More of them than a shell's limit may allow; a command started meanwhile must not have these."""

    def __init__(self) -> None:
        self._before = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.raise_()

    def raise_(self) -> None:
        """Allow this process enough, as far as it may."""
        soft, hard = self._before
        if soft == resource.RLIM_INFINITY or soft >= _DESCRIPTORS:
            return
        for limit in ((_DESCRIPTORS, max(hard, _DESCRIPTORS)), (hard, hard)):
            # The hard limit only with CAP_SYS_RESOURCE, and none above fs.nr_open.
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, limit)
                return

    def restore(self) -> None:
        """Put the limit back to what it was; what is open stays open."""
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, self._before)
