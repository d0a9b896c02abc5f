"""What `live` shows at one moment, as lines that fit: a screen of it, or what has changed since. Pure.

How a screen gets onto a terminal is `terminal`'s, what a report says is `report`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fork_trace.escape import safe
from fork_trace.model.dataclass import dataclass
from fork_trace.output import bars, report, tables
from fork_trace.output.aggregate import Row, Table
from fork_trace.output.live import blocks, detail, moving, waiting
from fork_trace.output.live.line import Line
from fork_trace.output.live.look import Look
from fork_trace.output.live.trends import rate_text
from fork_trace.output.live.waiting import NOTHING, Forks
from fork_trace.output.paragraph import Told
from fork_trace.output.report_options import PLAIN, ReportOptions
from fork_trace.output.times import clock, span
from fork_trace.output.units import count
from fork_trace.output.wording import WIDTH, columns, cut

# So many lines are kept for the causes: one of them in brief takes seven.
_CAUSES_LINES = 8
_LEAST_ROWS = 3
_FOOT_HEIGHT = 20  # lines, from which on one is left for the keys
QUIET_S = 10.0  # after which one asks whether it is over
_PEAK = 24  # columns
_BESIDE = {"command": 15, "cause": 17, "step": 18, "user": 8}
_BESIDE_ELSE = 24
_BEFORE = 16  # the time and what is new
_OLD_NS = 60 * 10**9
_SLOW_TREND = 20  # columns, of which each is sent anew with each interval
_KEYS = "h for help, "
_FEET = {
    "rows": "Enter details  s sort  g group  f filter  p pause  h help  q stop",
    "detail": "up, down move  Esc back  p pause  h help  q stop",
    "help": "Esc back  q stop",
}
_FOOT_TYPING = "Enter keep these rows  Esc show all rows"
PLAINLY = Look()


@dataclass(frozen=True)
class Moment:
    """What a screen tells beside the failures."""

    host: str
    elapsed_s: float
    quiet_s: float | None  # since the last failure; None: there was none
    keys_to_end: str
    lost: int = 0  # samples, up to now
    missed: int = 0  # calls that were not even counted
    filtered: int = 0  # failures that the filter hides
    now_ns: int | None = None  # None: not known, so nothing is old
    forks: Forks = NOTHING


class Changes:
    """Remembers how often each row was seen, to tell what is new."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str | None, ...], int] = {}

    def take(self, counted: Table) -> dict[tuple[str | None, ...], int]:
        """Return the rows with failures since the last call, and how many these are."""
        new = {}
        for row in counted.rows():
            more = row.count - self._seen.get(row.key, 0)
            if more:
                new[row.key] = more
                self._seen[row.key] = row.count
        return new


