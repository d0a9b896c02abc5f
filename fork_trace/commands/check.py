"""`fork-trace check`: how close this host is to each limit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import click

from fork_trace.commands import options
from fork_trace.errors import ForkTraceError
from fork_trace.output import check_formats

_SHORT = ("json", "nagios", "npd")
_percent = click.FloatRange(0, 100, min_open=True)


def cannot_run(argv: Sequence[str]) -> int:
    """Return the exit code of a check that cannot be made, by how it was asked for."""
    words = list(argv)
    is_npd = "--npd" in words or "--format=npd" in words
    is_npd = is_npd or ("--format", "npd") in zip(words, words[1:])
    return check_formats.codes("npd" if is_npd else "table").cannot_run


@click.command("check")
@click.option(
    "--near",
    default=80.0,
    show_default=True,
    metavar="PERCENT",
    type=_percent,
    help="Report a limit as near from this usage on.",
)
@click.option(
    "--full",
    default=100.0,
    show_default=True,
    metavar="PERCENT",
    type=_percent,
    help="Report a limit as full from this usage on; at 100 the next fork fails.",
)
@click.option(
    "--tasks-left",
    default=50,
    show_default=True,
    metavar="N",
    type=click.IntRange(0),
    help="Also report a limit as near when there is room for fewer tasks than this.",
)
@click.option("--all", "is_all", is_flag=True, help="Also list the limits that are not near.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(check_formats.FORMATS),
    help="Output format. [default: table]",
)
@options.json_object
@click.option("--plain", is_flag=True, help="Text without bars or colors, as pipes get it.")
@click.option(
    "--watch",
    metavar="SECONDS",
    is_flag=False,
    flag_value=5.0,
    type=float,
    callback=options.positive,
    help="Check again and again, every 5 seconds or as given, until q or Ctrl-C.",
)
@click.option("--nagios", is_flag=True, help="Be a Nagios plugin: one line with performance data.")
@click.option(
    "--npd",
    is_flag=True,
    help="Be a plugin of the Node Problem Detector: one line of at most 80 bytes; exit code 0 ok, "
    "1 near or full, 2 unknown.",
)
@click.option(
    "--textfile",
    metavar="FILE",
    shell_complete=options.paths("file"),
    help="Write --format prometheus to this file for the node exporter, replacing it at once.",
)
def command(near: float, full: float, tasks_left: int, is_all: bool, **how: Any) -> None:
    """Show how close this host is to each limit on forking

    Uses no BPF and never forks. Works without root, within what /proc shows
    other users. Exit code: 0 ok, 1 a limit is near, 2 a limit is full, 3
    unknown: a limit that everybody may read could not be read, or the check
    could not be made (usage errors too, with a message on stderr).

    \b
    fork-trace check || fork-trace check --all
    sudo fork-trace check --watch          # bars that move
    sudo fork-trace check --near 60        # before a busy night
    sudo fork-trace check --json | jq '.limits[] | select(.level != "fine")'
    sudo fork-trace check --textfile FILE.prom      # for the node exporter
    """
    name = _format_of(how)
    if near > full:
        raise click.UsageError("--near must not be above --full.")
    if how["watch"] is not None and name != "table":
        raise click.UsageError("--watch is for people; a monitor runs check again by itself.")
    from fork_trace.headroom import check

    def examine() -> dict[str, Any]:
        return check.examine(near, full, least_left=tasks_left)

    if name == "table":
        from fork_trace.commands import check_run

        found = check_run.show(examine, is_all, how["plain"], how["watch"])
        sys.exit(check_formats.codes(name).by_level[found["level"]])
    try:
        found = examine()
        text = check_formats.load(name).write(found, is_all)
    except ForkTraceError as error:
        # Whoever starts a plugin reads stdout.
        if name in check_formats.PLUGINS:
            sys.stdout.write(check_formats.load(name).failed(error.message))
        raise
    if how["textfile"] is not None:
        from fork_trace.serve import textfile

        try:
            textfile.replace(how["textfile"], text.encode())
        except (OSError, ValueError) as error:
            raise textfile.refused(how["textfile"], error) from None
    else:
        sys.stdout.write(text)
    sys.exit(check_formats.codes(name).by_level[found["level"]])


def _format_of(how: dict[str, Any]) -> str:
    """Return the one format that was asked for."""
    asked = {
        **{f"--{name}": name for name in _SHORT if how["as_json" if name == "json" else name]},
        **({f"--format {how['format_']}": how["format_"]} if how["format_"] else {}),
        **({"--textfile": "prometheus"} if how["textfile"] is not None else {}),
    }
    if len(set(asked.values())) > 1:
        raise click.UsageError(f"Use one of {' and '.join(asked)}.")
    return next(iter(asked.values()), "table")
