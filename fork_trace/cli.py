"""The door: options in, exit code out. Nothing is decided here."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Callable, NoReturn, TypeVar

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from fork_trace import __version__, aggregate, formats, plan, records, render, watch
from fork_trace.errors import ForkTraceError, NotHereError
from fork_trace.events import STACK_BYTES_MAX
from fork_trace.names import json_line, safe
from fork_trace.report import MOST_ROWS, More, hosts_of
from fork_trace.session import STACK_BYTES, Session, find_filter

_MOST_LINE = 64 << 20  # characters of a record; a full table of counts has 4 million

_F = TypeVar("_F", bound=Callable[..., Any])


def _positive(_context: click.Context, parameter: click.Parameter, value: float | None) -> Any:
    if value is not None and not 0 < value < 1e9:
        raise click.BadParameter("give a number of seconds above 0")
    return value


def _by(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    return aggregate.parse_by(value)


def _offering(words: Callable[[str], Iterable[tuple[str, str]]]) -> Callable[..., Any]:
    """Offer words, each with what it is, to a shell that completes; not those that are given."""

    def complete(context: click.Context, parameter: click.Parameter, start: str) -> Any:
        is_list = isinstance(parameter, click.Argument)
        given = context.params.get(parameter.name or "") or () if is_list else ()
        return [
            CompletionItem(word, help=what)
            for word, what in words(start)
            if word.startswith(start) and word not in given
        ]

    return complete


def _columns(start: str) -> Iterable[tuple[str, str]]:
    before = start.rpartition(",")[0]
    chosen = before.split(",") if before else []
    return ((",".join((*chosen, each)), "") for each in aggregate.COLUMNS if each not in chosen)


def _book(_start: str) -> Iterable[tuple[str, str]]:
    from fork_trace import explain

    return explain.offers()


def _topics(_start: str) -> Iterable[tuple[str, str]]:
    from fork_trace import documents

    return documents.topics()


def _scenarios(_start: str) -> Iterable[tuple[str, str]]:
    from fork_trace import rehearse

    return (("all", "every one"), *((each.name, each.title) for each in rehearse.SCENARIOS))


def _paths(kind: str) -> Callable[..., Any]:
    return lambda _context, _parameter, start: [CompletionItem(start, type=kind)]


def _options(*decorators: Callable[[_F], _F]) -> Callable[[_F], _F]:
    def apply(function: _F) -> _F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


_by_option = click.option(
    "--by",
    default=",".join(aggregate.DEFAULT_BY),
    show_default=True,
    callback=_by,
    shell_complete=_offering(_columns),
    metavar="COLUMNS",
    help=f"Columns to count by, of: {', '.join(aggregate.COLUMNS)}.",
)


def _format_options(names: Sequence[str]) -> Callable[[_F], _F]:
    return _options(
        click.option(
            "--format",
            "format_",
            type=click.Choice(names),
            help="How to write it. [default: table]",
        ),
        click.option("--json", "as_json", is_flag=True, help="The same as --format jsonl."),
    )


def _format(format_: str | None, as_json: bool) -> str:
    if as_json and format_ not in (None, "jsonl"):
        raise click.UsageError(f"--json is --format jsonl: give it, or --format {format_}.")
    return "jsonl" if as_json else format_ or "table"


_more = _options(
    click.option("--stacks", is_flag=True, help="The whole stack of each row's latest sample."),
    click.option("--times", is_flag=True, help="Each row's rate, and its first and last time."),
    click.option(
        "--rows",
        default=MOST_ROWS,
        show_default=True,
        type=click.IntRange(0),
        help="Rows of the report at most, as a table or Markdown; 0: all.",
    ),
)
_how_to_sample = click.option(
    "--stack-bytes",
    default=STACK_BYTES,
    show_default=True,
    type=click.IntRange(0, STACK_BYTES_MAX),
    help="How much of the caller's stack to take with each sample; 0: frame pointers only.",
)
_what_to_watch = _options(
    click.option("--comm", metavar="NAME", help="Only this command (the kernel's comm)."),
    click.option("--pid", type=click.IntRange(1), help="Only this process, with all its threads."),
    click.option("--uid", type=click.IntRange(0), help="Only this user."),
    click.option(
        "--cgroup",
        metavar="PATH",
        shell_complete=_paths("dir"),
        help="Only this cgroup and those below it.",
    ),
)
_how_to_probe = _options(
    click.option("--rung", type=click.Choice(plan.RUNGS), help="How to attach. [default: best]"),
    click.option("--backend", type=click.Choice(plan.BACKENDS), help="What loads the programs."),
    click.option(
        "--without",
        multiple=True,
        type=click.Choice(plan.FEATURES),
        help="Do as if the host had not this feature; repeatable.",
    ),
)
_what_to_attach = _options(
    click.option(
        "--refused",
        is_flag=True,
        help="Also what never reaches the kernel's fork: seccomp, bad arguments. Every system call "
        "of the host pays a little for it.",
    ),
    click.option(
        "--all-steps",
        is_flag=True,
        help="Watch every step from the start, not from the first failure without a reason.",
    ),
    click.option(
        "--on-demand",
        is_flag=True,
        help="Watch only the fork's end until one fails: almost free, but the first failure's cause "
        "is inferred.",
    ),
)


def _wishes(
    rung: str | None,
    backend: str | None,
    without: Sequence[str],
    refused: bool = False,
    all_steps: bool = False,
    on_demand: bool = False,
) -> plan.Wishes:
    return plan.Wishes(rung, backend, frozenset(without), refused, all_steps, on_demand)


class _Commands(click.Group):
    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        # click takes what begins with a sign for an option that it knows, and shows the help.
        command = super().get_command(context, name)
        return command or context.fail(f"No such command '{name}'.")


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 79}
)
@click.version_option(__version__, prog_name="fork-trace")
def cli() -> None:
    """Name the kernel step that refused a fork, and the limit it hit

    \b
    sudo fork-trace live                   # what fails right now
    sudo fork-trace capture --duration 60  # one run, one report
    fork-trace explain                     # what each cause means, offline
    fork-trace check                       # how near each limit is, now
    fork-trace doctor                      # what this host can show
    """


@cli.command()
@click.option(
    "--interval",
    default=1.0,
    show_default=True,
    callback=_positive,
    help="Seconds between two states of the table.",
)
@click.option("--duration", type=float, callback=_positive, help="End after so many seconds.")
@_by_option
@_more
@_what_to_watch
@_format_options(formats.STREAMS)
@click.option("--no-clear", is_flag=True, help="Append lines, also on a terminal.")
@_how_to_sample
@_what_to_attach
@_how_to_probe
def live(
    interval: float,
    duration: float | None,
    by: tuple[str, ...],
    stacks: bool,
    times: bool,
    rows: int,
    comm: str | None,
    pid: int | None,
    uid: int | None,
    cgroup: str | None,
    format_: str | None,
    as_json: bool,
    no_clear: bool,
    stack_bytes: int,
    refused: bool,
    all_steps: bool,
    on_demand: bool,
    rung: str | None,
    backend: str | None,
    without: tuple[str, ...],
) -> None:
    """Show failed forks as they happen, by command and caller

    One screen, where it can be drawn in place: q or Ctrl-C ends it with the
    report. Elsewhere a line for each change.

    \b
    exec fork-trace live             # from the last root shell that you have
    sudo fork-trace live --by cgroup # which container
    sudo fork-trace live --json      # records, one a line
    """
    as_json = _format(format_, as_json) == "jsonl"
    wishes = _wishes(rung, backend, without, refused, all_steps, on_demand)
    session = Session(wishes, find_filter(comm, pid, uid, cgroup), stack_bytes=stack_bytes)
    try:
        more = More(times, stacks, rows)
        watch.live(session, watch.Ending(), by, interval, duration, no_clear, as_json, more)
    finally:
        session.close()


@cli.command(context_settings={"ignore_unknown_options": False, "allow_interspersed_args": False})
@click.option("--duration", type=float, callback=_positive, help="End after so many seconds.")
@click.option(
    "--output",
    metavar="FILE",
    shell_complete=_paths("file"),
    help="Write all records to this file (JSON Lines).",
)
@click.option("--force", is_flag=True, help="Write over FILE if it exists.")
@_by_option
@_more
@_what_to_watch
@_format_options(formats.FORMATS)
@_how_to_sample
@_what_to_attach
@_how_to_probe
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def capture(
    duration: float | None,
    output: str | None,
    force: bool,
    by: tuple[str, ...],
    stacks: bool,
    times: bool,
    rows: int,
    comm: str | None,
    pid: int | None,
    uid: int | None,
    cgroup: str | None,
    format_: str | None,
    as_json: bool,
    stack_bytes: int,
    refused: bool,
    all_steps: bool,
    on_demand: bool,
    rung: str | None,
    backend: str | None,
    without: tuple[str, ...],
    command: tuple[str, ...],
) -> None:
    """Watch once and print one report

    It ends after the duration, with COMMAND, or at Ctrl-C. Exit code: 0 nothing
    failed, 1 failures were seen. In any format but table, COMMAND's own output
    goes to stderr.

    \b
    sudo fork-trace capture --duration 60 --output /root/forks.jsonl
    sudo fork-trace capture -- systemctl restart app
    """
    format_ = _format(format_, as_json)
    watch.demand_command(command)
    file = watch.Output(output, force) if output else None
    try:
        wishes = _wishes(rung, backend, without, refused, all_steps, on_demand)
        session = Session(wishes, find_filter(comm, pid, uid, cgroup), stack_bytes=stack_bytes)
    except BaseException:
        if file:
            file.discard()
        raise
    try:
        more = More(times, stacks, rows)
        code = watch.capture(session, watch.Ending(), by, duration, file, command, format_, more)
    finally:
        session.close()
    sys.exit(code)


@cli.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", shell_complete=_paths("file"))
@_by_option
@_more
@_format_options(formats.FORMATS)
def report(
    files: tuple[str, ...],
    by: tuple[str, ...],
    stacks: bool,
    times: bool,
    rows: int,
    format_: str | None,
    as_json: bool,
) -> None:
    """Show captures again; several files, of several hosts, merge

    Of several hosts each row says its own, unless --by says otherwise.

    \b
    fork-trace report forks.jsonl --by cgroup,cause
    fork-trace report forks.jsonl --format markdown   # for a ticket
    fork-trace report host1.jsonl host2.jsonl
    """
    format_ = _format(format_, as_json)
    found = [record for name in files for record in _read(name)]
    headers = [record for record in found if isinstance(record, records.Header)]
    summaries = [record for record in found if isinstance(record, records.Summary)]
    source = click.get_current_context().get_parameter_source("by")
    is_asked = source is not ParameterSource.DEFAULT
    if len(hosts_of(headers)) > 1 and not is_asked and format_ != "jsonl":
        by = ("host", *by)
    counted, more = aggregate.Table(by), More(times, stacks, rows)
    host = None
    for record in found:
        if isinstance(record, records.Header):
            host = record.host
        elif isinstance(record, records.Failure):
            counted.add(record, host)
        if format_ == "jsonl" and not isinstance(record, records.Summary):
            print(records.to_json(record))
    sys.stdout.write(formats.write(format_, counted, summaries, headers, more))
    sys.exit(1 if counted.failures else 0)


def _read(name: str) -> list[records.Record]:
    try:
        with open(name, encoding="utf-8", errors="strict", newline="\n") as file:
            lines = iter(lambda: file.readline(_MOST_LINE), "")
            return list(records.read(name, lines))
    except OSError as error:
        raise ForkTraceError(
            f"cannot read {name}: {error.strerror}",
            "Give a file that `fork-trace capture --output` wrote.",
        ) from None
    except UnicodeDecodeError:
        raise ForkTraceError(
            f"{name} is not text, so it is no capture",
            "Give a file that `fork-trace capture --output` wrote.",
        ) from None


@cli.command("check")
@click.option(
    "--near",
    default=80.0,
    show_default=True,
    metavar="PERCENT",
    type=click.FloatRange(0, 100, min_open=True),
    help="From here on a limit is near.",
)
@click.option(
    "--full",
    default=100.0,
    show_default=True,
    metavar="PERCENT",
    type=click.FloatRange(0, 100, min_open=True),
    help="From here on it counts as reached; at 100 the next fork fails.",
)
@click.option("--all", "is_all", is_flag=True, help="Also list the limits that are not near.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def check_command(near: float, full: float, is_all: bool, as_json: bool) -> None:
    """Say how near this host is to each limit of a fork

    Without BPF, without a fork, and without root as far as /proc tells others.
    Exit code: 0 fine, 1 a limit is near, 2 one is reached (wrong usage also
    ends with 2, and a sentence on stderr).

    \b
    fork-trace check || fork-trace check --all
    sudo fork-trace check --near 60        # before a busy night
    sudo fork-trace check --json | jq '.limits[] | select(.level != "fine")'
    """
    from fork_trace import check

    if near > full:
        raise click.UsageError("--near must not be above --full.")
    found = check.examine(near, full)
    sys.stdout.write(json_line(found) + "\n" if as_json else render.check(found, is_all))
    sys.exit({"fine": 0, "near": 1, "full": 2}[found["level"]])


@cli.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@_how_to_probe
def doctor_command(
    as_json: bool, rung: str | None, backend: str | None, without: tuple[str, ...]
) -> None:
    """Say what this host can show, and what is missing

    Arms the programs once and detaches them. Exit code: 0 usable, 1 not.
    """
    from fork_trace import doctor

    found = doctor.examine(_wishes(rung, backend, without))
    if as_json:
        print(json_line(found))
    else:
        sys.stdout.write(render.doctor(found))
    sys.exit(0 if found["usable"] else 1)


class _Words(click.Command):
    """A command whose words may begin like options: what bash prints begins with -bash."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        flags = {name for each in self.get_params(context) for name in each.opts if each.opts}
        given = [word for word in args if word in flags and word.startswith("-")]
        words = [word for word in args if word not in given]
        if words[:1] == ["--"]:
            del words[0]
        return super().parse_args(context, [*given, "--", *words])


