"""`fork-trace latency`: forks that take long, and why."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from fork_trace.commands import options
from fork_trace.probes.request import ATTACH_MODES

if TYPE_CHECKING:
    from fork_trace.collect.slow import Seen, SlowWatch
    from fork_trace.commands.child import Child
    from fork_trace.commands.stop_signals import StopSignals
    from fork_trace.latency.account import Account


@click.command("latency", context_settings={"allow_interspersed_args": False})
@options.over
@options.duration
@click.option("--json", "as_json", is_flag=True, help="Print JSON Lines, which report shows again.")
@click.option(
    "--attach", type=click.Choice(ATTACH_MODES), help="Attach mode. [default: the best available]"
)
@click.option(
    "--all-phases",
    is_flag=True,
    help="Attach what tells the parts of a fork at start, not at the first slow fork.",
)
@options.stack_bytes
@options.keep_privileges
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def command(**given: Any) -> None:
    """Find forks that take long, and why

    For each command and caller: how often, how long, which part of the fork, and
    what it waited for. Stops after the duration, when COMMAND ends, or on Ctrl-C.
    Exit code: 0, also if there were slow forks. With --json, COMMAND's stdout
    goes to stderr.

    \b
    sudo fork-trace latency --duration 60
    sudo fork-trace latency --over 1ms -- redis-cli bgsave
    """
    from fork_trace.collect.slow import SlowWatch
    from fork_trace.commands import child
    from fork_trace.commands.stop_signals import StopSignals

    child.demand(given["command"])
    over_ns = round(given["over"] * 1e6)
    kept = (given["stack_bytes"], given["keep_privileges"], given["all_phases"])
    watch = SlowWatch(given["attach"], over_ns, *kept)
    try:
        _run(watch, StopSignals(), given)
    finally:
        watch.close()
    sys.exit(0)


def _run(watch: SlowWatch, signals: StopSignals, given: dict[str, Any]) -> None:
    # Loaded now: without its privileges the process may not be able to read the package.
    from fork_trace.commands.child import Child
    from fork_trace.errors import ForkTraceError
    from fork_trace.latency import report
    from fork_trace.latency.account import Account
    from fork_trace.latency.recording import Totals
    from fork_trace.model import records

    account = Account(watch.host, given["over"])
    how = (
        "system calls, without phases"
        if watch.backend.attach == "tracepoint"
        else watch.backend.attach
    )
    print(
        f"Watching for forks of {given['over']:g} ms or longer, using {how}. {_how_to_end(given)}",
        file=sys.stderr,
        flush=True,
    )
    child: Child | None = None
    if given["command"]:
        watch.descriptors.restore()
        child = Child(given["command"], stdout_to_stderr=given["as_json"])
        watch.descriptors.raise_()
    try:
        watch.give_up_privileges(may_signal=child is not None)
    except ForkTraceError:
        if child:
            child.end(signals)
        raise
    ended = _watch(watch, signals, child, given["duration"], account)
    if child and ended == "signal":
        child.end(signals)
    for seen in watch.stop():
        account.add(seen)
    forks = Totals(watch, given["over"]).take(ended, child.as_json() if child else None)
    slow = account.records({each["comm"]: each["count"] for each in forks.commands})
    if given["as_json"]:
        print(records.to_json(watch.header()))
        for each in slow:
            print(records.to_json(each))
        print(records.to_json(forks))
    else:
        sys.stdout.write(report.text(slow, forks))
    sys.stdout.flush()


def _how_to_end(given: dict[str, Any]) -> str:
    ways = [f"after {given['duration']:g} s"] if given["duration"] is not None else []
    ways += ["when the command ends"] if given["command"] else []
    return f"Stops {' or '.join(ways)}, or on Ctrl-C." if ways else "Press Ctrl-C to stop."


def _watch(
    watch: SlowWatch,
    signals: StopSignals,
    child: Child | None,
    duration_s: float | None,
    account: Account,
) -> str:
    """Take in slow forks until the run ends; return what ended it."""
    from fork_trace.commands.startup import TICK_S

    ended = ""
    while not ended:
        if child and child.poll() is not None:
            ended = "command"
        elif signals.signal is not None:
            ended = "signal"
        elif duration_s is not None and watch.elapsed_s() >= duration_s:
            ended = "duration"
        timeout_s = TICK_S if child else watch.tick_s()
        if duration_s is not None:
            timeout_s = min(timeout_s, max(0.0, duration_s - watch.elapsed_s()))
        seen: list[Seen] = watch.poll(0.0 if ended else timeout_s)
        for each in seen:
            account.add(each)
    return ended
