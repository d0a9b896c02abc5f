"""Every rehearsal, COUNT times each, as each watcher saw it: cause, step, errno, call, count, certainty.

One pass for all of them (rehearsing.py). Natively only the lowest way of attaching is there.
"""

from __future__ import annotations

from typing import Any

import pytest
from accuracy.judging import COUNT, INFERRED, RIGHT, judge

from fork_trace.model.steps import BY_NAME
from fork_trace.rehearse.scenarios import Scenario

from .conftest import IS_GUEST, Captured, preempts
from .rehearsing import MADE, Rehearsed, by, each_of, lacks_variables, sees

# Thread stacks are seen by functions of their own, whatever the rest is attached by.
STACK_STEPS = ("mmap", "mprotect")
# Those whose function gets its program at the first failure without a reason.
LATE = tuple(each for each in MADE if BY_NAME[each.step].in_detail)
# In pid namespaces of its own, the one that asks is a child of the one that is named.
NESTED = ("pid-namespace-full", "pid-namespace-depth")
# copy_process itself writes the number of the pidfd, after pidfd_prepare; and most of what clone3
# checks comes after its arguments have been copied.
ELSEWHERE = ("pidfd-pointer", "invalid-clone3", "unknown-clone3-flag")

# Of one rehearsal's failures, where the kernel preempts itself: it skips a program while a task that was
# preempted inside it, or, by kprobes, inside a look at a map, waits on that processor. Five watch at once.
MOST_PASSED_OVER = 2

pytestmark = pytest.mark.live


