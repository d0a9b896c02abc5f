"""Rehearsals, listed and as they went, for people and as JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from fork_trace.escape import json_line, safe
from fork_trace.output.tables import draw
from fork_trace.output.wording import wrap


def scenarios(known: Sequence[Any], as_json: bool) -> str:
    """List the rehearsals: name, whether it touches the whole host, what it makes."""
    if as_json:
        return "".join(
            json_line(
                {
                    name: getattr(each, name)
                    for name in (
                        *("name", "title", "how", "cause", "step", "errno", "comm"),
                        *("host_wide", "needs_root", "syscall", "creates", "is_early"),
                    )
                }
            )
            + "\n"
            for each in known
        )
    # What a terminal of 80 columns leaves beside the other three.
    title_columns = 57 - max(len(each.name) for each in known)
    rows = [
        [
            each.name,
            "host" if each.host_wide else "itself",
            each.errno or "-",
            "\n".join(textwrap.wrap(each.title, title_columns)),
        ]
        for each in known
    ]
    return draw(rows, ["SCENARIO", "AFFECTS", "ERRNO", "WHAT"]) + "\n"


def outcome(done: Any, as_json: bool) -> str:
    """Say what a rehearsal did."""
    if as_json:
        return (
            json_line(
                {
                    "scenario": done.scenario.name,
                    "cause": done.scenario.cause,
                    "step": done.scenario.step,
                    "errno": done.scenario.errno,
                    "pid": done.pid,
                    "comm": done.comm,
                    "count": done.count,
                    "attempts": done.attempts,
                    "failures": dict(done.failures),
                    "successes": done.successes,
                    "as_planned": done.is_as_planned,
                    "ended_by": done.ended_by or None,
                    "notes": done.notes,
                    "times_ms": done.times_ms,
                }
            )
            + "\n"
        )
    counts = ", ".join(f"{count} x {name}" for name, count in sorted(done.failures.items()))
    mark = "" if done.is_as_planned else " (not as planned)"
    counts = counts.replace("SIGKILL", "killed")
    lines = wrap(
        f"{done.scenario.name}: {counts or 'no failures'} in {done.attempts} forks by "
        f"{done.comm}[{done.pid}]{mark}",
        "",
        "  ",
    )
    for note in done.notes:
        lines += wrap(safe(note), "  ", "  ")
    return "\n".join(lines) + "\n"


def not_here(scenario: str, why: str, as_json: bool) -> str:
    """Say that a rehearsal is not possible on this host."""
    if as_json:
        return json_line({"scenario": scenario, "not_here": why}) + "\n"
    return "\n".join(wrap(f"{scenario}: not possible here: {safe(why)}", "", "  ")) + "\n"
