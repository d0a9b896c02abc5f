"""How scripts/accuracy judges: each verdict from a small capture, and the tables made of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from accuracy import table
from accuracy.judging import COUNT, INFERRED, NOT_HERE, RIGHT, WRONG, Cell, Verdict, judge

from fork_trace.rehearse.scenarios import find

PIDS = find("pids-cgroup")
TOLD = {"scenario": PIDS.name, "failures": {"EAGAIN": COUNT}}


def failure(**changes: Any) -> dict[str, Any]:
    values = {
        "type": "failure",
        "comm": PIDS.comm,
        "count": 1,
        "cause": PIDS.cause,
        "step": PIDS.step,
        "errno": PIDS.errno,
        "certainty": "observed",
        "alternatives": [],
    }
    return {**values, **changes}


def records(
    failures: list[dict[str, Any]] | None = None, attach: str = "fexit", **summary: Any
) -> list[dict[str, Any]]:
    """A capture of COUNT failures of pids-cgroup, all observed, or of those given."""
    failures = [failure() for _ in range(COUNT)] if failures is None else failures
    total = {"comm": PIDS.comm, "cause": PIDS.cause, "count": COUNT}
    end = {"type": "summary", "totals": [total], "lost": 0, "missed": 0, **summary}
    return [{"type": "header", "attach": attach}, *failures, end]


def with_one(**changes: Any) -> list[dict[str, Any]]:
    return [failure(**changes), *(failure() for _ in range(COUNT - 1))]


def test_every_failure_observed_with_its_cause_is_right() -> None:
    assert Verdict(RIGHT) == judge(PIDS, TOLD, records())


def test_a_kernel_that_does_not_count_what_it_missed_is_right() -> None:
    assert Verdict(RIGHT) == judge(PIDS, TOLD, records(missed=None))


def test_records_that_stand_for_several_count_as_many() -> None:
    assert Verdict(RIGHT) == judge(
        PIDS, TOLD, records([failure(count=COUNT - 3), failure(count=3)])
    )


def test_the_failures_of_others_do_not_count() -> None:
    stranger = failure(comm="cron", cause="unknown", errno="EPERM")

    assert Verdict(RIGHT) == judge(PIDS, TOLD, records([*with_one(), stranger]))


def test_one_inferred_failure_makes_it_inferred() -> None:
    found = judge(PIDS, TOLD, records(with_one(certainty="inferred")))

    assert Verdict(INFERRED, f"1 of {COUNT}, until every step had its program") == found


def test_an_inferred_cause_comes_with_the_others_that_fit_and_the_step_that_was_told() -> None:
    failures = [
        failure(certainty="inferred", step="copy_process", alternatives=["threads-max", "pid-max"])
    ] * COUNT
    found = judge(PIDS, TOLD, records(failures, attach="tracepoint"))

    assert (
        Verdict(INFERRED, "or threads-max, pid-max; at copy_process and not cgroup_can_fork")
        == found
    )


@pytest.mark.parametrize(
    ("captured", "why"),
    [
        (
            records(with_one(cause="pid-max")),
            f"named 1 x pid-max, {COUNT - 1} x pids-cgroup; the cause was pids-cgroup",
        ),
        (
            records(with_one(cause="pid-max", certainty="inferred", alternatives=["pids-cgroup"])),
            f"named 1 x pid-max, {COUNT - 1} x pids-cgroup; the cause was pids-cgroup",
        ),
        (
            records(with_one(errno="ENOMEM")),
            f"errno {COUNT - 1} x EAGAIN, 1 x ENOMEM; it was EAGAIN",
        ),
        (records(with_one()[1:]), f"{COUNT - 1} of {COUNT} failures recorded"),
        (records([*with_one(), failure()]), f"{COUNT + 1} of {COUNT} failures recorded"),
        (
            records(with_one(step="alloc_pid")),
            "observed at 1 x alloc_pid; the step was cgroup_can_fork",
        ),
        (records(totals=[]), "exact totals none"),
        (
            records(totals=[{"comm": PIDS.comm, "cause": "pid-max", "count": COUNT}]),
            f"exact totals {COUNT} x pid-max",
        ),
        (records(lost=2), "2 samples lost"),
        (records()[:-1], "the capture has no summary"),
        ([], "the capture has no summary"),
    ],
)
def test_what_is_wrong_is_told_precisely(captured: list[dict[str, Any]], why: str) -> None:
    assert Verdict(WRONG, why) == judge(PIDS, TOLD, captured)


def test_calls_that_were_missed_are_told_and_count_only_with_a_failure_missing() -> None:
    missed = "5 calls missed in the capture"
    inferred = judge(PIDS, TOLD, records(with_one(certainty="inferred"), missed=5))
    short = judge(PIDS, TOLD, records(with_one()[1:], missed=5))

    assert Verdict(RIGHT, missed) == judge(PIDS, TOLD, records(missed=5))
    assert (INFERRED, True) == (inferred.result, inferred.why.endswith(f"; {missed}"))
    assert Verdict(WRONG, f"{COUNT - 1} of {COUNT} failures recorded; {missed}") == short


@pytest.mark.parametrize("step", ["copy_process", "dup_mmap"])
def test_a_memory_cgroup_may_be_seen_before_its_step_is(step: str) -> None:
    memory = find("memory-cgroup")
    failures = [
        failure(comm=memory.comm, cause=memory.cause, step=each, errno=memory.errno)
        for each in [step] + [memory.step] * (COUNT - 1)
    ]
    totals = [{"comm": memory.comm, "cause": memory.cause, "count": COUNT}]
    told = {"failures": {memory.errno: COUNT}}

    assert Verdict(RIGHT) == judge(memory, told, records(failures, totals=totals))


def test_a_rehearsal_that_is_not_as_planned_is_no_proof() -> None:
    told = {"failures": {"EAGAIN": 20, "ENOMEM": 3}}
    found = judge(PIDS, told, records())

    assert (
        Verdict(
            WRONG, f"the rehearsal itself met 20 x EAGAIN, 3 x ENOMEM in place of {COUNT} x EAGAIN"
        )
        == found
    )


def test_a_rehearsal_without_a_word_is_wrong() -> None:
    assert WRONG == judge(PIDS, None, records()).result


def test_what_a_kernel_can_never_do_is_not_triggerable() -> None:
    found = judge(PIDS, {"not_here": "it has no cgroups."}, [])

    assert Verdict(NOT_HERE, "it has no cgroups.") == found


def test_what_a_host_cannot_do_is_wrong_only_in_a_guest_that_should() -> None:
    told = {"error": "the hierarchy is read-only."}

    assert Verdict(NOT_HERE, "the hierarchy is read-only.") == judge(PIDS, told, [], is_native=True)
    assert Verdict(WRONG, "could not be rehearsed: the hierarchy is read-only.") == judge(
        PIDS, told, []
    )


CELLS = [
    Cell("one", "5.10", "fexit", RIGHT, ""),
    Cell("two", "5.10", "fexit", NOT_HERE, "no such kernel."),
    Cell("one", "native", "tracepoint", INFERRED, "or this"),
    Cell("two", "native", "tracepoint", WRONG, "named that"),
]
CAUSES = {"one": "pid-max", "two": "seccomp"}


def test_the_table_for_a_terminal_has_each_cell_and_each_reason() -> None:
    text = table.text(CELLS, CAUSES)

    assert ["pid-max", "one", "right", "inferred"] in [line.split() for line in text.splitlines()]
    assert "(1) no such kernel." in text
    assert "- two (native tracepoint): named that" in text
    assert "- one (native tracepoint): or this" in text
    assert text.endswith("1 right, 1 inferred-right, 1 wrong, 1 not-triggerable")


def test_the_book_s_table_has_the_same_with_date_and_releases() -> None:
    releases = {"5.10": "5.10.0-1", "native": "6.18.4-x"}
    found = json.loads(table.data(CELLS, CAUSES, releases, "2026-01-02"))
    block = table.docs(found)
    lines = [line.split() for line in block.splitlines()]

    assert "on 2026-01-02 (5.10.0-1, 6.18.4-x)" in block
    assert ["scenario", "5.10", "6.18", "cause"] in lines
    assert ["one", "o", "i", "pid-max"] in lines
    assert ["two", "-", "X", "seccomp", "(1)"] in lines
    assert "- (1) no such kernel." in block


def test_another_architecture_has_a_table_and_a_date_of_its_own() -> None:
    before = json.loads(table.data(CELLS, CAUSES, {"5.10": "5.10.0-1"}, "2026-01-02"))
    cells = [Cell("one", "arm64-6.1", "kprobe", RIGHT, "")]
    releases = {"arm64-6.1": "6.1.0-2-arm64"}
    found = json.loads(table.data(cells, CAUSES, releases, "2026-03-04", before))
    block = " ".join(table.docs(found).split())

    assert "on 2026-01-02 (5.10.0-1) and on 2026-03-04 (6.1.0-2-arm64)" in block
    assert "On arm64, in this order: kprobe. ``` scenario 6.1 cause one o pid-max" in block
    assert before["scenarios"][0]["cells"].items() < found["scenarios"][0]["cells"].items()


def test_what_is_kept_is_a_scenario_a_line() -> None:
    text = table.data(CELLS, CAUSES, {"5.10": "5.10.0-1"}, "2026-01-02")

    assert 2 + len(CAUSES) == len(text.splitlines())
    assert {"5.10 fexit": "right", "native tracepoint": "inferred-right"} == (
        json.loads(text)["scenarios"][0]["cells"]
    )
