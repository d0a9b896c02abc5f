"""How scripts/soak judges: from a run in which all is well, one thing is taken away."""

from __future__ import annotations

from typing import Any

import pytest
from soak import judging
from soak.judging import Measured, Sample, Told, findings

MADE = [["ft-tid-taken", "pid-taken", 23], ["storm-3", "pids-cgroup", 400]]
BESIDE = [["fork_kinds", "rlimit-nproc", 110]]
ATTACHED = [{"function": "copy_process"}, {"function": "alloc_pid"}]


def told(made: list[list[Any]], name: str = "number 1", **changes: Any) -> Told:
    """What a tracer tells that has seen exactly this."""
    failures = sum(number for _, _, number in made)
    summary = {
        "type": "summary",
        "failures": failures,
        "totals": [{"comm": comm, "cause": cause, "count": n} for comm, cause, n in made],
        **dict.fromkeys(("lost", "missed", "overflowed", "untracked", "mismatched"), 0),
        **changes.pop("summary", {}),
    }
    values: dict[str, Any] = {
        "name": name,
        "status": 1,
        "errors": "Watching for fork failures.\n",
        "header": {"type": "header", "attached": ATTACHED},
        "summary": summary,
        "records": 9,
        "sampled": summary["failures"],
        "armed_s": 0.5,
    }
    return Told(**{**values, **changes})


def run(coming: Told | None = None, staying: Told | None = None, **changes: Any) -> Measured:
    """One that came and went beside one that stayed, and what they were shown."""
    measured = Measured("6.1", True, 600)
    # One that comes sees a part of what goes on beside.
    measured.add(coming or told([*MADE, ["fork_kinds", "rlimit-nproc", 66]]), MADE)
    staying = staying or told([*MADE, *BESIDE], name="the one that stays", status=0)
    measured.add(staying, [*MADE, *BESIDE])
    measured.samples = [Sample(float(second), 40_000, 31) for second in range(600)]
    measured.left = {"number 1": [], "the one that stays": []}
    measured.through_s = 90.0
    for name, value in changes.items():
        setattr(measured, name, value)
    return measured


def test_a_run_in_which_all_is_well_has_no_finding() -> None:
    assert [] == findings(run())


def test_nothing_measured_is_a_finding() -> None:
    assert ["nothing was measured"] == findings(Measured("6.1", True, 600))


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([MADE[0], ["storm-3", "pids-cgroup", 399]], "storm-3, pids-cgroup: 399 counted, 400 made"),
        ([MADE[0], ["storm-3", "pids-cgroup", 401]], "storm-3, pids-cgroup: 401 counted, 400 made"),
        ([*MADE, ["ft-soak", "unknown", 1]], "ft-soak, unknown: 1 counted, 0 made"),
        ([*MADE, ["fork_kinds", "pids-cgroup", 1]], "1 of fork_kinds were named pids-cgroup"),
    ],
)
def test_a_count_that_differs_is_a_finding(seen: list[list[Any]], expected: str) -> None:
    assert [f"number 1: {expected}"] == findings(run(told(seen)))


def test_what_goes_on_beside_is_exact_for_the_one_that_stays() -> None:
    staying = told([*MADE, ["fork_kinds", "rlimit-nproc", 109]], name="it", status=0)

    assert ["it: fork_kinds, rlimit-nproc: 109 counted, 110 made"] == findings(run(None, staying))


def test_what_a_preempted_program_missed_may_lack_where_that_is_counted() -> None:
    seen = [MADE[0], ["storm-3", "pids-cgroup", 398]]
    header = {"attached": [*ATTACHED, {"function": "copy_process"}]}

    assert [] == findings(run(told(seen, header=header, summary={"missed": 2})))
    assert ["number 1: storm-3, pids-cgroup: 398 counted, 400 made"] == findings(
        run(told(seen, header=header, summary={"missed": 1}))
    )


@pytest.mark.parametrize("name", ["lost", "overflowed", "untracked", "mismatched"])
def test_what_must_not_happen_is_a_finding(name: str) -> None:
    assert [f"number 1: {name}: 3"] == findings(run(told(MADE, summary={name: 3})))


def test_a_missed_call_is_a_finding_and_an_uncounted_one_is_not() -> None:
    assert ["number 1: 2 calls missed"] == findings(run(told(MADE, summary={"missed": 2})))
    assert [] == findings(run(told(MADE, summary={"missed": None})))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"status": -11}, "it ended with -11 in place of 1"),
        ({"sampled": 400}, "its records stand for 400 failures, its summary for 423"),
        ({"errors": "Watching.\nTraceback\n"}, "it said: Watching.\nTraceback"),
    ],
)
def test_one_that_does_not_end_well_is_a_finding(changes: dict[str, Any], expected: str) -> None:
    assert [f"number 1: {expected}"] == findings(run(told(MADE, **changes)))


def test_one_without_a_summary_is_a_finding() -> None:
    ended = told(MADE, status=-9, errors="Killed\n")._replace(summary={"type": "failure"})

    assert ["number 1 ended with -9 and without a summary: Killed"] == findings(run(ended))


def test_what_stays_in_the_kernel_is_a_finding() -> None:
    left = {"number 1": ["map 8", "prog 7"]}

    assert ["number 1 left in the kernel: map 8, prog 7"] == findings(run(left=left))


def test_memory_and_descriptors_may_grow_in_the_warm_up_only() -> None:
    at = 300.0
    files = judging.MOST_MORE_FILES
    grown = 40_000 + judging.MOST_GROWTH_KIB
    early = [Sample(1.0, 40_000, 31), Sample(at, grown, 40), Sample(at + 1, grown, 40)]
    late = [Sample(1.0, 40_000, 31), Sample(at + 1, grown, 31)]

    assert [] == findings(run(samples=early))
    assert [] == findings(run(samples=late))
    assert [f"the one that stays grew by {judging.MOST_GROWTH_KIB + 1} KiB after its warm-up; "
            f"{judging.MOST_GROWTH_KIB} are allowed"] == findings(
        run(samples=[*late, Sample(at + 2, grown + 1, 31)])
    )  # fmt: skip
    assert [] == findings(run(samples=[*late, Sample(at + 2, grown, 31 + files)]))
    assert [f"the one that stays had {files + 1} descriptors more than in its warm-up"] == findings(
        run(samples=[*late, Sample(at + 2, grown, 32 + files)])
    )


def test_growth_is_judged_once_the_mix_is_through() -> None:
    grown = [Sample(1.0, 40_000, 31), Sample(400.0, 50_000, 31), Sample(599.0, 50_000, 31)]

    assert 1 == len(findings(run(samples=grown)))
    assert [] == findings(run(samples=grown, through_s=450.0))
    assert [] == findings(run(samples=grown, through_s=None))


def test_a_run_that_was_never_looked_at_is_a_finding() -> None:
    (found,) = findings(run(samples=[]))

    assert "could not be looked at" in found
