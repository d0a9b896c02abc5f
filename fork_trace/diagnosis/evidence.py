"""The numbers behind a verdict, the deciding one first; and how numbers of one kind are put.

What is read for which cause is the cause's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Callable

from fork_trace.diagnosis.cause import Cause
from fork_trace.diagnosis.readings import HostReadings, KernelReadings
from fork_trace.model.events import MOVED, Level
from fork_trace.model.records import Evidence

RESERVED_PIDS = 300  # kernel/pid.c


def gather(cause: Cause, seen: KernelReadings, host: HostReadings) -> tuple[Evidence, ...]:
    """Return the numbers of a refusal, the deciding one first.

    A number that was not read makes its value None; where none was read there is no evidence, unless
    it is a rule that was broken.
    """
    found = cause.evidence(seen, host) if cause.evidence else ()
    has_numbers = any(
        each.value is not None or each.limit is not None or each.unit == "rule" for each in found
    )
    moved = _moved(seen, cause)
    # Numbers that are all missing say less than why they are.
    if moved and not has_numbers:
        return moved
    if not has_numbers and not seen.numbers.keys() - {"own_threads"}:
        return ()
    return (*found, *_own_threads(seen, cause))


def _own_threads(seen: KernelReadings, cause: Cause) -> tuple[Evidence, ...]:
    """Say how much of a pool the caller itself held: by the time /proc is read it can have ended."""
    threads = seen.numbers.get("own_threads", 0)
    if not cause.pool or threads < 2:
        return ()
    where = "the calling process, at the refusal"
    return (Evidence("threads of the caller", threads, None, "threads", where, "kernel"),)


def _moved(seen: KernelReadings, cause: Cause) -> tuple[Evidence, ...]:
    """Say why there are no numbers, where the running kernel's structures are not as expected."""
    bits = seen.numbers.get("moved", 0)
    return tuple(
        Evidence(
            f"struct {name}", None, None, "not read", "layout differs on this kernel", "kernel"
        )
        for bit, name in enumerate(MOVED)
        if bits & 1 << bit and name in cause.structures
    )


def counted_limit(evidence: Evidence) -> int | None:
    """Return the limit as `check` counts it: of kernel.pid_max what can be given out.

    kernel/pid.c, alloc_pid(): once the numbers have wrapped, those below RESERVED_PIDS are not given out
    again. As long as they have not, pid_max less one is what there is.
    """
    value, limit = evidence.value, evidence.limit
    if evidence.name != "kernel.pid_max" or value is None or limit is None or value >= limit:
        return limit
    return max(0, limit - (1 if value == limit - 1 else RESERVED_PIDS))


def is_at_limit(evidence: Evidence) -> bool:
    """Say whether a number can be the one that was compared: read in the kernel, and not below its limit.

    What is read as a system call returns, or from /proc, can be read when others have ended.
    """
    limit = counted_limit(evidence)
    is_full = evidence.value is not None and limit is not None and evidence.value >= limit
    return evidence.read == "kernel" and is_full


def below(limit: int, no_limit: int) -> int | None:
    """Return a limit; None: it is none at all."""
    return None if limit >= no_limit or limit < 0 else limit


