"""A death from the kernel side, as values: struct ft_death of bpf/wire.h. Pure.

tests/unit/bpf/test_abi.py holds the two together.
"""

from __future__ import annotations

import struct

from fork_trace.model.dataclass import dataclass
from fork_trace.model.events import (
    CGROUP_PATH_BYTES,
    LEVEL_BYTES,
    LEVEL_COUNT,
    BadEventError,
    Level,
    cgroup_path,
    levels,
    text,
)
from fork_trace.model.sizes import COMM_BYTES

KIN = 8  # children that one death tells of
KERNEL_FRAMES = 32
_HEAD = struct.Struct(f"=QQQ{12 * 'I'}{COMM_BYTES}s")
_KIN = struct.Struct(f"=QQII{COMM_BYTES}s")
_BIG_FORK = struct.Struct("=QQIIII")
_HUGE = struct.Struct("=QQQQQQII")
HUGE_DEATH_BYTES = _HUGE.size + 2 * _KIN.size
_FRAMES = struct.Struct(f"={KERNEL_FRAMES}Q")
KIN_BYTES = _KIN.size
DEATH_BYTES = _HEAD.size + _KIN.size * (KIN + 2) + _FRAMES.size
DEATH_BYTES += LEVEL_BYTES * LEVEL_COUNT + CGROUP_PATH_BYTES

# FT_KIN_*
KIN_THERE, KIN_NO_EXEC, KIN_SAME_PROGRAM, KIN_SAME_MEMORY = 1, 2, 4, 8
KIN_HAS_MEMORY, KIN_EXITING, KIN_CHILD = 16, 32, 64
# FT_DEATH_*
HAS_CONTROL, MEMCG, OF_PARENT, IN_FAULT = 1, 2, 4, 8
# enum ft_copied: what lies where the allocator writes. A fork shares anonymous pages.
ANONYMOUS = "anonymous"
COPIED: tuple[str, ...] = ("", ANONYMOUS, "ksm", "file", "zero")
_NO_LEVEL = 0xFFFFFFFF
# enum oom_constraint, include/linux/oom.h
CONSTRAINTS: tuple[str, ...] = ("", "cpuset", "memory policy", "memory cgroup")


@dataclass(frozen=True)
class HugeDeath:
    """A process that got SIGBUS, as no huge page was left for it: struct ft_huge_death of bpf/wire.h."""

    time_ns: int
    cgroup_id: int
    page_order: int
    total: int  # huge pages of this size
    free: int
    reserved: int  # of those
    uid: int
    hierarchy: int
    victim: Kin
    parent: Kin | None  # None: it is of another exec, so the fork was not its


@dataclass(frozen=True)
class BigFork:
    """A fork that went through, of a parent with much memory: struct ft_big_fork of bpf/wire.h."""

    time_ns: int  # with tid: of which stack
    child_start_ns: int
    tid: int
    pid: int
    uid: int
    child_pid: int


@dataclass(frozen=True)
class Kin:
    """One process of a family, at the kill."""

    comm: str
    pid: int
    start_ns: int  # CLOCK_MONOTONIC: when it was forked
    anon_pages: int | None
    has_no_exec: bool  # it has executed no program since
    is_of_same_exec: (
        bool  # as the victim: both descend from one execve, and neither has called it since
    )
    has_same_memory: bool  # as the victim
    is_exiting: bool
    is_child: bool  # the victim has forked it; else the victim's parent has

    @property
    def shares(self) -> bool:
        """Say whether its memory is a copy of the victim's, or the other way round."""
        return self.is_of_same_exec and not self.has_same_memory


@dataclass(frozen=True)
class Killed:
    """What the kernel side tells of one death."""

    time_ns: int
    total_pages: int | None
    cgroup_id: int
    uid: int
    allocator_comm: str
    allocator_pid: int
    allocator_tid: int
    is_memcg: bool | None  # None: not told
    constraint: str
    hierarchy: int
    over: int | None  # which level was full
    victim: Kin | None  # None: only its pid is known, or nothing
    victim_pid: int | None
    parent: Kin | None
    kin: tuple[Kin, ...]  # the youngest first
    shares_with_parent: bool  # who has forked it
    copied: str  # of COPIED; "": who asked for memory writes nowhere, or it is not known
    is_in_fault: bool  # who asked for memory was in a fault of its own code, in no system call
    kernel_frames: tuple[int, ...]
    levels: tuple[Level, ...]
    cgroup_path: str | None


