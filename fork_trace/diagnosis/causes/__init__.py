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
    tasks.PID_MAX,
    memory.THREAD_STACK,
    memory.MEMORY_CGROUP,
    memory.KERNEL_MEMORY,
    late.COPY_ON_WRITE,
    tasks.THREADS_MAX,
    state.EXEC_IN_PROGRESS,
    state.DEADLINE_POLICY,
    policy.SECCOMP,
    namespaces.NAMESPACE_LIMIT,
    namespaces.NAMESPACE_DEPTH,
    namespaces.USER_NAMESPACE_DENIED,
    namespaces.NAMESPACE_DENIED,
    namespaces.UNSHARED_NAMESPACE,
    namespaces.PID_NAMESPACE_DEAD,
    state.SIGNAL_PENDING,
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
