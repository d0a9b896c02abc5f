"""Facts of the running kernel, as far as files tell them: BTF, symbols, lockdown, capabilities.

What libbpf alone can ask (prototypes, map types) is added by `collect.arm`; what the facts mean is `plan`'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from fork_trace import files
from fork_trace.probes.plan import CGROUP_KILLER, COPIERS, KILLER, TRAMPOLINES, YES, Fact

_CHUNK_BYTES = 1 << 20
_NAME_AT = 19  # in a line of /proc/kallsyms: 16 digits, a blank, the type, a blank
# include/uapi/linux/capability.h
_CAP_SYS_ADMIN, _CAP_PERFMON, _CAP_BPF = 21, 38, 39


def _capabilities(root: str) -> int | None:
    status = files.text(root, "proc/self/status")
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    return int(match[1], 16) if match else None


def may_load(root: str = "/") -> Fact:
    """Say whether this process may load tracing programs, by its capabilities."""
    try:
        effective = _capabilities(root)
    except OSError as error:
        return Fact(None, f"cannot read the capabilities: {error.strerror}")
    if effective is None:
        return Fact(None, "/proc/self/status does not list capabilities")
    if effective >> _CAP_SYS_ADMIN & 1:
        return YES
    if effective >> _CAP_BPF & 1 and effective >> _CAP_PERFMON & 1:
        return YES
    return Fact(False, "loading BPF programs needs root, or CAP_BPF and CAP_PERFMON")


def lockdown(root: str = "/") -> str | None:
    """Return the lockdown in force: none, integrity, confidentiality; None: the kernel has none."""
    try:
        text = files.text(root, "sys/kernel/security/lockdown")
    except OSError:
        return None
    match = re.search(r"\[(\w+)\]", text)
    return match[1] if match else None


def unlocked(root: str = "/") -> Fact:
    """Say whether the lockdown lets BPF read kernel memory (kernel_lockdown(7))."""
    if lockdown(root) == "confidentiality":
        return Fact(
            False,
            "kernel lockdown (confidentiality) forbids BPF to read kernel memory",
        )
    return YES


def btf(root: str = "/") -> Fact:
    """Say whether the kernel carries its own BTF."""
    if files.exists(root, "sys/kernel/btf/vmlinux"):
        return YES
    return Fact(False, "this kernel has no BTF (/sys/kernel/btf/vmlinux is missing)")


def kprobes(root: str = "/") -> Fact:
    """Say whether the kernel has kprobes, by tracefs, debugfs or perf's list of event sources."""
    with suppress(OSError):
        # Attached all the same, they would never run.
        if files.text(root, "sys/kernel/debug/kprobes/enabled").strip() == "0":
            return Fact(False, "kprobes are disabled (/sys/kernel/debug/kprobes/enabled is 0)")
    paranoia, effective = perf_paranoia(root), None
    with suppress(OSError):
        effective = _capabilities(root)
    if paranoia is not None and effective is not None and not effective >> _CAP_SYS_ADMIN & 1:
        why = f"kernel.perf_event_paranoid is {paranoia}, so attaching a kprobe needs CAP_SYS_ADMIN"
        return Fact(False, why)
    seen = False
    for place in ("sys/kernel/tracing", "sys/kernel/debug/tracing"):
        if files.exists(root, place, "kprobe_events"):
            return YES
        seen = seen or files.exists(root, place, "trace")
    # Since Linux commits e12f03d7031a ("perf/core: Implement the 'perf_kprobe' PMU") and
    # 33ea4b24277b ("perf/core: Implement the 'perf_uprobe' PMU") (in v4.17), each of the two is
    # listed where it is built in. Before that, neither is.
    sources = os.path.join(root, "sys/bus/event_source/devices")
    if files.exists(sources, "kprobe"):
        return YES
    if seen or files.exists(sources, "uprobe"):
        return Fact(False, "this kernel has no kprobes (CONFIG_KPROBE_EVENTS)")
    return Fact(None, "tracefs is not mounted or not readable")


def perf_paranoia(root: str = "/") -> int | None:
    """Return kernel.perf_event_paranoid where attaching a kprobe wants CAP_SYS_ADMIN by it, or else None.

    Debian's and Ubuntu's kernels take values above 2, and start with 3 and 4.
    """
    try:
        value = int(files.text(root, "proc/sys/kernel/perf_event_paranoid"))
    except (OSError, ValueError):
        return None
    return value if value > 2 else None


