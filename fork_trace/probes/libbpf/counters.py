"""What the programs counted, read from their maps, and what they cannot have counted."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable, Mapping
from ctypes import c_uint32, c_uint64
from typing import Any

from fork_trace.errors import ForkTraceError
from fork_trace.model import events, steps
from fork_trace.probes.kprobe_events import KprobeEvents
from fork_trace.probes.plan import HUGE_FAULT, Plan
from fork_trace.probes.settings import ATTEMPT_BYTES, SHARES, THREAD_BYTES, harvest

# Functions in whose programs a failure is counted; in all others it only leaves its step.
_COUNTING = frozenset(
    watch.function
    for name in ("copy_process", "mmap", "mprotect")
    for watch in steps.BY_NAME[name].watches
)
_BATCH = 8192  # as many as each map holds: one system call reads all


class Counters:
    """The maps of counters; they can be read until the object is freed."""

    def __init__(self, lib: Any) -> None:
        self._lib = lib
        self._generation = 0  # of the keys that are made now
        # Allocated now: later there may be no memory to be had.
        self._batch_keys = ctypes.create_string_buffer(_BATCH * events.KEY_BYTES)
        self._batch_values = ctypes.create_string_buffer(_BATCH * events.TALLY_BYTES)

    def open(self, map_fd: Callable[[str], int]) -> None:
        """Find the maps of an object that was loaded."""
        self._tallies_fd = map_fd("tallies")
        self._shares_fd = map_fd("shares")
        self._stats_fd = map_fd("stats")
        self._folded_fd = map_fd("overflowed")
        self._attempts_fd = map_fd("attempts")

    def tallies(self) -> list[tuple[bytes, bytes]]:
        """Return the exact counters: (struct ft_key, struct ft_tally) pairs."""
        return self._pairs(self._tallies_fd, events.KEY_BYTES, events.TALLY_BYTES)

    def used(self) -> int:
        """Count the keys of the exact counters; the table takes 8192."""
        return sum(self._cell(self._shares_fd, number) for number in (0, SHARES))

    def harvest(self, move_generation: Callable[[int], None]) -> list[tuple[bytes, bytes]]:
        """Take all keys out of the table, with their last counts; each begins anew if it is counted again."""

        def move_to(generation: int) -> None:
            move_generation(generation)
            self._generation = generation

        return harvest(self._generation, move_to, self.tallies, self._remove, self._forget_share)

    def _remove(self, key: bytes) -> bool:
        return not self._lib.bpf_map_delete_elem(self._tallies_fd, key)

    def _forget_share(self, number: int) -> None:
        key, none = c_uint32(number), c_uint64()
        self._lib.bpf_map_update_elem(self._shares_fd, ctypes.byref(key), ctypes.byref(none), 0)

    def stats(self) -> dict[str, int]:
        """Return the run's counters by the names of events.STATS."""
        return dict(zip(events.STATS, self._array(self._stats_fd, len(events.STATS))))

    def overflowed(self) -> dict[int, int]:
        """Return the counts by step number that found no room among the keys."""
        counts = self._array(self._folded_fd, len(steps.STEPS))
        return {number: count for number, count in enumerate(counts) if count}

    def under_way(self) -> int:
        """Count the forks that have begun and not returned; only kprobes keep them."""
        return len(self._pairs(self._attempts_fd, THREAD_BYTES, ATTEMPT_BYTES))

    def _pairs(self, fd: int, key_bytes: int, value_bytes: int) -> list[tuple[bytes, bytes]]:
        """Read a whole hash map."""
        pairs: list[tuple[bytes, bytes]] = []
        cursor = ctypes.create_string_buffer(key_bytes)
        start: Any | None = None
        while True:
            count = c_uint32(_BATCH)
            failed = self._lib.bpf_map_lookup_batch(
                fd,
                start,
                cursor,
                self._batch_keys,
                self._batch_values,
                ctypes.byref(count),
                None,
            )
            code = ctypes.get_errno() if failed else 0
            if code and code != errno.ENOENT:
                raise ForkTraceError(
                    f"cannot read the counters: {os.strerror(code)}",
                    "Please report this kernel with the output of `fork-trace doctor --json`.",
                )
            # Not all of them, by `raw`: that is a megabyte and a half, mostly of nothing.
            keys = ctypes.string_at(self._batch_keys, count.value * key_bytes)
            values = ctypes.string_at(self._batch_values, count.value * value_bytes)
            for index in range(count.value):
                pairs.append(
                    (
                        keys[index * key_bytes : (index + 1) * key_bytes],
                        values[index * value_bytes : (index + 1) * value_bytes],
                    )
                )
            if code == errno.ENOENT:
                return pairs
            start = cursor

    def _array(self, fd: int, length: int) -> list[int]:
        return [self._cell(fd, index) for index in range(length)]

    def _cell(self, fd: int, index: int) -> int:
        value = c_uint64()
        self._lib.bpf_map_lookup_elem(fd, ctypes.byref(c_uint32(index)), ctypes.byref(value))
        return value.value


def missed(
    plan: Plan,
    misses: Mapping[str, int] | None,
    kprobe_events: KprobeEvents | None,
    unreturned: int,
) -> int | None:
    """Count the calls whose failure may not have been counted; None: the kernel does not count them.

    `misses` are the calls that each program was left out of, `unreturned` those that are known to be missed:
    that kprobes saw begin only, or that the first program missed while it was alone.
    """
    is_by_kprobes = plan.attach == "kprobe"
    total = unreturned
    if is_by_kprobes and kprobe_events:
        total += _lost_returns(kprobe_events)
    if misses is None:
        # A kprobe that is passed over for another one is not counted, a lost return is.
        return total if is_by_kprobes else None
    # Of deaths, which no failure is counted by.
    late = {name for probe in plan.late for name in (probe.entry, probe.program)}
    misses = {name: count for name, count in misses.items() if name not in late}
    pairs = zip(steps.SYSCALL_PROGRAMS, steps.SECOND_PROGRAMS)
    copied = (("fexit_copy_process", again) for again in steps.COPIED_TWICE)
    for first, second in (*pairs, *copied):
        if second not in misses:
            continue
        # What one of them missed the other saw, but for what both of them did.
        missed_again = misses.pop(second)
        if second == steps.COPIED_AGAIN:
            unfollowed = kprobe_events.missed("copy_process") if kprobe_events else None
            if unfollowed is None:
                continue  # of any number of calls the kernel may not have followed the return
            missed_again += unfollowed
        misses[first] = min(misses[first], missed_again)
    told_elsewhere = _told_elsewhere(plan)
    return total + sum(
        count for name, count in misses.items() if is_by_kprobes or name not in told_elsewhere
    )


def _lost_returns(kprobe_events: KprobeEvents) -> int:
    """Count the calls whose return was not followed, but for those that no failure is counted by."""
    return (kprobe_events.missed() or 0) - (kprobe_events.missed(HUGE_FAULT) or 0)


def step_misses(plan: Plan, misses: Mapping[str, int] | None) -> dict[str, int]:
    """Count the calls of each step that its program did not see; their failures are counted all the same."""
    if not misses:
        return {}
    return {step: misses[name] for name, step in _told_elsewhere(plan).items() if misses.get(name)}


def _told_elsewhere(plan: Plan) -> dict[str, str]:
    # Programs whose failures copy_process' own program counts -> what they tell of.
    return {
        probe.program: probe.step or probe.function
        for probe in plan.probes
        if probe.function not in _COUNTING and probe.program.startswith(("fexit_", "kretprobe_"))
    }
