"""What a screen shows while nothing fails: the limits that are nearest, and how much is forked. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fork_trace.escape import safe
from fork_trace.model.dataclass import dataclass
from fork_trace.output import bars
from fork_trace.output.live.line import Line, Span
from fork_trace.output.units import short
from fork_trace.output.wording import columns, cut, tail

_BAR = (10, 40)  # columns at least and at most


@dataclass(frozen=True)
class Gauge:
    """One limit, and how much of it is used."""

    cause: str
    percent: float | None  # None: it is no matter of numbers
    used: int | None
    limit: int | None
    unit: str
    where: str
    level: str | None = None  # "full", "near", "fine"; None: as the percentage says


@dataclass(frozen=True)
class Forks:
    """How near a fork is to each limit, and how many there are; None: not known."""

    gauges: tuple[Gauge, ...] = ()
    why: str | None = None  # no limits were read
    per_second: float | None = None
    recent: tuple[float, ...] = ()
    tasks: int | None = None


NOTHING = Forks()


def lines(forks: Forks, width: int, height: int, is_ascii: bool) -> list[Line]:
    """Draw them into so many columns and lines."""
    found = [Line("Waiting for fork or thread failures..."), *_activity(forks, width, is_ascii)]
    shown = forks.gauges[: max(0, height - len(found) - 2)]
    if shown:
        found += [Line(""), Line("Nearest limits:"), *gauges(shown, width, is_ascii)]
    elif forks.why:
        found += [
            Line(""),
            Line(f"Limits are not shown: {safe(forks.why)}; see `fork-trace check`"),
        ]
    return found[:height]


def _activity(forks: Forks, width: int, is_ascii: bool) -> list[Line]:
    if forks.per_second is None:
        return []
    text = f"Forks and new threads: {forks.per_second:.1f} per second"
    text += "" if forks.tasks is None else f"; tasks: {forks.tasks}"
    room = min(len(forks.recent), width - len(text) - 2)
    drawn = "  " + bars.spark(forks.recent, room, is_ascii) if room > 0 else ""
    return [Line(text + drawn, "", (Span(len(text), len(text + drawn), "trend"),))]


def gauges(shown: Sequence[Gauge], width: int, is_ascii: bool) -> list[Line]:
    """Draw a bar for each limit: the cause is whole, the place is cut first."""
    cause = max(columns(safe(each.cause)) for each in shown)
    numbers = ["-" if each.percent is None else _numbers(each) for each in shown]
    number = max(map(len, numbers))
    # The place is whole before the bar is long.
    where = max(columns(safe(each.where)) for each in shown)
    length = max(_BAR[0], min(_BAR[1], width - cause - number - where - 12))
    found = []
    for each, text in zip(shown, numbers):
        begin = f"{cut(safe(each.cause), cause):{cause}}  "
        level = each.level or bars.level(each.percent or 0.0)
        # What is refused without a number is refused wholly.
        percent = each.percent if each.percent is not None else 100.0 * (level == "full")
        share = f"{percent:4.0f}%" if each.percent is not None else f"{level:>5}"
        line = f"{begin}{bars.bar(percent, length, is_ascii)} {share}  {text:{number}}"
        room = width - len(line) - 2
        line += f"  {tail(safe(each.where), room)}" if room >= 8 else ""
        span = Span(len(begin), len(begin) + length + 6, level)
        found.append(Line(line, "", (span,) if columns(line) == len(line) else ()))
    return found


def _numbers(gauge: Gauge) -> str:
    return f"{short(gauge.used, gauge.unit)}/{short(gauge.limit, gauge.unit)}"
