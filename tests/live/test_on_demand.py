"""--on-demand: nothing but copy_process is watched until a fork fails; from then on it is as without."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from accuracy.judging import COUNT

from fork_trace.probes.plan import CHOOSER, HUGE_FAULT, KILLER

from .conftest import FORK_TRACE, preempts, start

pytestmark = pytest.mark.live

# Attached once a failure had no reason yet.
LATE, LATE_COMM, LATE_STEP = "namespace-denied", "ft-ns-denied", "copy_namespaces"
MOST_TRIES = 30  # one fails about twice a second under emulation, and a dozen probes are attached


def make_fail(scenario: str, count: int) -> None:
    """Let forks fail, in a process of their own."""
    subprocess.run(
        [*FORK_TRACE, "rehearse", "--count", str(count), scenario],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=120,
    )


@pytest.fixture(scope="module")
def records(takes: tuple[str, ...]) -> list[dict[str, Any]]:
    """One failure, more until one is observed, and then two kinds of them."""
    live = start("live", "--json", "--on-demand", *takes)
    lines = live.stdout
    assert lines is not None
    told: list[dict[str, Any]] = []

    def next_of(comm: str) -> dict[str, Any]:
        while True:
            told.append(json.loads(lines.readline()))
            if told[-1].get("comm") == comm:
                return told[-1]

    def fail_until_observed(scenario: str, comm: str) -> None:
        for _ in range(MOST_TRIES):
            make_fail(scenario, 1)
            if next_of(comm)["certainty"] == "observed":
                return

    try:
        fail_until_observed("rlimit-nproc", "ft-rlimit-nproc")
        make_fail("pids-cgroup", COUNT)
        make_fail("set-tid-taken", COUNT)
        fail_until_observed(LATE, LATE_COMM)
    finally:
        live.terminate()
        rest, _ = live.communicate(timeout=120)
    return told + [json.loads(line) for line in rest.splitlines()]


def of(records: list[dict[str, Any]], comm: str) -> list[dict[str, Any]]:
    """The failures of one command."""
    return [each for each in records if each["type"] == "failure" and each["comm"] == comm]


def test_from_the_start_only_copy_process_is_watched(records: list[dict[str, Any]]) -> None:
    attached = records[0]["attached"]

    # And what kills for a fork that went through, which costs nothing until it does.
    killers = {CHOOSER, KILLER, HUGE_FAULT}
    at_start = {each["function"] for each in attached if not each["later"]}
    assert {"copy_process"} == at_start - killers
    assert {"start", "first-failure", "unexplained"} == {each["when"] for each in attached}


def test_the_first_cause_is_inferred_with_its_numbers(records: list[dict[str, Any]]) -> None:
    first, *others = of(records, "ft-rlimit-nproc")

    assert ("rlimit-nproc", "inferred", "fork") == (
        *(first["cause"], first["certainty"]),
        first["watched"],
    )
    assert first["evidence"][0]["value"] is not None
    # Until the rest is attached; the last one is what that was waited for.
    assert {"rlimit-nproc"} == {each["cause"] for each in others}
    assert ("observed", None) == (others[-1]["certainty"], others[-1]["watched"])


def test_all_that_follow_are_observed_and_counted(records: list[dict[str, Any]]) -> None:
    for comm, cause, step in (
        ("ft-pids-cgroup", "pids-cgroup", "cgroup_can_fork"),
        ("ft-tid-taken", "pid-taken", "alloc_pid"),
    ):
        failures = of(records, comm)
        assert {(cause, step, "observed", None)} == {
            (each["cause"], each["step"], each["certainty"], each["watched"]) for each in failures
        }
        assert COUNT == sum(each["count"] for each in failures)
    summary = records[-1]
    assert ("summary", 0, 0) == (summary["type"], summary["lost"], summary["missed"] or 0)


def test_a_step_that_each_fork_would_pay_for_is_observed_in_the_end(
    records: list[dict[str, Any]],
) -> None:
    failures = of(records, LATE_COMM)

    assert {"namespace-denied"} == {each["cause"] for each in failures}
    assert ("inferred", "default") == (failures[0]["certainty"], failures[0]["watched"])
    # By kprobes on a kernel that preempts itself, one inside this step may have refused unseen.
    is_blurred = records[0]["attach"] == "kprobe" and preempts()
    assert (LATE_STEP, "inferred" if is_blurred else "observed", None) == (
        *(failures[-1]["step"], failures[-1]["certainty"]),
        failures[-1]["watched"],
    )