def told_of(failures: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out those few that a program was skipped for, whose cause is inferred."""
    skipped = [each for each in failures if each["certainty"] == "inferred"]
    if not preempts() or sum(each["count"] for each in skipped) > MOST_PASSED_OVER:
        return failures
    return [each for each in failures if each not in skipped] or failures


def watched_steps(captured: Captured, from_the_start: bool = False) -> set[str]:
    attached = captured.header["attached"]
    return {each["step"] for each in attached if not (from_the_start and each["later"])}


@each_of()
def test_a_rehearsed_failure_has_its_cause_errno_call_and_exact_count(
    watcher: str, scenario: Scenario, rehearsed: Rehearsed
) -> None:
    captured = rehearsed.captured
    failures = rehearsed.of(scenario)
    if rehearsed.is_outgrown(scenario):
        return  # `of` has seen that nothing failed

    unknown = sum(each["count"] for each in failures if each["cause"] == "unknown")
    if unknown and lacks_variables(watcher) and scenario.cause == "threads-max":
        # No file shows where the kernel counts its threads; who is looked at late finds few again.
        told = ((each["cause"], *each["alternatives"]) for each in failures)
        assert all(scenario.cause in each for each in told)
        assert COUNT == captured.count(scenario.comm) == captured.exact(scenario.comm)
        return
    recorded = captured.count(scenario.comm)
    if watcher == "kprobe" and preempts() and 0 < COUNT - recorded <= MOST_PASSED_OVER:
        # At the call's end nobody looks without --refused.
        assert captured.summary["missed"] >= COUNT - recorded
        assert captured.exact(scenario.comm) == recorded
        assert {scenario.cause} == {each["cause"] for each in failures}
        return
    if scenario.is_early and preempts() and 0 < unknown <= MOST_PASSED_OVER:
        # At a system call's end no state tells what a step did not.
        assert captured.summary["missed"] >= unknown
    else:
        verdict = judge(scenario, rehearsed.told[scenario.name], captured.records)
        assert verdict.result in (RIGHT, INFERRED), verdict.why
        unknown = 0
    right = [each for each in failures if not (unknown and each["cause"] == "unknown")]
    assert {(scenario.cause, scenario.errno, scenario.syscall, scenario.creates)} == {
        (each["cause"], each["errno"], each["syscall"], each["creates"]) for each in right
    }
    assert captured.count(scenario.comm) == COUNT == captured.exact(scenario.comm)
    pids = {failure["pid"] for failure in failures}
    assert len(pids) == 1
    assert scenario.name in NESTED or pids == {rehearsed.told[scenario.name]["pid"]}


@each_of(keep=lambda watcher, scenario: not sees(watcher, scenario))
def test_without_refused_what_never_reaches_copy_process_is_not_seen(
    watcher: str, scenario: Scenario, captured: Captured
) -> None:
    assert [] == captured.of(scenario.comm)
    assert [] == captured.totals(scenario.comm)
    assert {"seccomp", "kernel_clone"} <= {each["step"] for each in captured.header["missing"]}


@each_of(
    *("fexit", "kprobe", "bcc"),
    keep=lambda watcher, each: (
        sees(watcher, each) and each not in LATE and each.name not in ELSEWHERE
    ),
)
def test_a_failure_has_its_step_and_is_observed_where_that_is_watched(
    watcher: str, scenario: Scenario, rehearsed: Rehearsed
) -> None:
    failures = rehearsed.of(scenario)
    if rehearsed.is_outgrown(scenario):
        return
    watched = watched_steps(rehearsed.captured, from_the_start=True)
    expected = (scenario.step, "observed" if scenario.step in watched else "inferred")

    assert {expected} == {(each["step"], each["certainty"]) for each in told_of(failures)}


@each_of("fexit-all", "kprobe-all", of=LATE)
def test_with_all_steps_the_others_are_observed_from_the_first_failure_on(
    watcher: str, scenario: Scenario, rehearsed: Rehearsed
) -> None:
    failures = rehearsed.of(scenario)
    if rehearsed.is_outgrown(scenario):
        return
    # A kprobe that is left out is counted nowhere: one inside this step may have refused unseen.
    is_blurred = watcher == "kprobe-all" and preempts() and BY_NAME[scenario.step].last_inner
    failures = failures if is_blurred else told_of(failures)
    assert {scenario.cause} == {each["cause"] for each in failures}
    if scenario.step in watched_steps(rehearsed.captured):
        assert {(scenario.step, "inferred" if is_blurred else "observed")} == {
            (each["step"], each["certainty"]) for each in failures
        }
    else:
        # Not each kernel has each of them as a function of its own.
        missing = {each["step"] for each in rehearsed.captured.header["missing"]}
        assert scenario.step in missing


@each_of("tracepoint")
def test_nothing_but_a_refused_stack_is_observed_by_tracepoint(
    watcher: str, scenario: Scenario, rehearsed: Rehearsed
) -> None:
    failures = rehearsed.of(scenario)
    if rehearsed.is_outgrown(scenario):
        return
    certainty = "observed" if scenario.step in STACK_STEPS else "inferred"

    assert {certainty} == {failure["certainty"] for failure in failures}
    for failure in failures:
        also = failure["alternatives"]

        assert len({failure["cause"], *also}) == 1 + len(also)
        assert "unknown" not in also


@by()
def test_nothing_is_lost_or_folded(watcher: str, captured: Captured) -> None:
    summary = captured.summary

    assert (summary["lost"], summary["overflowed"]) == (0, 0)
    assert not IS_GUEST or summary["rate_limited"] == 0  # elsewhere others may storm
    assert (summary["untracked"], summary["mismatched"]) == (0, 0)


@by("fexit", "kprobe", "bcc")
def test_no_call_is_missed(watcher: str, captured: Captured) -> None:
    # None: Linux before v5.12 does not count it. A kernel that preempts skips a program while a task
    # that was preempted inside it waits; a second one tells what copy_process returned all the same.
    # There the number is what may be missing at most: that nothing is, the counts show. By kprobes it
    # can be large; else it is a few of all rehearsals together.
    most = 0 if not preempts() else COUNT - 1 if watcher == "fexit" else None
    assert most is None or (captured.summary["missed"] or 0) <= most


@by()
def test_the_rehearsing_processes_have_no_other_failures(watcher: str, captured: Captured) -> None:
    comms = {scenario.comm for scenario in MADE} | {"ft-limits"}  # that one is no rehearsal
    found = {failure["comm"] for failure in captured.failures}
    ours = {each for each in found if (each or "").startswith(("ft-", "fork-trace", "python"))}

    assert ours
    assert set() == ours - comms


@by()
def test_the_totals_are_the_sum_of_the_records(watcher: str, captured: Captured) -> None:
    assert captured.summary["failures"] == sum(f["count"] for f in captured.failures)
    assert captured.summary["failures"] == sum(t["count"] for t in captured.summary["totals"])
    assert captured.summary["failures"] == sum(captured.summary["causes"].values())


@by("fexit-all", "kprobe-all", "bcc")
def test_the_early_ones_are_counted_apart(watcher: str, captured: Captured) -> None:
    early = [each for scenario in MADE if scenario.is_early for each in captured.of(scenario.comm)]
    # One of what limits.py reaches.
    early += [each for each in captured.of("ft-limits") if each["cause"] == "thread-stack"]

    assert captured.summary["before_fork"] == sum(each["count"] for each in early) >= 2 * COUNT


@by()
def test_the_header_says_what_it_is_and_why_it_is_no_better_one(
    watcher: str, captured: Captured
) -> None:
    header = captured.header
    attach = {"bcc": "kprobe"}.get(watcher, watcher.partition("-")[0])
    backend = "bcc" if watcher == "bcc" else "libbpf"

    assert (attach, backend) == (header["attach"], header["backend"])
    if attach == "kprobe" and watcher != "bcc":
        reasons = [each["reason"] for each in header["fallbacks"]]
        assert ["denied by --without trampolines"] == reasons


@by("fexit", "kprobe")
def test_copy_process_is_watched_twice_only_where_the_kernel_preempts(
    watcher: str, captured: Captured
) -> None:
    watched = [each["function"] for each in captured.header["attached"]]

    assert (preempts() and watcher == "fexit") == (watched.count("copy_process") == 2)


@by("fexit", "kprobe")
def test_every_step_is_watched_or_said_to_be_missing(watcher: str, captured: Captured) -> None:
    told = {item["step"] for item in captured.header["attached"] if item["step"]}
    missing = {item["step"] for item in captured.header["missing"]}

    assert told | missing == set(BY_NAME)


@by("fexit", "kprobe", "bcc")
def test_the_four_functions_of_the_mission_and_the_cgroup_one_are_watched(
    watcher: str, captured: Captured
) -> None:
    watched = {item["function"] for item in captured.header["attached"]}

    assert {
        "copy_process",
        "alloc_pid",
        "__vm_enough_memory",
        "dup_fd",
        "cgroup_can_fork",
    } <= watched


@by("tracepoint")
def test_by_tracepoint_no_step_is_watched_and_that_is_said(
    watcher: str, captured: Captured
) -> None:
    header = captured.header

    assert {each["step"] for each in header["attached"]} == {None}
    assert "cgroup_can_fork" in {each["step"] for each in header["missing"]}
