"""The totals and rows of a report as JSON values: what a summary record and every JSON format hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fork_trace.model.records import Death, Summary
from fork_trace.output.aggregate import Table
from fork_trace.output.completeness import Unclosed, added_deaths, number_of, unclosed
from fork_trace.output.report_options import PLAIN, ReportOptions

UNKNOWN = "unknown"  # of deaths whose record was lost


def json_rows(counted: Table, options: ReportOptions = PLAIN) -> list[dict[str, Any]]:
    """Return the rows of a report as JSON objects."""
    rows: list[dict[str, Any]] = []
    for row in counted.rows():
        part, others = row.at()
        first = part.first if part else None
        rows.append(
            {
                **dict(zip(counted.by, row.key)),
                "count": row.count,
                "errnos": dict(row.errnos),
                "causes": dict(row.causes),
                "first_ns": row.first_ns,
                "last_ns": row.last_ns,
                "per_second": row.per_second(),
                "certainty": part.certainty if part and first else None,
                "limit_name": first.name if first else None,
                "used": first.value if first else None,
                "limit": first.limit if first else None,
                "unit": first.unit if first else None,
                "where": first.where if first else None,
                "places": 1 + others,
            }
        )
        if options.stacks:
            stack = row.sample.stack if row.sample else ()
            rows[-1]["stack"] = [asdict(frame) for frame in stack]
    return rows


def merged_summary(
    counted: Table, summaries: Sequence[Summary], options: ReportOptions = PLAIN
) -> dict[str, Any]:
    """Add up the summaries of several captures, with the rows of the merged table."""
    missed = [summary.missed for summary in summaries]
    # Of a capture without totals nobody knows what it lost.
    is_known = not any(isinstance(summary, Unclosed) for summary in summaries)
    lacks = counted.completeness
    added = {
        name: sum(getattr(summary, name) for summary in summaries) if is_known else None
        for name in ("lost", "rate_limited", "overflowed", "restarted", "killed")
    }
    killed = [summary.oom_kills for summary in summaries]
    return {
        "type": "summary",
        "captures": number_of(summaries),
        "unclosed": unclosed(summaries),
        "lower_bound": lacks.is_lower_bound,
        "failures": counted.failures,
        "causes": dict(sorted(counted.causes.items())),
        "rows": json_rows(counted, options),
        **added,
        "missed": None if None in missed else sum(number or 0 for number in missed),
        "oom_kills": None if None in killed else sum(number or 0 for number in killed),
        "deaths": _deaths(counted, summaries),
        "gaps": [
            {"host": gap.host, "kind": gap.kind, "from": gap.from_, "to": gap.to}
            for gap in lacks.gaps
        ],
    }


def _deaths(counted: Table, summaries: Sequence[Summary]) -> dict[str, int] | None:
    """Count the deaths that are in the report, and those that no record tells of; None: not watched."""
    known = added_deaths(summaries)
    if known is None:
        return None
    lost = known.get(UNKNOWN, 0)
    return {**counted.incidents.counts(Death), **({UNKNOWN: lost} if lost else {})}
