"""What `live` shows at one moment, as lines that fit: a screen of it, or what has changed since. Pure.

How a screen gets onto a terminal is `terminal`'s, what a report says is `report`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fork_trace.escape import safe
from fork_trace.output import bars, report, tables, telling
from fork_trace.output.aggregate import Row, Table
from fork_trace.output.live import detail, moving, waiting
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
_LEAST_LINES = 3  # of causes that have no room
_WIDEST_TEXT = 110  # longer lines are hard to read
_NARROWEST_TEXT = 40
_SHORT_STACK = 6
_BESIDE = {"command": 15, "cause": 17, "step": 18, "user": 8}
_BESIDE_ELSE = 24
_TOO_LONG = "     (a command wider than this screen: in the report at the end)"
_BEFORE = 16  # the time and what is new
_OLD_NS = 60 * 10**9
_SLOW_TREND = 20  # columns, of which each is sent anew with each interval
_KEYS = "h for help, "
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


@dataclass(frozen=True)
class _Block:
    """What can be shown of one cause, by the room that there is."""

    line: str
    # From brief to whole, each longer than the one before it.
    forms: Sequence[list[str]]

    @property
    def brief(self) -> list[str]:
        return self.forms[0]


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
    lines = [
        Line(_bar(moment, width), "bar"),
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
    else:
        rows = rows_of(counted, look)
        text_width = max(_NARROWEST_TEXT, min(width, _WIDEST_TEXT))
        if look.page == "detail" and rows:
            row = rows[min(look.chosen or 0, len(rows) - 1)]
            lines += detail.lines(counted, row, look, text_width, left)
        else:
            if counted.failures:
                lines += _rows(counted, rows, new, moment, (width, left), options, look)
            lines += _blocks(counted, new, text_width, height - len(lines), options)
    return [line.fitted(width) for line in lines[:height]]


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
        parts.append(f"{rate_text(look.trends.rate())} failures per second")
    text = "; ".join(parts)
    room = min(_SLOW_TREND if look.is_slow else len(values), width - columns(text) - 2)
    drawn = bars.spark(values, room, look.is_ascii).rstrip() if room > 4 else ""
    return f"{text}  {drawn}".rstrip() if drawn else text


def lost(samples: int, missed: int, width: int | None = None) -> str:
    """Say in a line that samples were lost and what that means; None: of any width."""
    text = f"{count(samples, 'sample', 'samples')} lost"
    if missed:
        return f"{text}, {count(missed, 'call', 'calls')} missed: counts are lower bounds"
    whole = f"{text} (buffer full): counts are exact, some details are missing"
    return whole if width is None or columns(whole) <= width else f"{text}; counts are exact"


def _verdict(counted: Table, moment: Moment, width: int) -> str:
    hidden = ""
    if moment.filtered and not counted.failures:
        hidden = f"; {count(moment.filtered, 'failure', 'failures')} outside the filter"
    return report.verdict(counted, moment.elapsed_s, width=width, outside=hidden)


def _bar(moment: Moment, width: int) -> str:
    left = f"fork-trace live on {safe(moment.host)}, {span(moment.elapsed_s)}"
    if moment.filtered:
        left += f"; {moment.filtered} filtered out"
    if moment.quiet_s is not None:
        left += f"; last failure {span(moment.quiet_s)} ago"
    right = f"  {moment.keys_to_end} to stop"
    if moment.keys_to_end.startswith("q") and columns(left + right) + len(_KEYS) <= width:
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
    below = 1 if "cause" in counted.by and any(map(tables.is_inferred, rows)) else 0
    room = max(_LEAST_ROWS, height - 1 - below - 1 - _CAUSES_LINES)
    shown = _most_telling(rows, new, room) if look.sort == "count" else rows[:room]
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
    lines = [Line(table[0])]
    for number, (text, row) in enumerate(zip(table[1:], shown)):
        is_old = moment.now_ns is not None and moment.now_ns - row.last_ns > _OLD_NS
        style = "strong" if row.key in new else "dim" if is_old else ""
        if number == look.chosen:
            # Before a number is room, and not each terminal has colors.
            style, text = "chosen", f">{text[1:]}" if text.startswith(" ") else text
        lines.append(Line(text, style, moving.spans(table[0], text, row)))
    if len(shown) < len(rows):
        keys = {row.key for row in shown}
        lines.append(Line(report.others([row for row in rows if row.key not in keys])))
    return lines + [Line(tables.INFERRED)] * below


def _most_telling(
    rows: list[Row], new: Mapping[tuple[str | None, ...], int], room: int
) -> list[Row]:
    """Choose rows where not all have room: those of most failures, and what has just changed."""
    if len(rows) <= room:
        return rows
    room -= 1  # a line says how many there are more
    changed = [number for number in range(room, len(rows)) if rows[number].key in new]
    changed.sort(key=lambda number: -rows[number].last_ns)
    del changed[max(1, room // 3) :]
    return [*rows[: room - len(changed)], *(rows[number] for number in sorted(changed))]


def _blocks(
    counted: Table,
    new: Mapping[tuple[str | None, ...], int],
    width: int,
    height: int,
    options: ReportOptions,
) -> list[Line]:
    """Fill the rest: each cause in brief as long as there is room, and the first ones whole."""
    told: list[_Block] = []
    if options.stacks:
        rows = sorted(counted.rows(), key=lambda row: (row.key not in new, -row.count))
        for row in rows:
            lines = report.stacks([row])[1:]
            told.append(_Block(cut(lines[0], width), (lines[:_SHORT_STACK], lines)))
    for cause, places in counted.by_cause().items():
        told.append(
            _Block(
                telling.tell_in_a_line(cause, width),
                (
                    _fitted(telling.tell_briefly(places), width),
                    _fitted(telling.tell_briefly(places, lists_others=True), width),
                    _fitted(telling.tell(places, when=counted.when), width),
                ),
            )
        )
    for each in counted.incidents.told():
        forms = [_fitted(part, width) for part in (replace(each, advice=()), each)]
        told.append(_Block(cut(each.title, width), forms))
    blocks: list[list[str]] = []
    left = height
    for number, block in enumerate(told):
        # A blank line before it, and after it a line for each that follows, or for all of them.
        after = len(told) - number - 1
        if 1 + len(block.brief) + (after and 1 + min(after, _LEAST_LINES)) > left:
            break
        blocks.append(block.brief)
        left -= 1 + len(block.brief)
    rest = told[len(blocks) :]
    if rest:
        room = max(1, left - 1)
        lines = [block.line for block in rest[: room if len(rest) <= room else room - 1]]
        if len(lines) < len(rest):
            others = count(len(rest) - len(lines), "more cause", "more causes")
            lines.append(f"... {others}; see the summary at the end")
        left -= 1 + len(lines)
    # Every place of every cause says more than the whole advice for one.
    for form in range(1, max((len(block.forms) for block in told), default=1)):
        for number, block in enumerate(told[: len(blocks)]):
            longer = len(block.forms[form]) - len(blocks[number]) if form < len(block.forms) else 0
            if 0 < longer <= left:
                blocks[number] = block.forms[form]
                left -= longer
    blocks += [lines] if rest else []
    return [Line(text) for block in blocks for text in ("", *block)]


def _fitted(told: Told, width: int) -> list[str]:
    """Write a cause as lines of a screen: a command is there as a whole or not at all."""
    commands = {each for remedy in (*told.advice, *told.places) for each in remedy.commands}
    return [
        _TOO_LONG if columns(line) > width and line.strip() in commands else line
        for line in told.lines(width)
    ]


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
