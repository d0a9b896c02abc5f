"""Holds what a capture says against the truth: whose allocation it was that failed, by the kernel's own stack. Pure.

A fork that lost an allocation failed for want of memory, whatever its errno; no limit was reached and
no argument was wrong. N is not stable, as slabs are refilled: attempts are known by their names.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fork_trace.diagnosis.verdict import errno_name
from fork_trace.model import steps

from .making import Attempt

RIGHT, INFERRED, WRONG = "right", "inferred", "wrong"
MEMORY = ("kernel-memory", "memory-cgroup")
# Whose cgroup is near its limit, so that it may be blamed as well.
FULL_CGROUP = ("mcgcache",)

_FORK = "copy_process"
# A function that a step is made of, where the step's own may be inlined into copy_process.
_FUNCTIONS: Mapping[str, str] = {
    **{watch.function: step.name for step in steps.STEPS for watch in step.watches},
    "dup_task_struct": "dup_task_struct",
    "arch_dup_task_struct": "dup_task_struct",
    "copy_signal": "copy_signal",
    "copy_sighand": "copy_sighand",
    "dup_mm": "dup_mm",
    "__ksm_enter": "dup_mmap",
    "__khugepaged_enter": "dup_mmap",
    "i_mmap_lock_write": "dup_mmap",
    "create_task_io_context": "__copy_io",
    "alloc_io_context": "__copy_io",
    "anon_inode_getfile": "pidfd_prepare",
    "pidfs_alloc_file": "pidfd_prepare",
    "alloc_file": "pidfd_prepare",
    "__get_unused_fd_flags": "pidfd_prepare",
    "get_unused_fd_flags": "pidfd_prepare",
    "alloc_fd": "pidfd_prepare",
}
del _FUNCTIONS[_FORK]  # type: ignore[attr-defined]
# A stack that no step is on: whose it is, by the slab cache or by the allocator's caller.
_CACHES = {
    "task_struct": "dup_task_struct",
    "sighand_cache": "copy_sighand",
    "signal_cache": "copy_signal",
    "mm_struct": "dup_mm",
    "files_cache": "dup_fd",
    "fs_cache": "copy_fs_struct",
    "maple_node": "dup_mmap",
    "nsproxy": "copy_namespaces",
    "pid": "alloc_pid",
}
_STACKS = ("__vmalloc_node_range", "__vmalloc_node_range_noprof")  # of tasks, in dup_task_struct


class Judged(NamedTuple):
    """One attempt that failed, and what was said of it."""

    attempt: Attempt
    truth: tuple[str, ...]  # steps on the kernel's stack, innermost first
    result: str
    why: str  # what is wrong; or the step whose program was not there to see it


def truth(attempt: Attempt) -> tuple[str, ...]:
    """Name the steps that the refused allocation was made in; none: it tells of none."""
    inside = attempt.stack
    if _FORK in inside:
        inside = inside[: inside.index(_FORK)]
    found = tuple(dict.fromkeys(_FUNCTIONS[each] for each in inside if each in _FUNCTIONS))
    if attempt.errno == errno.EAGAIN and "alloc_ucounts" in inside:
        # Inlined into copy_creds by some compilers; nothing else there answers so.
        return ("set_cred_ucounts", *found)
    if found:
        return found
    if attempt.cache in _CACHES:
        return (_CACHES[attempt.cache],)
    # The pidfd is written to the caller's memory by copy_process itself.
    if attempt.errno == errno.EFAULT:
        return (_FORK,)
    return ("dup_task_struct",) if any(each in _STACKS for each in inside) else ()


def judge(attempts: Iterable[Attempt], records: Sequence[Mapping[str, Any]]) -> list[Judged]:
    """Judge what was said of each attempt that failed, and that nothing was said of the others."""
    told: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record["type"] == "failure":
            told.setdefault(record["comm"], []).append(record)
    return [
        judged for attempt in attempts for judged in _judge(attempt, told.get(attempt.comm, ()))
    ]


def _judge(attempt: Attempt, records: Sequence[Mapping[str, Any]]) -> list[Judged]:
    known = truth(attempt)
    count = sum(record["count"] for record in records)
    if count != bool(attempt.errno):
        return [Judged(attempt, known, WRONG, f"told {count} times")]
    if not attempt.errno:
        return []
    (record,) = records
    why = _wrong(attempt, known, record)
    if why:
        return [Judged(attempt, known, WRONG, why)]
    if record["certainty"] == "observed":
        return [Judged(attempt, known, RIGHT, "")]
    return [Judged(attempt, known, INFERRED, known[0] if known else "?")]


def _wrong(attempt: Attempt, known: Sequence[str], record: Mapping[str, Any]) -> str:
    name = errno_name(attempt.errno)
    allowed = MEMORY if attempt.variant in FULL_CGROUP else MEMORY[:1]
    step, possible = record["step"], record["possible_steps"]
    if not attempt.is_hit:
        return f"it failed with {name} though no allocation was refused"
    if record["errno"] != name:
        return f"errno {record['errno']} in place of {name}"
    if record["cause"] not in allowed:
        return f"cause {record['cause']}"
    if step == _FORK and known and known != (_FORK,) and not set(known) & set(possible):
        return f"one of the steps {' '.join(possible) or '-'}"
    if step != _FORK and known and step not in known:
        return f"step {step}"
    return ""
