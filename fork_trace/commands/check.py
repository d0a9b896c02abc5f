"""`fork-trace check`: how close this host is to each limit."""

from __future__ import annotations

import sys

import click

from fork_trace.commands import options


@click.command("check")
@click.option(
    "--near",
    default=80.0,
    show_default=True,
    metavar="PERCENT",
    type=click.FloatRange(0, 100, min_open=True),
    help="Report a limit as near from this usage on.",
)
@click.option(
    "--full",
    default=100.0,
    show_default=True,
    metavar="PERCENT",
    type=click.FloatRange(0, 100, min_open=True),
    help="Report a limit as full from this usage on; at 100 the next fork fails.",
)
@click.option("--all", "is_all", is_flag=True, help="Also list the limits that are not near.")
@options.json_object
def command(near: float, full: float, is_all: bool, as_json: bool) -> None:
    """Show how close this host is to each limit on forking

    Uses no BPF and never forks. Works without root, within what /proc shows
    other users. Exit code: 0 ok, 1 a limit is near, 2 a limit is full (also 2
    for a usage error, with a message on stderr).

    \b
    fork-trace check || fork-trace check --all
    sudo fork-trace check --near 60        # before a busy night
    sudo fork-trace check --json | jq '.limits[] | select(.level != "fine")'
    """
    from fork_trace import escape
    from fork_trace.headroom import check
    from fork_trace.output import check as output

    if near > full:
        raise click.UsageError("--near must not be above --full.")
    found = check.examine(near, full)
    sys.stdout.write(escape.json_line(found) + "\n" if as_json else output.check(found, is_all))
    sys.exit({"fine": 0, "near": 1, "full": 2}[found["level"]])