def frame(
    counted: Table,
    new: Mapping[tuple[str | None, ...], int],
    moment: Moment,
    size: tuple[int, int],
    options: ReportOptions = PLAIN,
    look: Look = PLAINLY,
) -> list[Line]:
    """Lay out a screen of so many columns and lines: nothing wraps, and no block is cut in two."""
    width, height = max(1, size[0] - 1), size[1]
    besides = counted.incidents.headlines()
    foot = _foot(moment, width, height, look)
    height -= len(foot)
    lines = [
        Line(_bar(moment, width, look, bool(foot)), "bar"),
        Line(_verdict(counted, moment, width), "strong"),
        *([Line(lost(moment.lost, moment.missed, width), "strong")] if moment.lost else []),
        *([Line(report.beside(besides), "strong")] if besides else []),
        Line(_trend(look, width), "trend"),
    ]
    left = height - len(lines)
    if look.page == "help":
        lines += detail.help_lines(width)
    elif not counted.failures and not besides:
        lines += waiting.lines(moment.forks, width, left, look.is_ascii)
    elif look.page == "detail" and (row := row_of(counted, look)):
        lines += detail.seen(detail.lines(counted, row, look, width, left), look, left)
    else:
        rows = rows_of(counted, look)
        if counted.failures:
            lines += _rows(counted, rows, new, moment, (width, left), options, look)
        near = _nearest(moment, width, (height - len(lines)) // 3, look)
        causes = {each for row in rows for each in row.causes} if look.words else None
        room = height - len(lines) - len(near)
        lines += blocks.lines(counted, new, (width, room), options, causes)
        lines += near
    lines = lines[:height]
    if foot:
        lines += [Line("")] * (height - len(lines)) + foot
    return [line.fitted(width) for line in lines]


def _foot(moment: Moment, width: int, height: int, look: Look) -> list[Line]:
    """Name the keys, where there are any and room."""
    if height < _FOOT_HEIGHT or not moment.keys_to_end.startswith("q"):
        return []
    text = _FOOT_TYPING if look.is_typing else _FEET[look.page]
    return [Line(f"{text:{width}}", "bar")]


def _nearest(moment: Moment, width: int, height: int, look: Look) -> list[Line]:
    """Show how near the limits are by now, once nothing fails any more."""
    gauges = moment.forks.gauges[: max(0, height - 2)]
    if moment.quiet_s is None or moment.quiet_s < QUIET_S or not gauges:
        return []
    head = Line("Nearest limits now:", "strong")
    return [Line(""), head, *waiting.gauges(gauges, width, look.is_ascii)]


def row_of(counted: Table, look: Look) -> Row | None:
    """Return the row that is chosen, or the first; None: there is none."""
    rows = rows_of(counted, look)
    return next((row for row in rows if row.key == look.chosen), rows[0] if rows else None)


def rows_of(counted: Table, look: Look) -> list[Row]:
    """Return the rows that are asked for, in the order that is asked for."""
    rows = counted.rows()
    if look.words:
        words = look.words.lower()
        rows = [row for row in rows if any(words in safe(each or "?").lower() for each in row.key)]
    if look.sort == "rate":
        rows.sort(key=lambda row: -look.trends.rate(row.key))
    elif look.sort == "latest":
        rows.sort(key=lambda row: -row.last_ns)
    return rows


def _trend(look: Look, width: int) -> str:
    """Say what the person at the screen chose, and how many fail: in a second, and of late."""
    values = look.trends.of()
    parts = [look.told] if look.told else []
    if values:
        parts.append(f"{rate_text(look.trends.rate(), '0')} failures per second")
    text = "; ".join(parts)
    room = width - columns(text) - 2 - _PEAK
    if not values or room <= 4:
        return text
    room = min(_SLOW_TREND if look.is_slow else len(values), room)
    return f"{text}, {look.trends.peak_text(room)}  {bars.spark(values, room, look.is_ascii)}"


def lost(samples: int, missed: int, width: int | None = None) -> str:
    """Say in a line that samples were lost and what that means; None: of any width."""
    text = f"{count(samples, 'sample', 'samples')} lost"
    if missed:
        calls = f"at most {count(missed, 'call', 'calls')} missed"
        return f"{text}, {calls}: counts are lower bounds"
    whole = f"{text} (buffer full): counts are exact, some details are missing"
    return whole if width is None or columns(whole) <= width else f"{text}; counts are exact"


def _verdict(counted: Table, moment: Moment, width: int) -> str:
    hidden = ""
    if moment.filtered and not counted.failures:
        hidden = f"; {count(moment.filtered, 'failure', 'failures')} outside the filter"
    return report.verdict(counted, moment.elapsed_s, width=width, outside=hidden)


def _bar(moment: Moment, width: int, look: Look, has_foot: bool) -> str:
    left = "PAUSED: " if look.is_paused else ""
    left += f"fork-trace live on {safe(moment.host)}, {span(moment.elapsed_s)}"
    if moment.quiet_s is not None:
        left += f"; last failure {span(moment.quiet_s)} ago"
    if moment.filtered:
        left += f"; {moment.filtered} filtered out"
    right = f"  {moment.keys_to_end} to stop" if moment.keys_to_end and not has_foot else ""
    has_room = columns(left + right) + len(_KEYS) <= width
    if right and moment.keys_to_end.startswith("q") and has_room:
        right = f"  {_KEYS}{right[2:]}"
    left = cut(left, max(1, width - columns(right)))
    return cut(left + " " * (width - columns(left) - columns(right)) + right, width)


def _rows(
    counted: Table,
    rows: list[Row],
    new: Mapping[tuple[str | None, ...], int],
    moment: Moment,
    size: tuple[int, int],
    options: ReportOptions,
    look: Look,
) -> list[Line]:
    width, height = size
    if not rows:
        return [Line("No row has these letters.")]
    below = 1 if "cause" in counted.by and any(map(tables.is_inferred, rows)) else 0
    room = max(_LEAST_ROWS, height - 1 - below - 1 - _CAUSES_LINES)
    shown = _in_sight(rows, new, room, look)
    table = tables.rows(
        shown,
        counted.by,
        options.times,
        width,
        new,
        drops=True,
        has_days=counted.spans_days(),
        extras=moving.extras(shown, look),
    ).splitlines()
    lines = [Line(table[0], "heading")]
    for text, row in zip(table[1:], shown):
        is_old = moment.now_ns is not None and moment.now_ns - row.last_ns > _OLD_NS
        style = "strong" if row.key in new else "dim" if is_old else ""
        if row.key == look.chosen:
            # Before a number is room, and not each terminal has colors.
            style, text = "chosen", f">{text[1:]}" if text.startswith(" ") else text
        # What is over is no alarm.
        lines.append(Line(text, style, () if is_old else moving.spans(table[0], text, row)))
    if len(shown) < len(rows):
        keys = {row.key for row in shown}
        lines.append(Line(report.others([row for row in rows if row.key not in keys])))
    return lines + [Line(tables.INFERRED)] * below


def _in_sight(
    rows: list[Row], new: Mapping[tuple[str | None, ...], int], room: int, look: Look
) -> list[Row]:
    """Choose rows where not all have room: those around the chosen one, else the first and what has just changed."""
    if len(rows) <= room:
        return rows
    room -= 1  # a line says how many there are more
    at = next((number for number, row in enumerate(rows) if row.key == look.chosen), None)
    if at is not None or look.sort != "count":
        first = max(0, (at or 0) - room + 1)
        return rows[first : first + room]
    changed = [number for number in range(room, len(rows)) if rows[number].key in new]
    changed.sort(key=lambda number: -rows[number].last_ns)
    del changed[max(1, room // 3) :]
    return [*rows[: room - len(changed)], *(rows[number] for number in sorted(changed))]


def _in_order(by: Sequence[str], width: int | None) -> list[str]:
    """Return what stands before the numbers: the cause first where it would not be whole."""
    names = [name for name in by if name != "caller"]
    if width is not None and "cause" in names:
        before = names[: names.index("cause")]
        end = _BEFORE + sum(1 + _BESIDE.get(name, _BESIDE_ELSE) for name in before)
        if end + 1 + tables.CAUSE_WIDTH > width:
            names.sort(key=lambda name: name != "cause")
    return names


def heading(by: Sequence[str], width: int | None = None) -> str:
    """Return the line that stands above all that is appended; None: of any width."""
    names = _in_order(by, width)
    parts = [f"{'TIME':9}", f"{'NEW':>6}"]
    parts += [f"{name.upper():{_BESIDE.get(name, _BESIDE_ELSE)}}" for name in names]
    parts += [f"{'ERRNO':6}", f"{'USED/LIMIT':11}"]
    parts += ["CALLER"] if "caller" in by else []
    text = " ".join(parts).rstrip()
    return text if width is None else cut(text, width)


def appended(
    rows: Iterable[Row],
    by: Sequence[str],
    new: Mapping[tuple[str | None, ...], int],
    width: int | None = None,
) -> list[str]:
    """Write a line for each row that has changed, its latest last; None: of any width."""
    lines = []
    for row in sorted((row for row in rows if row.key in new), key=lambda row: row.last_ns):
        parts = [clock(row.last_ns), f"{'+' + str(new[row.key]):>6}"]
        named = {name: tables.named(row, name, value) for name, value in zip(by, row.key)}
        caller = named.get("caller")
        parts += [
            _padded(named[name], _BESIDE.get(name, _BESIDE_ELSE)) for name in _in_order(by, width)
        ]
        parts.append(f"{tables.errno(row):6}")
        parts.append(f"{tables.against(row):11}")
        parts += [] if caller is None else [caller]
        text = " ".join(parts).rstrip()
        if width is not None and columns(text) > width:
            # The "~" of what is cut must not stand where the cause ends.
            head = " ".join(parts[:3]).rstrip()
            text = head if columns(head) in (width - 1, width) else cut(text, width)
        lines.append(text)
    return lines


def _padded(text: str, width: int) -> str:
    return text + " " * max(0, width - columns(text))


def introduced(told: Told, width: int = WIDTH) -> list[str]:
    """Write a cause that is seen for the first time, set off from the lines that are appended."""
    return [f"  {text}" for text in told.lines(width - 2)]
