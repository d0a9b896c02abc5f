"""The options that several commands share, their types, and what a shell completes for them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, TypeVar

import click

from fork_trace.model.sizes import STACK_BYTES, STACK_BYTES_MAX
from fork_trace.output import columns
from fork_trace.output.report_options import MOST_ROWS, ReportOptions
from fork_trace.probes.request import ATTACH_MODES, BACKENDS, FEATURES, Request

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_F = TypeVar("_F", bound=Callable[..., Any])


def _item(value: str, **details: str) -> CompletionItem:
    # Only a shell that completes needs these.
    from click.shell_completion import CompletionItem

    return CompletionItem(value, **details)


def positive(_context: click.Context, _parameter: click.Parameter, value: float | None) -> Any:
    """Check a number of seconds."""
    if value is not None and not 0 < value < 1e9:
        raise click.BadParameter("give a number of seconds above 0")
    return value


def _by(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return columns.parse_by(value)


def offering(words: Callable[[str], Iterable[tuple[str, str]]]) -> Callable[..., Any]:
    """Offer words, each with what it is, to a shell that completes; not those already given."""

    def complete(context: click.Context, parameter: click.Parameter, start: str) -> Any:
        is_list = isinstance(parameter, click.Argument)
        given = context.params.get(parameter.name or "") or () if is_list else ()
        return [
            _item(word, help=what)
            for word, what in words(start)
            if word.startswith(start) and word not in given
        ]

    return complete


def paths(kind: str) -> Callable[..., Any]:
    """Let the shell itself complete a path: of a "file" or a "dir"."""
    return lambda _context, _parameter, start: [_item(start, type=kind)]


def _columns(start: str) -> Iterable[tuple[str, str]]:
    before = start.rpartition(",")[0]
    chosen = before.split(",") if before else []
    return ((",".join((*chosen, each)), "") for each in columns.COLUMNS if each not in chosen)


def _options(*decorators: Callable[[_F], _F]) -> Callable[[_F], _F]:
    def apply(function: _F) -> _F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "": 1.0}


def _milliseconds(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|)", value)
    found = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if not 0.001 <= found <= 1e6:
        raise click.BadParameter("give a time such as 10ms, 500us or 1s, up to 1000s")
    return found


over = click.option(
    "--over",
    default="10ms",
    show_default=True,
    metavar="TIME",
    callback=_milliseconds,
    help="A fork that takes this long or longer is slow.",
)
duration = click.option(
    "--duration",
    type=float,
    metavar="SECONDS",
    callback=positive,
    help="Stop after this many seconds.",
)
by = click.option(
    "--by",
    default=",".join(columns.DEFAULT_BY),
    show_default=True,
    callback=_by,
    shell_complete=offering(_columns),
    metavar="COLUMNS",
    help=f"Group by these columns: {', '.join(columns.COLUMNS)}.",
)
json_object = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


def formats(names: Sequence[str]) -> Callable[[_F], _F]:
    """Add --format, with the formats a command can write, and --json."""
    return _options(
        click.option(
            "--format", "format_", type=click.Choice(names), help="Output format. [default: table]"
        ),
        click.option("--json", "as_json", is_flag=True, help="Same as --format jsonl."),
    )


report = _options(
    click.option("--stacks", is_flag=True, help="Show the full stack of each row's latest sample."),
    click.option(
        "--times", is_flag=True, help="Show each row's rate, and when it was first and last seen."
    ),
    click.option(
        "--rows",
        default=MOST_ROWS,
        show_default=True,
        metavar="N",
        type=click.IntRange(0),
        help="Show at most this many rows in a table or in Markdown; 0 shows all.",
    ),
)
stack_bytes = click.option(
    "--stack-bytes",
    default=STACK_BYTES,
    show_default=True,
    metavar="BYTES",
    type=click.IntRange(0, STACK_BYTES_MAX),
    help="Copy this much of the caller's stack with each sample; 0 uses frame pointers only.",
)
filters = _options(
    click.option("--comm", metavar="NAME", help="Only this command (the kernel's comm)."),
    click.option(
        "--pid",
        metavar="PID",
        type=click.IntRange(1),
        help="Only this process, with all its threads.",
    ),
    click.option("--uid", metavar="UID", type=click.IntRange(0), help="Only this user."),
    click.option(
        "--cgroup",
        metavar="PATH",
        shell_complete=paths("dir"),
        help="Only this cgroup and its descendants.",
    ),
)
_OFFSET = re.compile(r"-[0-9]+")


class Recorded(click.Command):
    """A command with --boot, whose value may be left out or be negative: click takes -1 for an option."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Take a negative offset after --boot for its value, as journalctl does: a blank hides its sign."""
        words: list[str] = []
        for word in args:
            name, _, value = word.partition("=")
            if name == "--boot" and _OFFSET.fullmatch(value):
                words += [name, f" {value}"]
            elif words and words[-1] == "--boot" and _OFFSET.fullmatch(word):
                words.append(f" {word}")
            else:
                words.append(word)
        return super().parse_args(context, words)


