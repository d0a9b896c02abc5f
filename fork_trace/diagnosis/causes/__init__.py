"""All causes, likeliest first, by the reports that people filed. What one is, its own file says."""

from __future__ import annotations

from collections.abc import Mapping

from fork_trace.diagnosis.cause import Cause
from fork_trace.diagnosis.causes import (
    arguments,
    descriptors,
    late,
    memory,
    namespaces,
    policy,
    state,
    tasks,
)

CAUSES: tuple[Cause, ...] = (
    tasks.PIDS_CGROUP,
    tasks.RLIMIT_NPROC,
    memory.OVERCOMMIT_HEURISTIC,
    memory.OVERCOMMIT_NEVER,
    memory.THREAD_STACK,
    policy.SECCOMP,
    namespaces.USER_NAMESPACE_DENIED,
    tasks.PID_MAX,
    tasks.THREADS_MAX,
    namespaces.NAMESPACE_LIMIT,
    namespaces.PID_NAMESPACE_DEAD,
    memory.MEMORY_CGROUP,
    memory.KERNEL_MEMORY,
    late.COPY_ON_WRITE,
    late.HUGE_PAGE_COPY,
    late.MEMORY_CGROUP_OOM,
    late.HOST_OOM,
    state.SIGNAL_PENDING,
    state.EXEC_IN_PROGRESS,
    state.DEADLINE_POLICY,
    namespaces.NAMESPACE_DEPTH,
    namespaces.NAMESPACE_DENIED,
    namespaces.UNSHARED_NAMESPACE,
    descriptors.FD_TABLE_LIMIT,
    descriptors.RLIMIT_NOFILE,
    descriptors.FILE_MAX,
    memory.MAPPING_LIMIT,
    namespaces.MOUNT_LIMIT,
    arguments.CGROUP_REFUSED,
    policy.SECURITY_MODULE,
    arguments.INVALID_FLAGS,
    arguments.SET_TID_REFUSED,
    arguments.PID_TAKEN,
    policy.PERF_EVENTS,
    policy.SCHED_EXT,
    state.UNKNOWN,
)
BY_SLUG: Mapping[str, Cause] = {cause.slug: cause for cause in CAUSES}
