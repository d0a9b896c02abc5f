"""Causes: what becomes of a fork that went through."""

from __future__ import annotations

from fork_trace.diagnosis.cause import Cause, Gauge, do

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
    shown_by="It is no failed fork: look for OOM kills with `dmesg | grep -i oom`, and for the count "
    "of them in memory.events.",
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
            "Raise the container's limit; the container keeps running. SWAP is memory and swap "
            "together.",
            "docker update --memory SIZE --memory-swap SWAP {id}",
        ),
        "kubernetes": do(
            "Raise the limit of the container in place (Kubernetes 1.33), or on the node.",
            "kubectl patch pod POD --subresource resize --patch PATCH",
            "echo SIZE > {dir}/{mem_max}",
        ),
    },
    fix=do(
        "Leave room for what is written while the child lives: for Redis, maxmemory well below the "
        "limit. Exclude buffers that the child does not need with madvise(MADV_DONTFORK), turn "
        "transparent huge pages off (one write then copies 4 KiB and not 2 MiB), or start programs "
        "with posix_spawn, which shares nothing.",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
    ),
    myths=(
        "A fork that returned has its memory: it has a promise, and pages only when they are written.",
        "RSS of parent and child add up: what both share counts twice there, and once in Pss.",
        "Workers that were forked long ago are a danger: what they share is mostly never written.",
    ),
)
