"""The numbers behind a cause, who asked, and the report: in the one pass of rehearsals, by each watcher."""

from __future__ import annotations

import json
import os
import re
from collections import Counter

import pytest
from accuracy.judging import COUNT

from fork_trace.rehearse.recipes.threads import THREAD_SYSCALL
from fork_trace.rehearse.scenarios import Scenario, find

from .conftest import Captured, first_evidence
from .rehearsing import LIMITS, MADE, Rehearsed, by, each_of, is_v2, lacks_variables, named, sees

THREE_UP, FULL_ABOVE = find("pids-cgroup-three-up"), find("pid-namespace-full")
USER_ABOVE = find("rlimit-nproc-user-namespace")
MEMORY_FIRST, USER_FIRST = find("two-causes"), find("rlimit-and-pids")
# Of which no file shows where the kernel has the number that decides.
NEED_VARIABLES = ("threads-max", "overcommit-never")
STEPS = ("fexit", "kprobe", "fexit-all", "kprobe-all", "bcc")

pytestmark = pytest.mark.live


def parent(captured: Captured) -> int:
    (ppid,) = {failure["ppid"] for failure in captured.of("ft-pids-cgroup")}
    return int(ppid)


@by()
def test_a_full_pids_cgroup_is_named_by_its_path(watcher: str, captured: Captured) -> None:
    evidence = first_evidence(captured.of("ft-pids-cgroup"))

    assert (evidence["name"], evidence["value"], evidence["limit"]) == ("pids.max", 1, 1)
    assert evidence["where"].endswith(f"/fork-trace-rehearse-{parent(captured)}")


@by()
def test_an_ancestor_that_holds_the_limit_is_named_and_not_the_forking_leaf(
    watcher: str, captured: Captured
) -> None:
    evidence = first_evidence(captured.of("ft-pids-cg-anc"))
    top = f"/fork-trace-rehearse-{parent(captured)}"

    assert (evidence["name"], evidence["value"], evidence["limit"]) == ("pids.max", 1, 1)
    assert evidence["where"].endswith(top)
    assert {failure["cgroup"] for failure in captured.of("ft-pids-cg-anc")} == {
        f"{top}/middle/leaf"
    }


@each_of(of=named(THREE_UP.name))
def test_a_cgroup_three_levels_up_is_named_and_each_level_below_has_no_limit(
    watcher: str, scenario: Scenario, rehearsed: Rehearsed
) -> None:
    for failure in rehearsed.of(scenario):
        evidence = failure["evidence"][0]

        assert (evidence["name"], evidence["value"], evidence["limit"]) == ("pids.max", 1, 1)
        assert failure["cgroup"].endswith("/upper/middle/leaf")
        assert evidence["where"].endswith(failure["cgroup"].removesuffix("/upper/middle/leaf"))
        assert [each["limit"] for each in failure["evidence"][1:4]] == [None] * 3


@each_of(of=named("pid-namespace-dead"))
def test_a_dead_pid_namespace_is_told_from_a_shortage_of_memory(
    watcher: str, scenario: Scenario, rehearsed: Rehearsed
) -> None:
    for failure in rehearsed.of(scenario):
        assert failure["errno"] == "ENOMEM"
        assert "level 1" in failure["evidence"][0]["where"]


@each_of(*STEPS, of=named("overcommit-never", "fork-big", "overcommit-heuristic"))
def test_overcommit_shows_more_asked_than_allowed(
    watcher: str, scenario: Scenario, rehearsed: Rehearsed
) -> None:
    for failure in rehearsed.of(scenario):
        evidence = failure["evidence"][0]
        if lacks_variables(watcher):
            # What is promised has no address, but the mode is found by its file.
            mode = failure["evidence"][-1]
            assert (mode["name"], mode["read"]) == ("vm.overcommit_memory", "kernel")
            assert (mode["value"] == 2) is (failure["cause"] == "overcommit-never")
            continue

        assert evidence["unit"] == "KiB"
        assert evidence["value"] >= evidence["limit"] > 0
        assert evidence["read"] == "kernel"


@each_of("tracepoint", of=named("overcommit-heuristic"))
def test_where_no_step_is_watched_the_one_mapping_is_found_in_the_kernel(
    watcher: str, scenario: Scenario, rehearsed: Rehearsed
) -> None:
    for failure in rehearsed.of(scenario):
        evidence = {each["name"]: each for each in failure["evidence"]}
        if evidence["vm.overcommit_memory"]["read"] != "kernel":
            pytest.skip("this kernel tells no address of the overcommit rule's numbers")
        asked = evidence["one mapping of the parent"]

        assert asked["value"] > asked["limit"] > 0
        assert [] == failure["alternatives"]


