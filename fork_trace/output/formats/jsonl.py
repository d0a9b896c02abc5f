"""A report as the last line of JSON Lines; the records before it are written as they come."""

from __future__ import annotations

from collections.abc import Sequence

from fork_trace.escape import json_line
from fork_trace.model.records import Header, Summary
from fork_trace.output.aggregate import Table
from fork_trace.output.report_options import PLAIN, ReportOptions
from fork_trace.output.summary import merged_summary


def write(
    counted: Table,
    summaries: Sequence[Summary],
    headers: Sequence[Header],
    options: ReportOptions = PLAIN,
) -> str:
    """Write the summary of all captures as one line."""
    return json_line(merged_summary(counted, summaries, options)) + "\n"
