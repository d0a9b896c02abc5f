"""Every rehearsal, 23 times each, in one capture: cause, step, errno, call, count, certainty.

By both rungs that see a step refuse: nothing that is expected here depends on which.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from accuracy.judging import COUNT

from fork_trace.rehearse import SCENARIOS, Scenario
from fork_trace.steps import BY_NAME

from .conftest import (
    IS_GUEST,
    STACK_STEPS,
    TAKES,
    Captured,
    Rehearsed,
    assert_counted,
    first_evidence,
    host_by,
    rehearse,
)

# What never reaches copy_process is test_refused.py's, but for the stacks.
SEEN = tuple(each for each in SCENARIOS if not each.is_early or each.step in STACK_STEPS)
# Those whose function gets its program at the first failure without a reason.
LATE = tuple(each for each in SEEN if BY_NAME[each.step].in_detail)
# copy_process itself writes the number of the pidfd, after pidfd_prepare.
BY_COPY_PROCESS = ("pidfd-pointer",)

pytestmark = pytest.mark.live
every_scenario = pytest.mark.parametrize("scenario", SEEN, ids=lambda scenario: scenario.name)


@pytest.fixture(scope="module")
def host(rung: str) -> dict[str, Any]:
    """This kernel, by that rung."""
    return host_by(rung)


@pytest.fixture(scope="module")
def rehearsals(
    rung: str, host: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Rehearsed:
    """One capture around all of them."""
    if not IS_GUEST:
        pytest.skip("would take limits of the whole host away: run it by scripts/vm")
    return rehearse(tmp_path_factory.mktemp("rehearsed"), SEEN, *TAKES[rung])


@pytest.fixture(scope="module")
def rehearsed(rehearsals: Rehearsed) -> Captured:
    """What it recorded."""
    return rehearsals.captured


@pytest.fixture(scope="module")
def in_detail(
    rung: str, host: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Rehearsed:
    """Another one, with every step watched from the start."""
    return rehearse(tmp_path_factory.mktemp("in-detail"), LATE, "--all-steps", *TAKES[rung])


@every_scenario
def test_a_rehearsed_failure_has_its_cause_errno_call_and_exact_count(
    scenario: Scenario, rehearsals: Rehearsed
) -> None:
    assert_counted(rehearsals, scenario)


@pytest.mark.parametrize(
    "scenario",
    [each for each in SEEN if each not in LATE and each.name not in BY_COPY_PROCESS],
    ids=lambda scenario: scenario.name,
)
def test_a_failure_has_its_step_and_is_observed_where_that_is_watched(
    scenario: Scenario, rehearsals: Rehearsed, host: dict[str, Any]
) -> None:
    watched = {item["step"] for item in host["attached"] if not item["later"]}
    expected = (scenario.step, "observed" if scenario.step in watched else "inferred")
    failures = rehearsals.of(scenario)

    # Without failures there is nothing to see: that there are some is the test above's.
    assert {(each["step"], each["certainty"]) for each in failures} <= {expected}


@pytest.mark.parametrize("scenario", LATE, ids=lambda scenario: scenario.name)
def test_with_all_steps_the_others_are_observed_from_the_first_failure_on(
    scenario: Scenario, in_detail: Rehearsed, host: dict[str, Any]
) -> None:
    watched = {item["step"] for item in host["attached"]}
    if scenario.step not in watched:
        pytest.skip(f"this kernel has no {scenario.step} to watch")
    failures = in_detail.of(scenario)

    assert {(each["step"], each["cause"], each["certainty"]) for each in failures} == {
        (scenario.step, scenario.cause, "observed")
    }
    assert in_detail.captured.exact(scenario.comm) == COUNT


@every_scenario
def test_only_the_process_that_was_to_fail_did(scenario: Scenario, rehearsals: Rehearsed) -> None:
    pids = {failure["pid"] for failure in rehearsals.of(scenario)}
    # In pid namespaces of its own, the one that asks is a child of the one that is named.
    is_nested = scenario.name in ("pid-namespace-full", "pid-namespace-depth")

    assert len(pids) <= 1
    assert is_nested or pids <= {rehearsals.told[scenario.name].get("pid")}


def test_nothing_is_lost_or_folded(rehearsed: Captured) -> None:
    summary = rehearsed.summary

    assert (summary["lost"], summary["skipped"], summary["folded"]) == (0, 0, 0)
    assert (summary["unmarked"], summary["mismatched"]) == (0, 0)


def test_no_call_is_missed(rehearsed: Captured) -> None:
    # None: Linux before v5.12 does not count it. Some skip a program while a task that was preempted
    # inside it waits, which the rehearsal with SCHED_DEADLINE brings about now and then; a second one
    # tells what copy_process returned all the same.
    assert rehearsed.summary["missed"] in (None, 0)


def test_the_rehearsing_processes_have_no_other_failures(rehearsed: Captured) -> None:
    comms = {scenario.comm for scenario in SEEN}
    others = [f for f in rehearsed.failures if f["comm"] not in comms]

    assert [f for f in others if f["comm"].startswith(("ft-", "fork-trace", "python"))] == []


def test_the_totals_are_the_sum_of_the_records(rehearsed: Captured) -> None:
    assert rehearsed.summary["failures"] == sum(f["count"] for f in rehearsed.failures)
    assert rehearsed.summary["failures"] == sum(t["count"] for t in rehearsed.summary["totals"])
    assert rehearsed.summary["failures"] == sum(rehearsed.summary["causes"].values())


def test_the_rung_says_what_it_is_and_why_it_is_no_better_one(
    rung: str, rehearsed: Captured
) -> None:
    header = rehearsed.header
    reasons = {"kprobe": ["denied by --without trampolines"]}

    assert (rung, "libbpf") == (header["rung"], header["backend"])
    assert reasons.get(rung, []) == [each["reason"] for each in header["passed_over"]]


def test_copy_process_is_watched_twice_only_where_the_kernel_preempts(
    rung: str, rehearsed: Captured
) -> None:
    # Of "none voluntary (full) lazy" one is chosen; v5.10 has no such choice, and Debian's does not.
    modes = Path("/sys/kernel/debug/sched/preempt")
    is_preempting = (
        bool(re.search(r"\((full|lazy)\)", modes.read_text())) if modes.exists() else False
    )
    watched = [each["function"] for each in rehearsed.header["attached"]]

    assert (is_preempting and rung == "fexit") == (watched.count("copy_process") == 2)


def test_every_step_is_watched_or_said_to_be_missing(rehearsed: Captured) -> None:
    told = {item["step"] for item in rehearsed.header["attached"] if item["step"]}
    told |= {item["step"] for item in rehearsed.header["missing"]}

    assert told == set(BY_NAME)


def test_the_four_functions_of_the_mission_and_the_cgroup_one_are_watched(
    rehearsed: Captured,
) -> None:
    watched = {item["function"] for item in rehearsed.header["attached"]}

    assert {
        "copy_process",
        "alloc_pid",
        "__vm_enough_memory",
        "dup_fd",
        "cgroup_can_fork",
    } <= watched


def test_a_full_pids_cgroup_is_named_by_its_path(rehearsed: Captured) -> None:
    evidence = first_evidence(rehearsed.of("ft-pids-cgroup"))

    assert (evidence["name"], evidence["value"], evidence["limit"]) == ("pids.max", 1, 1)
    assert evidence["where"].endswith(f"/fork-trace-rehearse-{_parent(rehearsed)}")


def test_an_ancestor_that_holds_the_limit_is_named_and_not_the_forking_leaf(
    rehearsed: Captured,
) -> None:
    evidence = first_evidence(rehearsed.of("ft-pids-cg-anc"))
    top = f"/fork-trace-rehearse-{_parent(rehearsed)}"

    assert (evidence["name"], evidence["value"], evidence["limit"]) == ("pids.max", 1, 1)
    assert evidence["where"].endswith(top)
    assert {failure["cgroup"] for failure in rehearsed.of("ft-pids-cg-anc")} == {
        f"{top}/middle/leaf"
    }


def _parent(captured: Captured) -> int:
    (ppid,) = {failure["ppid"] for failure in captured.of("ft-pids-cgroup")}
    return int(ppid)


def test_a_dead_pid_namespace_is_told_from_a_shortage_of_memory(rehearsed: Captured) -> None:
    for failure in rehearsed.of("ft-pidns-dead"):
        assert failure["errno"] == "ENOMEM"
        assert "level 1" in failure["evidence"][0]["where"]


@pytest.mark.parametrize("comm", ["ft-oc-never", "ft-fork-big", "ft-oc-heuristic"])
def test_overcommit_shows_more_asked_than_allowed(comm: str, rehearsed: Captured) -> None:
    for failure in rehearsed.of(comm):
        evidence = failure["evidence"][0]

        assert evidence["unit"] == "KiB"
        assert evidence["value"] >= evidence["limit"] > 0
        assert evidence["read"] == "kernel"


def test_the_big_process_is_told_in_three(rehearsals: Rehearsed) -> None:
    notes = " ".join(rehearsals.told["fork-big"]["notes"])

    assert "23 of 23 forks were refused" in notes
    assert "23 of 23 forks went through" in notes
    assert "posix_spawn: 5 of 5 went through; by popen: 5 of 5" in notes


def test_the_caller_of_nearly_all_is_the_script_that_asked(rehearsed: Captured) -> None:
    failures = [each for scenario in SEEN for each in rehearsed.of(scenario.comm)]
    # Behind what was called, where that has a name: posix_spawn <- script
    callers = [str(failure["caller"]).rpartition(" <- ")[2] for failure in failures]

    # Of a process that was gone at once the program may not be found again: then its C library tells.
    assert callers.count("-m accuracy.making") > 0.9 * len(callers)


def test_every_failure_comes_with_advice(rehearsed: Captured) -> None:
    assert [failure for failure in rehearsed.failures if not failure["advice"]] == []


def test_the_report_names_every_cause_in_80_columns(rehearsed: Captured) -> None:
    text = rehearsed.done.stdout
    made = {failure["comm"] for failure in rehearsed.failures}

    assert max(map(len, text.splitlines())) <= 80
    for scenario in SEEN:
        assert scenario.comm not in made or scenario.cause in text
