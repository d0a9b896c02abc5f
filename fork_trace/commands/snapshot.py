"""`fork-trace snapshot`: a part of what was recorded, as one file to take away."""

from __future__ import annotations

import sys
from typing import Any

import click

from fork_trace.commands import options
from fork_trace.errors import ForkTraceError


@click.command("snapshot", cls=options.Recorded)
@click.argument("files", nargs=-1, metavar="[FILE]...", shell_complete=options.paths("file"))
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="FILE",
    shell_complete=options.paths("file"),
    help="Write the records to FILE (JSON Lines).",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@options.recorded
def command(**given: Any) -> None:
    """Copy a part of what was recorded into one file

    FILE is what `report` takes; without it, what the recorder of this host
    wrote. The result is a capture for `report`, here or elsewhere.

    \b
    sudo fork-trace snapshot --since 1h -o incident.jsonl
    sudo fork-trace snapshot --boot -1 --cgroup app.service -o last-boot.jsonl
    """
    from fork_trace.commands.recorded import selected
    from fork_trace.escape import safe
    from fork_trace.output.capture_file import CaptureFile
    from fork_trace.output.units import count
    from fork_trace.record.account import Account
    from fork_trace.record.captures import Captures
    from fork_trace.record.choosing import whole

    captures = Captures(given["files"])
    account = Account((), selected(given, captures))
    file = CaptureFile(given["output"], given["force"])
    try:
        for record in whole(account, captures):
            file.write(record)
        if not account.captures.headers:
            raise ForkTraceError(
                "nothing of what is asked for was recorded", "Ask for more, or give other files."
            )
    except BaseException:
        file.discard()
        raise
    file.close()
    for note in captures.notes():
        print(f"fork-trace: {note}.", file=sys.stderr)
    told = count(account.counted.failures, "failure", "failures")
    print(f"{told} written to {safe(given['output'])}.", file=sys.stderr)
    sys.exit(2 if file.failed else 0)
