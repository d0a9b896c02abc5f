"""A report as one JSON object: what it says, and what it says it of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from fork_trace.diagnosis.advice import means
from fork_trace.escape import json_line
from fork_trace.model import records
from fork_trace.model.records import Failure, Header, Summary
from fork_trace.output import report
from fork_trace.output.aggregate import Table
from fork_trace.output.report_options import PLAIN, ReportOptions
from fork_trace.output.summary import merged_summary


def write(
    counted: Table,
    summaries: Sequence[Summary],
    headers: Sequence[Header],
    options: ReportOptions = PLAIN,
) -> str:
    """Write the whole report on one line."""
    return json_line(whole(counted, summaries, headers, options)) + "\n"


def whole(
    counted: Table,
    summaries: Sequence[Summary],
    headers: Sequence[Header],
    options: ReportOptions = PLAIN,
) -> dict[str, Any]:
    """Return a report as one JSON object: what it says, and what it says it of."""
    hosts = report.hosts_of(headers)
    merged = merged_summary(counted, summaries, options)
    causes = [
        {
            "cause": cause,
            "host": host,
            "count": group.count,
            "means": means(cause),
            "latest": json.loads(records.to_json(_advised(group.latest))),
        }
        for cause, _ in counted.causes.most_common()
        for host, group in counted.hosts(cause)
    ]
    captures = [
        {
            **{name: getattr(header, name) for name in ("host", "kernel", "machine", "tool")},
            **{name: getattr(header, name) for name in ("attach", "backend", "time")},
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
        "notes": list(counted.completeness.notes),
    }


def _advised(failure: Failure) -> Failure:
    advice = report.advice_of(failure)
    return replace(failure, advice=advice) if advice != failure.advice else failure
