"""The columns of a screen's table that move: bars of limits, rates and sparklines; and where colors go. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fork_trace.diagnosis.evidence import counted_limit
from fork_trace.escape import safe
from fork_trace.output import bars
from fork_trace.output.aggregate import Row
from fork_trace.output.live.line import Span
from fork_trace.output.live.look import Look
from fork_trace.output.live.trends import MOST, rate_text
from fork_trace.output.tables import KEPT_BLANK, Extra
from fork_trace.output.wording import columns, tail

_BARS = (16, 8)
_TRENDS = (MOST, 40, 20, 10)
_WIDEST_PLACE = 60


def percent(row: Row) -> float | None:
    """Return how much of the limit was used where most of a row's failures were; None: no matter of numbers."""
    part, _ = row.at()
    first = part.first if part else None
    limit = counted_limit(first) if first is not None else None
    if first is None or first.value is None or limit is None or limit <= 0:
        return None
    return 100.0 * first.value / limit


def extras(shown: Sequence[Row], look: Look) -> list[Extra]:
    """Return what there may be room for, the widest first."""
    return list(_extras(shown, look))


def _extras(shown: Sequence[Row], look: Look) -> Iterator[Extra]:
    shares = [percent(row) for row in shown]
    rates = [rate_text(look.trends.rate(row.key)) for row in shown]
    trends = [look.trends.of(row.key) for row in shown]

    def drawn_bars(width: int) -> list[str]:
        return ["-" if each is None else bars.bar(each, width, look.is_ascii) for each in shares]

    def drawn_trends(width: int) -> list[str]:
        # From the left until there are as many intervals: all rows have the same.
        drawn = (bars.spark(each, min(width, len(each)), look.is_ascii) for each in trends)
        return [each.replace(" ", KEPT_BLANK) for each in drawn]

    if not any(trends):
        for width in _BARS:
            yield Extra(("SHARE",), [(each,) for each in drawn_bars(width)])
        return
    if not look.is_slow:
        places = [_place(row) for row in shown]
        for wide in _TRENDS[:-1]:
            names = ("SHARE", "RATE/S", "TREND", "WHERE")
            yield Extra(names, list(zip(drawn_bars(_BARS[0]), rates, drawn_trends(wide), places)))
        for wide in _TRENDS:
            for width in _BARS:
                yield Extra(
                    ("SHARE", "RATE/S", "TREND"),
                    list(zip(drawn_bars(width), rates, drawn_trends(wide))),
                )
        yield Extra(("RATE/S", "TREND"), list(zip(rates, drawn_trends(_TRENDS[-1]))))
    yield Extra(("SHARE", "RATE/S"), list(zip(drawn_bars(_BARS[-1]), rates)))
    yield Extra(("RATE/S",), [(each,) for each in rates])


def _place(row: Row) -> str:
    """Say where the limit is that refused most of a row's failures."""
    part, _ = row.at()
    where = part.key.where if part else None
    return tail(safe((where or "-").replace("cgroup /", "/", 1)), _WIDEST_PLACE)


def spans(heading: str, text: str, row: Row) -> tuple[Span, ...]:
    """Return where a line of the table is in a color: by how full the limit was."""
    share = percent(row)
    # Where letters are wider than others, columns are no places in the text.
    if columns(text) != len(text):
        return ()
    level = "" if share is None else bars.level(share)
    styles = {"USED/LIMIT": level, "SHARE": level, "TREND": "trend"}
    found = []
    for name, style in styles.items():
        begin = heading.find(name)
        if begin >= 0 and style:
            after = heading[begin + len(name) :]
            end = begin + len(name) + len(after) - len(after.lstrip())
            found.append(Span(begin, end if after.strip() else len(text), style))
    return tuple(found)
