"""The formats of a report. Each is the file of its name beside this one, with a function `write`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Callable

from fork_trace.output.report_options import ReportOptions

if TYPE_CHECKING:
    from fork_trace.model.records import Header, Summary
    from fork_trace.output.aggregate import Table

FORMATS: tuple[str, ...] = ("table", "json", "jsonl", "markdown", "csv")
# Those that a run can write while it goes on.
STREAMS: tuple[str, ...] = ("table", "jsonl")


def writer(
    name: str,
) -> Callable[[Table, Sequence[Summary], Sequence[Header], ReportOptions], str]:
    """Load one of FORMATS; what is returned writes a whole report."""
    write: Callable[[Table, Sequence[Summary], Sequence[Header], ReportOptions], str]
    write = import_module(f"fork_trace.output.formats.{name}").write
    return write
