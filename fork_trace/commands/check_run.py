"""What check found, for people: as text, as bars on a terminal, or as a screen that is kept fresh."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from fork_trace.commands.startup import TICK_S
from fork_trace.commands.stop_signals import StopSignals
from fork_trace.escape import safe
from fork_trace.output import check, check_bars
from fork_trace.output.live.line import Line
from fork_trace.output.live.terminal import Terminal, is_dumb
from fork_trace.output.wording import cut

_SHARE = 0.2  # of the time, at most, that is spent on reading


def show(
    examine: Callable[[], dict[str, Any]], is_all: bool, is_plain: bool, watch_s: float | None
) -> dict[str, Any]:
    """Check and show it, with `watch_s` again and again; return what was found last."""
    terminal = Terminal(wants_lines=is_plain or watch_s is None)
    width = terminal.width()
    has_bars = width is not None and not is_plain and not is_dumb()

    def write(found: dict[str, Any]) -> None:
        if has_bars:
            terminal.append(_lines(found, is_all, terminal))
        else:
            sys.stdout.write(check.check(found, is_all))
            sys.stdout.flush()

    if watch_s is None:
        found = examine()
    else:
        found = _watch(examine, is_all, terminal, watch_s, write)
        if not terminal.redraws:
            return found
    write(found)
    return found


def _watch(
    examine: Callable[[], dict[str, Any]],
    is_all: bool,
    terminal: Terminal,
    watch_s: float,
    write: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    signals = StopSignals()
    try:
        terminal.enter()
        while True:
            begin_s = time.monotonic()
            found = examine()
            took_s = time.monotonic() - begin_s
            if terminal.redraws:
                terminal.draw(_screen(found, is_all, terminal))
            else:
                write(found)
            due_s = begin_s + max(watch_s, took_s / _SHARE)
            while time.monotonic() < due_s:
                if signals.signal is not None or "q" in terminal.pressed():
                    return found
                if terminal.attend() and terminal.redraws:
                    terminal.draw(_screen(found, is_all, terminal))
                time.sleep(min(TICK_S, max(0.0, due_s - time.monotonic())))
    finally:
        terminal.leave()
        signals.let_go()


def _lines(found: dict[str, Any], is_all: bool, terminal: Terminal) -> list[Line]:
    return check_bars.lines(found, is_all, terminal.width() or 79, terminal.is_ascii)


def _screen(found: dict[str, Any], is_all: bool, terminal: Terminal) -> list[Line]:
    columns, height = terminal.size()
    left = f"fork-trace check on {safe(found['host'])}, {found['time'][11:]}"
    right = f"  {terminal.keys_to_end} to stop"
    room = max(1, columns - 1 - len(right))
    bar = Line(f"{cut(left, room):{room}}{right}", "bar")
    return [bar, *check_bars.screen(_lines(found, is_all, terminal), columns - 1, height - 1)]
