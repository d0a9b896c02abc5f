"""The lowest rung: every cause inferred from the state at the system call's exit, and none wrongly.

Runs natively too, without what would touch the whole host.
"""

from __future__ import annotations

from typing import Any

import pytest

from fork_trace.rehearse import SCENARIOS, Scenario

from .conftest import IS_GUEST, STACK_STEPS, Rehearsed, assert_counted, rehearse

MADE = tuple(scenario for scenario in SCENARIOS if IS_GUEST or not scenario.host_wide)

pytestmark = pytest.mark.live
every_scenario = pytest.mark.parametrize("scenario", MADE, ids=lambda scenario: scenario.name)


@pytest.fixture(scope="module")
def rehearsed(any_host: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Rehearsed:
    """One capture around all rehearsals that may be made here."""
    return rehearse(tmp_path_factory.mktemp("rehearsed"), MADE, "--attach", "tracepoint")


@every_scenario
def test_the_first_cause_is_the_right_one_and_every_failure_is_counted_once(
    scenario: Scenario, rehearsed: Rehearsed
) -> None:
    assert_counted(rehearsed, scenario)


@every_scenario
def test_nothing_but_a_refused_stack_is_called_observed(
    scenario: Scenario, rehearsed: Rehearsed
) -> None:
    certainty = "observed" if scenario.step in STACK_STEPS else "inferred"

    assert {failure["certainty"] for failure in rehearsed.of(scenario)} <= {certainty}


@every_scenario
def test_other_causes_that_fit_are_named_once_each(
    scenario: Scenario, rehearsed: Rehearsed
) -> None:
    for failure in rehearsed.of(scenario):
        also = failure["also"]

        assert len({failure["cause"], *also}) == 1 + len(also)
        assert "unknown" not in also


def test_it_is_the_rung_that_was_asked_for_and_says_what_it_cannot_see(
    rehearsed: Rehearsed,
) -> None:
    header = rehearsed.captured.header

    assert header["rung"] == "tracepoint"
    assert {each["step"] for each in header["attached"]} == {None}
    assert "cgroup_can_fork" in {each["step"] for each in header["missing"]}


def test_no_sample_is_lost_and_nothing_is_folded(rehearsed: Rehearsed) -> None:
    summary = rehearsed.captured.summary

    assert (summary["lost"], summary["skipped"], summary["folded"]) == (0, 0, 0)