when = _options(
    click.option(
        "--since",
        metavar="TIME",
        help='Only failures since then: "1h", "3d2h", "2026-11-28 03:00", "03:00", "yesterday", '
        '"@SECONDS"; local time unless it ends in Z.',
    ),
    click.option("--until", metavar="TIME", help="Only failures until then."),
    click.option(
        "--boot",
        metavar="BOOT",
        is_flag=False,
        flag_value="0",
        help="Only this boot: 0 is the current one, -1 the one before, or its id.",
    ),
    click.option(
        "--cause",
        "causes",
        metavar="CAUSE",
        multiple=True,
        help="Only this cause; repeatable.",
    ),
)
recorded = _options(
    when,
    click.option("--comm", metavar="NAME", help="Only this command (the kernel's comm)."),
    click.option(
        "--cgroup",
        metavar="PATH",
        help="Only this cgroup and its descendants; or the name of a unit.",
    ),
    click.option("--uid", metavar="UID", type=click.IntRange(0), help="Only this user."),
)
probes = _options(
    click.option(
        "--attach",
        "attach",
        type=click.Choice(ATTACH_MODES),
        help="Attach mode. [default: the best available]",
    ),
    click.option(
        "--backend", type=click.Choice(BACKENDS), help="Library that loads the BPF programs."
    ),
    click.option(
        "--without",
        multiple=True,
        type=click.Choice(FEATURES),
        help="Pretend the host lacks this feature; repeatable.",
    ),
)
coverage = _options(
    click.option(
        "--refused",
        is_flag=True,
        help="Also report calls rejected before the kernel's fork code: seccomp, invalid arguments. "
        "Adds a small cost to every system call on the host.",
    ),
    click.option(
        "--all-steps",
        is_flag=True,
        help="Attach to every step at start, not at the first unexplained failure.",
    ),
    click.option(
        "--on-demand",
        is_flag=True,
        help="Attach only to copy_process until a fork fails. Almost free, but the cause of the "
        "first failure is inferred.",
    ),
    click.option(
        "--large-forks",
        is_flag=True,
        help="Remember who forked parents of 64 MiB or more, in case a process is killed for it later "
        "(fexit only). Each fork pays a little, and it takes longer to start.",
    ),
)

keep_privileges = click.option(
    "--keep-privileges",
    is_flag=True,
    help="Keep all privileges while watching: for debugging "
    "fork-trace itself, or where root cannot become another user.",
)


def format_of(options: Mapping[str, Any]) -> str:
    """Return the format that --format and --json ask for together."""
    if options["as_json"] and options["format_"] not in (None, "jsonl"):
        raise click.UsageError(
            f"--json means --format jsonl; use one of --json and --format {options['format_']}."
        )
    return "jsonl" if options["as_json"] else options["format_"] or "table"


def probes_asked_for(options: Mapping[str, Any]) -> Request:
    """Return what the user forces or denies, from `probes` and, where given, `coverage`."""
    return Request(
        options["attach"],
        options["backend"],
        frozenset(options["without"]),
        *(
            options.get(name, False)
            for name in ("refused", "all_steps", "on_demand", "is_lean", "large_forks")
        ),
    )


def report_options(options: Mapping[str, Any]) -> ReportOptions:
    """Return how much the report is to show, from `report`."""
    return ReportOptions(options["times"], options["stacks"], options["rows"], terminal_width())


def terminal_width() -> int | None:
    """Return how long a line of stdout may be; None: it is no terminal, or does not tell."""
    try:
        if not sys.stdout.isatty():
            return None
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return None
    return columns - 1 if columns > 1 else None
