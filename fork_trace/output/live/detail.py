"""One row of the screen told whole: its trend, the place where it was refused, its stack. Pure."""

from __future__ import annotations

from fork_trace.escape import safe
from fork_trace.output import bars, report, telling, times
from fork_trace.output.aggregate import Row, Table
from fork_trace.output.live.line import Line
from fork_trace.output.live.look import HELP, Look
from fork_trace.output.live.trends import rate_text
from fork_trace.output.units import count


def lines(counted: Table, row: Row, look: Look, width: int, height: int) -> list[Line]:
    """Tell of a row as much as has room."""
    named = (f"{name} {safe(value or '?')}" for name, value in zip(counted.by, row.key))
    found = [Line(f"{count(row.count, 'failure', 'failures')}: {', '.join(named)}", "strong")]
    first, last = (times.clock(each, counted.spans_days()) for each in (row.first_ns, row.last_ns))
    text = f"first {first}, last {last}; {rate_text(look.trends.rate(row.key))} per second"
    room = min(60, width - len(text) - 2)
    trend = look.trends.of(row.key)
    text += f"  {bars.spark(trend, room, look.is_ascii)}" if trend and room > 0 else ""
    found += [Line(text), Line("")]
    part, _ = row.at()
    # What was refused most, where it can be told; the place has the numbers and the holders.
    keys = [part.key] if part else list(row.parts)
    places = [each for each in counted.places() if each.key in keys]
    for place in places[:1]:
        found += [Line(each) for each in telling.tell([place], when=counted.when).lines(width)]
    found += [Line(each) for each in report.stacks([row])]
    return found[:height]


def help_lines(width: int) -> list[Line]:
    """List the keys."""
    most = max(len(keys) for keys, _ in HELP)
    return [Line("Keys:", "strong"), *(Line(f"  {keys:{most}}  {what}") for keys, what in HELP)]
