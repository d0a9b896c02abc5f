"""Causes: what becomes of a fork that went through."""

from __future__ import annotations

from fork_trace.diagnosis.cause import Cause, Gauge, do
from fork_trace.diagnosis.causes.memory import RESIZE

# Where the limit of a death stands that is no cgroup's.
HOST = "host"
POOL = "/sys/kernel/mm/hugepages/hugepages"  # and behind it the size of a page

COPY_ON_WRITE = Cause(
    slug="copy-on-write",
    errnos=(),
    means="fork went through, as it copies no memory; the copies are made page by page while parent "
    "or child writes, and when there is no memory for them the OOM killer ends one of the two",
    limit="`memory.max` of the cgroup or an ancestor, or the host's memory, when shared pages are "
    "written",
    steps=(),
    is_of_cgroup=True,
    check=Gauge(
        "memory with the copies",
        "KiB",
        "for each parent whose child was forked and has executed no program since: what the cgroup "
        "holds and cannot drop, and one copy of what the child still shares (the anonymous part of "
        "smaps_rollup), with `memory.max` and the swap left to it; or that copy with MemAvailable "
        "and free swap. Children with less than 8 MiB are left out; those older than an hour, workers "
        "mostly, do not write what they share",
    ),
    aliases=("cow", "copy on write"),
    shown_by="It is no failed fork: a process that is killed for it is a death, counted apart.",
    rehearsal="cow-oom",
    verify=do(
        "See how much is still shared (Anonymous less Private_Dirty), and how much room is left.",
        "grep -E 'Anonymous|Private' /proc/{pid}/smaps_rollup",
        "cat {dir}/{mem_now} {dir}/{mem_max}",
        "cat {dir}/{mem_events}",
        "grep MemAvailable /proc/meminfo",
    ),
    mitigate={
        "": do("Raise the limit, or let the parent write less until the child has ended."),
        "systemd-service": do(
            "Raise {mem_property}= of the unit; it takes effect immediately.",
            "systemctl set-property --runtime {unit} {mem_property}=SIZE",
        ),
        "docker": do(
            "Raise the container's limit; the container keeps running. --memory-swap is memory plus "
            "swap.",
            "docker update --memory SIZE --memory-swap -1 {id}",
        ),
        "kubernetes": do(
            "Raise the limit of the container in place (Kubernetes 1.33), or on the node.",
            RESIZE,
            "echo SIZE > {dir}/{mem_max}",
        ),
    },
    fix=do(
        "Leave room for what is written while the child lives: for Redis, maxmemory well below the "
        "limit (half of it, if all keys may change during one save), or let a replica save. Exclude "
        "buffers that the child does not need with madvise(MADV_DONTFORK), or start programs with "
        "posix_spawn, which shares nothing.",
    ),
    myths=(
        "A fork that returned has its memory: it has a promise, and pages only when they are written.",
        "RSS of parent and child add up: what both share counts twice there, and once in Pss.",
        "Workers that were forked long ago are a danger: what they share is mostly never written.",
        "Transparent huge pages make one write copy 2 MiB: since Linux 5.8 it copies 4 KiB of them.",
    ),
    careful=do(
        "More than the host has moves the shortage to the others on it. Huge pages are set for the whole "
        "host: programs that like them get slower."
    ),
)

HUGE_PAGE_COPY = Cause(
    slug="huge-page-copy",
    errnos=(),
    means="fork went through and shares huge pages (hugetlbfs); a private mapping has pages reserved for "
    "who made it and none for its children, and when a copy finds no free page, the child gets SIGBUS",
    limit="`vm.nr_hugepages`, when huge pages that a fork shared are written",
    steps=(),
    aliases=("hugetlb", "sigbus", "inadequate hugepage pool"),
    shown_by="It is no failed fork: a process that is killed for it is a death, counted apart.",
    verify=do(
        "See how many huge pages are free, and how many of those are reserved.",
        "grep HugePages /proc/meminfo",
        "dmesg | grep 'inadequate hugepage pool'",
    ),
    mitigate=do(
        "Add as many pages as parent and child may write while both live; `nr_overcommit_hugepages` takes "
        "them as they are needed.",
        "sysctl vm.nr_overcommit_hugepages=PAGES",
        "sysctl vm.nr_hugepages=PAGES",
    ),
    fix=do(
        "Exclude the mapping from forks with madvise(MADV_DONTFORK), map it shared, or start programs with "
        "posix_spawn, which shares nothing.",
    ),
    myths=("Free pages suffice: those that are reserved for other mappings are free as well.",),
    careful=do(
        "Memory in the pool is taken from everything else, used or not: add no more than the host can spare."
    ),
)

MEMORY_CGROUP_OOM = Cause(
    slug="memory-cgroup-oom",
    errnos=(),
    means="a memory cgroup was full, and the OOM killer ended a process in it; no fork is known to be "
    "behind it",
    limit="`memory.max` of the cgroup or an ancestor, for whatever is in it",
    steps=(),
    is_of_cgroup=True,
    aliases=("memory cgroup out of memory", "cgroup oom"),
    shown_by="It is no failed fork: a process that is killed for it is a death, counted apart.",
    verify=do(
        "See what the cgroup holds, and how often it was full.",
        "grep -E '^(anon|file|shmem|slab) ' {dir}/memory.stat",
        "cat {dir}/{mem_now} {dir}/{mem_max}",
        "cat {dir}/{mem_events}",
    ),
    mitigate=do("Raise the limit, or run less in that cgroup."),
    fix=do("Give the cgroup a limit that what runs in it fits into, or find what grows in it."),
    myths=(
        "Exit code 137 means that memory ran out: it means SIGKILL, whoever sent it.",
        "Who is killed is who asked: the OOM killer takes the largest, whoever asked.",
    ),
)

HOST_OOM = Cause(
    slug="host-oom",
    errnos=(),
    means="the host, or the nodes that a process may use, had no memory left, and the OOM killer ended "
    "a process; no fork is known to be behind it",
    limit="the host's memory and swap",
    steps=(),
    aliases=("out of memory: killed process", "global oom"),
    shown_by="It is no failed fork: a process that is killed for it is a death, counted apart.",
    verify=do(
        "See what is left, and who holds most.",
        "grep -E 'MemAvailable|SwapFree' /proc/meminfo",
        "ps -eo pid,rss,comm --sort=-rss | head",
    ),
    mitigate=do("Stop or restart what holds most, or add swap (mkswap, then swapon)."),
    fix=do(
        "Give what grows a cgroup with a limit of its own, so that it does not take others along."
    ),
    myths=("With swap nothing is killed: when it is full as well, the OOM killer acts.",),
)
