"""`fork-trace capture`: its options and help."""

from __future__ import annotations

import sys
from typing import Any

import click

from fork_trace.commands import options
from fork_trace.output.formats import CAPTURED


@click.command("capture", context_settings={"allow_interspersed_args": False})
@options.duration
@click.option(
    "--output",
    metavar="FILE",
    shell_complete=options.paths("file"),
    help="Write all records to FILE (JSON Lines).",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@options.by
@options.report
@options.filters
@options.formats(CAPTURED)
@options.stack_bytes
@options.coverage
@options.keep_privileges
@options.probes
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def command(**given: Any) -> None:
    """Watch for a while and print one report

    Stops after the duration, when COMMAND ends, or on Ctrl-C. Exit code: 0 if
    nothing failed, 1 if there were failures or a process was killed by
    copy-on-write after its fork. In any format but table, COMMAND's
    stdout goes to stderr.

    \b
    sudo fork-trace capture --duration 60 --output /root/forks.jsonl
    sudo fork-trace capture -- systemctl restart app
    """
    format_ = options.format_of(given)
    from fork_trace.commands import early

    # A command is started once all is loaded: nothing of it is to be counted before.
    counting = None if given["command"] else early.counting(given)
    # Not for those who only ask for help, and not before it counts.
    from fork_trace.commands import capture_run, child
    from fork_trace.commands.startup import open_session
    from fork_trace.commands.stop_signals import StopSignals
    from fork_trace.output.capture_file import CaptureFile

    request = capture_run.CaptureRequest(
        by=given["by"],
        duration_s=given["duration"],
        argv=given["command"],
        format_=format_,
        report=options.report_options(given),
    )
    child.demand(request.argv)
    file = CaptureFile(given["output"], given["force"]) if given["output"] is not None else None
    try:
        session = open_session(given, counting)
    except BaseException:
        if file:
            file.discard()
        raise
    try:
        code = capture_run.capture(session, StopSignals(), file, request)
    finally:
        session.close()
    sys.exit(code)
