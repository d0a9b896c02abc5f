"""A slow fork as the kernel side tells it: struct ft_slow of bpf/latency.h, decoded. Pure."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import NamedTuple

from fork_trace.model import events, sizes
from fork_trace.model.dataclass import dataclass

# The parts of a fork, in the kernel's order; what each of them is stands in the book, latency.md.
PHASES = ("task", "memory", "cgroup", "rest")
_STAMPS = len(PHASES) - 1
# enum ft_size; of these the first is in bytes, MAPPINGS a number, the others pages.
SIZES = ("pgtables", "file", "anon", "swap", "shmem", "mappings", "virtual")
# enum ft_wait
WAITS = ("lock", "cgroup-threadgroup-lock", "mmap-lock", "uprobes-lock", "reclaim", "processor")

_SLOW = struct.Struct(
    f"={1 + _STAMPS + 1 + len(SIZES) + 1 + len(WAITS)}Q5QII Q{sizes.COMM_BYTES}s".replace(" ", "")
)
SLOW_BYTES = events.EVENT_BYTES + _SLOW.size


class Who(NamedTuple):
    """Who held what a fork waited for."""

    comm: str
    pid: int
    tid: int


@dataclass(frozen=True)
class SlowFork:
    """One fork that took long; what is not known is absent, or None."""

    event: events.Event  # its error is 0 if it succeeded
    total_ns: int
    # In the kernel's order, and all of total_ns. Where the end of a phase was not seen, it is told with
    # the next one, as "task+memory". Empty: no phase was seen.
    phases: Mapping[str, int]
    sizes: Mapping[str, int]
    waits: Mapping[str, int]  # ns; only those that were seen
    waits_are_all: bool  # every wait for a lock or for memory would have been seen
    cpu_ns: int | None  # how long it ran; None: not watched, or it changed its processor
    other_flags: int  # LCB_F_* of the longest wait for "lock"
    holder: Who | None = None  # of what it waited for longest
    held: str | None = None  # which of WAITS that was


def phases(total_ns: int, stamps: Mapping[int, int]) -> dict[str, int]:
    """Return how long each phase took, by the ends that were seen (number of the phase -> ns since the begin)."""
    if not stamps:
        return {}
    found: dict[str, int] = {}
    names: list[str] = []
    last_ns = 0
    for number, name in enumerate(PHASES):
        names.append(name)
        end_ns = total_ns if number == _STAMPS else stamps.get(number)
        if end_ns is None or end_ns < last_ns:
            continue
        found["+".join(names)] = end_ns - last_ns
        names, last_ns = [], end_ns
    return found


def decode(raw: bytes) -> SlowFork:
    """Decode a struct ft_slow."""
    if len(raw) < SLOW_BYTES:
        raise events.BadEventError(f"a slow fork has {SLOW_BYTES} bytes, got {len(raw)}")
    event = events.decode(raw[: events.EVENT_BYTES])
    values = iter(_SLOW.unpack_from(raw, events.EVENT_BYTES))
    total_ns = next(values)
    stamps = [next(values) for _ in range(_STAMPS)]
    stamped = next(values)
    sizes = [next(values) for _ in SIZES]
    sized = next(values)
    waits = [next(values) for _ in WAITS]
    waits_known, delay_known, cpu_ns, cpu_known, other_flags, pid, tid, held, comm = values
    seen = {number: ns for number, ns in enumerate(stamps) if stamped >> number & 1}
    name = events.text(comm)
    return SlowFork(
        event=event,
        total_ns=total_ns,
        phases=phases(total_ns, seen),
        sizes={name: sizes[at] for at, name in enumerate(SIZES) if sized >> at & 1},
        waits={
            name: ns
            for name, ns in zip(WAITS, waits)
            if ns or (delay_known if name == "processor" else waits_known)
        },
        waits_are_all=bool(waits_known),
        cpu_ns=cpu_ns if cpu_known else None,
        other_flags=other_flags,
        holder=Who(name, pid, tid) if pid else None,
        held=WAITS[held] if pid and held < len(WAITS) else None,
    )
