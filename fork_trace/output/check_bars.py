"""What check found as bars, for a terminal: worst first. Pure; the words beside them are `check`'s."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fork_trace.escape import safe
from fork_trace.output import check
from fork_trace.output.live import waiting
from fork_trace.output.live.line import Line
from fork_trace.output.live.waiting import Gauge
from fork_trace.output.units import count
from fork_trace.output.wording import broken, columns

_MOST_FINE = 12  # the fullest of each cause
_TOO_LONG = "(a command wider than this screen: `fork-trace check` shows it)"
_NO_LIMIT = 1 << 53  # fs.file-max is 2^63 - 1 where systemd raised it
_STYLES = {"full": "full", "near": "near", "unknown": "near"}


def lines(found: Mapping[str, Any], is_all: bool, width: int, is_ascii: bool) -> list[Line]:
    """Draw the whole of it: verdict, a bar for each limit, and what to do about those that are near."""
    style = _STYLES.get(found["level"], "fine")
    drawn = [Line(text, style) for text in check.verdict(found, width)]
    gauges = [gauge(each) for each in _shown(found, is_all)]
    if gauges:
        drawn += [Line(""), *waiting.gauges(gauges, width, is_ascii)]
    return drawn + [_styled(text, found) for text in check.details(found, is_all)]


def _styled(text: str, found: Mapping[str, Any]) -> Line:
    for pool in check.bad(found):
        if text in check.title(pool):
            return Line(text, "strong")
        if any(text.strip() == safe(each) for one in pool["advice"] for each in one["commands"]):
            return Line(text, "command")
    return Line(text)


def screen(drawn: Sequence[Line], width: int, height: int) -> list[Line]:
    """Return as many lines as a screen has: no command is cut, and what is below is counted."""
    whole: list[Line] = []
    for line in drawn:
        indent = line.text[: len(line.text) - len(line.text.lstrip())]
        if line.style == "command" and columns(line.text) > width:
            parts = broken(line.text.strip(), indent, width)
            whole += [Line(each, "command") for each in parts] or [Line(indent + _TOO_LONG)]
        else:
            whole.append(line)
    if len(whole) <= height:
        return whole
    below = count(len(whole) - height + 1, "more line", "more lines")
    return [*whole[: height - 1], Line(f"... {below}: `fork-trace check` shows all", "dim")]


def _shown(found: Mapping[str, Any], is_all: bool) -> Iterator[Mapping[str, Any]]:
    """Choose what has a bar: all that is near or full, and of the others the fullest of each cause."""
    causes: set[str] = set()
    for pool in found["limits"]:
        is_bad = pool["level"] in ("full", "near")
        is_measured = pool["percent"] is not None and not pool["free"]
        if is_bad or (is_measured and (is_all or _is_next(pool, causes))):
            yield pool
        if is_measured:
            causes.add(pool["cause"])


def _is_next(pool: Mapping[str, Any], causes: set[str]) -> bool:
    return pool["cause"] not in causes and len(causes) < _MOST_FINE and pool["limit"] < _NO_LIMIT


def gauge(pool: Mapping[str, Any]) -> Gauge:
    """Return a limit as a bar has it."""
    names = ("cause", "percent", "used", "limit", "unit", "level")
    values = {name: pool[name] for name in names}
    if pool["refuses"]:
        values["percent"] = None
    return Gauge(where=check.place(pool) + check.few_left(pool), **values)
