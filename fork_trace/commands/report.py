"""`fork-trace report`: captures shown again."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from fork_trace.commands import options
from fork_trace.output.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fork_trace.latency.adding import Runs
    from fork_trace.output.report_options import ReportOptions, Timed


@click.command("report", cls=options.Recorded)
@click.argument("files", nargs=-1, metavar="[FILE]...", shell_complete=options.paths("file"))
@options.by
@options.report
@options.recorded
@options.formats(FORMATS)
def command(**given: Any) -> None:
    """Show what was captured or recorded; merge files from several hosts

    FILE is a capture, plain or gzip, a directory of them, a pattern, or - for
    stdin. Without FILE: what the recorder of this host wrote. With two to eight
    hosts, each row names its host unless --by says otherwise.

    \b
    sudo fork-trace report --since 03:00 --until 04:00   # last night
    fork-trace report forks.jsonl --by cgroup,cause
    fork-trace report forks.jsonl --format markdown # for a ticket
    fork-trace report forks.jsonl --format html >incident.html
    fork-trace report /srv/fleet/ --cause pids-cgroup
    """
    from fork_trace.commands.recorded import selected
    from fork_trace.escape import safe
    from fork_trace.latency.adding import Runs
    from fork_trace.model import records
    from fork_trace.output import formats
    from fork_trace.output.report_options import MANY_HOSTS, ROWS_OF_MANY
    from fork_trace.record.account import Account
    from fork_trace.record.captures import Captures
    from fork_trace.record.choosing import whole

    def is_default(name: str) -> bool:
        return click.get_current_context().get_parameter_source(name) is ParameterSource.DEFAULT

    format_, by = options.format_of(given), given["by"]
    captures = Captures(given["files"])
    # How many hosts there are is only known at the end.
    adds_host = is_default("by") and format_ != "jsonl"
    account = Account(("host", *by) if adds_host else by, selected(given, captures))
    timed = Runs()
    gathered = formats.gathered(format_)
    more = options.report_options(given)._replace(gathered=gathered)
    keeps_stack = more.stacks or format_ in ("json", "jsonl")
    for record in (
        whole(account, captures) if gathered else account.take(captures.read(keeps_stack))
    ):
        timed.take(record)
        if gathered is not None:
            gathered.take(record)
        elif format_ == "jsonl" and not isinstance(record, records.Summary):
            print(records.to_json(record))
    counted, found = account.counted, account.captures
    if adds_host and not 1 < len(account.hosts) <= MANY_HOSTS:
        counted.drop_first_column()
    if len(account.hosts) <= MANY_HOSTS:
        counted.look_again(lambda _pid: None)
    elif is_default("rows"):
        more = more._replace(rows=ROWS_OF_MANY)
    counted.completeness.notes += [*account.unrecorded(), *captures.notes()]
    more = _with_timed(more, timed, format_)
    if more.slow and format_ != "html":
        _tell_slow(more.slow, format_)
        if not found.headers:
            sys.stdout.writelines(f"{safe(note)}\n" for note in counted.completeness.notes)
            sys.exit(0)  # of failures nothing is known
    sys.stdout.write(formats.writer(format_)(counted, found.summaries, found.headers, more))
    sys.exit(1 if counted.failures or counted.incidents.is_failure() else 0)


def _with_timed(more: ReportOptions, timed: Runs, format_: str) -> ReportOptions:
    if not timed or format_ not in ("table", "markdown", "html"):
        return more._replace(timed=timed.all())
    from fork_trace.latency import report

    return more._replace(slow=report.tell_all(timed))


def _tell_slow(slow: Sequence[Timed], format_: str) -> None:
    from fork_trace.latency import report
    from fork_trace.output.formats import markdown

    text = report.recorded(slow)
    if format_ == "markdown":
        text = "\n".join(markdown.fenced(text.splitlines())) + "\n\n"
    sys.stdout.write(text)
