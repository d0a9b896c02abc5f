"""The entry point: a command line in, an exit code out. Imports only what the called command needs."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, NoReturn

import click

from fork_trace import __version__
from fork_trace.errors import ForkTraceError
from fork_trace.escape import safe

# Each has a file of its name beside this one, in which it is called `command`.
COMMANDS = (
    *("capture", "check", "docs", "doctor", "explain", "latency", "live", "record", "rehearse"),
    *("report", "snapshot"),
)


# Those that give an answer and end; exec'ed in the last shell, it would go with the terminal.
_ANSWERS = frozenset({"check", "doctor", "explain", "report"})


def load(name: str) -> click.Command:
    """Import one of COMMANDS."""
    command: click.Command = import_module(f"fork_trace.commands.{name}").command
    return command


class _Commands(click.Group):
    def list_commands(self, context: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            return load(name)
        # click takes what begins with a sign for an option that it knows, and shows the help.
        context.fail(f"No such command '{name}'.")


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 79}
)
@click.version_option(__version__, prog_name="fork-trace")
def cli() -> None:
    """Name the kernel step that refused a fork, and the limit it hit

    \b
    sudo fork-trace live                   # what fails right now
    sudo fork-trace capture --duration 60  # one run, one report
    sudo fork-trace record                 # until stopped; report shows it
    sudo fork-trace latency                # forks that take long, and why
    fork-trace explain                     # what each cause means, offline
    fork-trace check                       # how close each limit is, now
    fork-trace doctor                      # what this host supports
    """


def _sentence(text: str) -> str:
    text = safe(text).rstrip()
    return text if text.endswith((".", "!", "?")) else text + "."


def _cannot_run(argv: Sequence[str]) -> int:
    """Return the exit code for what cannot be done: 2, but 3 for a check, where 2 says that a limit is full."""
    words = [word for word in argv if not word.startswith("-")]
    if words[:1] != ["check"]:
        return 2
    from fork_trace.commands import check

    return check.cannot_run(argv)


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command line; whatever goes wrong, a person reads one sentence and what to do."""
    code: Any = 0
    cannot_run = _cannot_run(sys.argv[1:] if argv is None else argv)
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
        code = cannot_run
    except click.ClickException as error:
        # It quotes what it was given, which can be the name of a file: `fork-trace report *`.
        error.message = safe(error.message)
        error.show()
        code = cannot_run
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        # The reader of our output has gone, `| head` for instance: nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 0
    except OSError as error:
        print(f"fork-trace: system error: {_sentence(str(error))}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = cannot_run
    except MemoryError:
        print(
            "fork-trace: out of memory. Raise this process's memory limit; it needs 40 MB.",
            file=sys.stderr,
        )
        code = cannot_run
    _linger(sys.argv[1:] if argv is None else argv)
    sys.exit(code)


def _linger(argv: Sequence[str]) -> None:
    if not argv or argv[0] not in _ANSWERS or not (os.isatty(0) and os.isatty(1)):
        return
    # Only where there is a terminal to take the answer along.
    from fork_trace.output.live.last import linger

    with suppress(KeyboardInterrupt):
        linger()
