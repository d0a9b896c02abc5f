"""`fork-trace live`: its options and help."""

from __future__ import annotations

from typing import Any

import click

from fork_trace.commands import options
from fork_trace.output.formats import STREAMS


@click.command("live")
@click.option(
    "--interval",
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    callback=options.positive,
    help="Time between updates.",
)
@options.duration
@options.by
@options.report
@options.filters
@options.formats(STREAMS)
@click.option("--no-clear", is_flag=True, help="Append lines even on a terminal.")
@options.stack_bytes
@options.coverage
@options.keep_privileges
@options.probes
def command(**given: Any) -> None:
    """Show fork failures as they happen, by command and caller

    On a terminal, one screen that updates in place; press q or Ctrl-C to stop
    and print the report. Otherwise, one line for each change.

    \b
    exec fork-trace live             # from the last root shell you have
    sudo fork-trace live --by cgroup # which container
    sudo fork-trace live --json      # one record per line
    """
    # Not for those who only ask for help.
    from fork_trace.commands import live_run
    from fork_trace.commands.startup import open_session
    from fork_trace.commands.stop_signals import StopSignals

    request = live_run.LiveRequest(
        by=given["by"],
        interval_s=given["interval"],
        duration_s=given["duration"],
        no_clear=given["no_clear"],
        as_json=options.format_of(given) == "jsonl",
        report=options.report_options(given),
    )
    session = open_session(given)
    try:
        live_run.live(session, StopSignals(), request)
    finally:
        session.close()
