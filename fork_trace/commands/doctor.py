"""`fork-trace doctor`: what this host supports."""

from __future__ import annotations

import sys
from typing import Any

import click

from fork_trace.commands import options


@click.command("doctor")
@options.json_object
@options.probes
def command(**given: Any) -> None:
    """Show what works on this host, and what is missing

    Attaches the programs once and detaches them. Exit code: 0 usable, 1 not.
    """
    from fork_trace import escape
    from fork_trace.collect import doctor
    from fork_trace.output import doctor as output

    found = doctor.examine(options.probes_asked_for(given))
    sys.stdout.write(escape.json_line(found) + "\n" if given["as_json"] else output.doctor(found))
    sys.exit(0 if found["usable"] else 1)
