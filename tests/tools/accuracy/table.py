"""The cells as a table, for a terminal and for the README. Pure: cells in, text out."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

from readme import Place
from tabulate import tabulate

from accuracy.judging import INFERRED, NOT_HERE, RIGHT, WRONG, Cell

PLACE = Place("<!-- accuracy: begin -->", "<!-- accuracy: end -->")

_MARKS = {RIGHT: "right", INFERRED: "inferred", WRONG: "WRONG", NOT_HERE: "-"}


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
                places.append(f"{each.kernel} {each.rung}")
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


def markdown(
    cells: Sequence[Cell], causes: Mapping[str, str], releases: Mapping[str, str], date: str
) -> str:
    """Show the same as a block of the README; `releases` has what each kernel calls itself."""
    columns, rows, reasons = _grid(cells, causes)
    names = ", ".join(f"{kernel}: {release}" for kernel, release in releases.items())
    heads = ["cause", "scenario", *(f"{kernel} {rung}" for kernel, rung in columns)]
    table = [heads, ["---"] * len(heads), *rows]
    lines = [f"Measured by `scripts/accuracy` on {date} ({names}).", ""]
    lines += [f"| {' | '.join(row)} |" for row in table]
    lines += [
        "",
        "*right*: every failure observed, with this cause; *inferred*: every one with this cause, "
        "some concluded from the state; -: cannot be made there.",
    ]
    lines += ["", *(f"({number}) {reason}  " for reason, number in reasons.items())]
    return "\n".join(lines).rstrip()


def _grid(
    cells: Sequence[Cell], causes: Mapping[str, str]
) -> tuple[list[tuple[str, str]], list[list[str]], dict[str, int]]:
    columns = list(dict.fromkeys((each.kernel, each.rung) for each in cells))
    by_place = {(each.scenario, each.kernel, each.rung): each for each in cells}
    reasons: dict[str, int] = {}
    rows = []
    for scenario in dict.fromkeys(each.scenario for each in cells):
        row = [causes[scenario], scenario]
        for kernel, rung in columns:
            cell = by_place.get((scenario, kernel, rung))
            mark = _MARKS[cell.result] if cell else ""
            if cell and cell.result == NOT_HERE:
                mark += f" ({reasons.setdefault(cell.why, len(reasons) + 1)})"
            row.append(mark)
        rows.append(row)
    return columns, rows, reasons
