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
from ctypes import c_uint32, c_uint64
from typing import NamedTuple

from fork_trace import files
from fork_trace.errors import ForkTraceError
from fork_trace.model import events, sizes
from fork_trace.probes.backend import AttachRefusedError
from fork_trace.probes.config import PHASE_OFF, Config
from fork_trace.probes.libbpf.bindings import Library
from fork_trace.probes.libbpf.btf import function_params
from fork_trace.probes.libbpf.loading import FEW_STACKS_BYTES, Programs
from fork_trace.probes.libbpf.rings import Rings
from fork_trace.probes.objects import program
from fork_trace.probes.settings import MARKING_S, NEEDS

_PHASE_MARKING, _PHASE_COUNTING = 1, 3  # enum ft_phase
STATS = ("unpaired", "unsent", "untallied", "unmeasured", "slow")  # enum ft_latency_stat
BUCKETS = 40
_TALLY = struct.Struct(f"={3 + BUCKETS}Q")
_MOST_TALLIES = 2048
_FEW_EVENTS_BYTES = 1 << 17  # 45 slow forks a second, and more of them are counted

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
# Who takes a lock that makes all forks wait.
_HELPFUL = {
    "fexit": ("fentry_percpu_down_write", "fexit_percpu_down_write", "fentry_percpu_up_write"),
    "kprobe": ("kprobe_percpu_down_write", "kprobe_percpu_up_write"),
    "tracepoint": (),
}
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
    is_lean: bool = False  # smaller buffers, for who stays


def _function_of(name: str) -> str:
    """Return what a program is on, by its own name."""
    return re.sub(r"^(?:fentry|fexit|kprobe|kretprobe|raw)_", "", name)


