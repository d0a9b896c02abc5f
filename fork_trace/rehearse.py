"""Real failures on purpose: each scenario makes fork fail a known number of times, for a known cause.

This room has the scenarios as data and the parent that starts one child, waits and tidies up. What
was borrowed is given back on success, on error, on SIGTERM, SIGINT, SIGHUP and SIGQUIT, and when
the child crashes; if the parent is killed with SIGKILL the child does it. Nothing can be done if
both are killed so; before there is a child, only an empty cgroup can stay. How the failures are made
is refusals'; naming their causes is not done here.
"""

from __future__ import annotations

import difflib
import gc
import json
import os
import select
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

from fork_trace import (
    refusals,
    refused_arguments,
    refused_memory,
    refused_namespaces,
    refused_policy,
    refused_threads,
)
from fork_trace.borrowed import Borrowed
from fork_trace.errors import ForkTraceError, NotHereError
from fork_trace.stage import END_NOW, HELD, Stage, pid_outside

# How soon the parent hands a signal on to the child.
_LISTEN_S = 0.01


@dataclass(frozen=True)
class Scenario:
    """One way to make fork fail, and what a report about it must say."""

    name: str
    title: str
    cause: str
    step: str
    errno: str
    comm: str
    prepare: Callable[[Borrowed], refusals.Act] = field(repr=False, compare=False)
    host_wide: bool = False
    needs_root: bool = True
    # As the record must name them.
    syscall: str = "clone"
    creates: str = "process"
    # Refused before copy_process: only a probe at the system call's exit sees it.
    is_early: bool = False

    @property
    def how(self) -> str:
        """One sentence on how the failure is made."""
        return " ".join((self.prepare.__doc__ or "").split())


