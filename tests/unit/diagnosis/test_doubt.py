"""What is not known is not blamed on anybody."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from fork_trace.diagnosis.readings import ProcReadings
from fork_trace.diagnosis.verdict import diagnose
from fork_trace.model import steps
from fork_trace.model.events import Key

KEY = Key(
    comm="sh",
    cgroup_id=1,
    uid=1000,
    error=errno.EAGAIN,
    step=steps.BY_NAME["copy_process"].number,
    detail="",
    syscall="clone",
    is_thread=False,
    is_observed=False,
)


@pytest.mark.parametrize("error", (errno.ENOMEM, errno.EINVAL, errno.EPERM, errno.EACCES))
def test_a_failure_whose_state_was_not_looked_at_is_unknown(error: int) -> None:
    verdict = diagnose(replace(KEY, error=error, fits=frozenset({"unjudged"})))
    assert (verdict.cause, verdict.alternatives) == ("unknown", ())


def test_an_early_failure_that_kernel_clone_does_not_know_is_unknown() -> None:
    key = replace(KEY, step=steps.BY_NAME["kernel_clone"].number)
    assert diagnose(key).cause == "unknown"
    assert diagnose(replace(key, error=errno.EINVAL)).cause == "invalid-flags"


def test_a_thread_refused_near_threads_max_is_not_put_down_to_an_execve_alone() -> None:
    key = replace(KEY, is_thread=True, fits=frozenset({"threads-near", "shares-fs"}))
    verdict = diagnose(key)
    assert (verdict.cause, verdict.alternatives) == ("threads-max", ("exec-in-progress",))


def test_threads_max_is_not_blamed_for_want_of_another_cause_if_it_is_far() -> None:
    key = replace(KEY, fits=frozenset({"threads-unknown", "asked-cgroup"}))
    assert diagnose(key).cause == "threads-max"
    verdict = diagnose(key, after=ProcReadings(threads_are_far=True))
    assert (verdict.cause, verdict.alternatives) == ("pids-cgroup", ())


def test_a_step_that_was_silent_with_its_program_in_place_is_not_blamed() -> None:
    key = replace(KEY, error=errno.EPERM)
    assert diagnose(key).cause == "security-module"
    assert diagnose(key, ("security_task_alloc",)).cause == "unknown"


def test_a_second_pid_namespace_is_refused_for_the_first_one() -> None:
    number = steps.BY_NAME["copy_pid_ns"].number
    key = replace(KEY, error=errno.EINVAL, step=number, is_observed=True)
    assert diagnose(key).cause == "unshared-namespace"


@pytest.mark.parametrize(
    ("error", "cause"), [(errno.EMFILE, "rlimit-nofile"), (errno.ENFILE, "file-max")]
)
def test_a_pidfd_refused_in_a_copy_that_nobody_watches_is_still_named(
    error: int, cause: str
) -> None:
    key = replace(KEY, error=error, fits=frozenset({"asked-pidfd"}))
    assert diagnose(key, ("pidfd_prepare", "dup_fd")).cause == cause