class LatencyBackend:
    """The programs in the kernel, from load to detach; ForkTraceError if the kernel refuses them."""

    def __init__(self, library: Library, attach: str, settings: Settings) -> None:
        self.attach = attach
        # Program, or what programs would read -> why it does not watch, or they do not.
        self.missing: dict[str, str] = {}
        self._library, self._lib = library, library.lib
        self._settings = settings
        self._rings: Rings | None = None
        self._stacks: list[bytes] = []
        self._missed: int | None = None  # once the kprobe events are gone
        self._settles_at_s: float | None = None
        self._has_begun = False  # to attach what sees waits and phases
        self._programs = Programs(library)
        try:
            self._load()
            self._start()
        except BaseException:
            self.close()
            raise

    def _wanted(self) -> list[str]:
        names = [*_CORE[self.attach], *_MORE[self.attach], *_CONTENTION, *_RECLAIM]
        names += _HELPFUL[self.attach]
        if self.attach == "fexit":
            names += _SLOW_PATHS
        return names

    def _load(self) -> None:
        """Load as many of the programs as this kernel takes; ForkTraceError if not those on a fork's ends."""
        names = self._wanted()
        functions = {name: _function_of(name) for name in names if name.startswith("f")}
        params, voids, _ = function_params(self._library, set(functions.values()))
        for name, function in functions.items():
            if params.get(function) is None and function not in voids:
                self.missing[name] = f"this kernel's BTF has no function {function}"
        image = files.contents(program("latency.bpf.o"))
        blind = 0
        while True:
            self._programs = Programs(self._library)
            self._programs.open(image, {each for each in names if each not in self.missing})
            self._fill(blind)
            if self._settings.is_lean:
                self._programs.resize("user_stacks", FEW_STACKS_BYTES)
                self._programs.resize("events", _FEW_EVENTS_BYTES)
            code = self._programs.put_in()
            if code is None:
                return
            # Each round gives up what this kernel refuses: what programs read, then one program.
            seeing, lacks = self._programs.blinded(blind, code)
            if seeing != blind:
                blind = seeing
                self.missing.update((each, f"this kernel's BTF has no {each}") for each in lacks)
            else:
                self._give_up(code)
            self._programs.free()

    def _give_up(self, code: int) -> None:
        name, reason = self._programs.refused(code)
        if code == errno.EPERM or name in _CORE[self.attach]:
            raise AttachRefusedError(f"cannot load the BPF programs: {reason}", NEEDS[self.attach])
        self.missing[name] = reason

    def _fill(self, blind: int) -> None:
        config = self._programs.settings(".rodata.config", Config)
        config.stack_bytes = -(-self._settings.stack_bytes // sizes.STACK_CHUNK) * sizes.STACK_CHUNK
        config.page_shift = os.sysconf("SC_PAGE_SIZE").bit_length() - 1
        config.blind = blind
        latency = self._programs.settings(".rodata.latency", _LatencyConfig)
        latency.over_ns = self._settings.over_ns
        latency.cgroup_lock, latency.uprobes_lock = self._settings.locks

    def _start(self) -> None:
        more = _MORE[self.attach] if self._settings.all_phases else ()
        for name in (*more, *_CORE[self.attach]):
            reason = self._attach(name)
            if reason is not None and name in _CORE[self.attach]:
                raise AttachRefusedError(
                    f"this kernel refuses the program {name}: {reason}", NEEDS[self.attach]
                )
        self._rings = self._programs.rings("events", "user_stacks")
        self._programs.write(".data.phase", _PHASE_MARKING)
        self._settles_at_s = time.monotonic() + MARKING_S

    def _attach(self, name: str) -> str | None:
        """Attach one program; return why it cannot be done, which is kept as well."""
        if name not in self.missing:
            reason = self._programs.attach_program(name, _function_of(name))
            if reason is None:
                return None
            self.missing[name] = reason
        return self.missing[name]

    def attach_waits(self) -> None:
        """Attach what sees for what forks wait, and when their phases end; once, and a moment's work."""
        if self._has_begun or not self._programs.is_attached:
            return
        self._has_begun = True
        phases = () if self._settings.all_phases else _MORE[self.attach]
        for name in (*phases, *_CONTENTION, *_RECLAIM):
            self._attach(name)
        if self.attach == "fexit" and self.missing.keys() & {*_CONTENTION}:
            # The tracepoints see these waits, and those for every other lock.
            for name in _SLOW_PATHS:
                self._attach(name)
        self._programs.write(".data.watched_from", time.monotonic_ns() & ~1 | (self.waits == "all"))
        for name in _HELPFUL[self.attach]:
            self._attach(name)

    @property
    def waits(self) -> str:
        """Say whose waits are watched: "all", "some", or "none", as no fork was slow."""
        if not self._has_begun:
            return "none"
        return "some" if self.missing.keys() & {*_RECLAIM, *_CONTENTION} else "all"

    def poll(self, timeout_s: float) -> list[bytes]:
        """Wait for slow forks at most this long and return them (struct ft_slow), oldest first."""
        if self._settles_at_s is not None and time.monotonic() >= self._settles_at_s:
            self._settles_at_s = None
            self._programs.write(".data.phase", _PHASE_COUNTING)
        assert self._rings
        taken = self._rings.read(timeout_s)
        self._stacks += taken["user_stacks"]
        return taken["events"]

    def stacks(self) -> list[bytes]:
        """Return the user stacks that came with the slow forks of the last poll."""
        taken, self._stacks = self._stacks, []
        return taken

    def tallies(self) -> list[Tally]:
        """Return all forks so far, by command."""
        keys = ctypes.create_string_buffer(_MOST_TALLIES * sizes.COMM_BYTES)
        values = ctypes.create_string_buffer(_MOST_TALLIES * _TALLY.size)
        count, cursor = c_uint32(_MOST_TALLIES), ctypes.create_string_buffer(sizes.COMM_BYTES)
        failed = self._lib.bpf_map_lookup_batch(
            *(
                self._programs.map_fd("tallies"),
                None,
                cursor,
                keys,
                values,
                ctypes.byref(count),
                None,
            )
        )
        if failed and ctypes.get_errno() != errno.ENOENT:
            raise ForkTraceError(
                f"cannot read the counters: {os.strerror(ctypes.get_errno())}",
                "Please report this kernel with the output of `fork-trace doctor --json`.",
            )
        comms = ctypes.string_at(keys, count.value * sizes.COMM_BYTES)
        numbers = _TALLY.iter_unpack(ctypes.string_at(values, count.value * _TALLY.size))
        found = []
        for index, (total_ns, slow, slow_ns, *buckets) in enumerate(numbers):
            comm = events.text(comms[index * sizes.COMM_BYTES : (index + 1) * sizes.COMM_BYTES])
            found.append(Tally(comm, total_ns, slow, slow_ns, tuple(buckets)))
        return found

    def stats(self) -> dict[str, int]:
        """Return the run's counters by the names of STATS."""
        found = {}
        for index, name in enumerate(STATS):
            value = c_uint64()
            self._lib.bpf_map_lookup_elem(
                self._programs.map_fd("stats"), ctypes.byref(c_uint32(index)), ctypes.byref(value)
            )
            found[name] = value.value
        return found

    def missed(self) -> int | None:
        """Count the forks that the programs on their begin and end were left out of; None: not counted."""
        if self._missed is not None:
            return self._missed
        misses = self._programs.misses()
        if misses is None:
            return None
        events_ = self._programs.kprobe_events
        return sum(misses[name] for name in _CORE[self.attach]) + (
            (events_.missed("copy_process") or 0) if events_ else 0
        )

    def detach(self) -> None:
        """Stop watching; what was counted can still be read."""
        if self._programs.is_attached:
            self._programs.write(".data.phase", PHASE_OFF)
        self._programs.detach()
        if self._programs.kprobe_events:
            self._missed = self.missed()
            self._programs.remove_kprobe_events()

    def close(self) -> None:
        """Detach every program and free every map."""
        self.detach()
        if self._rings:
            self._rings.close()
            self._rings = None
        self._programs.free()
