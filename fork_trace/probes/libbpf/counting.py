"""What counts failed forks from the first moment on, before the rest is even looked at.

Loaded and attached with an eighth of the instructions that all programs take. Those come later, go on in the same
maps, and take its place for each fork at once: see bpf/counting.bpf.c.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from contextlib import suppress
from ctypes import c_size_t, c_uint32, c_uint64
from typing import Any

from fork_trace import files
from fork_trace.errors import ForkTraceError
from fork_trace.probes import kernel
from fork_trace.probes.config import PHASE_ALONE, PHASE_OFF, Config
from fork_trace.probes.libbpf.bindings import Library
from fork_trace.probes.objects import program

# By attach mode: the program, and that of fork_trace.bpf.o which takes over from it.
_PROGRAMS = {
    "fexit": ("count_copy_process", "fexit_copy_process"),
    "tracepoint": ("count_sys_exit", "raw_sys_exit"),
}
# Of fork_trace.bpf.o: the maps in which it goes on (bpf/counters.h).
_SHARED = (
    *("tallies", "shares", "stats", "overflowed"),
    *(".data.phase", ".data.generation", ".data.charge_marks"),
)
_OF_CALLS = ("calls", ".data.pending_count")  # where a system call's exit is watched


class Counting:
    """The program that counts, attached; OSError or ForkTraceError where the kernel or the host refuses it."""

    def __init__(self, library: Library, attach: str = "fexit") -> None:
        if attach == "fexit" and library.refuses_tracing():
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        self.library = library
        self.attach = attach
        self._program, self.successor = _PROGRAMS[attach]
        self.seed = int.from_bytes(os.urandom(8), "little")
        self._lib = library.lib
        self._link: int | None = None
        self.is_handed_over = False
        self.missed_alone = 0  # calls that it was left out of while no second program saw them
        image = files.contents(program("counting.bpf.o"))
        self._object = self._lib.bpf_object__open_mem(image, len(image), None)
        if not self._object:
            raise _os_error()
        try:
            self._attach()
        except BaseException:
            self.close()
            raise
        self.start_ns = time.monotonic_ns()

    def _attach(self) -> None:
        lib = self._lib
        config = self._config()
        config.seed = self.seed
        config.is_by_syscall = int(self.attach == "tracepoint")
        if not config.is_by_syscall:
            lib.bpf_map__set_max_entries(self._map("calls"), 1)
        handle = lib.bpf_object__next_program(self._object, None)
        while handle:
            is_wanted = lib.bpf_program__name(handle).decode() == self._program
            lib.bpf_program__set_autoload(handle, is_wanted)
            if is_wanted:
                self._handle = handle
            handle = lib.bpf_object__next_program(self._object, handle)
        if lib.bpf_object__load(self._object):
            raise _os_error()
        self._link = lib.bpf_program__attach(self._handle)
        if not self._link:
            raise _os_error()
        self._put(".data.phase", PHASE_ALONE)

    def _config(self) -> Config:
        size = c_size_t()
        found = self._map(".rodata.config")
        address = self._lib.bpf_map__initial_value(found, ctypes.byref(size)) if found else None
        if not address or size.value != ctypes.sizeof(Config):
            raise ForkTraceError("the BPF object and this program are of different versions")
        return Config.from_address(address)

    def _map(self, name: str) -> Any:
        return self._lib.bpf_object__find_map_by_name(self._object, name.encode())

    def _put(self, map_: str, number: int) -> None:
        key, value = (
            c_uint32(0),
            c_uint64(number),
        )  # of a shorter one the kernel takes the lower half
        fd = self._lib.bpf_map__fd(self._map(map_))
        if self._lib.bpf_map_update_elem(fd, ctypes.byref(key), ctypes.byref(value), 0):
            raise _os_error()

    @property
    def is_attached(self) -> bool:
        """Does it count, or what took its place?"""
        return self._link is not None

    def share(self, object_: int | None) -> None:
        """Let an object that is not loaded yet go on in these maps; OSError."""
        for name in _SHARED + (_OF_CALLS if self.attach == "tracepoint" else ()):
            other = self._lib.bpf_object__find_map_by_name(object_, name.encode())
            if self._lib.bpf_map__reuse_fd(other, self._lib.bpf_map__fd(self._map(name))):
                raise _os_error()

    def hand_over(self, handle: int) -> None:
        """Let a loaded program do this from the next fork on; OSError."""
        self._put("successor", self._lib.bpf_program__fd(handle))
        self.is_handed_over = True

    def take_back(self) -> None:
        """Count alone again, if it was handed over."""
        key = c_uint32(0)
        fd = self._lib.bpf_map__fd(self._map("successor"))
        self._lib.bpf_map_delete_elem(fd, ctypes.byref(key))
        self.is_handed_over = False

    def missed(self) -> int | None:
        """Count the calls that it was left out of since it was not alone; None: the kernel does not count them."""
        missed = self.library.recursion_misses(self._handle)
        return None if missed is None else missed - self.missed_alone

    def stop(self) -> None:
        """Let others count in these maps, who say when they begin."""
        self._put(".data.phase", PHASE_OFF)
        self.detach()

    def detach(self) -> None:
        """Stop counting; what was counted stays."""
        if self._link:
            self._lib.bpf_link__destroy(self._link)
            self._link = None

    def close(self) -> None:
        """Detach it and give up these maps; safe to call twice."""
        self.detach()
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = None


def begin(attach: str | None = None) -> Counting | None:
    """Count failed forks from now on, if it can be had: a host that refuses it is asked again for all, and tells why.

    By that attach mode, or by the one that all will take as well. Not by kprobes: no program can take the
    place of one of theirs.
    """
    with suppress(OSError, ForkTraceError):
        library = Library()
        if attach is None:
            is_lowest = library.refuses_tracing() and kernel.kprobes().value is False
            attach = "tracepoint" if is_lowest else "fexit"
        return Counting(library, attach)
    return None


def _os_error() -> OSError:
    return OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
