"""What a failed fork means. Pure: an event and what is known of the host in, a cause and its numbers out.

The texts are `catalogue`'s; reading limits, paths and names is `procfs`'s and `cgroup`'s.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Callable

from fork_trace.events import MOVED, Key, Level
from fork_trace.records import Evidence
from fork_trace.steps import BY_NUMBER, name_of

OBSERVED = "observed"
INFERRED = "inferred"


@dataclass(frozen=True)
class Verdict:
    """Why a fork failed, at which step, and whether that was seen or concluded."""

    cause: str
    certainty: str
    step: str = "copy_process"
    also: tuple[str, ...] = ()  # other causes that fit as well, likeliest first


@dataclass(frozen=True)
class Host:
    """What is known of the host beside the event; None: could not be read."""

    page_bytes: int
    hugetlb_pages: int | None
    # From /proc, right after: for kernels whose variables have no readable address.
    overcommit_memory: int | None = None
    threads: int | None = None
    threads_max: int | None = None
    # Of the process: its open descriptors. Of the host: open files and fs.file-max.
    descriptors: int | None = None
    descriptors_max: int | None = None
    files: int | None = None
    files_max: int | None = None


@dataclass(frozen=True)
class After:
    """What /proc told right after a failure, where the kernel side alone cannot decide."""

    overcommit_memory: int | None = None
    # The host is nowhere near kernel.threads-max.
    threads_are_far: bool = False
    # One of the caller's mappings is larger than RAM and swap; None: could not be read.
    has_huge_mapping: bool | None = None


@dataclass(frozen=True)
class Seen:
    """What the kernel side read at the instant of one failure, and who can name its parts."""

    numbers: Mapping[str, int]
    levels: Sequence[Level] = ()
    uid: int | None = None
    detail: str = ""
    step: str = ""
    flags: int = 0
    # The path of a cgroup, by its level; None: not known.
    cgroup_name: Callable[[Level], str | None] = field(default=lambda level: None)


# Where Python knows two names of a number, it gives the C library's: these are the kernel's.
_KERNEL_NAMES = {errno.EDEADLK: "EDEADLK", errno.EOPNOTSUPP: "EOPNOTSUPP"}


def errno_name(number: int) -> str:
    """Name an errno as the kernel does; an unknown one stays visible as unknown:N."""
    return _KERNEL_NAMES.get(number) or errno.errorcode.get(number, f"unknown:{number}")


# A step that was seen refusing -> its cause by errno; "" is any other errno. ENOMEM is always memory
# unless it stands here.
_NAMESPACE = {
    errno.EPERM: "namespace-denied",
    errno.EINVAL: "invalid-flags",
    errno.EINTR: "signal-pending",
    errno.ENOSPC: "namespace-limit",
}
_BY_STEP: Mapping[str, Mapping[int, str]] = {
    "seccomp": {0: "seccomp"},
    "clone_args": {0: "invalid-flags"},
    "kernel_clone": {errno.EINVAL: "invalid-flags"},
    "clone_flags": {0: "invalid-flags"},
    "create_user_ns": {errno.ENOSPC: "namespace-limit", 0: "user-namespace-denied"},
    # kernel/cred.c, set_cred_ucounts: an EAGAIN that is really want of memory.
    "set_cred_ucounts": {0: "kernel-memory"},
    "copy_creds": {errno.EAGAIN: "kernel-memory", 0: "security-module"},
    "rlimit_nproc": {0: "rlimit-nproc"},
    "threads_max": {0: "threads-max"},
    "sched_fork": {errno.EAGAIN: "deadline-policy", 0: "sched-ext"},
    "sched_cgroup_fork": {0: "sched-ext"},
    "perf_event_init_task": {0: "perf-events"},
    "security_task_alloc": {0: "security-module"},
    "dup_fd": {errno.EMFILE: "fd-table-limit"},
    "copy_namespaces": _NAMESPACE,
    "copy_mnt_ns": _NAMESPACE,
    "copy_utsname": _NAMESPACE,
    "copy_ipcs": _NAMESPACE,
    # kernel/pid_namespace.c, copy_pid_ns: the caller's children are to be in another one already.
    "copy_pid_ns": {**_NAMESPACE, errno.EINVAL: "unshared-namespace"},
    "copy_cgroup_ns": _NAMESPACE,
    "copy_net_ns": _NAMESPACE,
    "copy_time_ns": _NAMESPACE,
    "copy_thread": {0: "invalid-flags"},
    "shstk_alloc_thread_stack": {errno.ENOMEM: "mapping-limit", 0: "mapping-limit"},
    "alloc_pid": {
        errno.EAGAIN: "pid-max",
        errno.EEXIST: "pid-taken",
        errno.EINVAL: "set-tid-refused",
        errno.EPERM: "set-tid-refused",
    },
    "pidfd_prepare": {
        errno.EMFILE: "rlimit-nofile",
        errno.ENFILE: "file-max",
        errno.EFAULT: "invalid-flags",
    },
    # cgroup_css_set_fork and cpuset_can_fork answer only to CLONE_INTO_CGROUP.
    "cgroup_can_fork": {errno.EAGAIN: "pids-cgroup", 0: "cgroup-refused"},
    "mmap": {errno.ENOMEM: "thread-stack", 0: "thread-stack"},
    "mprotect": {errno.ENOMEM: "thread-stack", 0: "thread-stack"},
}

# For a failure that no watched step explains: (fit, cause, step) by errno, in the kernel's order, so
# that of two causes at once the one that the kernel meets first is blamed. "?" before a fit: it says
# only what was asked, or that a number could not be read, and counts where nothing else fits.
_Candidates = tuple[tuple[str, str, str], ...]
_INTO_CGROUP: _Candidates = (("?asked-cgroup", "cgroup-refused", "cgroup_can_fork"),)
_BY_STATE: Mapping[int, _Candidates] = {
    errno.EAGAIN: (
        ("nproc", "rlimit-nproc", "rlimit_nproc"),
        ("threads", "threads-max", "threads_max"),
        ("deadline", "deadline-policy", "sched_fork"),
        ("in-exec", "exec-in-progress", "copy_fs"),
        ("pid-max", "pid-max", "alloc_pid"),
        ("pids-cgroup", "pids-cgroup", "cgroup_can_fork"),
        ("?pids-unknown", "pids-cgroup", "cgroup_can_fork"),
        ("?pidns-unknown", "pid-max", "alloc_pid"),
        ("?nproc-unknown", "rlimit-nproc", "rlimit_nproc"),
        ("?threads-near", "threads-max", "threads_max"),
        ("?threads-unknown", "threads-max", "threads_max"),
        ("?asked-cgroup", "pids-cgroup", "cgroup_can_fork"),
        ("?shares-fs", "exec-in-progress", "copy_fs"),
        ("?asked-newuser", "kernel-memory", "set_cred_ucounts"),
    ),
    errno.ENOMEM: (
        ("overcommit", "overcommit", "__vm_enough_memory"),
        ("pidns-dead", "pid-namespace-dead", "alloc_pid"),
        ("memcg", "memory-cgroup", "copy_process"),
        ("?overcommit-unknown", "overcommit", "__vm_enough_memory"),
        ("?pidns-unknown", "pid-namespace-dead", "alloc_pid"),
        ("?memcg-limited", "memory-cgroup", "copy_process"),
        ("?", "kernel-memory", "copy_process"),
    ),
    errno.EINVAL: (
        ("flags", "invalid-flags", "clone_flags"),
        ("unshared", "unshared-namespace", "clone_flags"),
        ("?asked-tid", "set-tid-refused", "alloc_pid"),
        *_INTO_CGROUP,
        ("?", "invalid-flags", "clone_flags"),
    ),
    errno.EPERM: (
        ("userns-sysctl", "user-namespace-denied", "clone_flags"),
        ("ns-denied", "namespace-denied", "copy_namespaces"),
        ("?asked-newuser", "user-namespace-denied", "create_user_ns"),
        ("?asked-tid", "set-tid-refused", "alloc_pid"),
        ("?asked-tls", "invalid-flags", "copy_thread"),
        ("?", "security-module", "security_task_alloc"),
    ),
    errno.EACCES: (*_INTO_CGROUP, ("?", "security-module", "security_task_alloc")),
    errno.EMFILE: (
        ("fd-table", "fd-table-limit", "dup_fd"),
        ("?asked-pidfd", "rlimit-nofile", "pidfd_prepare"),
    ),
    errno.ENFILE: (("?", "file-max", "pidfd_prepare"),),
    errno.ENOSPC: (
        ("ns-depth", "namespace-depth", "copy_namespaces"),
        ("ns-limit", "namespace-limit", "copy_namespaces"),
        ("?asked-newuser", "namespace-limit", "create_user_ns"),
        ("?asked-namespace", "namespace-limit", "copy_namespaces"),
        *_INTO_CGROUP,
    ),
    errno.EEXIST: (("?", "pid-taken", "alloc_pid"),),
    # copy_process itself only writes the pidfd for the caller.
    errno.EFAULT: (
        ("?asked-pidfd", "invalid-flags", "copy_process"),
        ("?", "invalid-flags", "clone_args"),
    ),
    errno.E2BIG: (("?", "invalid-flags", "clone_args"),),
    errno.EINTR: (("?", "signal-pending", "signal_late"),),
    errno.EBADF: _INTO_CGROUP,
    errno.ENOENT: _INTO_CGROUP,
    errno.ENODEV: _INTO_CGROUP,
    errno.EBUSY: _INTO_CGROUP,
    errno.EOPNOTSUPP: _INTO_CGROUP,
}


def diagnose(key: Key, watched: Collection[str] = (), after: After = After()) -> Verdict:
    """Name the cause of a failure by its step, errno and deciding detail, or by the state it met.

    `watched` are the steps whose functions have a program: what is silent there has let the call pass.
    `after` serves only where the kernel side could not read or decide; the cause is inferred then.
    """
    name = name_of(key.step)
    is_seen = key.is_observed or name in ("seccomp", "kernel_clone", "mmap", "mprotect")
    if name == "copy_process" and key.is_memcg:
        return Verdict("memory-cgroup", OBSERVED)
    if BY_NUMBER.get(key.step) is None or (not is_seen and name != "copy_process"):
        return Verdict("unknown", INFERRED, name)
    if not is_seen:
        return _by_state(key, watched, after)
    certainty = OBSERVED if key.is_observed else INFERRED
    if name == "__vm_enough_memory":
        return _overcommit(key.detail, after, certainty)
    if name == "alloc_pid" and key.error == errno.ENOMEM and key.detail == "pidns-dead":
        return Verdict("pid-namespace-dead", certainty, name)
    is_of_memcg = key.is_memcg or "memcg" in key.fits
    if (name, key.error, key.detail) == ("alloc_pid", errno.ENOMEM, "") and not is_of_memcg:
        # Whether its init lives could not be read: both stay possible.
        return Verdict("pid-namespace-dead", INFERRED, name, ("kernel-memory",))
    if key.detail == "ns-depth":
        return Verdict("namespace-depth", certainty, name)
    if key.detail == "mounts":
        return Verdict("mount-limit", certainty, name)
    by_errno = _BY_STEP.get(name, {})
    cause = by_errno.get(key.error)
    if cause is None and key.error == errno.ENOMEM:
        return _memory(key, certainty, name)
    cause = cause or by_errno.get(0)
    return Verdict(cause, certainty, name) if cause else Verdict("unknown", INFERRED, name)


def _memory(key: Key, certainty: str, step: str) -> Verdict:
    if key.is_memcg:
        return Verdict("memory-cgroup", OBSERVED, step)
    if "memcg" in key.fits:
        return Verdict("memory-cgroup", INFERRED, step, ("kernel-memory",))
    return Verdict("kernel-memory", certainty, step)


def _overcommit(detail: str, after: After, certainty: str) -> Verdict:
    step = "__vm_enough_memory"
    if detail == "overcommit-guess":
        return Verdict("overcommit-heuristic", certainty, step)
    if detail == "overcommit-never":
        return Verdict("overcommit-never", certainty, step)
    if detail.startswith("overcommit-") or after.overcommit_memory == 1:
        return Verdict("unknown", INFERRED, step)
    # The mode was read too late to be sure: both rules stay possible, unless no mapping is so large.
    if after.has_huge_mapping is False or (after.overcommit_memory is None):
        rest = () if after.has_huge_mapping is False else ("overcommit-heuristic",)
        return Verdict("overcommit-never", INFERRED, step, rest)
    rules = ["overcommit-heuristic", "overcommit-never"]
    is_never = after.overcommit_memory == 2
    return Verdict(rules[is_never], INFERRED, step, (rules[not is_never],))


def _by_state(key: Key, watched: Collection[str], after: After) -> Verdict:
    strong: list[Verdict] = []
    weak: list[Verdict] = []
    doubtful: list[Verdict] = []
    if "unjudged" in key.fits:
        # There was no room to look, or what was seen did not fit the error: blame nobody.
        return Verdict("unknown", INFERRED)
    for fit, cause, step in _BY_STATE.get(key.error, ()):
        if step in watched and step not in _SILENT:
            if cause != "pid-namespace-dead":
                continue
            # alloc_pid let it pass, so it died in between: copy_process asks once more.
            step = "pid_namespace_late"
        if fit.lstrip("?") and fit.lstrip("?") not in key.fits:
            continue
        verdict = Verdict(cause, INFERRED, step)
        if cause == "overcommit":
            if fit == "?overcommit-unknown" and "copies-mm" not in key.fits:
                continue
            verdict = _overcommit(key.detail, after, INFERRED)
            if verdict.cause == "unknown":  # mode 1 refuses nothing
                continue
            if not key.detail and after.overcommit_memory == 0 and after.has_huge_mapping is False:
                continue  # nor does mode 0, unless a mapping is so large
            # All mappings together pass RAM and swap, but the rule asks for one at a time.
            if verdict.cause == "overcommit-heuristic" and not after.has_huge_mapping:
                doubtful += [verdict] * (after.has_huge_mapping is None)
                continue
        (weak if fit.startswith("?") else strong).append(verdict)
    if after.threads_are_far:
        weak = [each for each in weak if each.cause != "threads-max"]
    # A cgroup full of page cache is near its limit all the time: that alone decides nothing.
    if strong and strong[0].cause == "memory-cgroup":
        strong += [each for each in weak if each.cause == "kernel-memory"]
    # A number that could not be read leaves its cause possible, whatever else fits.
    unread = [each for each in weak if each.cause in _UNREAD.get(key.error, ())]
    found = strong + unread if strong else weak
    if not strong and doubtful:
        # Where a memory cgroup has a limit at all, that is likelier than one such mapping.
        found = [each for each in weak if each.cause == "memory-cgroup"] + doubtful
        found += [each for each in weak if each.cause != "memory-cgroup"]
    if not found:
        return Verdict("unknown", INFERRED)
    first = found[0]
    also = [*first.also, *(cause for each in found[1:] for cause in (each.cause, *each.also))]
    distinct = dict.fromkeys(cause for cause in also if cause not in (first.cause, "unknown"))
    return Verdict(first.cause, INFERRED, first.step, tuple(distinct))


# Steps whose silence proves nothing. kernel/fork.c has pidfd_prepare for others too: a compiler can
# put its body into copy_process and emit the function all the same, as Debian's 6.12 does.
_SILENT = ("copy_process", "pidfd_prepare")
_UNREAD = {
    errno.EAGAIN: ("threads-max", "pids-cgroup", "rlimit-nproc", "pid-max"),
    errno.ENOMEM: ("pid-namespace-dead", "overcommit-never", "overcommit-heuristic"),
}


# Evidence.

_NO_PIDS_LIMIT = 4194304  # PID_MAX_LIMIT, include/linux/threads.h; pids.max "max" is one more
_NO_TASK_LIMIT = 1 << 62  # RLIM_INFINITY, or LONG_MAX in a user namespace
_NO_PAGE_LIMIT = 1 << 50  # PAGE_COUNTER_MAX is LONG_MAX in pages
_RULES = (
    "CLONE_NEWNS with CLONE_FS",
    "CLONE_NEWUSER with CLONE_FS",
    "CLONE_THREAD without CLONE_SIGHAND",
    "CLONE_SIGHAND without CLONE_VM",
    "CLONE_THREAD with CLONE_NEWUSER or CLONE_NEWPID",
    "CLONE_PIDFD with CLONE_DETACHED",
    "CLONE_NEWIPC with CLONE_SYSVSEM",
    "CLONE_PARENT by the init of a pid namespace",
)
_NAMESPACE_SYSCTLS = {
    "create_user_ns": "user",
    "copy_mnt_ns": "mnt",
    "copy_utsname": "uts",
    "copy_ipcs": "ipc",
    "copy_pid_ns": "pid",
    "copy_cgroup_ns": "cgroup",
    "copy_net_ns": "net",
    "copy_time_ns": "time",
}
# CLONE_* of include/uapi/linux/sched.h -> the same, for a call whose step was not seen.
_NAMESPACE_FLAGS = (
    (0x10000000, "user"),
    (0x00020000, "mnt"),
    (0x04000000, "uts"),
    (0x08000000, "ipc"),
    (0x20000000, "pid"),
    (0x02000000, "cgroup"),
    (0x40000000, "net"),
    (0x00000080, "time"),
)


def evidence(cause: str, seen: Seen, host: Host) -> tuple[Evidence, ...]:
    """Put the numbers of a refusal in words, the deciding one first.

    A number that was not read makes its value None; where none was read there is no evidence.
    """
    builder = _BUILDERS.get(cause)
    found = builder(seen, host) if builder else ()
    is_told = any(each.value is not None or each.limit is not None for each in found)
    moved = _moved(seen, cause)
    # Numbers that are all missing say less than why they are.
    return moved if moved and not is_told else found if seen.numbers or is_told else ()


# What a cause's numbers are read from -> the causes.
_STRUCTURES = {
    "ucounts": ("rlimit-nproc",),
    "pids_cgroup": ("pids-cgroup",),
    "mem_cgroup": ("memory-cgroup",),
    "fdtable": ("fd-table-limit",),
    "mm_struct": ("overcommit-never", "overcommit-heuristic"),
    "pid_namespace": ("pid-max", "pid-namespace-dead"),
}


def _moved(seen: Seen, cause: str) -> tuple[Evidence, ...]:
    """Say why there are no numbers, where the running kernel's structures are not as expected."""
    bits = seen.numbers.get("moved", 0)
    return tuple(
        Evidence(
            f"struct {name}", None, None, "not read", "has other fields in this kernel", "kernel"
        )
        for bit, name in enumerate(MOVED)
        if bits & 1 << bit and cause in _STRUCTURES.get(name, ())
    )


