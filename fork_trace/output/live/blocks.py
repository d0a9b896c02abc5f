"""The causes under the table of a screen: as many whole ones as there is room for, and a line for each other. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from fork_trace.model.dataclass import dataclass
from fork_trace.output import report, telling
from fork_trace.output.aggregate import Table
from fork_trace.output.live.line import Line
from fork_trace.output.paragraph import Told
from fork_trace.output.report_options import ReportOptions
from fork_trace.output.units import count
from fork_trace.output.wording import broken, columns, cut, wrap

_LEAST_LINES = 3  # of causes that have no room
_SHORT_STACK = 6
_TOO_LONG = "     (a command wider than this screen: in the report at the end)"
WIDEST_TEXT = 110  # longer lines are hard to read
_NARROWEST_TEXT = 40


@dataclass(frozen=True)
class _Block:
    """What can be shown of one cause, by the room that there is."""

    line: str
    # From brief to whole, each longer than the one before it.
    forms: Sequence[list[Line]]

    @property
    def brief(self) -> list[Line]:
        return self.forms[0]


def lines(
    counted: Table,
    new: Mapping[tuple[str | None, ...], int],
    size: tuple[int, int],
    options: ReportOptions,
    causes: Collection[str] | None = None,
) -> list[Line]:
    """Fill so many columns and lines: each cause in brief as long as there is room, and the first ones whole.

    With `causes` only of these.
    """
    width, left = size
    told = _told(counted, new, width, options, causes)
    blocks: list[list[Line]] = []
    for number, block in enumerate(told):
        # A blank line before it, and after it a line for each that follows, or for all of them.
        after = len(told) - number - 1
        if 1 + len(block.brief) + (after and 1 + min(after, _LEAST_LINES)) > left:
            break
        blocks.append(block.brief)
        left -= 1 + len(block.brief)
    rest = _rest(told[len(blocks) :], left)
    left -= len(rest) and 1 + len(rest)
    # Every place of every cause says more than the whole advice for one.
    for form in range(1, max((len(block.forms) for block in told), default=1)):
        for number, block in enumerate(told[: len(blocks)]):
            longer = len(block.forms[form]) - len(blocks[number]) if form < len(block.forms) else 0
            if 0 < longer <= left:
                blocks[number] = block.forms[form]
                left -= longer
    blocks += [rest] if rest else []
    return [line for block in blocks for line in (Line(""), *block)]


def _told(
    counted: Table,
    new: Mapping[tuple[str | None, ...], int],
    width: int,
    options: ReportOptions,
    causes: Collection[str] | None,
) -> list[_Block]:
    """Tell of all that failed, the worst first."""
    told: list[_Block] = []
    text_width = min(width, WIDEST_TEXT)
    if options.stacks:
        rows = sorted(counted.rows(), key=lambda row: (row.key not in new, -row.count))
        for row in rows:
            stack = [Line(text) for text in report.stacks([row])[1:]]
            told.append(_Block(cut(stack[0].text, text_width), (stack[:_SHORT_STACK], stack)))
    for cause, places in counted.by_cause().items():
        if causes is not None and cause not in causes:
            continue
        forms = (
            telling.tell_briefly(places),
            telling.tell_briefly(places, lists_others=True),
            telling.tell(places, when=counted.when),
        )
        line = telling.tell_in_a_line(cause, text_width)
        told.append(_Block(line, [fitted(each, width) for each in forms]))
    for each in counted.incidents.told():
        forms_of = [fitted(part, width) for part in (replace(each, advice=()), each)]
        told.append(_Block(cut(each.title, text_width), forms_of))
    return told


def _rest(told: Sequence[_Block], left: int) -> list[Line]:
    """Write a line for each that has no room, as long as there is room for that."""
    if not told:
        return []
    room = max(1, left - 1)
    shown = [Line(block.line) for block in told[: room if len(told) <= room else room - 1]]
    if len(shown) < len(told):
        others = count(len(told) - len(shown), "more cause", "more causes")
        shown.append(Line(f"... {others}; see the summary at the end"))
    return shown


def fitted(told: Told, width: int) -> list[Line]:
    """Write a cause as lines of a screen: a command can be pasted as it stands there, or is not there at all."""
    commands = {each for remedy in (*told.advice, *told.places) for each in remedy.commands}
    text_width = max(_NARROWEST_TEXT, min(width, WIDEST_TEXT))
    title = len(wrap(told.title, "", "  ", text_width))
    found = []
    for number, text in enumerate(told.lines(text_width)):
        if text.strip() not in commands:
            found.append(Line(text, "strong" if number < title else ""))
        elif columns(text) <= width:
            found.append(Line(text, "command"))
        else:
            indent = text[: len(text) - len(text.lstrip())]
            parts = broken(text.strip(), indent, width)
            found += [Line(each, "command") for each in parts] or [Line(_TOO_LONG)]
    return found
