"""What both backends have in common: the settings and phases of the programs, and what is done about them.

The settings are struct ft_config of bpf/fork_trace.h; how they reach the programs is each backend's.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from ctypes import c_uint32, c_uint64

from fork_trace import events, steps
from fork_trace.backends import Filter
from fork_trace.plan import Plan, Probe

PHASE_OFF, PHASE_MARKING, PHASE_COUNTING, PHASE_DETAILED = 0, 1, 2, 3  # enum ft_phase
MARKING_S = 0.02  # most failing forks take less than 0.1 ms from the refusal to the return
THREAD_BYTES, ATTEMPT_BYTES = 4, 40  # the map "attempts": struct ft_attempt
_DRAIN_S = 0.25  # a fork that takes longer to end once nobody watches counts as missed

_FILTER_PID, _FILTER_UID, _FILTER_COMM, _FILTER_CGROUP = 1, 2, 4, 8


class Config(ctypes.Structure):
    """struct ft_config of bpf/fork_trace.h; tests/test_abi.py holds the two together."""

    _fields_ = [
        ("copy_process_start", c_uint64),
        ("copy_process_end", c_uint64),
        ("nr_threads", c_uint64),
        ("max_threads", c_uint64),
        ("pid_max", c_uint64),
        ("sysctl_nr_open", c_uint64),
        ("sysctl_overcommit_memory", c_uint64),
        ("sysctl_overcommit_ratio", c_uint64),
        ("sysctl_overcommit_kbytes", c_uint64),
        ("sysctl_admin_reserve_kbytes", c_uint64),
        ("sysctl_user_reserve_kbytes", c_uint64),
        ("totalram_pages", c_uint64),
        ("total_swap_pages", c_uint64),
        ("vm_committed_as", c_uint64),
        ("sysctl_max_map_count", c_uint64),
        ("unprivileged_userns_clone", c_uint64),
        ("max_map_count", c_uint64),
        ("watched", c_uint64),
        ("watched_in_detail", c_uint64),
        ("filter_cgroup", c_uint64),
        ("filter", c_uint32),
        ("filter_pid", c_uint32),
        ("filter_uid", c_uint32),
        ("filter_comm", ctypes.c_char * events.COMM_BYTES),
        ("samples_per_second", c_uint32),
        ("is_by_syscall", c_uint32),
        ("watches_early", c_uint32),
        ("watches_twice", c_uint32),
        ("copies_twice", c_uint32),
        ("copies_again_at_return", c_uint32),
        ("page_shift", c_uint32),
        ("notes_attempts", c_uint32),
        ("stack_bytes", c_uint32),
    ]


# What each rung needs of the kernel, where it refuses the program that counts.
NEEDS = {
    "fexit": "the fexit rung needs BPF trampolines "
    "(CONFIG_FUNCTION_TRACER=y and CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y).",
    "kprobe": "the kprobe rung needs CONFIG_KPROBE_EVENTS=y, CONFIG_BPF_EVENTS=y and "
    "/sys/kernel/debug/kprobes/enabled at 1.",
    "tracepoint": "the tracepoint rung needs CONFIG_FTRACE_SYSCALLS=y and CONFIG_BPF_EVENTS=y.",
}


def is_vital(probe: Probe) -> bool:
    """Say whether nothing is counted without this probe; any other can be given up alone."""
    return probe.step == "copy_process" or probe.program in steps.SYSCALL_PROGRAMS


def drain(under_way: Callable[[], int]) -> int:
    """Let the forks under way end, and count those that do not."""
    deadline_s = time.monotonic() + _DRAIN_S
    while (count := under_way()) and time.monotonic() < deadline_s:
        time.sleep(0.002)
    return count


def fill(
    config: Config, plan: Plan, filter_: Filter, samples_per_second: int, stack_bytes: int = 0
) -> None:
    """Put a plan and what the user asks for into the settings of the programs."""
    if plan.copy_process_range:
        config.copy_process_start, config.copy_process_end = plan.copy_process_range
    for name, address in plan.addresses.items():
        setattr(config, name.lstrip("_"), address)
    config.watched = plan.watched(in_detail=False)
    config.watched_in_detail = plan.watched(in_detail=True)
    config.is_by_syscall = int(plan.rung == "tracepoint")
    config.notes_attempts = int(plan.rung == "kprobe")
    config.watches_early = int(
        plan.rung != "tracepoint" and any(probe.program == "raw_sys_exit" for probe in plan.probes)
    )
    config.watches_twice = int(any(probe.program in steps.SECOND_PROGRAMS for probe in plan.probes))
    config.copies_twice = int(plan.can_leave_out)
    config.copies_again_at_return = int(
        any(probe.program == steps.COPIED_AGAIN for probe in plan.probes)
    )
    config.samples_per_second = samples_per_second
    config.max_map_count = plan.max_map_count or 0
    config.stack_bytes = -(-stack_bytes // events.STACK_CHUNK) * events.STACK_CHUNK
    config.page_shift = os.sysconf("SC_PAGE_SIZE").bit_length() - 1
    if filter_.pid is not None:
        config.filter |= _FILTER_PID
        config.filter_pid = filter_.pid
    if filter_.uid is not None:
        config.filter |= _FILTER_UID
        config.filter_uid = filter_.uid
    if filter_.comm is not None:
        config.filter |= _FILTER_COMM
        config.filter_comm = os.fsencode(filter_.comm)[: events.COMM_BYTES - 1]
    if filter_.cgroup_id is not None:
        config.filter |= _FILTER_CGROUP
        config.filter_cgroup = filter_.cgroup_id
