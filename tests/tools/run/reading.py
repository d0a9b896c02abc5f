"""What a person reads of the lanes: the list of them, and how they ended."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

from building import MOVED_OBJECT
from live.matrix import LANES, Lane

from run.running import CUT_SHORT, NOT_RUN, Ended, files

_SLOWEST = 20


class Test(NamedTuple):
    """One test of one lane, and how long it took with its setup."""

    lane: str
    name: str
    took_s: float


def listed(lanes: Sequence[Lane], check_s: int) -> str:
    """Show the lanes, longest first, and what they would take; `check_s` is what scripts/check takes."""
    rows = [f"{'LANE':<18} {'KERNEL':<14} {'BUDGET':>7}  WHAT"]
    if check_s:
        rows.append(f"{'check':<18} {'native':<14} {check_s:>5} s  scripts/check")
    for lane in sorted(lanes, key=lambda each: -each.budget_s):
        layout = "" if lane.cgroup == "v2" else f" {lane.cgroup}"
        what = " ".join(lane.command) or " ".join(each.rpartition("/")[2] for each in files(lane))
        kernel = (lane.kernel or "native") + layout
        rows.append(f"{lane.name:<18} {kernel:<14} {lane.budget_s:>5} s  {what}")
    total_s = sum(lane.budget_s for lane in lanes) + check_s
    rows.append(f"{total_s} s in all, {total_s / 120:.0f} minutes on two cores")
    return "\n".join(rows)


def clear(results: Path) -> None:
    """Take away what an earlier run left there under the names that this one uses."""
    names = ["check.xml", MOVED_OBJECT, *(f"{lane.name}.xml" for lane in LANES)]
    for path in [*(results / name for name in names), *results.glob("cells-*.json")]:
        path.unlink(missing_ok=True)


def tests(file: Path) -> list[Test]:
    """Read the tests of one JUnit file."""
    return [
        Test(
            file.stem,
            f"{str(case.get('classname')).rpartition('.')[2]}::{case.get('name')}",
            float(case.get("time") or 0),
        )
        for case in ElementTree.parse(file).iter("testcase")
    ]


def slowest(results: Path) -> list[Test]:
    """The slowest tests of all lanes."""
    found = [each for file in sorted(results.glob("*.xml")) for each in tests(file)]
    return sorted(found, key=lambda each: -each.took_s)[:_SLOWEST]


def collect(results: Path) -> dict[str, Any]:
    """Put what the rehearsals of all lanes wrote together, as scripts/accuracy --cells reads it.

    Several lanes may rehearse on one kernel, each by some attach modes. If by the same, the lane with the
    most of them counts.
    """
    found: dict[str, Any] = {"cells": [], "releases": {}}
    parts = [json.loads(file.read_text()) for file in sorted(results.glob("cells-*.json"))]
    places = set()
    for part in sorted(parts, key=lambda part: -len(part["cells"])):
        found["releases"].update(part["releases"])
        for cell in part["cells"]:
            place = (cell["scenario"], cell["kernel"], cell["attach"])
            if place not in places:
                places.add(place)
                found["cells"].append(cell)
    found["cells"].sort(key=lambda cell: cell["kernel"])
    return found


def told(ended: Sequence[Ended], results: Path) -> str:
    """Sum up: the slowest tests, what the cells are, and each lane against its budget."""
    lines = ["", f"Slowest {_SLOWEST}:"]
    lines += [f"{each.took_s:7.1f} s  {each.lane:<12} {each.name}" for each in slowest(results)]
    found = collect(results)
    if found["cells"]:
        (results / "accuracy.json").write_text(json.dumps(found))
        counts = Counter(cell["result"] for cell in found["cells"])
        listed = ", ".join(f"{count} {result}" for result, count in sorted(counts.items()))
        lines += [
            "",
            f"Accuracy: {listed}; scripts/accuracy --cells accuracy.json shows the table.",
        ]
    lines += ["", f"{'LANE':<18} {'TOOK':>7} {'CPU':>7} {'BUDGET':>7}"]
    for lane in ended:
        cpu = "" if lane.cpu_s is None else f"{lane.cpu_s:5.0f} s"
        how = lane.note or ("passed" if not lane.why else f"FAILED: {lane.why}")
        lines.append(f"{lane.name:<18} {lane.took_s:5.0f} s {cpu:>7} {lane.budget_s:5.0f} s  {how}")
    return "\n".join(lines)


def stopped(ended: Sequence[Ended], number: int) -> str:
    """Say what a signal kept from being run."""
    parts = [
        f"{what}: {', '.join(names)}."
        for what in (CUT_SHORT, NOT_RUN)
        if (names := [each.name for each in ended if each.why == what])
    ]
    told = " ".join(part[0].upper() + part[1:] for part in parts)
    return f"scripts/test: ended by {signal.Signals(number).name}. {told}".rstrip()
