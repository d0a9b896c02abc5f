"""--refused: what never reaches copy_process is counted once, and nothing else is counted twice."""

from __future__ import annotations

from typing import Any

import pytest
from accuracy.judging import COUNT

from fork_trace.rehearse import SCENARIOS, Scenario

from .conftest import STACK_STEPS, Rehearsed, assert_counted, rehearse

EARLY = tuple(each for each in SCENARIOS if each.is_early and each.step not in STACK_STEPS)
# Of each kind of refusal one, and of each call; none of them is host-wide.
OTHERS = tuple(
    each
    for each in SCENARIOS
    if each.name
    in (
        *("pids-cgroup", "rlimit-nproc", "overcommit-heuristic", "pid-namespace-dead", "deadline"),
        *("exec-in-progress", "thread-stack-address-space", "pids-cgroup-thread", "invalid-flags"),
        *("uts-namespace-limit", "set-tid-taken", "pidfd-pointer", "into-cgroup-bad-fd"),
    )
)

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def rehearsed(takes: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Rehearsed:
    """One capture with --refused around early refusals and others."""
    return rehearse(tmp_path_factory.mktemp("refused"), (*EARLY, *OTHERS), "--refused", *takes)


@pytest.mark.parametrize("scenario", (*EARLY, *OTHERS), ids=lambda scenario: scenario.name)
def test_an_early_refusal_and_any_other_is_counted_once(
    scenario: Scenario, rehearsed: Rehearsed
) -> None:
    assert_counted(rehearsed, scenario)


def test_the_summary_counts_the_early_ones_apart(rehearsed: Rehearsed) -> None:
    summary = rehearsed.captured.summary
    early = [
        failure
        for scenario in (*EARLY, *OTHERS)
        if scenario.is_early
        for failure in rehearsed.captured.of(scenario.comm)
    ]

    assert summary["early"] == sum(failure["count"] for failure in early) >= 2 * COUNT
    assert (summary["lost"], summary["folded"]) == (0, 0)


def test_without_it_they_are_not_seen_and_said_to_be_missing(
    takes: tuple[str, ...], tmp_path: Any
) -> None:
    captured = rehearse(tmp_path, EARLY, *takes).captured

    assert [each for each in captured.failures if each["comm"].startswith("ft-")] == []
    assert captured.summary["early"] == 0
    assert {"seccomp", "kernel_clone"} <= {each["step"] for each in captured.header["missing"]}
