"""What the running kernel's BTF lacks of what the programs read, and which of their readers go without it.

A failure is counted whatever cannot be read; see enum ft_reader in bpf/settings.h.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# enum ft_reader
READERS: tuple[str, ...] = (
    *("call", "clone-args", "cgroup", "sample", "dying", "supervised", "mark"),
    *("nproc", "pids-cgroup", "memory-cgroup", "descriptors", "memory", "pid-namespace"),
    *("fs", "sched", "flags", "namespaces", "stack", "late", "fault", "huge"),
)
ALL = (1 << len(READERS)) - 1

# Who reads a structure or an enumeration, or one field of it. What is in no row has no reader that
# can be switched off.
_READ_BY: dict[str, tuple[str, ...]] = {
    "cgroup_subsys_state": ("cgroup", "pids-cgroup", "memory-cgroup"),
    "cgroup": ("cgroup", "pids-cgroup", "memory-cgroup"),
    "cgroup_root": ("cgroup", "pids-cgroup", "memory-cgroup"),
    "css_set": ("cgroup", "pids-cgroup", "memory-cgroup"),
    "kernfs_node": ("cgroup", "pids-cgroup", "memory-cgroup"),
    "cgroup_subsys_id": ("cgroup", "pids-cgroup", "memory-cgroup"),
    "pids_cgroup": ("pids-cgroup",),
    "mem_cgroup": ("memory-cgroup",),
    "page_counter": ("memory-cgroup",),
    "cred": ("nproc", "namespaces", "flags", "memory", "stack", "late"),
    "user_struct": ("nproc",),
    "user_namespace": ("nproc", "namespaces", "flags", "memory", "stack"),
    "ucounts": ("nproc", "namespaces"),
    "hlist_node": ("namespaces",),
    "rlimit_type": ("nproc",),
    "ucount_type": ("namespaces",),
    "ucount_type___v60": ("nproc",),
    "cred.user": ("nproc",),
    "cred.euid": ("namespaces",),
    "cred.uid": ("late",),
    "signal_struct": ("nproc", "descriptors", "stack", "dying", "flags", "sample", "late"),
    "signal_struct.nr_threads": ("sample",),
    "signal_struct.flags": ("dying", "flags", "late"),
    "signal_struct.thread_head": ("late",),
    "signal_struct.rlim": ("nproc", "descriptors", "stack"),
    "rlimit": ("nproc", "descriptors", "stack"),
    "fdtable": ("descriptors",),
    "files_struct": ("descriptors",),
    "file": ("descriptors", "sample", "huge"),
    "inode": ("descriptors", "sample", "huge"),
    "fs_struct": ("fs",),
    "nsproxy": ("pid-namespace", "flags", "namespaces"),
    "pid_namespace": ("pid-namespace", "namespaces"),
    "pid": ("flags",),
    "upid": ("flags",),
    "mm_struct": ("memory", "stack", "sample", "late"),
    **dict.fromkeys(
        (
            *("mm_struct.mmap", "mm_struct.mm_mt", "maple_tree"),
            *("maple_type", "maple_range_64", "maple_arange_64"),
        ),
        ("memory",),
    ),
    "percpu_counter": ("memory", "stack", "late"),
    "super_block": ("sample", "huge"),
    "dentry": ("sample",),
    "seccomp": ("supervised",),
    "kernel_clone_args": ("clone-args",),
    "thread_info": ("call",),
    "thread_struct": ("stack",),  # x86-64
    **dict.fromkeys(
        (
            *("kthread_create_info", "completion", "swait_queue_head", "swait_queue"),
            *("subprocess_info",),
        ),
        ("clone-args",),
    ),
    "list_head": ("clone-args", "late"),
    "oom_control": ("late",),
    **dict.fromkeys(("vm_fault", "page"), ("fault",)),
    "vm_area_struct": ("memory", "fault", "huge"),
    "vm_area_struct.vm_flags": ("memory", "huge"),
    "vm_area_struct.vm_file": ("huge",),
    "vm_area_struct.vm_private_data": ("huge",),
    **dict.fromkeys(
        (
            *("hstate", "hugetlbfs_sb_info", "sighand_struct", "k_sigaction", "sigaction"),
            *("task_struct.sighand", "super_block.s_fs_info"),
        ),
        ("huge",),
    ),
    "trace_event_raw_mark_victim": ("late",),
    "mm_struct.rss_stat": ("late",),
    "mm_struct.start_code": ("late",),
    "mm_struct.start_stack": ("late",),
    "task_struct.thread_info": ("call",),
    "task_struct.stack": ("call", "fault"),
    **dict.fromkeys(
        (
            *("task_struct.group_leader", "task_struct.children", "task_struct.sibling"),
            *("task_struct.thread_node", "task_struct.start_time", "task_struct.real_cred"),
        ),
        ("late",),
    ),
    "task_struct.flags": ("call", "late"),
    "task_struct.ptrace": ("supervised",),
    "task_struct.seccomp": ("supervised",),
    "task_struct.normal_prio": ("sched",),
    "task_struct.policy": ("sched",),
    "task_struct.sched_reset_on_fork": ("sched",),
    "task_struct.pid": ("sample",),
    "task_struct.tgid": ("sample", "late"),
    "task_struct.comm": ("sample", "late"),
    "task_struct.real_parent": ("sample", "late"),
    "task_struct.mm": ("memory", "stack", "sample", "late", "fault"),
    "task_struct.thread": ("stack",),
    "task_struct.cred": ("nproc", "namespaces", "flags", "memory", "stack"),
    "task_struct.thread_pid": ("flags",),
    "task_struct.fs": ("fs",),
    "task_struct.files": ("descriptors", "pids-cgroup"),
    "task_struct.nsproxy": ("pid-namespace", "flags", "namespaces"),
    "task_struct.signal": ("nproc", "descriptors", "stack", "dying", "flags", "sample", "late"),
    "task_struct.pending": ("dying",),
    "task_struct.cgroups": ("cgroup", "pids-cgroup", "memory-cgroup"),
    "task_struct.nvcsw": ("mark",),
    "task_struct.rethooks": ("mark",),
}

# What came or went: kernels that lack it are told apart by that, and lose nothing. Each
# stands in bpf/kernel_types.h with its commit.
_CAME_OR_WENT = re.compile(
    r"\w+___v\d+\b"
    r"|ucounts\.(?:rlimit|ucount)\b|user_namespace\.(?:rlimit_max|ucount_max)\b"
    r"|rlimit_type\b|ucount_type::UCOUNT_TIME_NAMESPACES\b"
    r"|cred\.ucounts$|pid_namespace\.pid_max$|task_struct\.rethooks\b"
    r"|nsproxy\.time_ns\w*$"
    r"|kernel_clone_args\.(?:cgroup|set_tid_size|fn|fn_arg|io_thread|user_worker|name)$"
    r"|signal_struct\.autoreap$|pid\.stashed$|mem_cgroup\.(?:kmem|memsw)\b"
    r"|kthread_create_info\b|subprocess_info\b"
    r"|page\.compound_\w+$|mm_struct\.rss_stat\b|mm_rss_stat\b|trace_event_raw_mark_victim\b"
    r"|mm_struct\.(?:mmap|mm_mt)\b|vm_area_struct\.vm_next$|maple_\w+"
    r"|bpf_func_id\b|seccomp\.mode$|task_struct\.seccomp\.mode$"
    r"|cgroup_subsys_id::"
)
_REACHED = re.compile(r"failed to resolve CO-RE relocation (<.*)")
# Forms of which one must be there: until v5.14, from there to v6.0, and since.
_FORMS = ("user_struct___v513", "ucount_type___v60")
_LATEST = ("ucounts.rlimit", "user_namespace.rlimit_max", "cred.ucounts")
_SPEC = re.compile(r"<\w+> \[\d+\] (?:struct|union|enum|enum64|typedef) ([^\s(]+)")


def name_of(spec: str) -> str | None:
    """Name what a relocation looks for, by libbpf's words for it; None: they are others.

    Source: bpf_core_format_spec of libbpf's relo_core.c. "<byte_off> [7] struct cred.user (0:1 @ offset
    8)" is cred.user, "<enumval_value> [9] enum rlimit_type::UCOUNT_RLIMIT_NPROC = 0" without the value.
    """
    found = _SPEC.search(spec)
    return found[1] if found else None


def reached(log: str) -> tuple[str, ...]:
    """Return what was not found and a program was refused for, by libbpf's words at the end of the verifier's."""
    names = (name_of(spec) for spec in _REACHED.findall(log))
    return tuple(sorted({name for name in names if name}))


def lacking(specs: Iterable[str]) -> tuple[str, ...]:
    """Return what was not found and leaves something unread, in order, by libbpf's words for it."""
    names = frozenset(name for name in map(name_of, specs) if name)
    gaps = {name for name in names if not _CAME_OR_WENT.match(name)}
    if all(any(name.startswith(form) for name in names) for form in _FORMS):
        gaps |= {name for name in names if name.startswith(_LATEST)}
    if not any(name.startswith("bpf_func_id") for name in names):
        gaps.discard("task_struct.stack")  # where the registers are is told
    return tuple(sorted(name for name in gaps if not _is_within(name, gaps)))


def _is_within(name: str, others: Iterable[str]) -> bool:
    return any(name.startswith(f"{other}.") for other in others)


def blind(names: Iterable[str]) -> int:
    """Return the readers that go without any of these, bit n for READERS[n]."""
    mask = 0
    for name in names:
        mask |= sum(1 << READERS.index(reader) for reader in _readers(name))
    return mask


def is_blind(mask: int, reader: str) -> bool:
    """Say whether that one of READERS is off in such a mask."""
    return bool(mask & 1 << READERS.index(reader))


def _readers(name: str) -> tuple[str, ...]:
    root, _, rest = name.partition("::")[0].partition(".")
    field = re.split(r"[.\[]", rest)[0]
    unknown = READERS if root == "task_struct" else ()
    for known in (f"{root}.{field}", root, re.sub(r"___\w+$", "", root)):
        if known in _READ_BY:
            return _READ_BY[known]
    return unknown
