"""`fork-trace explain`: what a step, cause, errno, setting, application or error text means."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from fork_trace.commands import options

if TYPE_CHECKING:
    from fork_trace.diagnosis.log import Log
    from fork_trace.headroom.here import Reading


class _Words(click.Command):
    """A command whose words may begin like options: what bash prints begins with -bash."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        names = (
            (*each.opts, *each.secondary_opts) for each in self.get_params(context) if each.opts
        )
        flags = {name for each in names for name in each if name.startswith("-")}
        given = [word for word in args if word in flags]
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
    metavar="[STEP | CAUSE | ERRNO | SETTING | APPLICATION | TEXT | -]",
    shell_complete=options.offering(_offers),
)
@click.option(
    "--check/--no-check",
    "is_checked",
    default=None,
    help="Mark causes whose limit is near or full on this host. "
    "[default: --check, but --no-check with --json]",
)
@options.json_object
def command(words: tuple[str, ...], is_checked: bool | None, as_json: bool) -> None:
    """Explain a step, cause, errno, setting or error message

    Says what an error message means: whether a process, a thread, a namespace
    or no fork at all was refused, the errno in it (by name, number or libc's
    words, in any of 36 languages), and the causes, likeliest first; and which
    command decides between them. Needs neither root nor BPF. Without
    arguments, lists all causes; - reads a log from standard input and explains
    each distinct message in it.

    \b
    fork-trace explain pids-cgroup
    fork-trace explain EAGAIN
    fork-trace explain unable to create native thread
    journalctl -b | fork-trace explain -
    """
    from fork_trace.diagnosis import lookup
    from fork_trace.output import explanation

    is_checked = not as_json if is_checked is None else is_checked
    if words == ("-",):
        _explain_log(is_checked, as_json)
        return
    answer = lookup.look_up(words)
    reading = _read_host() if is_checked and answer.causes else None
    if as_json:
        _print_json(lookup.as_json(answer), reading)
    else:
        sys.stdout.write(explanation.explanation(answer, _here(reading), _why(reading)))


def _explain_log(is_checked: bool, as_json: bool) -> None:
    from fork_trace.diagnosis import log
    from fork_trace.output import explanation

    found = log.Log()
    # What came before Ctrl-C is told: the log may be one that is followed.
    with contextlib.suppress(KeyboardInterrupt):
        _fill(found, sys.stdin.buffer)
    reading = _read_host() if is_checked and found.matched else None
    if as_json:
        _print_json(log.as_json(found), reading)
    else:
        sys.stdout.write(explanation.log(found, _here(reading), _why(reading)))


def _fill(found: Log, stream: BinaryIO) -> None:
    """Read lines, of each only as much as is looked at: none can fill the memory."""
    from fork_trace.diagnosis.lookup import MOST_LETTERS

    is_rest = False
    while True:
        raw = stream.readline(MOST_LETTERS)
        if not raw:
            return
        if not is_rest:
            found.add(raw.decode("utf-8", "surrogateescape").rstrip("\r\n"))
        is_rest = not raw.endswith(b"\n")


def _read_host() -> Reading:
    from fork_trace.headroom import here

    return here.read()


def _here(reading: Reading | None) -> list[dict[str, Any]] | None:
    return None if reading is None else [each._asdict() for each in reading.limits]


def _why(reading: Reading | None) -> str | None:
    return None if reading is None else reading.why


def _print_json(told: dict[str, Any], reading: Reading | None) -> None:
    from fork_trace import escape

    # null: nobody asked for it, or it could not be read.
    is_read = reading is not None and reading.why is None
    print(escape.json_line({**told, "check": _here(reading) if is_read else None}))
