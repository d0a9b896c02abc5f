"""Forks that take long, from arming to what is known of each: bytes in, `Seen` out. What they mean is `latency`'s.

Off unless asked for. As in a session, nothing here forks, starts a thread or runs a program.
"""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

from fork_trace.collect import arm, clock, compose
from fork_trace.collect.observe import Cgroups, Observer
from fork_trace.host import cgroup, procfs
from fork_trace.model import events, latency, sizes
from fork_trace.model.records import Frame, Header
from fork_trace.probes import kernel, privileges, reserve
from fork_trace.probes.backend import AttachRefusedError, Filter
from fork_trace.probes.libbpf.bindings import Library
from fork_trace.probes.libbpf.btf import SYMBOL_ITERATOR, function_params, listed_symbols
from fork_trace.probes.libbpf.latency import LOCKS, LatencyBackend, Settings, Tally
from fork_trace.probes.plan import Fact, make
from fork_trace.probes.request import ATTACH_MODES, Request
from fork_trace.stacks import callers
from fork_trace.stacks.symbols import Symbols

_UNWINDING_S = 0.25
_TICK_S = 0.1  # the buffer does not wake us


class Seen(NamedTuple):
    """One slow fork, and what was to be seen of its process right after."""

    fork: latency.SlowFork
    time: str  # when it ended: ISO 8601, UTC
    exe: str | None
    cgroup: str | None
    caller: str | None
    stack: tuple[Frame, ...]


def _lock_addresses(library: Library) -> tuple[int, int]:
    names = ("copy_process", *LOCKS)
    params, _, _ = function_params(library, [SYMBOL_ITERATOR])
    listed = None
    if params.get(SYMBOL_ITERATOR) is not None:
        listed = listed_symbols(library, names)
    _, addresses, _ = kernel.symbols(names, listed=listed)
    first, second = (addresses.get(name, 0) for name in LOCKS)
    return first, second


class SlowWatch:
    """Watches how long forks take, from construction to `close`."""

    def __init__(
        self,
        attach: str | None,
        over_ns: int,
        stack_bytes: int = sizes.STACK_BYTES,
        keeps_privileges: bool = False,
        all_phases: bool = False,
        is_lean: bool = False,
    ) -> None:
        if not keeps_privileges:
            arm.demand_another_user(privileges.why_root_must_stay())
        self._keeps_privileges = keeps_privileges
        self.host = procfs.host_name()
        self.descriptors = reserve.Descriptors()
        prepared = arm.prepare(Request(attach, "libbpf"))
        assert prepared.library is not None  # the plan refuses a host without libbpf
        self.release, self._plan = prepared.facts.release, prepared.plan
        self._symbols = Symbols()
        self._cgroups = Cgroups(cgroup.CgroupPaths())
        self.sees_all_pids = procfs.is_initial_pid_namespace()
        self._observer = Observer(self._cgroups, self._symbols, {}, self.sees_all_pids)
        locks = _lock_addresses(prepared.library)
        settings = Settings(over_ns, stack_bytes, locks, all_phases, is_lean)
        self.backend = self._armed(prepared, settings, attach)
        # Held back once the rest is given up: it takes more to attach kprobes than to watch.
        self._lends = (
            not keeps_privileges
            and self.backend.attach == "kprobe"
            and kernel.perf_paranoia() is not None
        )
        reserve.memory()
        self._clock = clock.started(time.monotonic_ns())

    @staticmethod
    def _armed(prepared: arm.Prepared, settings: Settings, asked: str | None) -> LatencyBackend:
        facts, attach = prepared.facts, prepared.plan.attach
        assert prepared.library is not None
        while True:
            try:
                return LatencyBackend(prepared.library, attach, settings)
            except AttachRefusedError as error:
                # What the files promise, the kernel may still refuse: the next attach mode has its turn.
                feature = {"fexit": "trampolines", "kprobe": "kprobes"}.get(attach)
                if asked is not None or feature is None or not facts.may_load.value:
                    raise
                facts = facts.with_feature(feature, Fact(False, error.message))
                following = make(facts, Request(None, "libbpf")).attach
                if ATTACH_MODES.index(following) <= ATTACH_MODES.index(attach):
                    raise
                attach = following

    def header(self) -> Header:
        """Say where and how it watches. No program of it sees a failure: none is named."""
        header = compose.header(
            self._plan, self.release, self._clock.time_ns(self._clock.start_ns), {}, Filter()
        )
        return replace(header, attach=self.backend.attach, attached=(), missing=())

    def give_up_privileges(self, may_signal: bool = False) -> None:
        """Give up whatever watching does not need, unless told to keep it; ForkTraceError if that fails."""
        if not self._keeps_privileges:
            arm.demand_another_user(privileges.give_up(may_signal, self._lends))

    def attach_now(self) -> None:
        """Attach what waits for a slow fork, where that takes what somebody else is about to give up."""
        if self._lends:
            self._lends = False
            self.backend.attach_waits()

    def elapsed_s(self) -> float:
        """Seconds since the programs were attached."""
        return self._clock.elapsed_s()

    def now(self) -> str:
        """Return the time of day, as records have it."""
        return clock.iso(self._clock.now_ns())

    def tick_s(self) -> float:
        """Say how long `poll` may wait."""
        return _TICK_S

    def poll(self, timeout_s: float) -> list[Seen]:
        """Wait for slow forks at most this long; the first one lets their waits be watched."""
        raws = self.backend.poll(timeout_s)
        self._observer.keep_stacks(map(events.decode_stack, self.backend.stacks()))
        forks = [latency.decode(raw) for raw in raws]
        # /proc first, for all of them; names take longer.
        snapshots = [self._observer.look(fork.event) for fork in forks]
        if forks:
            with privileges.lent() if self._lends else nullcontext():
                self.backend.attach_waits()
            if self._lends:
                privileges.give_back()
                self._lends = False
        seen = []
        for fork, snapshot in zip(forks, snapshots):
            exe = snapshot.exe
            if exe is None and snapshot.stack is not None:
                exe = self._symbols.program(snapshot.stack)
            script = callers.script(exe, snapshot.stack.arguments if snapshot.stack else ())
            caller = self._observer.caller(fork.event)
            try:
                frames, _ = self._symbols.frames(
                    caller, fork.event.user_frames, snapshot.stack, _UNWINDING_S
                )
            except MemoryError:
                frames = ()
            seen.append(
                Seen(
                    fork,
                    clock.iso(self._clock.time_ns(fork.event.time_ns)),
                    _shown(exe),
                    self._cgroups.own(fork.event.key, snapshot.cgroups),
                    callers.caller(frames, script),
                    frames,
                )
            )
        self._symbols.rest()
        return seen

    def tallies(self) -> list[Tally]:
        """Return all forks so far, by command."""
        return self.backend.tallies()

    def timing(self) -> tuple[list[int], int]:
        """Return how many forks took how long, as a Tally has it, and all of their time in ns."""
        found = self.tallies()
        sums = [sum(column) for column in zip(*(each.buckets for each in found))]
        return sums, sum(each.total_ns for each in found)

    def stop(self) -> list[Seen]:
        """Stop watching and return what is still to be told."""
        self.backend.detach()
        return self.poll(0.0)

    def close(self) -> None:
        """Detach and free everything; safe to call twice."""
        self.backend.close()
        self._cgroups.close()
        self._symbols.close()


def _shown(path: str | None) -> str | None:
    return None if path is None else os.fsencode(path).decode("utf-8", "backslashreplace")
