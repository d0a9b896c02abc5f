"""`fork-trace rehearse`: real failures on purpose."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from fork_trace.commands import options
from fork_trace.errors import NotHereError


def _scenarios(_start: str) -> Iterable[tuple[str, str]]:
    from fork_trace.rehearse.scenarios import EVERY

    return (
        ("all", "every scenario in which a fork fails"),
        *((each.name, each.title) for each in EVERY),
    )


@click.command("rehearse")
@click.argument(
    "scenarios", nargs=-1, metavar="[SCENARIO...]", shell_complete=options.offering(_scenarios)
)
@click.option("--list", "list_", is_flag=True, help="List the scenarios.")
@click.option(
    "--count",
    default=23,
    show_default=True,
    metavar="N",
    type=click.IntRange(1),
    help="Number of forks to fail.",
)
@click.option(
    "--host-wide",
    is_flag=True,
    help="Allow scenarios that briefly lower host-wide limits.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per scenario.")
def command(
    scenarios: tuple[str, ...], list_: bool, count: int, host_wide: bool, as_json: bool
) -> None:
    """Make real forks fail, each for a known reason

    For game days and tests. Everything changed is restored, also on Ctrl-C.

    \b
    sudo fork-trace rehearse --list
    sudo fork-trace rehearse pids-cgroup rlimit-nproc
    """
    from fork_trace.output import rehearsals
    from fork_trace.rehearse.run import run
    from fork_trace.rehearse.scenarios import EVERY, find

    if list_:
        sys.stdout.write(rehearsals.scenarios(EVERY, as_json))
        return
    if not scenarios:
        raise click.UsageError("Name a scenario, or `all`; --list shows them.")
    names = [each.name for each in EVERY] if scenarios == ("all",) else scenarios
    for name in names:
        find(name)
    is_as_planned = True
    for name in names:
        try:
            outcome = run(name, count, host_wide)
        except NotHereError as error:
            if scenarios != ("all",):
                raise
            sys.stdout.write(rehearsals.not_here(name, error.message, as_json))
            continue
        sys.stdout.write(rehearsals.outcome(outcome, as_json))
        sys.stdout.flush()
        is_as_planned = is_as_planned and outcome.is_as_planned
    sys.exit(0 if is_as_planned else 1)
