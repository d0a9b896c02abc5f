"""What a person reads of the lanes: the list of them, and how they ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from live.matrix import CHECK_BUDGET_S, Lane

from run.running import Ended, files

_SLOWEST = 20


class Test(NamedTuple):
    """One test of one lane, and how long it took with its setup."""

    lane: str
    name: str
    took_s: float


def listed(lanes: Sequence[Lane], checks: bool) -> str:
    """Show the lanes, longest first, and what they would take."""
    rows = [f"{'LANE':<14} {'KERNEL':<10} {'BUDGET':>7}  WHAT"]
    if checks:
        rows.append(f"{'check':<14} {'native':<10} {CHECK_BUDGET_S:>5} s  scripts/check")
    for lane in sorted(lanes, key=lambda each: -each.budget_s):
        layout = "" if lane.cgroup == "v2" else f" {lane.cgroup}"
        what = " ".join(lane.command) or " ".join(each.rpartition("/")[2] for each in files(lane))
        kernel = (lane.kernel or "native") + layout
        rows.append(f"{lane.name:<14} {kernel:<10} {lane.budget_s:>5} s  {what}")
    total_s = sum(lane.budget_s for lane in lanes) + (CHECK_BUDGET_S if checks else 0)
    rows.append(f"{total_s} s in all, {total_s / 120:.0f} minutes on two cores")
    return "\n".join(rows)


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


def cells(results: Path) -> list[dict[str, str]]:
    """The accuracy cells that the rehearsals of all lanes wrote."""
    return [
        cell
        for file in sorted(results.glob("cells-*.json"))
        for cell in json.loads(file.read_text())["cells"]
    ]


def told(ended: Sequence[Ended], results: Path) -> str:
    """Sum up: the slowest tests, what the cells are, and each lane against its budget."""
    lines = ["", f"Slowest {_SLOWEST}:"]
    lines += [f"{each.took_s:7.1f} s  {each.lane:<12} {each.name}" for each in slowest(results)]
    found = cells(results)
    if found:
        counts = {result: 0 for result in sorted({each["result"] for each in found})}
        for each in found:
            counts[each["result"]] += 1
        (results / "accuracy.json").write_text(json.dumps({"cells": found}))
        listed = ", ".join(f"{count} {result}" for result, count in counts.items())
        lines += ["", f"Accuracy: {listed}"]
    lines += ["", f"{'LANE':<14} {'TOOK':>7} {'CPU':>7} {'BUDGET':>7}"]
    for lane in ended:
        cpu = "" if lane.cpu_s is None else f"{lane.cpu_s:5.0f} s"
        how = lane.note or ("passed" if not lane.why else f"FAILED: {lane.why}")
        lines.append(f"{lane.name:<14} {lane.took_s:5.0f} s {cpu:>7} {lane.budget_s:5.0f} s  {how}")
    return "\n".join(lines)