def tracepoints(root: str = "/") -> Fact:
    """Say whether the kernel has the system call tracepoints."""
    seen = False
    for place in ("sys/kernel/tracing", "sys/kernel/debug/tracing"):
        if files.exists(root, place, "events/syscalls/sys_exit_clone"):
            return YES
        seen = seen or files.exists(root, place, "trace")
    if seen:
        return Fact(False, "this kernel has no syscall tracepoints (CONFIG_FTRACE_SYSCALLS)")
    return Fact(None, "tracefs is not mounted or not readable")


# Guards the users of tracepoints. Since Linux commit a46023d5616e ("tracing: Guard
# __DECLARE_TRACE() use of __DO_TRACE_CALL() with SRCU-fast") (in v7.0), a task can be preempted
# there. Before that, it could not. Up to v6.12 the same guard was for idle processors alone, and what
# frees behind it had a function of its own (kernel/tracepoint.c).
_TRACEPOINT_GUARD, _IDLE_GUARD = TRACEPOINT_GUARDS = ("tracepoint_srcu", "srcu_free_old_probes")


# Functions by whose addresses a kernel stack tells what the kernel was at: copying a page that is
# shared (mm/memory.c, mm/huge_memory.c, mm/hugetlb.c; hugetlb_wp was hugetlb_cow until v6.0), killing,
# and doing so for a memory cgroup; and where stacks are cut.
RANGED = COPIERS + (KILLER, CGROUP_KILLER) + TRAMPOLINES

# Of "none voluntary (full) lazy" one is chosen (kernel/sched/debug.c, sched_dynamic_show).
_PREEMPTION_MODES = "sys/kernel/debug/sched/preempt"
_NOT_PREEMPTING = ("none", "voluntary")


def preempts(root: str = "/", version: str | None = None) -> Fact:
    """Say whether a task can be preempted in kernel code; `version` is uname(2)'s.

    Then it can be in a program on a function's exit (kernel/bpf/trampoline.c, __bpf_prog_enter: the
    program is pinned to its processor, no more), which the kernel leaves out there until it goes on.
    """
    version = os.uname().version if version is None else version
    if "PREEMPT" not in version:
        return Fact(False, "this kernel does not preempt kernel code")
    if "PREEMPT_DYNAMIC" not in version:
        return Fact(True, "this kernel preempts kernel code")
    try:
        modes = files.text(root, _PREEMPTION_MODES).split()
    except OSError as error:
        return Fact(None, f"cannot read /{_PREEMPTION_MODES}: {error.strerror}")
    chosen = next((mode.strip("()") for mode in modes if mode.startswith("(")), None)
    if chosen is None:
        return Fact(None, f"/{_PREEMPTION_MODES} has no mode in brackets")
    return Fact(chosen not in _NOT_PREEMPTING, f"this kernel runs with preempt={chosen}")


def preempts_tracepoints(addresses: Mapping[str, int], preempts: Fact) -> Fact:
    """Say whether a task can be preempted inside a program on a tracepoint.

    `addresses` are those of the kernel's symbols, as `symbols` found them.
    """
    if preempts.value is False:
        return preempts
    if _TRACEPOINT_GUARD in addresses and _IDLE_GUARD not in addresses:
        return YES
    if "nr_threads" in addresses:
        return Fact(False, "this kernel does not preempt tracepoints")
    return Fact(None, "/proc/kallsyms does not list variables")


def _chunks(path: str) -> Iterator[bytes]:
    # kallsyms has 8 to 15 MB: never all of it at once, and cut at line ends. One read of it gives
    # no more than a page.
    with open(path, "rb", buffering=0) as file:
        text = bytearray()
        while block := file.read(_CHUNK_BYTES):
            text += block
            if len(text) < _CHUNK_BYTES:
                continue
            cut = text.rfind(b"\n") + 1
            yield bytes(text[:cut])
            del text[:cut]
        yield bytes(text)


