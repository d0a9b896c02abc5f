"""`fork-trace snapshot`: a part of what was recorded, as one file to take away."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from fork_trace.commands import options
from fork_trace.errors import ForkTraceError

if TYPE_CHECKING:
    from fork_trace.model.records import Record
    from fork_trace.record.account import Account
    from fork_trace.record.captures import Captures


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

    captures = Captures(given["files"])
    account = Account((), selected(given, captures))
    file = CaptureFile(given["output"], given["force"])
    try:
        for record in _whole(account, captures):
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


def _whole(account: Account, captures: Captures) -> Iterator[Record]:
    """Yield what was chosen as captures that are whole in themselves: their totals are what they hold."""
    from fork_trace.model.records import Checkpoint, Death, Failure, Header, Summary
    from fork_trace.output.completeness import Unclosed

    header: Header | None = None
    counts: Counter[str] = Counter()
    deaths: Counter[str] = Counter()
    for record in account.take(captures.read()):
        if isinstance(record, Header):
            header, counts, deaths = record, Counter(), Counter()
            continue
        if header is not None:
            yield header  # not before it is known to have something of that time
            header = None
        if isinstance(record, Failure):
            counts[record.cause] += record.count
        if isinstance(record, Death):
            deaths[record.cause] += 1
        if isinstance(record, Summary):
            if isinstance(record, Unclosed):
                continue  # of which nothing more is known than its records
            record = replace(
                record, failures=sum(counts.values()), causes=dict(counts), totals=(), rows=()
            )
            if record.deaths is not None:
                record = replace(record, deaths=dict(deaths))
            if isinstance(record, Checkpoint):
                record = replace(record, ended="running")
        yield record
