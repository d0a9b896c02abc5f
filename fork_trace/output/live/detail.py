"""One row of the screen told whole: its trend, the place where it was refused, its stack. Pure."""

from __future__ import annotations

from fork_trace.escape import safe
from fork_trace.output import bars, report, telling, times
from fork_trace.output.aggregate import Row, Table
from fork_trace.output.live import blocks, moving
from fork_trace.output.live.line import Line, Span
from fork_trace.output.live.look import HELP, Look
from fork_trace.output.live.trends import rate_text
from fork_trace.output.units import count
from fork_trace.output.wording import wrap

_BAR = 40  # columns
_TALL, _TALL_FROM = 4, 28  # lines of a picture, and of the room for that


def lines(counted: Table, row: Row, look: Look, width: int, height: int) -> list[Line]:
    """Tell all of a row."""
    text_width = min(width, blocks.WIDEST_TEXT)
    named = (f"{name} {safe(value or '?')}" for name, value in zip(counted.by, row.key))
    title = f"{count(row.count, 'failure', 'failures')}: {', '.join(named)}"
    found = [Line(text, "strong") for text in wrap(title, "", "  ", text_width)]
    first, last = (times.clock(each, counted.spans_days()) for each in (row.first_ns, row.last_ns))
    text = f"first {first}, last {last}; {rate_text(look.trends.rate(row.key), '0')} per second"
    found += _trend(text, row, look, width, height)
    part, _ = row.at()
    share = moving.percent(row)
    if part is not None and part.first is not None and share is not None:
        begin = f"{safe(part.first.name)}  "
        drawn = f"{bars.bar(share, _BAR, look.is_ascii)} {share:4.0f}%"
        span = Span(len(begin), len(begin) + len(drawn), bars.level(share))
        found.append(Line(begin + drawn, "", (span,)))
    found.append(Line(""))
    # What was refused most, where it can be told; the place has the numbers and the holders.
    keys = [part.key] if part else list(row.parts)
    places = [each for each in counted.places() if each.key in keys]
    for place in places[:1]:
        found += blocks.fitted(telling.tell([place], when=counted.when), width)
    stack = report.stacks([row])
    return found + [Line(stack[0]), Line(stack[1], "strong"), *map(Line, stack[2:])]


def _trend(text: str, row: Row, look: Look, width: int, height: int) -> list[Line]:
    values = look.trends.of(row.key)
    if not values:
        return [Line(text)]
    text += f", {look.trends.peak_text(key=row.key)}"
    if height >= _TALL_FROM and not look.is_slow:
        drawn = bars.chart(values, min(len(values), width), _TALL, look.is_ascii)
        return [Line(text), *(Line(each, "trend") for each in drawn)]
    room = min(len(values), width - len(text) - 2)
    if room <= 0:
        return [Line(text)]
    drawn_text = f"{text}  {bars.spark(values, room, look.is_ascii)}"
    return [Line(drawn_text, "", (Span(len(text), len(drawn_text), "trend"),))]


def seen(found: list[Line], look: Look, height: int) -> list[Line]:
    """Return what has room of it, and a line that says how much is below."""
    first = min(look.scrolled, max(0, len(found) - height))
    below = len(found) - first - height
    shown = found[first : first + height]
    if below > 0 and shown:
        shown[-1] = Line(f"... {count(below + 1, 'more line', 'more lines')}: down", "dim")
    return shown


def help_lines(width: int) -> list[Line]:
    """List the keys."""
    most = max(len(keys) for keys, _ in HELP)
    return [Line("Keys:", "strong"), *(Line(f"  {keys:{most}}  {what}") for keys, what in HELP)]
