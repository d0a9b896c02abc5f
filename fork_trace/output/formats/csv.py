"""The rows of a report as CSV, for a spreadsheet."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence

from fork_trace.escape import safe
from fork_trace.model.records import Header, Slow, Summary
from fork_trace.output import times
from fork_trace.output.aggregate import Row, Table
from fork_trace.output.report_options import PLAIN, ReportOptions

# A spreadsheet would take the text for a formula: after blanks too, and where it splits lines at
# semicolons, after one of them. Besides ASCII's signs there are full-width and small ones and the minus
# sign, which stand for them in some languages; tabs and line ends are escaped by then.
_FORMULA = re.compile(r"(^|;)(?=\s*[-=+@\uff1d\uff0b\uff0d\uff20\ufe66\ufe62\ufe63\ufe6b\u2212])")


class _Lines(list[str]):
    """What csv takes for a file."""

    def write(self, text: str) -> None:
        self.append(text)


def write(
    counted: Table,
    _summaries: Sequence[Summary],
    headers: Sequence[Header],
    options: ReportOptions = PLAIN,
) -> str:
    """Write the rows as CSV: a heading, one line for each row; what is not known is "?".

    Slow forks are a table of their own, after an empty line; the only one where nothing else was looked for.
    """
    parts = [_failures(counted)] if headers or not options.timed else []
    slow = [each for each in options.timed if isinstance(each, Slow)]
    parts += [_slow(slow)] if options.timed else []
    return "\n".join(parts)


def _slow(slow: Sequence[Slow]) -> str:
    lines = _Lines()
    writer = csv.writer(lines, lineterminator="\n")
    numbers = ("count", "p50_ms", "p99_ms", "max_ms", "total_ms", "over_ms")
    writer.writerow(["host", "command", "caller", *numbers, "reason", "certainty", "last"])
    for each in slow:
        writer.writerow(
            [
                *map(_text, (each.host, each.comm, each.caller)),
                *(f"{getattr(each, name):.12g}" for name in numbers),
                *map(_text, (each.reason, each.certainty, each.time)),
            ]
        )
    return "".join(lines)


def _failures(counted: Table) -> str:
    lines = _Lines()
    writer = csv.writer(lines, lineterminator="\n")
    numbers = ("count", "errno", "certainty", "limit_name", "used", "limit", "unit", "where")
    writer.writerow([*counted.by, *numbers, "per_second", "first", "last", "places"])
    for row in counted.rows():
        rate = row.per_second()
        writer.writerow(
            [
                *(_text(value) for value in row.key),
                row.count,
                _text(" ".join(sorted(row.errnos))),
                *_numbers(row),
                "-" if rate is None else f"{rate:.6g}",
                times.moment(row.first_ns),
                times.moment(row.last_ns),
                1 + row.at()[1],
            ]
        )
    return "".join(lines)


def _text(value: str | None) -> str:
    text = "?" if value is None else safe(value)
    return _FORMULA.sub(r"\1'", text)


def _numbers(row: Row) -> list[object]:
    """Return the numbers of the place where most of a row's failures were."""
    part, _ = row.at()
    if part is None or part.first is None:
        known = None if row.latest is None else row.latest.certainty
        return [_text(known), *["?"] * 5]
    first = part.first
    used = "?" if first.value is None else first.value
    limit = "?" if first.limit is None else first.limit
    texts = [_text(value) for value in (part.certainty, first.name, first.unit, first.where)]
    return [texts[0], texts[1], used, limit, *texts[2:]]
