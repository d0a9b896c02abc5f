"""Rows as tables: as wide as there is room, aligned, for a terminal or as Markdown. Owns tabulate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import tabulate

from fork_trace.diagnosis.evidence import counted_limit
from fork_trace.escape import safe
from fork_trace.output.aggregate import Row
from fork_trace.output.times import clock
from fork_trace.output.units import short
from fork_trace.output.wording import WIDTH, columns, cut, tail

# No name is shown longer, however wide the terminal is. A path is there to be copied: of a pod's container
# it has 190 characters.
_MOST = {"command": 15, "cause": 21, "step": 18, "cgroup": 256, "container": 256}
_MOST_ELSE = 72
CAUSE_WIDTH = _MOST["cause"] + 1  # with the mark of an inferred one
_LEAST = 8
TIMES_WIDTH = 36  # of the three columns that --times adds
# Of a path its end tells most.
_PATHS = ("cgroup", "container")
# Cut in a table that is too wide. A cut cause would be another one.
NARROWABLE = ("command", "caller", "cgroup", "container", "parent", "host")
# On a screen that is narrower still these go, in this order, then what --by names, from its end; never
# COUNT and the cause.
_DROPPED = ("ERRNO", "USED/LIMIT", "NEW", "FIRST", "PER S", "LAST")
# Stands behind each letter that takes two columns; no cell has it, as `safe` escapes it.
_FILLER = "\0"
KEPT_BLANK = "\1"  # one that tabulate would strip, in a picture made of characters
INFERRED = "* inferred from kernel state, not observed"

# With wcwidth installed tabulate would count those letters itself, and differently.
tabulate.WIDE_CHARS_MODE = False
# A column is as wide as its heading, and not wider by two: 80 columns are few.
tabulate.MIN_PADDING = 0


def draw(
    lines: Sequence[Sequence[str]],
    headings: Sequence[str],
    alignment: Sequence[str] | None = None,
    tablefmt: str = "plain",
) -> str:
    """Draw cells as they are, none of them taken for a number."""
    filled = [[_fill(text) for text in line] for line in lines]
    text: str = tabulate.tabulate(
        filled,
        headings,
        tablefmt=tablefmt,
        colalign=alignment if lines else None,
        disable_numparse=True,
    )
    return text.replace(_FILLER, "").replace(KEPT_BLANK, " ")


def _fill(text: str) -> str:
    if text.isascii():
        return text
    return "".join(char + _FILLER if columns(char) == 2 else char for char in text)


def cells(
    counted: Iterable[Row],
    by: Sequence[str],
    times: bool = False,
    new: Mapping[tuple[str | None, ...], int] | None = None,
    has_days: bool = False,
) -> tuple[list[str], list[list[str]]]:
    """Return the headings, and what stands under each of them in every row.

    With `new`, a column says of each row how many of its failures are new.
    """
    headings = ["COUNT", *(["NEW"] if new is not None else [])]
    headings += [*(name.upper() for name in by), "ERRNO", "USED/LIMIT"]
    headings += ["PER S", "FIRST", "LAST"] if times else []
    lines = []
    for row in counted:
        line = [str(row.count)]
        if new is not None:
            line.append(f"+{new[row.key]}" if row.key in new else "")
        line += [named(row, name, value) for name, value in zip(by, row.key)]
        line += [errno(row), against(row)]
        if times:
            rate = row.per_second()
            line.append("-" if rate is None else f"{rate:.3g}")
            line += [clock(each, has_days) for each in (row.first_ns, row.last_ns)]
        lines.append(line)
    return headings, lines


class Extra(NamedTuple):
    """Columns that a table has at its end where all names have room: their headings, and the cells of each row."""

    headings: tuple[str, ...]
    cells: Sequence[tuple[str, ...]]


def rows(
    counted: Iterable[Row],
    by: Sequence[str],
    times: bool = False,
    width: int = WIDTH,
    new: Mapping[tuple[str | None, ...], int] | None = None,
    drops: bool = False,
    has_days: bool = False,
    extras: Sequence[Extra] = (),
) -> str:
    """Draw rows, one line each under one of headings; at most so wide with the default `--by`.

    ERRNO goes first where they are too wide, as reports count errnos below; then names are cut, paths
    last. With `drops` columns are left out where they are too many for the width, instead of being cut
    off. Of `extras` the first is drawn that has room beside all of these.
    """
    headings, lines = cells(counted, by, times, new, has_days)
    first = headings.index("ERRNO") - len(by)
    names: list[str | None] = [None] * len(headings)
    names[first : first + len(by)] = by
    alignment = ["right"] * first + ["left"] * (len(headings) - first)
    widths = _widths(lines, headings)
    extra = _fitting_extra(extras, widths, width)
    if extra is not None:
        headings = [*headings, *extra.headings]
        alignment += ["left"] * len(extra.headings)
        names += [None] * len(extra.headings)
        lines = [[*line, *more] for line, more in zip(lines, extra.cells)]
        widths = _widths(lines, headings)
    if _over(widths, width) > 0:
        kept = [n for n, heading in enumerate(headings) if heading != "ERRNO"]
        headings, alignment = [headings[n] for n in kept], [alignment[n] for n in kept]
        names, lines = [names[n] for n in kept], [[line[n] for n in kept] for line in lines]
    if drops:
        kept = _fitting(_widths(lines, headings), headings, names, width)
        headings, alignment = [headings[n] for n in kept], [alignment[n] for n in kept]
        names, lines = [names[n] for n in kept], [[line[n] for n in kept] for line in lines]
    _narrow(lines, headings, names, width)
    return draw(lines, headings, alignment)


def _fitting_extra(extras: Sequence[Extra], widths: Sequence[int], width: int) -> Extra | None:
    """Choose the first for which there is room."""
    for extra in extras:
        more = _widths([list(each) for each in extra.cells], extra.headings)
        if _over([*widths, *more], width) <= 0:
            return extra
    return None


def named(row: Row, name: str, value: str | None) -> str:
    """Write one column of a row: harmless, and an inferred cause with its mark."""
    most = _MOST.get(name, _MOST_ELSE)
    unknown = "(other)" if name == "command" else "?"  # one without a command found no room
    text = unknown if value is None else safe(value)
    text = tail(text, most) if name in _PATHS else cut(text, most)
    if name == "cause" and is_inferred(row):
        # The longest slugs leave no room for the blank.
        text += " *" if len(text) < _MOST["cause"] else "*"
    return text


def is_inferred(row: Row) -> bool:
    """Say whether nobody saw a function refuse, in the latest failure of a row."""
    return row.latest is not None and row.latest.certainty != "observed"


def errno(row: Row) -> str:
    """Name what the callers got: the most frequent error, and how many others there were."""
    names = sorted(row.errnos.items(), key=lambda item: (-item[1], item[0]))
    first = safe(names[0][0])
    return first if len(names) == 1 else f"{first}+{len(names) - 1}"


def against(row: Row) -> str:
    """Write the number that decided against its limit, where most failures were; and how many others there are."""
    part, others = row.at()
    if part is None or part.first is None:
        return "?"
    first = part.first
    text, limit = short(first.value, first.unit), counted_limit(first)
    if limit is not None:
        text += f"/{short(limit, first.unit)}"
    elif first.unit not in ("tasks", "KiB"):
        text = "-"
    return f"{text}+{others}" if others else text


def _widths(lines: Sequence[Sequence[str]], headings: Sequence[str]) -> list[int]:
    return [
        max(len(heading), *(columns(line[n]) for line in lines)) if lines else 0
        for n, heading in enumerate(headings)
    ]


def _over(widths: Sequence[int], width: int) -> int:
    return sum(widths) + 2 * (len(widths) - 1) - width


def _least(
    widths: Sequence[int], headings: Sequence[str], names: Sequence[str | None]
) -> list[int]:
    return [
        min(each, max(_LEAST, len(heading))) if name in NARROWABLE else each
        for each, heading, name in zip(widths, headings, names)
    ]


def _fitting(
    widths: Sequence[int], headings: Sequence[str], names: Sequence[str | None], width: int
) -> list[int]:
    """Choose the columns for which there is room, each as narrow as it can get."""
    least = _least(widths, headings, names)
    kept = list(range(len(headings)))
    named = [n for n in kept if names[n] not in (None, "cause")]
    also = [headings.index(each) for each in _DROPPED if each in headings]
    for n in (*also, *reversed(named)):
        if _over([least[n] for n in kept], width) <= 0:
            break
        kept.remove(n)
    return kept


def _narrow(
    lines: Sequence[list[str]], headings: Sequence[str], names: Sequence[str | None], width: int
) -> None:
    """Cut the widest names of a table that is too wide, a column at a time."""
    widths = _widths(lines, headings)
    least = _least(widths, headings, names)
    over = _over(widths, width)
    is_path = [name in _PATHS for name in names]
    while over > 0 and (wide := [n for n, each in enumerate(least) if widths[n] > each]):
        # A path is there to be copied: other names go first.
        wide = [n for n in wide if not is_path[n]] or wide
        widths[max(wide, key=lambda n: widths[n])] -= 1
        over -= 1
    for n, name in enumerate(names):
        if name in NARROWABLE:
            for line in lines:
                line[n] = (tail if name in _PATHS else cut)(line[n], widths[n])