@each_of(of=named("fork-big"))
def test_the_big_process_is_told_in_three(
    watcher: str, scenario: Scenario, rehearsed: Rehearsed
) -> None:
    notes = " ".join(rehearsed.told[scenario.name]["notes"])

    assert f"{COUNT} of {COUNT} forks were refused" in notes
    assert f"{COUNT} of {COUNT} forks went through" in notes
    assert "posix_spawn: 5 of 5 went through; by popen: 5 of 5" in notes


@each_of(of=named("overcommit-heuristic", "pid-namespace-dead"))
def test_what_is_no_pool_has_no_holders(
    watcher: str, scenario: Scenario, rehearsed: Rehearsed
) -> None:
    assert {None} == {failure["holders"] for failure in rehearsed.of(scenario)}


@each_of(of=named("pids-cgroup", "pids-cgroup-ancestor", THREE_UP.name))
def test_who_held_a_cgroup_before_is_no_holder_of_one_made_anew_at_its_path(
    watcher: str, scenario: Scenario, rehearsed: Rehearsed
) -> None:
    held = [failure["holders"] for failure in rehearsed.of(scenario) if failure["holders"]]

    # Its zombie is still in there until it is reaped, and is put down to the parent, who has to do that.
    assert {scenario.comm} >= {
        holder["comm"] for holders in held for holder in holders if holder["processes"]
    }


@each_of(of=named(FULL_ABOVE.name))
def test_a_full_pid_namespace_two_levels_up_is_named_by_its_level(
    watcher: str, scenario: Scenario, rehearsed: Rehearsed
) -> None:
    for failure in rehearsed.of(scenario):
        evidence = failure["evidence"][0]
        levels = [each["where"].partition("level ")[2][0] for each in failure["evidence"]]
        limits = dict(zip(levels, (each["limit"] for each in failure["evidence"])))

        assert evidence["name"] == "kernel.pid_max"
        assert "(level 1)" in evidence["where"]
        assert sorted(levels) == ["0", "1", "2", "3"]
        assert limits["1"] == min(limits.values())


@each_of(of=named(USER_ABOVE.name))
def test_the_user_namespaces_maker_and_not_the_process_is_at_its_limit(
    watcher: str, scenario: Scenario, rehearsed: Rehearsed
) -> None:
    for failure in rehearsed.of(scenario):
        evidence = failure["evidence"][0]

        assert (evidence["name"], evidence["value"], evidence["limit"]) == ("RLIMIT_NPROC", 1, 1)
        assert "the whole host" in evidence["where"]
        # The process's own namespace has a level of its own, with room.
        assert len(failure["evidence"]) > 1


@each_of(of=named(MEMORY_FIRST.name, USER_FIRST.name))
def test_of_two_causes_at_once_the_one_that_the_kernel_asks_for_first_is_named(
    watcher: str, scenario: Scenario, rehearsed: Rehearsed
) -> None:
    expected = {
        MEMORY_FIRST: ("overcommit-never", "__vm_enough_memory"),
        USER_FIRST: ("rlimit-nproc", "rlimit_nproc"),
    }[scenario]
    failures = rehearsed.of(scenario)

    assert {(each["cause"], each["step"]) for each in failures} == {expected}
    assert sum(failure["count"] for failure in failures) == COUNT


@by()
@pytest.mark.parametrize("cause", LIMITS if is_v2() else ())
def test_the_deciding_number_and_its_limit_are_the_kernels_own(
    watcher: str, cause: str, rehearsed: Rehearsed
) -> None:
    own = json.loads(rehearsed.printed[f"limits {cause}"])
    failures = [each for each in rehearsed.captured.of("ft-limits") if each["pid"] == own["pid"]]
    assert own["refused"] == COUNT == sum(each["count"] for each in failures)
    if lacks_variables(watcher) and cause in NEED_VARIABLES:
        names = ({each["cause"], *each["alternatives"]} for each in failures)
        assert all(cause in each for each in names)
        return
    assert {each["cause"] for each in failures} == {cause}
    for failure in failures:
        evidence = failure["evidence"][0]

        assert evidence["name"] == LIMITS[cause]
        assert evidence["limit"] == own["limit"]
        if own["value"] is not None:
            assert evidence["value"] == own["value"]
        else:
            # It moves on between a refusal and the look at it.
            assert evidence["value"] >= evidence["limit"] or cause == "memory-cgroup"


