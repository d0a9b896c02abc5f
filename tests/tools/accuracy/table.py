"""The cells as a table, for a terminal, as data and for the book. Pure: cells in, text out."""

from __future__ import annotations

import json
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
    cells: Sequence[Cell], causes: Mapping[str, str], releases: Mapping[str, str], date: str
) -> str:
    """Write the cells as JSON, a scenario a line; `releases` has what each kernel calls itself."""
    lines = []
    for name, cause in causes.items():
        found = {
            f"{each.kernel} {each.attach}": f"{each.result}: {each.why}"
            if each.result == NOT_HERE
            else each.result
            for each in cells
            if each.scenario == name
        }
        if found:
            lines.append(json.dumps({"scenario": name, "cause": cause, "cells": found}))
    head = {"command": "scripts/accuracy --write-docs", "date": date, "kernels": dict(releases)}
    rows = ",\n".join(lines)
    return f'{json.dumps(head)[:-1]}, "scenarios": [\n{rows}\n]}}\n'


def docs(found: Mapping[str, Any]) -> str:
    """Show such data as a block of the book, narrower than a terminal: a letter for each cell."""
    scenarios = found["scenarios"]
    columns: dict[str, list[str]] = {}
    for place in dict.fromkeys(place for each in scenarios for place in each["cells"]):
        columns.setdefault(place.split()[0], []).append(place)
    modes = [place.split()[1] for place in max(columns.values(), key=len)]
    # What ran natively is named by its kernel, too.
    short = {each: ".".join(found["kernels"][each].split(".")[:2]) for each in columns}
    names = ", ".join(found["kernels"].values())
    reasons: dict[str, int] = {}
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
        f" Under {short[kernel]} there is {', '.join(place.split()[1] for place in places)} only."
        for kernel, places in columns.items()
        if len(places) < len(modes)
    ]
    room = max(len(row[0]) for row in rows)
    grid = [
        f"{name:{room}} {' '.join(f'{mark:{len(modes)}}' for mark in marks)} {cause}".rstrip()
        for name, *marks, cause in [["scenario", *short.values(), "cause"], *rows]
    ]
    lines = [
        *_wrapped(f"Measured by `{found['command']}` on {found['date']} ({names})."),
        "",
        *_wrapped(
            f"Under each kernel, a letter for {', '.join(modes)}, in this order: `o` every failure "
            "observed, with this cause; `i` every failure reported with this cause, some inferred "
            "from kernel state; `X` wrong; `-` cannot be made there. The cause is given where the "
            f"scenario is not named after it.{''.join(fewer)}"
        ),
        *("", "```", *grid, "```", ""),
    ]
    for reason, number in reasons.items():
        lines += _wrapped(f"({number}) {reason.rstrip('.')}.", "- ", "  ")
    return "\n".join(lines)


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
