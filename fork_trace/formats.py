"""A report for programs and for pages: JSON, JSON Lines, Markdown, CSV. Pure: counted failures in, text out.

What it says to people is `report`'s; the records themselves are `records`'.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fork_trace import records, report, tables
from fork_trace.aggregate import Row, Table
from fork_trace.diagnosis.advice import means
from fork_trace.names import json_line, safe
from fork_trace.records import Header, Summary
from fork_trace.report import PLAIN, More

FORMATS: tuple[str, ...] = ("table", "json", "jsonl", "markdown", "csv")
# Of a run that is still going on.
STREAMS: tuple[str, ...] = ("table", "jsonl")

# What would be markup outside of a code span: a program may be called "[x](y)".
_MARKUP = re.compile(
    r"[\\`*\[\]<>|~&]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|^[-+#=]|(?<=^[0-9])[.)](?= )"
)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_. /:+?-]*( ?\*)?")
# A spreadsheet would take the text for a formula.
_FORMULA = ("=", "+", "-", "@")


def write(
    format_: str,
    counted: Table,
    summaries: Sequence[Summary],
    headers: Sequence[Header],
    more: More = PLAIN,
) -> str:
    """Write the whole report in one of FORMATS; as JSON Lines only its last record."""
    if format_ == "table":
        return report.text(counted, summaries, headers, more)
    if format_ == "json":
        return json_line(whole(counted, summaries, headers, more)) + "\n"
    if format_ == "jsonl":
        return json_line(merged_summary(counted, summaries, more)) + "\n"
    if format_ == "markdown":
        return markdown(counted, summaries, headers, more)
    return rows_as_csv(counted)


def json_rows(counted: Table, more: More = PLAIN) -> list[dict[str, Any]]:
    """Return the rows of a report as JSON objects."""
    rows: list[dict[str, Any]] = []
    for row in counted.rows():
        rows.append(
            {
                **dict(zip(counted.by, row.key)),
                "count": row.count,
                "errnos": dict(row.errnos),
                "causes": dict(row.causes),
                "first_ns": row.first_ns,
                "last_ns": row.last_ns,
                "per_second": row.per_second(),
            }
        )
        if more.stacks:
            stack = row.sample.stack if row.sample else ()
            rows[-1]["stack"] = [asdict(frame) for frame in stack]
    return rows


def merged_summary(
    counted: Table, summaries: Sequence[Summary], more: More = PLAIN
) -> dict[str, Any]:
    """Add up the summaries of several captures, with the rows of the merged table."""
    missed = [summary.missed for summary in summaries]
    return {
        "type": "summary",
        "captures": len(summaries),
        "failures": counted.failures,
        "causes": dict(sorted(counted.causes.items())),
        "rows": json_rows(counted, more),
        "lost": sum(summary.lost for summary in summaries),
        "missed": None if None in missed else sum(number or 0 for number in missed),
        "skipped": sum(summary.skipped for summary in summaries),
        "folded": sum(summary.folded for summary in summaries),
        "retries": sum(summary.retries for summary in summaries),
        "dying": sum(summary.dying for summary in summaries),
    }


def whole(
    counted: Table,
    summaries: Sequence[Summary],
    headers: Sequence[Header],
    more: More = PLAIN,
) -> dict[str, Any]:
    """Return a report as one JSON object: what it says, and what it says it of."""
    hosts = report.hosts_of(headers)
    merged = merged_summary(counted, summaries, more)
    causes = [
        {
            "cause": cause,
            "host": host,
            "count": group.count,
            "means": means(cause),
            "latest": json.loads(records.to_json(group.latest)),
        }
        for cause, _ in counted.causes.most_common()
        for host, group in counted.hosts(cause)
    ]
    captures = [
        {
            **{name: getattr(header, name) for name in ("host", "kernel", "machine", "tool")},
            **{name: getattr(header, name) for name in ("rung", "backend", "time")},
            **{name: getattr(summary, name) for name in ("duration_s", "failures", "ended")},
        }
        for header, summary in zip(headers, summaries)
    ]
    return {
        **merged,
        "type": "report",
        "verdict": report.verdict(counted, report.longest(summaries), hosts, width=None),
        "captures": captures,
        "causes": causes,
    }


class _Lines(list[str]):
    """What csv takes for a file."""

    def write(self, text: str) -> None:
        self.append(text)


def rows_as_csv(counted: Table) -> str:
    """Write the rows as CSV: a heading, one line for each row; what is not known is "?"."""
    lines = _Lines()
    writer = csv.writer(lines, lineterminator="\n")
    numbers = ("count", "errno", "certainty", "limit_name", "used", "limit", "unit", "where")
    writer.writerow([*counted.by, *numbers, "per_second", "first", "last"])
    for row in counted.rows():
        rate = row.per_second()
        writer.writerow(
            [
                *(_text(value) for value in row.key),
                row.count,
                _text(" ".join(sorted(row.errnos))),
                *_numbers(row),
                "-" if rate is None else f"{rate:.6g}",
                tables.moment(row.first_ns),
                tables.moment(row.last_ns),
            ]
        )
    return "".join(lines)


def _text(value: str | None) -> str:
    text = "?" if value is None else safe(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _numbers(row: Row) -> list[object]:
    latest = row.latest
    if latest is None or len(row.causes) > 1:
        return ["-"] * 6  # of several causes none can speak for the row
    if not latest.evidence:
        return [_text(latest.certainty), *["?"] * 5]
    first = latest.evidence[0]
    used = "?" if first.value is None else first.value
    limit = "?" if first.limit is None else first.limit
    texts = [_text(value) for value in (latest.certainty, first.name, first.unit, first.where)]
    return [texts[0], texts[1], used, limit, *texts[2:]]


def markdown(
    counted: Table,
    summaries: Sequence[Summary],
    headers: Sequence[Header],
    more: More = PLAIN,
) -> str:
    """Write the report as Markdown, for a ticket or a page."""
    hosts = report.hosts_of(headers)
    lines = [f"**{escaped(report.verdict(counted, report.longest(summaries), hosts, None))}**"]
    if counted.failures:
        rows, rest = report.shown(counted, more)
        lines += ["", *_table(rows, counted.by, more)]
        lines += ["", *map(_spans, rest)] if rest else []
        if "cause" in counted.by and any(map(tables.is_inferred, rows)):
            lines += ["", escaped(tables.INFERRED)]
        if more.stacks:
            lines += ["", *_fenced(report.stacks(rows)[1:])]
        for told in report.tell_all(counted, hosts):
            lines += ["", f"### {_spans(told.title)}", ""]
            lines += [f"- {_spans(sentence)}" for sentence in (*told.facts, *told.advice)]
    lines += ["", *(f"{_spans(sentence)}  " for sentence in report.closing(summaries, headers))]
    return "\n".join(lines) + "\n"


def _table(rows: Sequence[Row], by: Sequence[str], more: More) -> list[str]:
    headings, lines = tables.cells(rows, by, more.times)
    alignment = ["right"] + ["left"] * (len(headings) - 1)
    filled = [[_cell(text) for text in line] for line in lines]
    return tables.draw(filled, headings, alignment, "pipe").splitlines()


def _cell(text: str) -> str:
    """Write a name into a cell: as it is, or as a code span, in which nothing is markup."""
    if _PLAIN_NAME.fullmatch(text):
        return text
    if "|" in text and "\\" in text:
        return escaped(text)  # in a code span the one could not be told to escape the other
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}".replace("|", "\\|")


def escaped(text: str) -> str:
    """Escape what Markdown would take for markup."""
    return _MARKUP.sub(r"\\\g<0>", text)


def _spans(text: str) -> str:
    """Keep the commands of a sentence as code spans; all else in it is escaped."""
    # A name can bring backticks of its own. As long as each stands alone, they pair up here just
    # as they do for whoever renders it; otherwise none is taken for one.
    parts = text.split("`")
    if "``" in text or len(parts) % 2 == 0:
        return escaped(text)
    return "`".join(part if n % 2 else escaped(part) for n, part in enumerate(parts))


def _fenced(lines: Sequence[str]) -> list[str]:
    longest = max((len(run) for run in re.findall("`+", "\n".join(lines))), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *lines, fence]