def symbols(
    names: Iterable[str],
    root: str = "/",
    listed: Sequence[tuple[int, bytes]] | None = None,
) -> tuple[Fact, dict[str, int], dict[str, tuple[int, int]]]:
    """Look up symbols of the kernel proper; also the address ranges of copy_process and of RANGED.

    Source: `listed`, by address, if the kernel has told them; else /proc/kallsyms. Either has
    zeros with kernel.kptr_restrict=2 or missing privileges.
    """
    ranged = ("copy_process", *RANGED)
    wanted = {name.encode() for name in (*names, *ranged)}
    found: dict[str, list[int]] = {name.decode(): [] for name in wanted}
    ends: dict[str, int] = {}
    waiting: set[str] = set()  # for the next higher address
    if listed is not None:
        for address, symbol in listed:
            for name in [name for name in waiting if address > found[name][0]]:
                ends[name] = address
                waiting.discard(name)
            if symbol in wanted:
                name = symbol.decode()
                found[name].append(address)
                if name in ranged and name not in ends:
                    waiting.add(name)
        return _judged(found, ends)
    try:
        for text in _chunks(os.path.join(root, "proc/kallsyms")):
            # They can be the last ones of the chunk before.
            for name in list(waiting):
                _end(ends, waiting, name, text[:2000], found[name][0])
            # "ffffffff81000000 T name": one look at each of 200,000 lines, however many are wanted.
            for line in [line for line in text.split(b"\n") if line[_NAME_AT:] in wanted]:
                name = line[_NAME_AT:].decode()
                found[name].append(int(line.split()[0], 16))
                if name in ranged and name not in ends:
                    waiting.add(name)
                    at = text.find(line)
                    after = text[at : at + 2000].partition(b"\n")[2]
                    _end(ends, waiting, name, after, found[name][0])
            # The modules' symbols, which follow, end in "\t[module]".
            if b"\t[" in text:
                break
    except OSError as error:
        return Fact(False, f"cannot read /proc/kallsyms: {error.strerror}"), {}, {}
    return _judged(found, ends)


def _end(ends: dict[str, int], waiting: set[str], name: str, text: bytes, start: int) -> None:
    end = _next_above(text, start)
    if end is not None:
        ends[name] = end
        waiting.discard(name)


def _judged(
    found: Mapping[str, list[int]], ends: Mapping[str, int]
) -> tuple[Fact, dict[str, int], dict[str, tuple[int, int]]]:
    # Two static symbols can share a name: then nobody can say which one is meant.
    addresses = {name: places[0] for name, places in found.items() if len(places) == 1}
    if not any(addresses.values()):
        why = "/proc/kallsyms shows no addresses (kernel.kptr_restrict, or missing privileges)"
        return Fact(False, why), {}, {}
    starts = {name: addresses[name] for name in ends if addresses.get(name)}
    return YES, addresses, {name: (start, ends[name]) for name, start in starts.items()}


def _next_above(text: bytes, start: int) -> int | None:
    # The symbols come sorted by address, and aliases share one: the next higher one ends it.
    for line in text.split(b"\n")[:-1]:
        address = int(line.split()[0], 16)
        if address > start:
            return address
    return None


def limits(root: str = "/") -> dict[str, int | None]:
    """Read the host-wide limits that a fork can meet; None where the kernel does not tell.

    Units as in proc(5): tasks, pids, descriptors, pages' KiB.
    """
    paths = {
        "kernel.threads-max": "kernel/threads-max",
        "kernel.pid_max": "kernel/pid_max",
        "fs.nr_open": "fs/nr_open",
        "vm.overcommit_memory": "vm/overcommit_memory",
        "vm.overcommit_ratio": "vm/overcommit_ratio",
        "vm.overcommit_kbytes": "vm/overcommit_kbytes",
        "vm.max_map_count": "vm/max_map_count",
    }
    values: dict[str, int | None] = {}
    for name, path in paths.items():
        try:
            values[name] = int(files.text(root, "proc/sys", path))
        except (OSError, ValueError):
            values[name] = None
    return values


def hugetlb_pages(root: str = "/", page_bytes: int = os.sysconf("SC_PAGE_SIZE")) -> int | None:
    """Count the base pages that hugetlb pools hold; they are no part of the commit limit.

    Source: mm/hugetlb.c, hugetlb_total_pages.
    """
    total = 0
    try:
        pools: list[str] = os.listdir(os.path.join(root, "sys/kernel/mm/hugepages"))
    except FileNotFoundError:
        return 0
    except OSError:
        return None
    for pool in pools:
        match = re.fullmatch(r"hugepages-(\d+)kB", pool)
        if not match:
            continue
        try:
            count = int(files.text(root, "sys/kernel/mm/hugepages", pool, "nr_hugepages"))
        except (OSError, ValueError):
            return None
        total += count * int(match[1]) * 1024 // page_bytes
    return total


def btf_has(names: Sequence[str], root: str = "/") -> dict[str, bool] | None:
    """Say which of these names the kernel's types and functions have; None: it has no BTF."""
    try:
        raw = files.contents(root, "sys/kernel/btf/vmlinux")
    except OSError:
        return None
    # The strings of BTF end in zero and follow one another (Documentation/bpf/btf.rst).
    return {name: b"\0" + name.encode() + b"\0" in raw for name in names}
