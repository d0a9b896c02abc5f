"""What a capture says of one rehearsal, against what was rehearsed. Pure: records in, a verdict out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fork_trace.rehearse.scenarios import Scenario

RIGHT = "right"
INFERRED = "inferred-right"
WRONG = "wrong"
NOT_HERE = "not-triggerable"

# A prime, and no more than is sampled in a second: each failure has a record of its own. Each of them
# costs every watcher fifty milliseconds under emulation.
COUNT = 11

# Until the programs of every step are attached, the kernel side sees that a memory cgroup refused,
# but not for which of the many things that a fork allocates.
_COARSER_STEPS = {"memory-cgroup": ("copy_process", "dup_mmap")}


class Verdict(NamedTuple):
    """One of the four results, and the reason where there is something to say."""

    result: str
    why: str = ""


class Cell(NamedTuple):
    """One field of the table."""

    scenario: str
    kernel: str
    attach: str
    result: str
    why: str


def judge(
    scenario: Scenario,
    told: Mapping[str, Any] | None,
    records: Sequence[Mapping[str, Any]],
    is_native: bool = False,
) -> Verdict:
    """Judge the records of one capture, in which COUNT forks were to fail as the scenario says.

    `told` is what the rehearsal said of itself, as `fork-trace rehearse --json`, or `error` where
    it could not be done; None if it said nothing. A host that is not made for it, a native one, may
    be unable to; a guest must be able.
    """
    if told is None:
        return Verdict(WRONG, "the rehearsal ended without a word")
    if "not_here" in told:
        return Verdict(NOT_HERE, told["not_here"])
    if "error" in told:
        if is_native:
            return Verdict(NOT_HERE, told["error"])
        return Verdict(WRONG, f"could not be rehearsed: {told['error']}")
    failures = [
        each for each in records if each["type"] == "failure" and each["comm"] == scenario.comm
    ]
    summary = records[-1] if records and records[-1]["type"] == "summary" else None
    if summary is None:
        return Verdict(WRONG, "the capture has no summary")
    faults = [
        *_faults_of_the_rehearsal(scenario, told),
        *_faults_of_the_records(scenario, failures),
        *_faults_of_the_summary(scenario, summary),
    ]
    # Of the whole host, in the whole capture; if the COUNT are all there, none of them is among these.
    # None: the kernel does not count them.
    missed = [f"{summary['missed']} calls missed in the capture"] if summary["missed"] else []
    if faults:
        return Verdict(WRONG, "; ".join(faults + missed))
    inferred = [each for each in failures if each["certainty"] != "observed"]
    if inferred:
        return Verdict(INFERRED, "; ".join(_how_inferred(scenario, inferred) + missed))
    return Verdict(RIGHT, "; ".join(missed))


def _faults_of_the_rehearsal(scenario: Scenario, told: Mapping[str, Any]) -> list[str]:
    made = told["failures"]
    if made == {scenario.errno: COUNT}:
        return []
    return [f"the rehearsal itself met {_listed(made)} in place of {COUNT} x {scenario.errno}"]


def _faults_of_the_records(
    scenario: Scenario, failures: Sequence[Mapping[str, Any]]
) -> Iterable[str]:
    causes: Counter[str] = Counter()
    errnos: Counter[str] = Counter()
    steps: Counter[str] = Counter()
    for each in failures:
        causes[each["cause"]] += each["count"]
        errnos[str(each["errno"])] += each["count"]
        if each["certainty"] == "observed" and not _fits_step(scenario, each["step"]):
            steps[each["step"]] += each["count"]
    total = sum(causes.values())
    if total != COUNT:
        yield f"{total} of {COUNT} failures recorded"
    if set(causes) - {scenario.cause}:
        yield f"named {_listed(causes)}; the cause was {scenario.cause}"
    if set(errnos) - {scenario.errno}:
        yield f"errno {_listed(errnos)}; it was {scenario.errno}"
    if steps:
        yield f"observed at {_listed(steps)}; the step was {scenario.step}"


def _fits_step(scenario: Scenario, step: str) -> bool:
    return step == scenario.step or step in _COARSER_STEPS.get(scenario.cause, ())


def _faults_of_the_summary(scenario: Scenario, summary: Mapping[str, Any]) -> Iterable[str]:
    exact: Counter[str] = Counter()
    for each in summary["totals"]:
        if each["comm"] == scenario.comm:
            exact[each["cause"]] += each["count"]
    if exact != {scenario.cause: COUNT}:
        yield f"exact totals {_listed(exact)}"
    if summary["lost"]:
        yield f"{summary['lost']} samples lost"


def _how_inferred(scenario: Scenario, inferred: Sequence[Mapping[str, Any]]) -> list[str]:
    told = []
    count = sum(each["count"] for each in inferred)
    if count != COUNT:
        told.append(f"{count} of {COUNT}, until every step had its program")
    also = list(dict.fromkeys(cause for each in inferred for cause in each["alternatives"]))
    if also:
        told.append(f"or {', '.join(also)}")
    steps = sorted({each["step"] for each in inferred} - {scenario.step})
    if steps:
        told.append(f"at {', '.join(steps)} and not {scenario.step}")
    return told


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {name}" for name, count in sorted(counts.items())) or "none"