def _rlimit_nproc(seen: Seen, _host: Host) -> tuple[Evidence, ...]:
    numbers = seen.numbers
    if "nproc" not in numbers:
        return ()
    level = numbers.get("nproc_level")
    # In a user namespace the level that refused can count another uid: its creator's.
    uid = numbers.get("nproc_uid", seen.uid)
    first = Evidence(
        "RLIMIT_NPROC",
        numbers["nproc"],
        numbers.get("nproc_limit"),
        "tasks",
        _nproc_where(uid, level),
        "kernel",
    )
    others = [
        Evidence(
            "RLIMIT_NPROC",
            each.used,
            _or_none(each.limit, _NO_TASK_LIMIT),
            "tasks",
            _nproc_where(each.number, each.up),
            "kernel",
        )
        for each in seen.levels
        if each.kind == "nproc" and (each.up, each.number) != (level, uid)
    ]
    return (first, *others)


def _nproc_where(uid: int | None, level: int | None) -> str:
    where = f"uid {'?' if uid is None else uid}"
    if level == 0:
        return f"{where}, the whole host"
    return f"{where}, user namespace level {'?' if level is None else level}"


def _or_none(limit: int, no_limit: int) -> int | None:
    return None if limit >= no_limit or limit < 0 else limit


def _threads_max(seen: Seen, host: Host) -> tuple[Evidence, ...]:
    value, limit = seen.numbers.get("nr_threads"), seen.numbers.get("max_threads")
    read = "kernel"
    if value is None or limit is None:
        value = host.threads if value is None else value
        limit = host.threads_max if limit is None else limit
        read = "proc"
    return (Evidence("kernel.threads-max", value, limit, "threads", "the whole host", read),)


