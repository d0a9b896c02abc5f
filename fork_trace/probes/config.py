"""The settings of the programs, as they are handed over."""

from __future__ import annotations

import ctypes
from ctypes import c_uint32, c_uint64

from fork_trace.model.sizes import COMM_BYTES

# enum ft_phase of bpf/wire.h; ALONE: that no step tells anything proves nothing.
PHASE_OFF, PHASE_MARKING, PHASE_ALONE, PHASE_COUNTING, PHASE_DETAILED = range(5)


class Config(ctypes.Structure):
    """struct ft_config of bpf/settings.h; tests/test_abi.py holds the two together."""

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
        ("kthread", c_uint64),
        ("call_usermodehelper_exec_async", c_uint64),
        ("ucounts_hashtable", c_uint64),
        ("max_map_count", c_uint64),
        ("ram_and_swap", c_uint64),
        ("watched", c_uint64),
        ("watched_in_detail", c_uint64),
        ("filter_cgroup", c_uint64),
        ("seed", c_uint64),
        ("filter", c_uint32),
        ("filter_pid", c_uint32),
        ("filter_uid", c_uint32),
        ("filter_comm", ctypes.c_char * COMM_BYTES),
        ("samples_per_second", c_uint32),
        ("is_by_syscall", c_uint32),
        ("watches_early", c_uint32),
        ("watches_twice", c_uint32),
        ("copies_twice", c_uint32),
        ("copies_again_at_return", c_uint32),
        ("watches_mmap", c_uint32),
        ("page_shift", c_uint32),
        ("notes_attempts", c_uint32),
        ("stack_bytes", c_uint32),
        ("watches_exec", c_uint32),
        ("blind", c_uint32),
        ("big_fork_pages", c_uint32),
        ("tells_chosen", c_uint32),
    ]
