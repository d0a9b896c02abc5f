"""`fork-trace report`: captures shown again."""

from __future__ import annotations

import sys
from typing import Any

import click
from click.core import ParameterSource

from fork_trace.commands import options
from fork_trace.errors import ForkTraceError
from fork_trace.output.formats import FORMATS

_MOST_LINE = 64 << 20  # characters of a record; a full table of counts has 4 million


@click.command("report")
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", shell_complete=options.paths("file")
)
@options.by
@options.report
@options.formats(FORMATS)
def command(**given: Any) -> None:
    """Show saved captures; merge files from several hosts

    With several hosts, each row names its host unless --by says otherwise.

    \b
    fork-trace report forks.jsonl --by cgroup,cause
    fork-trace report forks.jsonl --format markdown   # for a ticket
    fork-trace report host1.jsonl host2.jsonl
    """
    from fork_trace.model import records
    from fork_trace.output import aggregate, formats
    from fork_trace.output.report import hosts_of

    format_, by = options.format_of(given), given["by"]
    found = [record for name in given["files"] for record in _read(name)]
    headers = [record for record in found if isinstance(record, records.Header)]
    summaries = [record for record in found if isinstance(record, records.Summary)]
    source = click.get_current_context().get_parameter_source("by")
    is_asked = source is not ParameterSource.DEFAULT
    if len(hosts_of(headers)) > 1 and not is_asked and format_ != "jsonl":
        by = ("host", *by)
    counted = aggregate.Table(by)
    host = None
    for record in found:
        if isinstance(record, records.Header):
            host = record.host
        elif isinstance(record, records.Failure):
            counted.add(record, host)
        if format_ == "jsonl" and not isinstance(record, records.Summary):
            print(records.to_json(record))
    write = formats.writer(format_)
    sys.stdout.write(write(counted, summaries, headers, options.report_options(given)))
    sys.exit(1 if counted.failures else 0)


def _read(name: str) -> list[Any]:
    from fork_trace.model import records

    try:
        with open(name, encoding="utf-8", errors="strict", newline="\n") as file:
            lines = iter(lambda: file.readline(_MOST_LINE), "")
            return list(records.read(name, lines))
    except OSError as error:
        raise ForkTraceError(
            f"cannot read {name}: {error.strerror}",
            "Give a file written by `fork-trace capture --output`.",
        ) from None
    except UnicodeDecodeError:
        raise ForkTraceError(
            f"{name} is not a capture: it is not text",
            "Give a file written by `fork-trace capture --output`.",
        ) from None