@by("fexit", "tracepoint")
def test_the_caller_of_nearly_all_is_the_script_that_asked(
    watcher: str, captured: Captured
) -> None:
    failures = [
        each for scenario in MADE if sees(watcher, scenario) for each in captured.of(scenario.comm)
    ]
    # Behind what was called, where that has a name: posix_spawn <- script
    callers = [str(failure["caller"]).rpartition(" <- ")[2] for failure in failures]

    # Of a process that was gone at once the program may not be found again: then its C library tells. One
    # watcher of several can come late more often.
    share = 0.9 if watcher == "fexit" else 0.75
    assert callers.count("-m accuracy.making") > share * len(callers) > 0


@by()
def test_every_failure_comes_with_advice(watcher: str, captured: Captured) -> None:
    assert captured.failures
    assert [failure for failure in captured.failures if not failure["advice"]] == []


@by("fexit", "kprobe")
def test_the_report_names_every_cause_in_80_columns(watcher: str, captured: Captured) -> None:
    text = captured.done.stdout
    causes = {failure["cause"] for failure in captured.failures}

    # The number of a process that has ended by now is not printed.
    commands = {
        printed
        for failure in captured.failures
        for advice in failure["advice"]
        for command in advice["commands"]
        for printed in (command, re.sub(rf"\b{failure['pid']}\b", "PID", command))
    }

    # A command is a line of its own, indented, and never broken.
    long = [line for line in text.splitlines() if len(line) > 80]
    assert [] == [
        line
        for line in long
        if line[:5].strip() and not (line[:2] == "  " and line.strip() in commands)
    ]
    assert len(causes) > 5
    assert [] == [cause for cause in causes if cause not in text]


@by(*STEPS)
def test_a_refused_mmap_just_before_is_not_blamed_for_the_fork(
    watcher: str, rehearsed: Rehearsed
) -> None:
    assert rehearsed.printed["mmap-then-fork"].startswith(f"{COUNT} {COUNT}\n")
    assert rehearsed.captured.by("mmap-then-fork", "cause", "step", "errno") == {
        ("rlimit-nproc", "rlimit_nproc", "EAGAIN"): COUNT
    }


@by()
def test_who_is_exempt_by_one_capability_is_not_told_to_be_over_the_limit(
    watcher: str, rehearsed: Rehearsed
) -> None:
    assert rehearsed.printed["half_exempt"].startswith(f"{COUNT} {COUNT}\n")
    seen = rehearsed.captured

    assert seen.by("half_exempt", "cause", "errno") == {("deadline-policy", "EAGAIN"): COUNT}
    assert seen.by("at-the-limit", "cause", "errno") == {("rlimit-nproc", "EAGAIN"): COUNT}


@by()
def test_a_refused_mmap_alone_is_no_failed_fork(watcher: str, rehearsed: Rehearsed) -> None:
    assert rehearsed.printed["mmap-alone"].startswith(f"{COUNT} 0\n")
    assert rehearsed.captured.of("mmap-alone") == []
    assert rehearsed.captured.exact("mmap-alone") == 0


@by()
def test_each_kind_of_call_is_told_apart(watcher: str, rehearsed: Rehearsed) -> None:
    # arm64 has no other calls than these two; of vfork its flags tell.
    has_old_calls = os.uname().machine != "aarch64"
    fork, vfork = ("fork", "vfork") if has_old_calls else ("clone", "clone")
    expected: Counter[tuple[str, str, str]] = Counter()
    for call in (fork, vfork, "clone", "clone3"):
        expected[call, "process", "rlimit-nproc"] += COUNT
    expected[THREAD_SYSCALL, "thread", "rlimit-nproc"] += COUNT

    assert rehearsed.captured.by("kinds", "syscall", "creates", "cause") == expected


@by()
def test_a_fork_restarted_by_a_signal_is_no_failure(watcher: str, rehearsed: Rehearsed) -> None:
    assert rehearsed.printed["signalled_fork"].startswith(f"0 {COUNT}\n")
    assert rehearsed.captured.of("signalled_fork") == []
    assert rehearsed.captured.summary["restarted"] >= COUNT


@by("bcc")
def test_bcc_reads_the_numbers_in_the_kernel_by_the_installed_headers(
    watcher: str, captured: Captured
) -> None:
    failures = captured.of("ft-oc-never")

    assert failures
    assert {"kernel"} == {failure["evidence"][0]["read"] for failure in failures}
