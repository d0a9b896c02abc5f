"""The formats of a report. Each is the file of its name beside this one, with a function `write`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Callable

from fork_trace.output.report_options import ReportOptions

if TYPE_CHECKING:
    from fork_trace.model.records import Header, Summary
    from fork_trace.output.aggregate import Table
    from fork_trace.output.page.gathered import Gathered

FORMATS: tuple[str, ...] = ("table", "json", "jsonl", "markdown", "csv", "html")
# Those that a run can write at its end: what a page needs is not loaded on a host that cannot fork.
CAPTURED: tuple[str, ...] = FORMATS[:-1]
# Those that a run can write while it goes on.
STREAMS: tuple[str, ...] = ("table", "jsonl")


def writer(
    name: str,
) -> Callable[[Table, Sequence[Summary], Sequence[Header], ReportOptions], str]:
    """Load one of FORMATS; what is returned writes a whole report."""
    write: Callable[[Table, Sequence[Summary], Sequence[Header], ReportOptions], str]
    write = import_module(f"fork_trace.output.formats.{name}").write
    return write


def gathered(name: str) -> Gathered | None:
    """Return what is to be given each record of the stream and then to the writer; None: it needs no more.

    ForkTraceError where what the format needs is not installed.
    """
    if name != "html":
        return None
    found: Gathered = import_module(f"fork_trace.output.formats.{name}").gathered()
    return found