@dataclass
class Outcome:
    """What happened: the forks of the process `pid`, and sentences with the numbers behind them.

    `ended_by` names the signal that ended it early, if one did; `pid` is the one that this
    process sees.
    """

    scenario: Scenario
    attempts: int
    failures: Counter[str]
    successes: int
    notes: list[str]
    pid: int
    comm: str
    count: int
    ended_by: str = ""

    @property
    def is_as_planned(self) -> bool:
        """Were exactly `count` forks refused, each with the errno of the scenario?"""
        return self.failures == {self.scenario.errno: self.count}


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(
        name="pids-cgroup",
        title="pids.max of the process's own cgroup is reached",
        cause="pids-cgroup",
        step="cgroup_can_fork",
        errno="EAGAIN",
        comm="ft-pids-cgroup",
        prepare=refusals.pids_cgroup,
    ),
    Scenario(
        name="pids-cgroup-ancestor",
        title="pids.max two cgroups above the process is reached",
        cause="pids-cgroup",
        step="cgroup_can_fork",
        errno="EAGAIN",
        comm="ft-pids-cg-anc",
        prepare=refusals.pids_cgroup_ancestor,
    ),
    Scenario(
        name="rlimit-nproc",
        title="the user has RLIMIT_NPROC processes (ulimit -u)",
        cause="rlimit-nproc",
        step="rlimit_nproc",
        errno="EAGAIN",
        comm="ft-rlimit-nproc",
        prepare=refusals.rlimit_nproc,
        needs_root=False,
    ),
    Scenario(
        name="overcommit-never",
        title="vm.overcommit_memory is 2 and the commit limit is reached",
        cause="overcommit-never",
        step="__vm_enough_memory",
        errno="ENOMEM",
        comm="ft-oc-never",
        prepare=refusals.overcommit_never,
        host_wide=True,
    ),
    Scenario(
        name="overcommit-heuristic",
        title="vm.overcommit_memory is 0 and one mapping exceeds RAM and swap",
        cause="overcommit-heuristic",
        step="__vm_enough_memory",
        errno="ENOMEM",
        comm="ft-oc-heuristic",
        prepare=refusals.overcommit_heuristic,
        needs_root=False,
    ),
    Scenario(
        name="fd-table-limit",
        title="a descriptor above fs.nr_open is open",
        cause="fd-table-limit",
        step="dup_fd",
        errno="EMFILE",
        comm="ft-fd-table",
        prepare=refusals.fd_table_limit,
        host_wide=True,
    ),
    Scenario(
        name="pid-max",
        title="every pid below kernel.pid_max is taken",
        cause="pid-max",
        step="alloc_pid",
        errno="EAGAIN",
        comm="ft-pid-max",
        prepare=refusals.pid_max,
        host_wide=True,
    ),
    Scenario(
        name="pid-namespace-dead",
        title="the init of the pid namespace has ended",
        cause="pid-namespace-dead",
        step="alloc_pid",
        errno="ENOMEM",
        comm="ft-pidns-dead",
        prepare=refusals.pid_namespace_dead,
        needs_root=False,
    ),
    Scenario(
        name="threads-max",
        title="the host has kernel.threads-max threads",
        cause="threads-max",
        step="threads_max",
        errno="EAGAIN",
        comm="ft-threads-max",
        prepare=refusals.threads_max,
        host_wide=True,
    ),
    Scenario(
        name="fork-big",
        title="a big process cannot fork, while small ones and popen can",
        cause="overcommit-never",
        step="__vm_enough_memory",
        errno="ENOMEM",
        comm="ft-fork-big",
        prepare=refusals.fork_big,
        host_wide=True,
    ),
    # Policies, memory cgroups, threads, and two causes at once.
    Scenario(
        name="deadline",
        title="the process runs by SCHED_DEADLINE",
        cause="deadline-policy",
        step="sched_fork",
        errno="EAGAIN",
        comm="ft-deadline",
        prepare=refused_policy.deadline,
    ),
    Scenario(
        name="exec-in-progress",
        title="another thread of the process is in execve",
        cause="exec-in-progress",
        step="copy_fs",
        errno="EAGAIN",
        comm="ft-in-exec",
        prepare=refused_threads.exec_in_progress,
        needs_root=False,
        syscall=refused_threads.THREAD_SYSCALL,
        creates="thread",
    ),
    Scenario(
        name="memory-cgroup",
        title="the cgroup's memory limit is reached, and nothing in it may be killed",
        cause="memory-cgroup",
        step="copy_page_range",
        errno="ENOMEM",
        comm="ft-memcg",
        prepare=refused_memory.memory_cgroup,
    ),
    Scenario(
        name="seccomp",
        title="a seccomp filter refuses clone",
        cause="seccomp",
        step="seccomp",
        errno="EAGAIN",
        comm="ft-seccomp",
        prepare=refused_policy.seccomp,
        needs_root=False,
        is_early=True,
    ),
    Scenario(
        name="thread-stack-address-space",
        title="a thread's stack does not fit into RLIMIT_AS (ulimit -v)",
        cause="thread-stack",
        step="mmap",
        errno="ENOMEM",
        comm="ft-stack-as",
        prepare=refused_threads.thread_stack_address_space,
        needs_root=False,
        syscall="mmap",
        creates="thread",
        is_early=True,
    ),
    Scenario(
        name="thread-stack-mappings",
        title="the process has vm.max_map_count mappings, and a stack needs two",
        cause="thread-stack",
        step=refused_threads.STACK_STEP,
        errno="ENOMEM",
        comm="ft-stack-maps",
        prepare=refused_threads.thread_stack_mappings,
        needs_root=False,
        syscall=refused_threads.STACK_STEP,
        creates="thread",
        is_early=True,
    ),
    Scenario(
        name="thread-stack-commit",
        title="vm.overcommit_memory is 2 and a thread's stack exceeds the commit limit",
        cause="thread-stack",
        step=refused_threads.STACK_STEP,
        errno="ENOMEM",
        comm="ft-stack-commit",
        prepare=refused_threads.thread_stack_commit,
        host_wide=True,
        syscall=refused_threads.STACK_STEP,
        creates="thread",
        is_early=True,
    ),
    Scenario(
        name="pids-cgroup-thread",
        title="pids.max of the process's own cgroup is reached by its threads",
        cause="pids-cgroup",
        step="cgroup_can_fork",
        errno="EAGAIN",
        comm="ft-pids-thread",
        prepare=refused_threads.pids_cgroup_thread,
        syscall=refused_threads.THREAD_SYSCALL,
        creates="thread",
    ),
    Scenario(
        name="security-module",
        title="a security module refuses new tasks",
        cause="security-module",
        step="security_task_alloc",
        errno="EACCES",
        comm="ft-lsm",
        prepare=refused_policy.security_module,
    ),
    Scenario(
        name="two-causes",
        title="the commit limit and pids.max are reached; memory is asked for first",
        cause="overcommit-never",
        step="__vm_enough_memory",
        errno="ENOMEM",
        comm="ft-two-causes",
        prepare=refused_policy.two_causes,
        host_wide=True,
    ),
    Scenario(
        name="rlimit-and-pids",
        title="RLIMIT_NPROC and pids.max are reached; the user is asked for first",
        cause="rlimit-nproc",
        step="rlimit_nproc",
        errno="EAGAIN",
        comm="ft-nproc-pids",
        prepare=refused_policy.rlimit_and_pids,
    ),
    Scenario(
        name="pids-cgroup-three-up",
        title="pids.max three cgroups above the process is reached",
        cause="pids-cgroup",
        step="cgroup_can_fork",
        errno="EAGAIN",
        comm="ft-pids-3-up",
        prepare=refusals.pids_cgroup_three_up,
    ),
    Scenario(
        name="user-namespace-limit",
        title="user.max_user_namespaces is reached",
        cause="namespace-limit",
        step="create_user_ns",
        errno="ENOSPC",
        comm="ft-user-limit",
        prepare=refused_namespaces.limit("user"),
        needs_root=False,
    ),
    Scenario(
        name="mount-namespace-limit",
        title="user.max_mnt_namespaces is reached",
        cause="namespace-limit",
        step="copy_mnt_ns",
        errno="ENOSPC",
        comm="ft-mount-limit",
        prepare=refused_namespaces.limit("mnt"),
        needs_root=False,
    ),
    Scenario(
        name="uts-namespace-limit",
        title="user.max_uts_namespaces is reached",
        cause="namespace-limit",
        step="copy_utsname",
        errno="ENOSPC",
        comm="ft-uts-limit",
        prepare=refused_namespaces.limit("uts"),
        needs_root=False,
    ),
    Scenario(
        name="ipc-namespace-limit",
        title="user.max_ipc_namespaces is reached",
        cause="namespace-limit",
        step="copy_ipcs",
        errno="ENOSPC",
        comm="ft-ipc-limit",
        prepare=refused_namespaces.limit("ipc"),
        needs_root=False,
    ),
    Scenario(
        name="pid-namespace-limit",
        title="user.max_pid_namespaces is reached",
        cause="namespace-limit",
        step="copy_pid_ns",
        errno="ENOSPC",
        comm="ft-pid-limit",
        prepare=refused_namespaces.limit("pid"),
        needs_root=False,
    ),
    Scenario(
        name="cgroup-namespace-limit",
        title="user.max_cgroup_namespaces is reached",
        cause="namespace-limit",
        step="copy_cgroup_ns",
        errno="ENOSPC",
        comm="ft-cgroup-limit",
        prepare=refused_namespaces.limit("cgroup"),
        needs_root=False,
    ),
    Scenario(
        name="net-namespace-limit",
        title="user.max_net_namespaces is reached",
        cause="namespace-limit",
        step="copy_net_ns",
        errno="ENOSPC",
        comm="ft-net-limit",
        prepare=refused_namespaces.limit("net"),
        needs_root=False,
    ),
    Scenario(
        name="time-namespace-limit",
        title="user.max_time_namespaces is reached",
        cause="namespace-limit",
        step="copy_time_ns",
        errno="ENOSPC",
        comm="ft-time-limit",
        prepare=refused_namespaces.limit("time"),
        needs_root=False,
        syscall="clone3",
    ),
    Scenario(
        name="user-namespace-depth",
        title="33 user namespaces are inside each other",
        cause="namespace-depth",
        step="create_user_ns",
        errno="ENOSPC",
        comm="ft-user-depth",
        prepare=refused_namespaces.user_namespace_depth,
        needs_root=False,
    ),
    Scenario(
        name="pid-namespace-depth",
        title="32 pid namespaces are inside each other",
        cause="namespace-depth",
        step="copy_pid_ns",
        errno="ENOSPC",
        comm="ft-pid-depth",
        prepare=refused_namespaces.pid_namespace_depth,
        needs_root=False,
    ),
    Scenario(
        name="user-namespace-chroot",
        title="a process in a chroot asks for a user namespace",
        cause="user-namespace-denied",
        step="create_user_ns",
        errno="EPERM",
        comm="ft-user-chroot",
        prepare=refused_namespaces.user_namespace_chroot,
        needs_root=False,
    ),
    Scenario(
        name="user-namespace-unmapped",
        title="a process with unmapped ids asks for a user namespace",
        cause="user-namespace-denied",
        step="create_user_ns",
        errno="EPERM",
        comm="ft-user-unmap",
        prepare=refused_namespaces.user_namespace_unmapped,
        needs_root=False,
    ),
    Scenario(
        name="user-namespace-sysctl",
        title="kernel.unprivileged_userns_clone is 0",
        cause="user-namespace-denied",
        step="clone_flags",
        errno="EPERM",
        comm="ft-user-sysctl",
        prepare=refused_namespaces.user_namespace_sysctl,
        host_wide=True,
    ),
    Scenario(
        name="namespace-denied",
        title="an unprivileged process asks for a network namespace",
        cause="namespace-denied",
        step="copy_namespaces",
        errno="EPERM",
        comm="ft-ns-denied",
        prepare=refused_namespaces.namespace_denied,
        needs_root=False,
    ),
    Scenario(
        name="thread-after-unshare",
        title="a thread is made after unshare(CLONE_NEWPID)",
        cause="unshared-namespace",
        step="clone_flags",
        errno="EINVAL",
        comm="ft-thr-unshare",
        prepare=refused_namespaces.thread_after_unshare,
        needs_root=False,
        creates="thread",
    ),
    Scenario(
        name="vfork-after-unshare-time",
        title="posix_spawn is called after unshare(CLONE_NEWTIME)",
        cause="unshared-namespace",
        step="clone_flags",
        errno="EINVAL",
        comm="ft-vfork-time",
        prepare=refused_namespaces.vfork_after_unshare_time,
        needs_root=False,
        syscall=refused_namespaces.SPAWN_SYSCALL,
    ),
    Scenario(
        name="pid-namespace-full",
        title="the pid namespace two levels up has no pid left",
        cause="pid-max",
        step="alloc_pid",
        errno="EAGAIN",
        comm="ft-pidns-full",
        prepare=refused_namespaces.pid_namespace_full,
        needs_root=False,
    ),
    Scenario(
        name="rlimit-nproc-user-namespace",
        title="the user who made the user namespace had RLIMIT_NPROC processes",
        cause="rlimit-nproc",
        step="rlimit_nproc",
        errno="EAGAIN",
        comm="ft-nproc-userns",
        prepare=refused_namespaces.rlimit_nproc_user_namespace,
        needs_root=False,
    ),
    Scenario(
        name="invalid-flags",
        title="CLONE_THREAD is asked for without CLONE_SIGHAND",
        cause="invalid-flags",
        step="clone_flags",
        errno="EINVAL",
        comm="ft-bad-flags",
        prepare=refused_arguments.invalid_flags,
        needs_root=False,
        creates="thread",
    ),
    Scenario(
        name="invalid-clone3",
        title="the arguments of clone3 are too short",
        cause="invalid-flags",
        step="clone_args",
        errno="EINVAL",
        comm="ft-bad-clone3",
        prepare=refused_arguments.invalid_clone3,
        needs_root=False,
        syscall="clone3",
        is_early=True,
    ),
    Scenario(
        name="unknown-clone3-flag",
        title="clone3 is asked for a flag that the kernel does not know",
        cause="invalid-flags",
        step="clone_args",
        errno="EINVAL",
        comm="ft-unknown-flag",
        prepare=refused_arguments.unknown_clone3_flag,
        needs_root=False,
        syscall="clone3",
        is_early=True,
    ),
    Scenario(
        name="set-tid-taken",
        title="a pid is asked for that a process has",
        cause="pid-taken",
        step="alloc_pid",
        errno="EEXIST",
        comm="ft-tid-taken",
        prepare=refused_arguments.set_tid_taken,
        syscall="clone3",
    ),
    Scenario(
        name="set-tid-denied",
        title="an unprivileged process asks for a pid of its choice",
        cause="set-tid-refused",
        step="alloc_pid",
        errno="EPERM",
        comm="ft-tid-denied",
        prepare=refused_arguments.set_tid_denied,
        needs_root=False,
        syscall="clone3",
    ),
    Scenario(
        name="set-tid-range",
        title="a pid above every pid_max is asked for",
        cause="set-tid-refused",
        step="alloc_pid",
        errno="EINVAL",
        comm="ft-tid-range",
        prepare=refused_arguments.set_tid_range,
        needs_root=False,
        syscall="clone3",
    ),
    Scenario(
        name="pidfd-nofile",
        title="a pidfd is asked for and RLIMIT_NOFILE is reached",
        cause="rlimit-nofile",
        step="pidfd_prepare",
        errno="EMFILE",
        comm="ft-pidfd-nofile",
        prepare=refused_arguments.pidfd_nofile,
        needs_root=False,
        syscall="clone3",
    ),
    Scenario(
        name="pidfd-file-max",
        title="a pidfd is asked for and fs.file-max is reached",
        cause="file-max",
        step="pidfd_prepare",
        errno="ENFILE",
        comm="ft-pidfd-max",
        prepare=refused_arguments.pidfd_file_max,
        host_wide=True,
        syscall="clone3",
    ),
    Scenario(
        name="pidfd-pointer",
        title="a pidfd is asked for at an address that cannot be written",
        cause="invalid-flags",
        step="pidfd_prepare",
        errno="EFAULT",
        comm="ft-pidfd-addr",
        prepare=refused_arguments.pidfd_pointer,
        needs_root=False,
        syscall="clone3",
    ),
    Scenario(
        name="into-cgroup-busy",
        title="clone3 into a cgroup that only hands pids down",
        cause="cgroup-refused",
        step="cgroup_can_fork",
        errno="EBUSY",
        comm="ft-into-busy",
        prepare=refused_arguments.into_cgroup_busy,
        syscall="clone3",
    ),
    Scenario(
        name="into-cgroup-removed",
        title="clone3 into a cgroup that was removed",
        cause="cgroup-refused",
        step="cgroup_can_fork",
        errno="ENOENT",
        comm="ft-into-removed",
        prepare=refused_arguments.into_cgroup_removed,
        syscall="clone3",
    ),
    Scenario(
        name="into-cgroup-denied",
        title="clone3 into a cgroup that the user may not write",
        cause="cgroup-refused",
        step="cgroup_can_fork",
        errno="EACCES",
        comm="ft-into-denied",
        prepare=refused_arguments.into_cgroup_denied,
        syscall="clone3",
    ),
    Scenario(
        name="into-cgroup-bad-fd",
        title="clone3 into a cgroup by a descriptor of something else",
        cause="cgroup-refused",
        step="cgroup_can_fork",
        errno="EBADF",
        comm="ft-into-bad-fd",
        prepare=refused_arguments.into_cgroup_bad_fd,
        needs_root=False,
        syscall="clone3",
    ),
    Scenario(
        name="into-cgroup-full",
        title="clone3 into a cgroup whose pids.max is reached",
        cause="pids-cgroup",
        step="cgroup_can_fork",
        errno="EAGAIN",
        comm="ft-into-full",
        prepare=refused_arguments.into_cgroup_full,
        syscall="clone3",
    ),
)


