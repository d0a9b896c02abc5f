"""`fork-trace explain`: what a step, cause, errno or error text means."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from fork_trace.commands import options


class _Words(click.Command):
    """A command whose words may begin like options: what bash prints begins with -bash."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        flags = {name for each in self.get_params(context) for name in each.opts if each.opts}
        given = [word for word in args if word in flags and word.startswith("-")]
        words = [word for word in args if word not in given]
        if words[:1] == ["--"]:
            del words[0]
        return super().parse_args(context, [*given, "--", *words])


def _offers(_start: str) -> Iterable[tuple[str, str]]:
    from fork_trace.diagnosis import lookup

    return lookup.offers()


@click.command("explain", cls=_Words)
@click.argument(
    "words",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="[STEP | CAUSE | ERRNO | TEXT]",
    shell_complete=options.offering(_offers),
)
@options.json_object
def command(words: tuple[str, ...], as_json: bool) -> None:
    """Explain a step, cause, errno or error message

    Shows how to verify it, how to mitigate it now and how to fix it. Needs
    neither root nor BPF. Without arguments, lists all causes.

    \b
    fork-trace explain pids-cgroup
    fork-trace explain EAGAIN
    fork-trace explain unable to create native thread
    """
    from fork_trace import escape
    from fork_trace.diagnosis import lookup
    from fork_trace.output.explanation import explanation

    answer = lookup.look_up(words)
    if as_json:
        print(escape.json_line(lookup.as_json(answer)))
    else:
        sys.stdout.write(explanation(answer))
