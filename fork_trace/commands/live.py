"""`fork-trace live`: its options and help."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import click

from fork_trace.commands import options
from fork_trace.output.formats import STREAMS

if TYPE_CHECKING:
    from fork_trace.probes.libbpf.counting import Counting


@click.command("live", cls=options.Recorded)
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
@click.option(
    "--replay",
    metavar="FILE",
    multiple=True,
    shell_complete=options.paths("file"),
    help="Show a capture again as it came, or a directory of them; repeatable.",
)
@options.when
@click.option("--no-clear", is_flag=True, help="Append lines even on a terminal.")
@options.stack_bytes
@options.coverage
@options.keep_privileges
@options.probes
def command(**given: Any) -> None:
    """Show fork failures as they happen, by command and caller

    On a terminal, one screen that updates in place; press h for its keys, q or
    Ctrl-C to stop and print the report. Otherwise, one line for each change.

    \b
    exec fork-trace live             # from the last root shell you have
    sudo fork-trace live --by cgroup # which container
    sudo fork-trace live --json      # one record per line
    fork-trace live --replay forks.jsonl --since 03:00
    """
    as_json = options.format_of(given) == "jsonl"
    counting = None if given["replay"] else _counting(given)
    # Not for those who only ask for help, and not before it counts.
    from fork_trace.commands import live_run
    from fork_trace.commands.startup import open_session
    from fork_trace.commands.stop_signals import StopSignals
    from fork_trace.output.live.last import linger

    request = live_run.LiveRequest(
        by=given["by"],
        interval_s=given["interval"],
        duration_s=given["duration"],
        no_clear=given["no_clear"],
        as_json=as_json,
        report=options.report_options(given),
    )
    if given["replay"]:
        _replay(given, request)
        return
    session = open_session(given, counting)
    signals = StopSignals()
    try:
        live_run.live(session, signals, request)
    finally:
        session.close()
    # Who ended it is there to read what it says; a signal from elsewhere wants it gone.
    if signals.signal in (None, signal.SIGINT) and not request.as_json:
        signals.let_go()
        linger()


def _counting(given: dict[str, Any]) -> Counting | None:
    for name in ("since", "until", "boot", "causes"):
        if given[name]:
            option = "--cause" if name == "causes" else f"--{name}"
            raise click.UsageError(f"{option} chooses among what was recorded; it needs --replay.")
    from fork_trace.commands import early

    return early.counting(given)


def _replay(given: dict[str, Any], request: Any) -> None:
    from fork_trace.commands import replay_run
    from fork_trace.commands.recorded import selected
    from fork_trace.record.account import Account
    from fork_trace.record.captures import Captures

    if given["pid"] is not None:
        raise click.UsageError("--pid is not for --replay: a pid is another process by now.")
    captures = Captures(given["replay"])
    account = Account(given["by"], selected(given, captures))
    replay_run.replay(account, captures, request)