def _fd_table(seen: Seen, _host: Host) -> tuple[Evidence, ...]:
    return (
        Evidence(
            "fs.nr_open",
            seen.numbers.get("fd_slots"),
            seen.numbers.get("nr_open"),
            "descriptor slots",
            "the forking process' table",
            "kernel",
        ),
    )


def _pid_max(seen: Seen, _host: Host) -> tuple[Evidence, ...]:
    numbers = seen.numbers
    if "pidns_pids" not in numbers:
        return ()
    where = _pid_namespace(numbers.get("pidns_inum"), numbers.get("pidns_level"))
    first = Evidence(
        "kernel.pid_max",
        numbers["pidns_pids"],
        numbers.get("pid_max"),
        "pids in use",
        f"{where}, the fullest of its levels",
        "kernel",
    )
    others = [
        Evidence(
            "kernel.pid_max",
            each.used,
            each.limit or None,
            "pids in use",
            _pid_namespace(each.number, each.up),
            "kernel",
        )
        for each in seen.levels
        if each.kind == "pid-namespace" and each.number != numbers.get("pidns_inum")
    ]
    return (first, *others)


def _pid_namespace(inum: int | None, level: int | None) -> str:
    return (
        f"pid namespace {'?' if inum is None else inum} (level {'?' if level is None else level})"
    )