@cli.command("explain", cls=_Words)
@click.argument(
    "words",
    nargs=-1,
    type=click.UNPROCESSED,
    metavar="[STEP | CAUSE | ERRNO | TEXT]",
    shell_complete=_offering(_book),
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def explain_command(words: tuple[str, ...], as_json: bool) -> None:
    """Tell what a step, cause, errno or error text means

    And how to confirm it, what relieves it now and what cures it. Needs no root
    and no kernel. Without a word it lists all causes.

    \b
    fork-trace explain pids-cgroup
    fork-trace explain EAGAIN
    fork-trace explain unable to create native thread
    """
    from fork_trace import explain

    answer = explain.look_up(words)
    if as_json:
        print(json_line(explain.as_json(answer)))
    else:
        sys.stdout.write(render.explanation(answer))


@cli.command("docs")
@click.argument("topic", required=False, shell_complete=_offering(_topics))
def docs_command(topic: str | None) -> None:
    """Print a page of the book, offline

    Without TOPIC it lists the topics.

    \b
    fork-trace docs runbook                # five symptoms, each to its fix
    fork-trace docs schema > records.schema.json
    """
    from fork_trace import documents

    sys.stdout.write(documents.index() if topic is None else documents.text(topic))


@cli.command("rehearse")
@click.argument(
    "scenarios", nargs=-1, metavar="[SCENARIO...]", shell_complete=_offering(_scenarios)
)
@click.option("--list", "list_", is_flag=True, help="List the scenarios.")
@click.option(
    "--count", default=23, show_default=True, type=click.IntRange(1), help="Forks to make fail."
)
@click.option(
    "--host-wide",
    is_flag=True,
    help="Allow those that lower limits of the whole host for a moment.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each scenario.")
def rehearse_command(
    scenarios: tuple[str, ...], list_: bool, count: int, host_wide: bool, as_json: bool
) -> None:
    """Make real forks fail, each for a known reason

    For game days and tests. What is changed is restored, also at Ctrl-C.

    \b
    sudo fork-trace rehearse --list
    sudo fork-trace rehearse pids-cgroup rlimit-nproc
    """
    # Imported here: those who watch should not wait 20 ms for it.
    from fork_trace import rehearse

    if list_:
        sys.stdout.write(render.scenarios(rehearse.SCENARIOS, as_json))
        return
    if not scenarios:
        raise click.UsageError("Name a scenario, or `all`; --list shows them.")
    names = [each.name for each in rehearse.SCENARIOS] if scenarios == ("all",) else scenarios
    for name in names:
        rehearse.find(name)
    is_as_planned = True
    for name in names:
        try:
            outcome = rehearse.run(name, count, host_wide)
        except NotHereError as error:
            if scenarios != ("all",):
                raise
            sys.stdout.write(render.not_here(name, error.message, as_json))
            continue
        sys.stdout.write(render.outcome(outcome, as_json))
        sys.stdout.flush()
        is_as_planned = is_as_planned and outcome.is_as_planned
    sys.exit(0 if is_as_planned else 1)


def _sentence(text: str) -> str:
    text = safe(text).rstrip()
    return text if text.endswith((".", "!", "?")) else text + "."


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command line; whatever goes wrong, a person reads one sentence and what to do."""
    code: Any = 0
    # Closed by whoever started us (>&-): then nobody wants to read it.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115 - as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the locale's character set lacks must not end a report.
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            result = cli.main(args=argv, prog_name="fork-trace", standalone_mode=False)
            code = result if isinstance(result, int) else 0
        except SystemExit as end:
            code = end.code
        # Here, where what goes wrong can still be told, and not at the interpreter's end.
        sys.stdout.flush()
    except ForkTraceError as error:
        hint = f" {_sentence(error.hint)}" if error.hint else ""
        print(f"fork-trace: {_sentence(error.message)}{hint}", file=sys.stderr)
        code = 2
    except click.ClickException as error:
        # It quotes what it was given, which can be the name of a file: `fork-trace report *`.
        error.message = safe(error.message)
        error.show()
        code = 2
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        # The reader of our output has gone, `| head` for instance: nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except OSError as error:
        print(f"fork-trace: the system refused: {_sentence(str(error))}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 2
    except MemoryError:
        print(
            "fork-trace: this process got no memory. Raise its memory limit; it needs 40 MB.",
            file=sys.stderr,
        )
        code = 2
    sys.exit(code)