def find(name: str) -> Scenario:
    """Return the scenario of that name; the error names the nearest one."""
    for scenario in SCENARIOS:
        if scenario.name == name:
            return scenario
    near = difflib.get_close_matches(name, [each.name for each in SCENARIOS], n=1, cutoff=0.4)
    meant = f"Did you mean {near[0]}? " if near else ""
    raise ForkTraceError(
        f"no such scenario: {name!r}.",
        f"{meant}Run `fork-trace rehearse --list` to see all of them.",
    )


def run(name: str, count: int = 23, host_wide: bool = False) -> Outcome:
    """Make `count` forks fail as the scenario says and return what happened.

    ForkTraceError means that it cannot be done here, NotHereError that it never can, and either that
    nothing is left changed. A signal
    that ends the rehearsal is delivered to the caller after everything was given back.
    """
    scenario = find(name)
    if count < 1:
        raise ForkTraceError(f"cannot make {count} forks fail.", "Give --count 1 or more.")
    borrowed = Borrowed(host_wide)
    if scenario.host_wide:
        borrowed.demand_host_wide(scenario.name)
    if scenario.needs_root and os.geteuid() != 0:
        raise ForkTraceError(f"only root can rehearse {name}.", "Run it with sudo.")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        try:
            act = scenario.prepare(borrowed)
            stage = Stage(scenario.comm, count, borrowed)
            return _in_child(scenario, act, stage)
        finally:
            borrowed.give_back()
    except OSError as error:
        raise ForkTraceError(
            f"cannot rehearse {name}: {_reason(error)}.",
            "`fork-trace rehearse --list` shows what each scenario needs.",
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child(scenario: Scenario, act: refusals.Act, stage: Stage) -> Outcome:
    report_from, report_to = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            _play(scenario, act, stage, report_to)
    except BaseException:
        os.close(report_from)
        raise
    finally:
        os.close(report_to)
    try:
        told, ended_by = _listen(report_from, pid, stage)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(report_from)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not told:
        raise ForkTraceError(
            f"the process that rehearsed {scenario.name} ended with status {status}"
            " before it reported.",
            "A status of -9 may be the OOM killer: see the kernel log.",
        )
    report: dict[str, Any] = json.loads(told)
    if report["error"]:
        raise (NotHereError if report["not_here"] else ForkTraceError)(*report["error"])
    failures: Counter[str] = Counter(report["failures"])
    return Outcome(
        scenario=scenario,
        attempts=sum(failures.values()) + report["successes"],
        failures=failures,
        successes=report["successes"],
        notes=report["notes"],
        pid=report["pid"],
        comm=scenario.comm,
        count=stage.count,
        ended_by=ended_by or report["ended_by"],
    )


def _listen(report_from: int, pid: int, stage: Stage) -> tuple[bytes, str]:
    told, ended_by = b"", ""
    while True:
        if not ended_by:
            ended_by = stage.ended_by()
            if ended_by:
                os.kill(pid, END_NOW)
        if select.select([report_from], [], [], _LISTEN_S)[0]:
            piece = os.read(report_from, 65536)
            if not piece:
                return told, ended_by
            told += piece


def _play(scenario: Scenario, act: refusals.Act, stage: Stage, report_to: int) -> NoReturn:
    error = None
    not_here = False
    try:
        gc.disable()  # a collection in the midst would make the time of lowered limits longer
        stage.enter()
        act(stage)
    except ForkTraceError as refusal:
        error = [refusal.message, refusal.hint]
        not_here = isinstance(refusal, NotHereError)
    except BaseException as failure:
        error = [
            f"cannot rehearse {scenario.name}: {_reason(failure)}.",
            "Another limit may be in the way, or a capability missing.",
        ]
    try:
        stage.give_back_as_orphan()
        report = {
            "pid": pid_outside(),
            "failures": stage.failures,
            "successes": stage.successes,
            "notes": stage.notes,
            "ended_by": stage.ended_by(),
            "error": error,
            "not_here": not_here,
        }
        os.write(report_to, json.dumps(report).encode())
    finally:
        os._exit(0)


def _reason(error: BaseException) -> str:
    if not isinstance(error, OSError) or not error.strerror:
        return repr(error)
    return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
