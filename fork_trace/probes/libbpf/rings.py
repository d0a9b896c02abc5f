"""The programs' ring buffers, of which only what is being read is mapped.

kernel/bpf/ringbuf.c, ringbuf_map_mmap_kern: a page whose number is how far was read, one with how far was
written, and the data, twice in a row so that no record is cut. All of it mapped, as libbpf does, every page
counts twice as memory of this process, from the start and whether or not anything was ever written.
"""

from __future__ import annotations

import _thread
import ctypes
import mmap
import os
import select
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ctypes import c_int, c_long, c_short, c_size_t, c_uint64, c_ulong, c_void_p

from fork_trace.errors import ForkTraceError

# include/uapi/linux/bpf.h: before each record its length, with two bits of which the first says that it is
# being written still and the second that it was given up; and four bytes for the kernel's own use.
_HEADER_BYTES, _BUSY, _DISCARDED = 8, 1 << 31, 1 << 30
_PAGE = mmap.PAGESIZE
# At a time, so that a full ring does not count as memory whole; of longer records one is.
_WINDOW_BYTES = 1 << 18
_FAILED = c_void_p(-1).value


class _PollFd(ctypes.Structure):
    # struct pollfd, poll(2).
    _fields_ = [("fd", c_int), ("events", c_short), ("revents", c_short)]


class _Libc:
    """What of it is used: Python's own mmap keeps a descriptor for each mapping, its poll goes on after a signal."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._mmap, self.munmap, self.poll = libc.mmap, libc.munmap, libc.poll
        self._mmap.restype = c_void_p
        self._mmap.argtypes = [c_void_p, c_size_t, c_int, c_int, c_int, c_long]
        self.munmap.argtypes = [c_void_p, c_size_t]
        self.poll.argtypes = [c_void_p, c_ulong, c_int]

    def map(self, fd: int, offset: int, size: int, may_write: bool = False) -> int:
        """Return the address; OSError."""
        way = mmap.PROT_READ | (mmap.PROT_WRITE if may_write else 0)
        address: int = self._mmap(None, size, way, mmap.MAP_SHARED, fd, offset)
        if address == _FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return address


class _Ring:
    """One of them."""

    def __init__(self, libc: _Libc, fd: int, size: int) -> None:
        self._libc, self._fd, self._size = libc, fd, size
        self._pages: list[int] = []
        # Nobody else has it: to give it back and take it again lets no reading or writing pass.
        self._lock = _thread.allocate_lock()
        self._lock.acquire()
        try:
            self._pages.append(libc.map(fd, 0, _PAGE, may_write=True))
            self._pages.append(libc.map(fd, _PAGE, _PAGE))
        except OSError:
            self.close()
            raise
        self._read_to, self._written_to = map(c_uint64.from_address, self._pages)

    def close(self) -> None:
        for address in self._pages:
            self._libc.munmap(address, _PAGE)
        self._pages = []

    def read(self, found: list[bytes]) -> None:
        """Add what is in it by now; OSError: some of it cannot be mapped, and stays."""
        begin, end = self._read_to.value, self._written_to.value
        window = _WINDOW_BYTES
        while begin < end:
            with self._mapped(begin, min(end - begin, window)) as view:
                spans, taken, window = _records(view)
                self._order()
                found += (bytes(view[first:last]) for first, last in spans)
                self._order()
            begin += taken
            self._read_to.value = begin
            if not window or window > end - begin:
                break
            window = max(window, _WINDOW_BYTES)

    def _order(self) -> None:
        self._lock.release()
        self._lock.acquire()

    @contextmanager
    def _mapped(self, begin: int, length: int) -> Iterator[memoryview]:
        """Map so many bytes of the data from a position on."""
        inside = begin & (self._size - 1)
        skipped = inside % _PAGE
        size = skipped + length
        address = self._libc.map(self._fd, 2 * _PAGE + inside - skipped, size)
        try:
            raw = (ctypes.c_char * length).from_address(address + skipped)
            with memoryview(raw).cast("B") as view:
                yield view
        finally:
            self._libc.munmap(address, size)


def _records(view: memoryview) -> tuple[list[tuple[int, int]], int, int]:
    """Find the records that are whole.

    Return where they are, the length of all of them with those given up, and that of the next one, of
    which a part is outside; 0: it is being written still.
    """
    spans: list[tuple[int, int]] = []
    position = 0
    with view.cast("I") as words:
        while position < len(view):
            length = words[position // 4]
            if length & _BUSY:
                return spans, position, 0
            first = position + _HEADER_BYTES
            last = first + (length & ~_DISCARDED)
            following = -(-last // _HEADER_BYTES) * _HEADER_BYTES
            if following > len(view):
                return spans, position, following - position
            if not length & _DISCARDED:
                spans.append((first, last))
            position = following
    return spans, position, _HEADER_BYTES


class Rings:
    """Those of one object, by the names of their maps."""

    def __init__(self, maps: Mapping[str, tuple[int, int]]) -> None:
        """Open them: name -> descriptor and bytes. They are read in this order. ForkTraceError."""
        self._rings: dict[str, _Ring] = {}
        self._libc = _Libc()
        watched = [_PollFd(fd, select.POLLIN) for fd, _ in maps.values()]
        self._watched = (_PollFd * len(watched))(*watched)
        try:
            for name, (fd, size) in maps.items():
                self._rings[name] = _Ring(self._libc, fd, size)
        except OSError as error:
            self.close()
            raise ForkTraceError(
                f"cannot map the ring buffers: {error.strerror}",
                "This takes a few pages of address space; see ulimit -v.",
            ) from error

    def read(self, timeout_s: float) -> dict[str, list[bytes]]:
        """Wait until one of them has something, at most this long or until a signal, and take what all have.

        Where there is no memory to read it in, it stays for the next time.
        """
        until_s = time.monotonic() + timeout_s
        self._libc.poll(self._watched, len(self._watched), max(0, int(1000 * timeout_s)))
        found: dict[str, list[bytes]] = {name: [] for name in self._rings}
        try:
            for name, ring in self._rings.items():
                ring.read(found[name])
        except OSError:
            time.sleep(max(0.0, until_s - time.monotonic()))
        return found

    def close(self) -> None:
        """Unmap what is mapped."""
        for ring in self._rings.values():
            ring.close()
        self._rings = {}
