"""The cells as a table, for a terminal, as data and for the book. Pure: cells in, text out."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from tabulate import tabulate

from accuracy.judging import INFERRED, NOT_HERE, RIGHT, WRONG, Cell

_MARKS = {RIGHT: "right", INFERRED: "inferred", WRONG: "WRONG", NOT_HERE: "-"}
_LETTERS = {RIGHT: "o", INFERRED: "i", WRONG: "X", NOT_HERE: "-"}


def text(cells: Sequence[Cell], causes: Mapping[str, str]) -> str:
    """Show cause, scenario and result, and below them whatever needs a reason.

    `causes` has the cause of each scenario.
    """
    columns, rows, reasons = _grid(cells, causes)
    head = ["CAUSE", "SCENARIO", *("\n".join(column) for column in columns)]
    lines = [tabulate(rows, head, tablefmt="plain", disable_numparse=True), ""]
    lines += [f"({number}) {reason}" for reason, number in reasons.items()]
    for title, results in (("Wrong", (WRONG,)), ("Something to add", (RIGHT, INFERRED))):
        told: dict[str, dict[str, list[str]]] = {}
        for each in cells:
            if each.result in results and each.why:
                places = told.setdefault(each.why, {}).setdefault(each.scenario, [])
                places.append(f"{each.kernel} {each.attach}")
        lines += ["", f"{title}:"] if told else []
        for why, scenarios in told.items():
            named = "; ".join(f"{name} ({', '.join(each)})" for name, each in scenarios.items())
            lines += textwrap.wrap(
                f"{named}: {why}", 100, initial_indent="- ", subsequent_indent="  "
            )
    counts = [
        f"{sum(each.result == result for each in cells)} {result}"
        for result in (RIGHT, INFERRED, WRONG, NOT_HERE)
    ]
    lines += ["", ", ".join(counts)]
    return "\n".join(lines)


def data(
    cells: Sequence[Cell],
    causes: Mapping[str, str],
    releases: Mapping[str, str],
    date: str,
    kept: Mapping[str, Any] | None = None,
) -> str:
    """Write the cells as JSON, a scenario a line; `releases` has what each kernel calls itself.

    Of kernels that are not among them `kept`, such data as it was before, is written again.
    """
    before = {"kernels": {}, "scenarios": []} if kept is None else kept
    old = {each["scenario"]: each["cells"] for each in before["scenarios"]}
    lines = []
    for name, cause in causes.items():
        found = {
            place: result
            for place, result in old.get(name, {}).items()
            if place.split()[0] not in releases
        }
        for each in (cell for cell in cells if cell.scenario == name):
            why = f": {each.why}" if each.result == NOT_HERE else ""
            found[f"{each.kernel} {each.attach}"] = f"{each.result}{why}"
        if found:
            lines.append(json.dumps({"scenario": name, "cause": cause, "cells": found}))
    new = {name: {"release": release, "date": date} for name, release in releases.items()}
    kernels = {**before["kernels"], **new}
    ordered = {name: kernels[name] for name in sorted(kernels, key=_order)}
    head = {"command": "scripts/accuracy --write-docs", "kernels": ordered}
    rows = ",\n".join(lines)
    return f'{json.dumps(head)[:-1]}, "scenarios": [\n{rows}\n]}}\n'


def _order(kernel: str) -> tuple[bool, bool, list[int]]:
    numbers = [int(each) for each in re.findall(r"\d+", kernel.replace("arm64", ""))]
    return "arm64" in kernel, not numbers, numbers  # what ran natively has none


def docs(found: Mapping[str, Any]) -> str:
    """Show such data as a block of the book, narrower than a terminal: a letter for each cell."""
    kernels = found["kernels"]
    dates = dict.fromkeys(each["date"] for each in kernels.values())
    measured = [
        f"{date} ({', '.join(each['release'] for each in kernels.values() if each['date'] == date)})"
        for date in dates
    ]
    lines = [
        *_wrapped(f"Measured by `{found['command']}` on {' and on '.join(measured)}."),
        "",
        *_wrapped(
            "Below each kernel is a letter for each attach mode: `o` every failure observed, with this "
            "cause; `i` every failure reported with this cause, some inferred from kernel state; `X` wrong; "
            "`-` cannot be made there. The cause is given where the scenario is not named after it."
        ),
    ]
    reasons: dict[str, int] = {}
    by_machine: dict[str, list[str]] = {}
    for name in kernels:
        by_machine.setdefault("arm64" if name.startswith("arm64-") else "x86-64", []).append(name)
    for machine, names in by_machine.items():
        lines += ["", *_table_of(machine, names, found, reasons)]
    lines += [""]
    for reason, number in reasons.items():
        lines += _wrapped(f"({number}) {reason.rstrip('.')}.", "- ", "  ")
    return "\n".join(lines)


def _table_of(
    machine: str, names: Sequence[str], found: Mapping[str, Any], reasons: dict[str, int]
) -> list[str]:
    """Show the cells of some kernels; adds to `reasons` why some cannot be made."""
    scenarios = found["scenarios"]
    columns: dict[str, list[str]] = {name: [] for name in names}
    for place in dict.fromkeys(place for each in scenarios for place in each["cells"]):
        if place.split()[0] in columns:
            columns[place.split()[0]].append(place)
    modes = [place.split()[1] for place in max(columns.values(), key=len)]
    # What ran natively is named by its kernel, too.
    short = [".".join(found["kernels"][each]["release"].split(".")[:2]) for each in names]
    rows = []
    for each in scenarios:
        marks = []
        notes: dict[int, None] = {}
        for places in columns.values():
            told = [each["cells"].get(place, "").partition(": ") for place in places]
            marks.append("".join(_LETTERS.get(result, " ") for result, _, _ in told))
            for why in (why for _, _, why in told if why):
                notes[reasons.setdefault(why, len(reasons) + 1)] = None
        cause = "" if each["cause"] == each["scenario"] else each["cause"]
        tail = " ".join([cause, *(f"({number})" for number in notes)]).strip()
        rows.append([each["scenario"], *marks, tail])
    fewer = [
        f" {release}: {', '.join(place.split()[1] for place in places)} only."
        for release, places in zip(short, columns.values())
        if len(places) < len(modes)
    ]
    table = [["scenario", *short, "cause"], *rows]
    rooms = [max(map(len, column)) for column in zip(*table)]
    grid = [
        " ".join(cell.ljust(room) for cell, room in zip(row, (*rooms[:-1], 0))).rstrip()
        for row in table
    ]
    head = _wrapped(f"On {machine}, in this order: {', '.join(modes)}.{''.join(fewer)}")
    return [*head, "", "```", *grid, "```"]


def _wrapped(words: str, first: str = "", others: str = "") -> list[str]:
    return textwrap.wrap(
        words, 79, initial_indent=first, subsequent_indent=others, break_on_hyphens=False
    )


def _grid(
    cells: Sequence[Cell], causes: Mapping[str, str]
) -> tuple[list[tuple[str, str]], list[list[str]], dict[str, int]]:
    columns = list(dict.fromkeys((each.kernel, each.attach) for each in cells))
    by_place = {(each.scenario, each.kernel, each.attach): each for each in cells}
    reasons: dict[str, int] = {}
    rows = []
    for scenario in dict.fromkeys(each.scenario for each in cells):
        row = [causes[scenario], scenario]
        for kernel, attach in columns:
            cell = by_place.get((scenario, kernel, attach))
            mark = _MARKS[cell.result] if cell else ""
            if cell and cell.result == NOT_HERE:
                mark += f" ({reasons.setdefault(cell.why, len(reasons) + 1)})"
            row.append(mark)
        rows.append(row)
    return columns, rows, reasons
