"""The programs of bpf/latency.bpf.c: loaded, attached, and what they counted. Off unless asked for.

Nothing here forks, starts a thread or runs a program.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from ctypes import c_size_t, c_uint32, c_uint64
from typing import NamedTuple

from fork_trace import files
from fork_trace.errors import ForkTraceError
from fork_trace.model import events
from fork_trace.probes.backend import AttachRefusedError, program
from fork_trace.probes.kprobe_events import KprobeEvents
from fork_trace.probes.libbpf.bindings import Library, SampleFn
from fork_trace.probes.libbpf.btf import function_params
from fork_trace.probes.libbpf.loading import Programs
from fork_trace.probes.settings import MARKING_S, NEEDS, PHASE_OFF, Config

_PHASE_MARKING, _PHASE_COUNTING = 1, 3  # enum ft_phase
STATS = ("unpaired", "unsent", "untallied", "unmeasured", "slow")  # enum ft_latency_stat
BUCKETS = 40
_TALLY = struct.Struct(f"={3 + BUCKETS}Q")
_MOST_TALLIES = 2048

# Attach mode -> what sees a fork begin and end; what sees a phase end; what else helps where it is there.
_CORE = {
    "fexit": ("fexit_copy_process", "fentry_copy_process"),
    "kprobe": ("kretprobe_copy_process", "kprobe_copy_process"),
    "tracepoint": ("raw_sys_exit", "raw_sys_enter"),
}
_MORE = {
    "fexit": ("fexit_dup_fd", "fentry_alloc_pid", "fexit_cgroup_can_fork"),
    "kprobe": ("kretprobe_dup_fd", "kprobe_alloc_pid", "kretprobe_cgroup_can_fork"),
    "tracepoint": (),
}
# What a fork waits for: attached once one was slow. Of the locks one of these two ways.
_CONTENTION = ("raw_contention_begin", "raw_contention_end")
_SLOW_PATHS = (
    *("fentry___percpu_down_read", "fexit___percpu_down_read"),
    *("fentry_rwsem_down_write_slowpath", "fexit_rwsem_down_write_slowpath"),
)
_RECLAIM = (
    *("raw_direct_reclaim_begin", "raw_direct_reclaim_end"),
    *("raw_memcg_reclaim_begin", "raw_memcg_reclaim_end"),
)
_HELPFUL = (*("fentry_percpu_down_write", "fexit_percpu_down_write", "fentry_percpu_up_write"),)
# The locks whose address tells them apart.
LOCKS = ("cgroup_threadgroup_rwsem", "dup_mmap_sem")


class _LatencyConfig(ctypes.Structure):
    # struct ft_latency_config, bpf/latency.h
    _fields_ = [("over_ns", c_uint64), ("cgroup_lock", c_uint64), ("uprobes_lock", c_uint64)]


class Tally(NamedTuple):
    """All forks of one command."""

    comm: str
    total_ns: int
    slow: int  # that took as long as the threshold or longer
    slow_ns: int
    buckets: tuple[int, ...]  # number n: less than 2 ** (n + 1) ns


class Settings(NamedTuple):
    """What the programs are told."""

    over_ns: int
    stack_bytes: int
    locks: tuple[int, int]  # the addresses of LOCKS; 0: not known
    all_phases: bool = False  # seen from the first fork on, and not once one was slow


def _function_of(name: str) -> str | None:
    # Of a program on a function of the kernel, by its own name.
    match = re.fullmatch(r"f(?:entry|exit)_(.+)", name)
    return match[1] if match else None


class LatencyBackend:
    """The programs in the kernel, from load to detach; ForkTraceError if the kernel refuses them."""

    def __init__(self, library: Library, attach: str, settings: Settings) -> None:
        self.attach = attach
        self.missing: dict[str, str] = {}  # program -> why it does not watch
        self._library, self._lib = library, library.lib
        self._settings = settings
        self._object: int | None = None
        self._links: list[int] = []
        self._handles: dict[str, int] = {}
        self._ring: int | None = None
        self._events: KprobeEvents | None = None
        self._slow: list[bytes] = []
        self._stacks: list[bytes] = []
        self._settles_at_s: float | None = None
        self._has_begun = False  # to attach those
        Programs(library)  # lets libbpf find functions quickly
        try:
            self._load()
            self._start()
        except BaseException:
            self.close()
            raise

    def _wanted(self) -> list[str]:
        names = [*_CORE[self.attach], *_MORE[self.attach], *_CONTENTION, *_RECLAIM]
        if self.attach == "fexit":
            names += [*_SLOW_PATHS, *_HELPFUL]
        return names

    def _load(self) -> None:
        names = self._wanted()
        functions = {name: _function_of(name) for name in names}
        params, voids, _ = function_params(
            self._library, {each for each in functions.values() if each}
        )
        for name, function in functions.items():
            if function and params.get(function) is None and function not in voids:
                self.missing[name] = f"this kernel's BTF has no function {function}"
        while True:
            refused = self._load_once([name for name in names if name not in self.missing])
            if refused is None:
                return
            name, reason = refused
            self.missing[name] = reason
            self._lib.bpf_object__close(self._object)
            self._object = None

    def _load_once(self, names: Iterable[str]) -> tuple[str, str] | None:
        """Load these programs; return one that the kernel refuses, and why; None: it has them."""
        lib, image = self._lib, files.contents(program("latency.bpf.o"))
        self._library.messages.clear()
        self._object = lib.bpf_object__open_mem(image, len(image), None)
        if not self._object:
            raise ForkTraceError(
                f"cannot open the BPF object: {os.strerror(ctypes.get_errno())}",
                "It is damaged: run scripts/build-bpf, or install fork-trace again.",
            )
        self._handles = {}
        handle = lib.bpf_object__next_program(self._object, None)
        while handle:
            name = lib.bpf_program__name(handle).decode()
            lib.bpf_program__set_autoload(handle, name in names)
            if name in names:
                self._handles[name] = handle
            handle = lib.bpf_object__next_program(self._object, handle)
        self._fill()
        if not lib.bpf_object__load(self._object):
            return None
        code, text = ctypes.get_errno(), "\n".join(self._library.messages)
        if code != errno.EPERM:
            for name in self._handles:
                pattern = rf"prog '{re.escape(name)}': .*(?:fail|can't|cannot|unsupported).*"
                if re.search(pattern, text) and name not in _CORE[self.attach]:
                    return name, Programs._reason(text, code)
        raise AttachRefusedError(
            f"cannot load the BPF programs: {Programs._reason(text, code)}", NEEDS[self.attach]
        )

    def _fill(self) -> None:
        config = Config.from_address(self._initial(".rodata.config", ctypes.sizeof(Config)))
        config.stack_bytes = (
            -(-self._settings.stack_bytes // events.STACK_CHUNK) * events.STACK_CHUNK
        )
        config.page_shift = os.sysconf("SC_PAGE_SIZE").bit_length() - 1
        size = ctypes.sizeof(_LatencyConfig)
        latency = _LatencyConfig.from_address(self._initial(".rodata.latency", size))
        latency.over_ns = self._settings.over_ns
        latency.cgroup_lock, latency.uprobes_lock = self._settings.locks

    def _initial(self, map_: str, wanted: int) -> int:
        size = c_size_t()
        found = self._lib.bpf_object__find_map_by_name(self._object, map_.encode())
        address: int | None = (
            self._lib.bpf_map__initial_value(found, ctypes.byref(size)) if found else None
        )
        if not address or size.value != wanted:
            raise ForkTraceError(
                "the BPF object and this program are of different versions",
                "Run scripts/build-bpf, or install fork-trace again.",
            )
        return address

    def _start(self) -> None:
        if self.attach == "kprobe":
            with suppress(OSError):  # without tracefs perf's own kprobes do, with less room
                self._events = KprobeEvents()
        more = _MORE[self.attach] if self._settings.all_phases else ()
        for name in (*more, *_CORE[self.attach]):
            reason = self._attach(name)
            if reason is not None and name in _CORE[self.attach]:
                raise AttachRefusedError(
                    f"this kernel refuses the program {name}: {reason}", NEEDS[self.attach]
                )
        self._on_slow = SampleFn(lambda _context, data, size: self._keep(self._slow, data, size))
        self._on_stack = SampleFn(lambda _context, data, size: self._keep(self._stacks, data, size))
        self._ring = self._lib.ring_buffer__new(self._map("events"), self._on_slow, None, None)
        if not self._ring or self._lib.ring_buffer__add(
            self._ring, self._map("user_stacks"), self._on_stack, None
        ):
            raise ForkTraceError(
                f"cannot open the ring buffer: {os.strerror(ctypes.get_errno())}",
                "It needs 5 MiB of address space and a few descriptors; see ulimit -v and ulimit -n.",
            )
        self._write(".data.phase", _PHASE_MARKING)
        self._settles_at_s = time.monotonic() + MARKING_S

    @staticmethod
    def _keep(kept: list[bytes], data: int, size: int) -> int:
        kept.append(ctypes.string_at(data, size))
        return 0

    def _attach(self, name: str) -> str | None:
        """Attach one program; return why it cannot be done, which is kept as well."""
        if name in self.missing:
            return self.missing[name]
        handle = self._handles.get(name)
        if handle is None:
            return "not of this attach mode"
        if self._events and name.startswith("kretprobe_"):
            try:
                number = self._events.add_return(name[len("kretprobe_") :])
            except OSError as error:
                self.missing[name] = error.strerror or str(error)
                return self.missing[name]
            link = self._library.attach_to_event(handle, number)
        else:
            link = self._lib.bpf_program__attach(handle)
        if not link:
            self.missing[name] = os.strerror(ctypes.get_errno())
            return self.missing[name]
        self._links.append(link)
        return None

    def attach_waits(self) -> None:
        """Attach what sees for what forks wait, and when their phases end; once, and a moment's work."""
        if self._has_begun or not self._links:
            return
        self._has_begun = True
        phases = () if self._settings.all_phases else _MORE[self.attach]
        for name in (*phases, *_CONTENTION, *_RECLAIM):
            self._attach(name)
        if self.missing.keys() & {*_CONTENTION}:
            # The tracepoints see these waits, and those for every other lock.
            for name in _SLOW_PATHS:
                self._attach(name)
        self._write(".data.watched_from", time.monotonic_ns() & ~1 | (self.waits == "all"))
        for name in _HELPFUL:
            self._attach(name)

    @property
    def waits(self) -> str:
        """Say whose waits are watched: "all", "some", or "none", as no fork was slow."""
        if not self._has_begun:
            return "none"
        return "some" if self.missing.keys() & {*_RECLAIM, *_CONTENTION} else "all"

    def _map(self, name: str) -> int:
        found = self._lib.bpf_object__find_map_by_name(self._object, name.encode())
        fd: int = self._lib.bpf_map__fd(found)
        return fd

    def _write(self, map_: str, number: int) -> None:
        value = c_uint64(number)  # the phase is the lower half of it
        self._lib.bpf_map_update_elem(
            self._map(map_), ctypes.byref(c_uint32(0)), ctypes.byref(value), 0
        )

    def poll(self, timeout_s: float) -> list[bytes]:
        """Wait for slow forks at most this long and return them (struct ft_slow), oldest first."""
        if self._settles_at_s is not None and time.monotonic() >= self._settles_at_s:
            self._settles_at_s = None
            self._write(".data.phase", _PHASE_COUNTING)
        self._lib.ring_buffer__poll(self._ring, max(0, int(timeout_s * 1000)))
        self._lib.ring_buffer__consume(self._ring)
        taken, self._slow[:] = list(self._slow), []
        return taken

    def stacks(self) -> list[bytes]:
        """Return the user stacks that came with the slow forks of the last poll."""
        taken, self._stacks[:] = list(self._stacks), []
        return taken

    def tallies(self) -> list[Tally]:
        """Return all forks so far, by command."""
        keys = ctypes.create_string_buffer(_MOST_TALLIES * events.COMM_BYTES)
        values = ctypes.create_string_buffer(_MOST_TALLIES * _TALLY.size)
        count, cursor = c_uint32(_MOST_TALLIES), ctypes.create_string_buffer(events.COMM_BYTES)
        failed = self._lib.bpf_map_lookup_batch(
            *(self._map("tallies"), None, cursor, keys, values, ctypes.byref(count), None)
        )
        if failed and ctypes.get_errno() != errno.ENOENT:
            raise ForkTraceError(
                f"cannot read the counters: {os.strerror(ctypes.get_errno())}",
                "Please report this kernel with the output of `fork-trace doctor --json`.",
            )
        found = []
        for index in range(count.value):
            raw = keys.raw[index * events.COMM_BYTES : (index + 1) * events.COMM_BYTES]
            numbers = _TALLY.unpack_from(values.raw, index * _TALLY.size)
            comm = events.text(raw)
            total_ns, slow, slow_ns, *buckets = numbers
            found.append(Tally(comm, total_ns, slow, slow_ns, tuple(buckets)))
        return found

    def stats(self) -> dict[str, int]:
        """Return the run's counters by the names of STATS."""
        found = {}
        for index, name in enumerate(STATS):
            value = c_uint64()
            self._lib.bpf_map_lookup_elem(
                self._map("stats"), ctypes.byref(c_uint32(index)), ctypes.byref(value)
            )
            found[name] = value.value
        return found

    def missed(self) -> int | None:
        """Count the forks that the programs on their begin and end were left out of; None: not counted."""
        total = 0
        for name in _CORE[self.attach]:
            missed = self._library.recursion_misses(self._handles[name])
            if missed is None:
                return None
            total += missed
        return total + ((self._events.missed("copy_process") or 0) if self._events else 0)

    def detach(self) -> None:
        """Stop watching; what was counted can still be read."""
        if self._links and self._object:
            self._write(".data.phase", PHASE_OFF)
        for link in self._links:
            self._lib.bpf_link__destroy(link)
        self._links = []
        if self._events:
            self._events.remove()
            self._events = None

    def close(self) -> None:
        """Detach every program and free every map."""
        self.detach()
        if self._ring:
            self._lib.ring_buffer__free(self._ring)
            self._ring = None
        if self._object:
            self._lib.bpf_object__close(self._object)
            self._object = None
