"""Causes: what the caller was in the middle of. No limit, no setting."""

from __future__ import annotations

import errno

from fork_trace.diagnosis.cause import ASKED, Cause, Fit, Refusal, do
from fork_trace.diagnosis.causes.namespaces import NEW_NAMESPACE
from fork_trace.diagnosis.readings import HostReadings, KernelReadings
from fork_trace.model.records import Evidence

EXEC_IN_PROGRESS = Cause(
    slug="exec-in-progress",
    errnos=("EAGAIN",),
    means="another thread of the process was inside execve, and no thread can be added until it is "
    "done",
    limit="none: another thread of the process is inside execve",
    steps=("copy_fs",),
    fits=(
        Fit(errno.EAGAIN, "in-exec", "copy_fs"),
        Fit(errno.EAGAIN, "shares-fs", "copy_fs", ASKED, 7),
    ),
    rehearsal="exec-in-progress",
    verify=do(
        "The trace shows execve and the refused clone at the same time.",
        "strace -f -e trace=execve,clone,clone3 -p {pid}",
    ),
    mitigate=do("Try again: it lasts as long as that execve, a few milliseconds."),
    fix=do(
        "In the program, do not create threads while a sibling calls execve: fork first and call "
        "execve in the child; or retry on EAGAIN."
    ),
    myths=(
        "EAGAIN means that a limit was reached: here none was, and no setting helps.",
        "The thread that was refused can tell of it: an execve that succeeds ends all other threads. One "
        "that lives on shows that the execve failed.",
    ),
)


def _policy(seen: KernelReadings, _host: HostReadings) -> tuple[Evidence, ...]:
    policy = seen.numbers.get("policy")
    if policy is None:
        return ()
    unit = "(6 is SCHED_DEADLINE), without reset-on-fork"
    return (Evidence("scheduling policy", policy, None, unit, "the calling thread", "kernel"),)


DEADLINE_POLICY = Cause(
    slug="deadline-policy",
    errnos=("EAGAIN",),
    means="the caller runs as SCHED_DEADLINE without the reset-on-fork flag, and deadline tasks may "
    "not fork",
    limit="none: SCHED_DEADLINE without SCHED_FLAG_RESET_ON_FORK",
    steps=("sched_fork",),
    refusals=(Refusal("sched_fork", errno.EAGAIN),),
    fits=(Fit(errno.EAGAIN, "deadline", "sched_fork"),),
    evidence=_policy,
    aliases=("sched_deadline",),
    rehearsal="deadline",
    verify=do("It is SCHED_DEADLINE, without SCHED_RESET_ON_FORK.", "chrt --pid {pid}"),
    mitigate=do(
        "Make it a normal task with all its threads, which may fork then.",
        "chrt --all-tasks --other --pid 0 {pid}",
    ),
    fix=do(
        "Set SCHED_FLAG_RESET_ON_FORK in sched_setattr, or create processes and threads before "
        "setting the policy.",
        "chrt --reset-on-fork --deadline --sched-runtime NS --sched-period NS 0 COMMAND",
    ),
    careful=do(
        "As a normal task it loses its guarantees until chrt gives the policy back: note it first."
    ),
    myths=("Root is exempt: nobody is, whatever the privileges.",),
)

SIGNAL_PENDING = Cause(
    slug="signal-pending",
    errnos=("ERESTARTNOINTR",),
    means="a signal arrived before the fork was done, so the kernel runs the handler and starts "
    "over; the program sees no error, but under constant signals the fork never finishes",
    limit="none: the kernel restarts the call after the signal",
    steps=("copy_process", "signal_late"),
    refusals=tuple(Refusal(step, errno.EINTR) for step in NEW_NAMESPACE),
    fits=(Fit(errno.EINTR, "", "signal_late", ASKED),),
    shown_by="`fork-trace capture --json --duration 60` counts it as `restarted` in its summary.",
    verify=do(
        "The trace shows ERESTARTNOINTR and the signal, usually SIGPROF or SIGALRM.",
        "strace -f -p {pid}",
    ),
    mitigate=do("Stop the profiler or timer that sends the signals, or lengthen its interval."),
    fix=do(
        "Block the signal around fork (sigprocmask), or use posix_spawn, which takes less time than "
        "a fork of a large process."
    ),
    myths=("It is a failure: user space never sees ERESTARTNOINTR.",),
)

UNKNOWN = Cause(
    slug="unknown",
    errnos=(),
    means="copy_process refused, but none of the watched steps did",
    limit="none that is watched: the step is not in the table yet",
    steps=("copy_process",),
    shown_by="`fork-trace capture --all-steps --duration 60` watches everything that can be watched.",
    verify=do("See which steps cannot be observed on this kernel.", "fork-trace doctor"),
    mitigate=do(
        "There is none as long as the cause is unknown; see what the errno can mean.",
        "fork-trace explain ERRNO",
    ),
    fix=do("Report it with the kernel version and this record: the table lacks a step."),
    myths=("EAGAIN means try again: usually the limit is still there the next time.",),
)