def decode_fork(raw: bytes) -> BigFork:
    """Read one fork; BadEventError if it is none."""
    if len(raw) < _BIG_FORK.size:
        raise BadEventError(f"{len(raw)} bytes are no fork, which has {_BIG_FORK.size}")
    return BigFork(*_BIG_FORK.unpack_from(raw))


def decode_huge(raw: bytes) -> HugeDeath:
    """Read one of HUGE_DEATH_BYTES; BadEventError if it is none."""
    victim, parent = (_kin(raw, _HUGE.size + each * _KIN.size) for each in range(2))
    if len(raw) != HUGE_DEATH_BYTES or victim is None:
        raise BadEventError(f"{len(raw)} bytes are no death, which has {HUGE_DEATH_BYTES}")
    behind = parent if parent is not None and parent.is_of_same_exec else None
    time_ns, cgroup_id, order, total, free, reserved, uid, hierarchy = _HUGE.unpack_from(raw)
    pool = (order, total, free, reserved)
    return HugeDeath(time_ns, cgroup_id, *pool, uid, hierarchy, victim, behind)


def decode(raw: bytes) -> Killed:
    """Read one death; BadEventError if it is none."""
    if len(raw) < DEATH_BYTES:
        raise BadEventError(f"{len(raw)} bytes are no death, which has {DEATH_BYTES}")
    head = _HEAD.unpack_from(raw)
    time_ns, total_pages, cgroup_id, bits, constraint, uid, pid, tid, hierarchy = head[:9]
    level_count, over, kin_count, copied, frame_count, path_bytes, comm = head[9:]
    at = _HEAD.size
    found = [_kin(raw, at + number * _KIN.size) for number in range(KIN + 2)]
    victim_pid = _KIN.unpack_from(raw, at)[2]
    at += _KIN.size * (KIN + 2)
    frames = _FRAMES.unpack_from(raw, at)[: min(frame_count, KERNEL_FRAMES)]
    at += _FRAMES.size
    path = raw[at + LEVEL_BYTES * LEVEL_COUNT :][:path_bytes]
    known = constraint < len(CONSTRAINTS)
    return Killed(
        time_ns=time_ns,
        total_pages=total_pages or None,
        cgroup_id=cgroup_id,
        uid=uid,
        allocator_comm=text(comm),
        allocator_pid=pid,
        allocator_tid=tid,
        is_memcg=bool(bits & MEMCG) if bits & HAS_CONTROL else None,
        constraint=CONSTRAINTS[constraint] if known else f"unknown:{constraint}",
        hierarchy=hierarchy,
        over=None if over == _NO_LEVEL else over,
        victim=found[0],
        victim_pid=victim_pid or None,
        parent=found[1],
        kin=tuple(each for each in found[2:][: min(kin_count, KIN)] if each is not None),
        shares_with_parent=bool(bits & OF_PARENT),
        copied=COPIED[copied] if copied < len(COPIED) else "",
        is_in_fault=bool(bits & IN_FAULT),
        kernel_frames=frames,
        levels=levels(raw, at, level_count),
        cgroup_path=cgroup_path(path) if path_bytes <= CGROUP_PATH_BYTES else None,
    )


def _kin(raw: bytes, offset: int) -> Kin | None:
    start_ns, anon_pages, pid, bits, comm = _KIN.unpack_from(raw, offset)
    if not bits & KIN_THERE:
        return None
    return Kin(
        text(comm),
        pid,
        start_ns,
        anon_pages if bits & KIN_HAS_MEMORY else None,
        has_no_exec=bool(bits & KIN_NO_EXEC),
        is_of_same_exec=bool(bits & KIN_SAME_PROGRAM),
        has_same_memory=bool(bits & KIN_SAME_MEMORY),
        is_exiting=bool(bits & KIN_EXITING),
        is_child=bool(bits & KIN_CHILD),
    )