def _pidns_dead(seen: Seen, _host: Host) -> tuple[Evidence, ...]:
    numbers = seen.numbers
    return (
        Evidence(
            "pid namespace",
            numbers.get("pidns_pids"),
            None,
            "pids left; its init has died",
            _pid_namespace(numbers.get("pidns_inum"), numbers.get("pidns_level")),
            "kernel",
        ),
    )


def _pids_cgroup(seen: Seen, _host: Host) -> tuple[Evidence, ...]:
    names = ("pids_cgroup", "pids_current", "pids_limit", "pids_levels_up")
    return _cgroup_levels(
        seen, ("pids.max", "pids-cgroup", "tasks", _NO_PIDS_LIMIT), names, lambda n: n
    )


def _memory_cgroup(seen: Seen, host: Host) -> tuple[Evidence, ...]:
    names = ("memcg_cgroup", "memcg_pages", "memcg_max", "memcg_levels_up")
    return _cgroup_levels(
        seen,
        ("memory.max", "memory-cgroup", "KiB", _NO_PAGE_LIMIT),
        names,
        lambda pages: pages * (host.page_bytes // 1024),
    )


def _cgroup_levels(
    seen: Seen,
    what: tuple[str, str, str, int],
    deciding: tuple[str, str, str, str],
    amount: Callable[[int], int],
) -> tuple[Evidence, ...]:
    name, kind, unit, no_limit = what
    number, used, limit_, up = (seen.numbers.get(each) for each in deciding)
    levels = [each for each in seen.levels if each.kind == kind]
    if number is None:
        # Which level it was is not known: those that have a limit can be.
        levels = [each for each in levels if each.limit < no_limit]
    elif not any(each.number == number for each in levels):
        # Deeper trees than the kernel side has room for: it told the one that refused apart.
        if used is None or limit_ is None:
            return ()
        levels.append(Level(kind, 0 if up is None else up, number, used, limit_))
    # The one that refused comes first, then the others from the task's own upwards.
    levels.sort(key=lambda each: (each.number != number, each.up))
    found = []
    for level in levels:
        limit = _or_none(level.limit, no_limit)
        path = seen.cgroup_name(level)
        where = path if path is not None else f"cgroup id {level.number}"
        found.append(
            Evidence(
                name,
                amount(level.used),
                None if limit is None else amount(limit),
                unit,
                where if limit is not None else f"{where} (no limit)",
                "kernel",
            )
        )
    return tuple(found)


def commit_allowed_pages(numbers: Mapping[str, int], host: Host) -> int | None:
    """Compute what mode 2 allows this caller, in pages; None if a number is missing.

    Source: mm/util.c, vm_commit_limit and __vm_enough_memory. overcommit_kbytes is shifted from KiB
    to pages; the reserves come off it for whoever lacks CAP_SYS_ADMIN and for any one process.
    """
    kib_per_page = host.page_bytes // 1024
    kbytes = numbers.get("overcommit_kbytes")
    ratio, ram, swap = (numbers.get(n) for n in ("overcommit_ratio", "pages_ram", "pages_swap"))
    admin, user = (numbers.get(n) for n in ("admin_reserve_kbytes", "user_reserve_kbytes"))
    is_admin, total = numbers.get("cap_sys_admin"), numbers.get("mm_total_pages")
    if None in (kbytes, swap, admin, user, is_admin, total):
        return None
    assert kbytes is not None and swap is not None and admin is not None
    assert user is not None and total is not None
    if kbytes:
        allowed = kbytes // kib_per_page
    else:
        if ratio is None or ram is None or host.hugetlb_pages is None:
            return None
        allowed = (ram - host.hugetlb_pages) * ratio // 100
    allowed += swap
    if not is_admin:
        allowed -= admin // kib_per_page
    return allowed - min(total // 32, user // kib_per_page)


def _kib(pages: int | None, host: Host) -> int | None:
    return None if pages is None else pages * (host.page_bytes // 1024)


def _overcommit_never(seen: Seen, host: Host) -> tuple[Evidence, ...]:
    numbers = seen.numbers
    if "pages_committed" not in numbers:
        return _overcommit_mode(numbers, host)
    asked, committed = numbers.get("pages_asked"), numbers["pages_committed"]
    allowed = commit_allowed_pages(numbers, host)
    where = "the whole host"
    if asked is None:
        # Seen only from the system call's exit: what a copy of the whole would have added.
        asked = numbers.get("data_pages", 0)
        where += ", with all that the parent would have to copy"
    both = asked + committed
    found = [
        Evidence(
            "commit charge",
            _kib(both, host),
            _kib(allowed, host),
            "KiB",
            where,
            "kernel",
        )
    ]
    found += _asked(numbers, host, None)
    return (*found, *_parent(numbers, host), *_overcommit_mode(numbers, host))


def _asked(numbers: Mapping[str, int], host: Host, limit: int | None) -> list[Evidence]:
    if "pages_asked" not in numbers:
        return []
    where = "the forking process" if limit is None else "RAM and swap of the host"
    return [
        Evidence(
            "one mapping of the parent",
            _kib(numbers["pages_asked"], host),
            _kib(limit, host),
            "KiB",
            where,
            "kernel",
        )
    ]


def _parent(numbers: Mapping[str, int], host: Host) -> list[Evidence]:
    sizes = (
        ("address space of the parent", "mm_total_pages"),
        ("accountable memory of the parent", "data_pages"),
    )
    return [
        Evidence(name, _kib(numbers[number], host), None, "KiB", "the forking process", "kernel")
        for name, number in sizes
        if number in numbers
    ]


def _overcommit_mode(numbers: Mapping[str, int], host: Host) -> tuple[Evidence, ...]:
    mode, read = numbers.get("overcommit_memory"), "kernel"
    if mode is None:
        mode, read = host.overcommit_memory, "proc"
    return (Evidence("vm.overcommit_memory", mode, None, "mode", "the whole host", read),)


def _overcommit_heuristic(seen: Seen, host: Host) -> tuple[Evidence, ...]:
    # Since Linux commit 8c7829b04c52 ("mm: fix false-positive OVERCOMMIT_GUESS failures") (in
    # v5.2), mode 0 refuses only what RAM and swap together cannot hold. Before that, it compared
    # with what was free; no kernel that has the fexit rung is that old.
    numbers = seen.numbers
    ram, swap = numbers.get("pages_ram"), numbers.get("pages_swap")
    total = None if ram is None or swap is None else ram + swap
    return (
        *_asked(numbers, host, total),
        *_parent(numbers, host),
        *_overcommit_mode(numbers, host),
    )


def _rlimit_nofile(seen: Seen, host: Host) -> tuple[Evidence, ...]:
    limit = seen.numbers.get("nofile_limit", host.descriptors_max)
    return (
        Evidence(
            "RLIMIT_NOFILE", host.descriptors, limit, "open descriptors", "the process", "proc"
        ),
    )


def _file_max(_seen: Seen, host: Host) -> tuple[Evidence, ...]:
    value, limit = host.files, host.files_max
    # Read after it: if the limit is not reached by then, these are not the numbers that decided.
    if value is not None and limit is not None and value < limit:
        value = limit = None
    return (Evidence("fs.file-max", value, limit, "open files", "the whole host", "proc"),)


def _namespace_limit(seen: Seen, _host: Host) -> tuple[Evidence, ...]:
    numbers = seen.numbers
    kind = _NAMESPACE_SYSCTLS.get(seen.step)
    if kind is None:
        asked = [name for flag, name in _NAMESPACE_FLAGS if seen.flags & flag]
        kind = asked[0] if len(asked) == 1 else "*"
    uid, level = numbers.get("ns_uid", seen.uid), numbers.get("ns_level")
    where = f"uid {'?' if uid is None else uid}, user namespace level "
    return (
        Evidence(
            f"user.max_{kind}_namespaces",
            numbers.get("ns_count"),
            numbers.get("ns_max"),
            "namespaces",
            where + ("?" if level is None else str(level)),
            "kernel",
        ),
    )


def _namespace_depth(seen: Seen, _host: Host) -> tuple[Evidence, ...]:
    kind = "user" if seen.step == "create_user_ns" else "pid"
    if seen.step not in ("create_user_ns", "copy_pid_ns"):
        # These two have a depth; which one refused was not seen.
        asked = [name for flag, name in _NAMESPACE_FLAGS if seen.flags & flag]
        kind = " or ".join(name for name in asked if name in ("user", "pid")) or kind
    return (
        Evidence(
            f"nested {kind} namespaces",
            seen.numbers.get("ns_level"),
            32,  # kernel/user_namespace.c and kernel/pid_namespace.c
            "levels",
            "the caller's namespace",
            "kernel",
        ),
    )


def _flags(seen: Seen, _host: Host) -> tuple[Evidence, ...]:
    rules = seen.numbers.get("flag_rules")
    if rules is None:
        return ()
    broken = [text for bit, text in enumerate(_RULES) if rules & 1 << bit]
    return tuple(Evidence("flags", None, None, "rule", text, "kernel") for text in broken)


def _deadline(seen: Seen, _host: Host) -> tuple[Evidence, ...]:
    policy = seen.numbers.get("policy")
    if policy is None:
        return ()
    return (
        Evidence(
            "scheduling policy",
            policy,
            None,
            "(6 is SCHED_DEADLINE), without reset-on-fork",
            "the calling thread",
            "kernel",
        ),
    )


def _thread_stack(seen: Seen, host: Host) -> tuple[Evidence, ...]:
    numbers = seen.numbers
    stack = Evidence(
        "stack of the new thread",
        _bytes_kib(numbers.get("stack_bytes")),
        None,
        "KiB",
        "the calling process",
        "kernel",
    )
    total, data = _kib(numbers.get("mm_total_pages"), host), _kib(numbers.get("data_pages"), host)
    asked = _bytes_kib(numbers.get("stack_bytes"))
    if seen.detail == "stack-commit":
        found = _overcommit_never(seen, host)
        if numbers.get("overcommit_memory") == 0:
            found = _overcommit_heuristic(seen, host)
        return (*found, stack)
    if seen.detail == "stack-mappings":
        value, limit = numbers.get("map_count"), numbers.get("max_map_count")
        first = Evidence(
            "vm.max_map_count", value, limit, "mappings", "the calling process", "kernel"
        )
    elif seen.detail in ("stack-address-space", "stack-data"):
        is_data = seen.detail == "stack-data"
        name, used, limit = (
            ("RLIMIT_DATA", data, _bytes_kib(numbers.get("data_limit")))
            if is_data
            else ("RLIMIT_AS", total, _bytes_kib(numbers.get("address_space_limit")))
        )
        value = None if used is None or asked is None else used + asked
        first = Evidence(name, value, limit, "KiB", "the calling process, with the stack", "kernel")
    elif seen.detail == "stack-locked":
        first = Evidence(
            "RLIMIT_MEMLOCK", None, None, "KiB", "the calling process, after mlockall", "kernel"
        )
    else:
        return (stack,) if "stack_bytes" in numbers else ()
    return (first, stack)


def _bytes_kib(number: int | None) -> int | None:
    return None if number is None else number // 1024


_BUILDERS: Mapping[str, Callable[[Seen, Host], tuple[Evidence, ...]]] = {
    "rlimit-nproc": _rlimit_nproc,
    "threads-max": _threads_max,
    "fd-table-limit": _fd_table,
    "pid-max": _pid_max,
    "pid-namespace-dead": _pidns_dead,
    "pids-cgroup": _pids_cgroup,
    "memory-cgroup": _memory_cgroup,
    "overcommit-never": _overcommit_never,
    "overcommit-heuristic": _overcommit_heuristic,
    "rlimit-nofile": _rlimit_nofile,
    "file-max": _file_max,
    "namespace-limit": _namespace_limit,
    "namespace-depth": _namespace_depth,
    "invalid-flags": _flags,
    "deadline-policy": _deadline,
    "thread-stack": _thread_stack,
    "mapping-limit": _thread_stack,
}