def kib_of_pages(pages: int | None, host: HostReadings) -> int | None:
    """Turn pages into KiB."""
    return None if pages is None else pages * (host.page_bytes // 1024)


def kib_of_bytes(number: int | None) -> int | None:
    """Turn bytes into KiB."""
    return None if number is None else number // 1024


def pid_namespace(inum: int | None, level: int | None) -> str:
    """Name a pid namespace."""
    inode, depth = ("?" if each is None else each for each in (inum, level))
    return f"pid namespace {inode} (level {depth})"


def cgroup_levels(
    seen: KernelReadings,
    what: tuple[str, str, str, int],
    deciding: tuple[str, str, str, str],
    amount: Callable[[int], int],
) -> tuple[Evidence, ...]:
    """Return one number for each level of a cgroup hierarchy, the one that refused first.

    `what` is the setting, the kind of level, the unit, and where limits end; `deciding` names the
    numbers of the level that refused.
    """
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
        limit = below(level.limit, no_limit)
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


# CLONE_* of include/uapi/linux/sched.h -> the namespace, for a call whose step was not seen.
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


def namespaces_asked(flags: int) -> list[str]:
    """Name the kinds of namespace that a call asked for."""
    return [name for flag, name in _NAMESPACE_FLAGS if flags & flag]


# Memory: what several causes show of it.


def commit_allowed_pages(numbers: Mapping[str, int], host: HostReadings) -> int | None:
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


def commit_charge(seen: KernelReadings, host: HostReadings) -> tuple[Evidence, ...]:
    """Return what mode 2 compares: what is committed and asked for, with what it allows."""
    numbers = seen.numbers
    if "pages_committed" not in numbers:
        return _overcommit_mode(numbers, host)
    asked, committed = numbers.get("pages_asked"), numbers["pages_committed"]
    allowed = commit_allowed_pages(numbers, host)
    where = "the whole host"
    if asked is None:
        # Seen only from the system call's exit: what a copy of the whole would have added.
        asked = numbers.get("data_pages", 0)
        where += ", including a copy of the entire parent"
    both = asked + committed
    charge = Evidence(
        "commit charge",
        kib_of_pages(both, host),
        kib_of_pages(allowed, host),
        "KiB",
        where,
        "kernel",
    )
    return (
        *(charge, *_asked(numbers, host, None)),
        *_parent(numbers, host),
        *_commit_base(numbers, host),
        *_overcommit_mode(numbers, host),
    )


def _commit_base(numbers: Mapping[str, int], host: HostReadings) -> tuple[Evidence, ...]:
    """Return the setting behind the commit limit, and what it gives, against RAM without huge pages."""
    ram, ratio, kbytes = (
        numbers.get(name) for name in ("pages_ram", "overcommit_ratio", "overcommit_kbytes")
    )
    if (
        ram is None
        or host.hugetlb_pages is None
        or kbytes is None
        or (not kbytes and ratio is None)
    ):
        return ()
    where = "the whole host"
    all_of_it = kib_of_pages(ram - host.hugetlb_pages, host)
    if kbytes:
        base, setting = (
            kbytes,
            Evidence("vm.overcommit_kbytes", kbytes, None, "KiB", where, "kernel"),
        )
    else:
        base = (all_of_it or 0) * (ratio or 0) // 100
        setting = Evidence("vm.overcommit_ratio", ratio, None, "%", where, "kernel")
    name = "commit limit without swap"
    return (setting, Evidence(name, base, all_of_it, "KiB", f"RAM of {where}", "kernel"))


def one_mapping(seen: KernelReadings, host: HostReadings) -> tuple[Evidence, ...]:
    """Return what mode 0 compares: one mapping, with RAM and swap."""
    # Since Linux commit 8c7829b04c52 ("mm: fix false-positive OVERCOMMIT_GUESS failures") (in
    # v5.2), mode 0 refuses only what RAM and swap together cannot hold. Before that, it compared
    # with what was free; no kernel that has the fexit attach mode is that old.
    numbers = seen.numbers
    ram, swap = numbers.get("pages_ram"), numbers.get("pages_swap")
    total = None if ram is None or swap is None else ram + swap
    read = "kernel"
    if total is None and host.ram_and_swap is not None:
        total, read = host.ram_and_swap // host.page_bytes, "proc"
    return (
        *(replace(each, read=read) for each in _asked(numbers, host, total)),
        *_parent(numbers, host),
        *_overcommit_mode(numbers, host),
    )


def _asked(numbers: Mapping[str, int], host: HostReadings, limit: int | None) -> list[Evidence]:
    if "pages_asked" not in numbers:
        return []
    where = "the forking process" if limit is None else "RAM and swap of the host"
    asked, of = (kib_of_pages(each, host) for each in (numbers["pages_asked"], limit))
    return [Evidence("one mapping of the parent", asked, of, "KiB", where, "kernel")]


def _parent(numbers: Mapping[str, int], host: HostReadings) -> list[Evidence]:
    sizes = (
        ("address space of the parent", "mm_total_pages"),
        ("accountable memory of the parent", "data_pages"),
    )
    return [
        Evidence(
            *(name, kib_of_pages(numbers[number], host), None, "KiB"),
            where="the forking process",
            read="kernel",
        )
        for name, number in sizes
        if number in numbers
    ]


def _overcommit_mode(numbers: Mapping[str, int], host: HostReadings) -> tuple[Evidence, ...]:
    mode, read = numbers.get("overcommit_memory"), "kernel"
    if mode is None:
        mode, read = host.overcommit_memory, "proc"
    return (Evidence("vm.overcommit_memory", mode, None, "mode", "the whole host", read),)


def thread_stack(seen: KernelReadings, host: HostReadings) -> tuple[Evidence, ...]:
    """Return the limit that a stack ran into, and its size."""
    numbers = seen.numbers
    asked = kib_of_bytes(numbers.get("stack_bytes"))
    process = "the calling process"
    stack = Evidence("stack of the new thread", asked, None, "KiB", process, "kernel")
    if seen.detail == "stack-commit":
        is_mode_0 = numbers.get("overcommit_memory") == 0
        return (*(one_mapping if is_mode_0 else commit_charge)(seen, host), stack)
    if seen.detail == "stack-mappings":
        value, limit = numbers.get("map_count"), numbers.get("max_map_count")
        first = Evidence("vm.max_map_count", value, limit, "mappings", process, "kernel")
    elif seen.detail in ("stack-address-space", "stack-data"):
        name, pages, bytes_ = (
            ("RLIMIT_DATA", "data_pages", "data_limit")
            if seen.detail == "stack-data"
            else ("RLIMIT_AS", "mm_total_pages", "address_space_limit")
        )
        used, limit = kib_of_pages(numbers.get(pages), host), kib_of_bytes(numbers.get(bytes_))
        value = None if used is None or asked is None else used + asked
        where = f"{process}, including the new stack"
        first = Evidence(name, value, limit, "KiB", where, "kernel")
    elif seen.detail == "stack-locked":
        where = f"{process}, after mlockall"
        first = Evidence("RLIMIT_MEMLOCK", None, None, "KiB", where, "kernel")
    else:
        return (stack,) if "stack_bytes" in numbers else ()
    return (first, stack)
