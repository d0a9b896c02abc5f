"""How names and sentences are written for people: cut, padded, wrapped. Pure: values in, text out.

What makes a name harmless is `names`'; which words a report has is `report`'s.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence

from fork_trace.escape import safe
from fork_trace.model.dataclass import dataclass
from fork_trace.model.records import Advice, Holder
from fork_trace.output.units import count

WIDTH = 79
_LEAST_BROKEN = 40  # columns; in fewer nobody finds a command again


def columns(text: str) -> int:
    """Say how many columns of a terminal a text takes: those of East Asia take two, accents none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 1 + (unicodedata.east_asian_width(char) in "WF")
        for char in text
    )


def cut(text: str, width: int) -> str:
    """Keep the beginning of a text; a cut one ends in "~"."""
    if columns(text) <= width:
        return text
    while text and columns(text) > width - 1:
        text = text[: min(len(text), width) - 1]
    return text + "~"


def tail(text: str, width: int) -> str:
    """Keep the end of a text, which of a path tells most; a cut one begins with "~"."""
    if columns(text) <= width:
        return text
    while text and columns(text) > width - 1:
        text = text[max(1, len(text) - width) :]
    return "~" + text


def middle(path: str, width: int) -> str:
    """Shorten a path to its first part and as many of its last ones as there is room for."""
    first, *parts = path.strip("/").split("/")
    shown = path
    while columns(shown) > width and len(parts) > 1:
        del parts[0]
        shown = f"/{first}/.../{'/'.join(parts)}"
    if columns(shown) > width and parts:
        shown = f".../{parts[-1]}"
    return tail(shown, width)


def broken(command: str, indent: str, width: int) -> list[str]:
    """Write a command in lines that a shell joins again; [] for one with quotes, in which it would not."""
    if not command.isascii() or any(char in command for char in "'\"\\#") or width < _LEAST_BROKEN:
        return []
    lines, rest = [], indent + command
    while len(rest) > width:
        lines.append(rest[: width - 1] + "\\")
        rest = rest[width - 1 :]
    return [*lines, rest]


def cell(text: str | None, width: int) -> str:
    """Fit a name into a column; an unknown one is a visible "?", a cut one ends in "~"."""
    return "?" if text is None else cut(safe(text), width)


def wrap(text: str, first: str, rest: str, width: int = WIDTH) -> list[str]:
    """Break a sentence into lines under 80 columns, the first and the others indented as given."""
    # Long paths stay whole, so that they can be copied.
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


@dataclass(frozen=True)
class Remedy:
    """What to do in a sentence, and the commands for it."""

    sentence: str
    commands: tuple[str, ...] = ()

    def lines(self, width: int, first: str, rest: str) -> list[str]:
        """Write the sentence, and under it each command as a line that can be pasted."""
        return [*wrap(self.sentence, first, rest, width), *(rest + each for each in self.commands)]


def remedy(advice: Advice) -> Remedy:
    """Write advice as a sentence, and apart from it the commands."""
    return Remedy(
        safe(f"{advice.kind.capitalize()}: {advice.text}".rstrip()),
        tuple(map(safe, advice.commands)),
    )


def advised(advice: Advice) -> str:
    """Write advice as one sentence, its commands last."""
    commands = "; ".join(f"`{command}`" for command in advice.commands)
    return f"{advice.kind.capitalize()}: {advice.text} {commands}".rstrip()


def held(holders: Sequence[Holder], total: int | None, value: int | None) -> str:
    """Say who holds a pool, of which `value` was used at the refusal and `total` when it was read."""
    if not holders:
        return "held by: no one by the time /proc was read"
    parts = [_holding(holder) for holder in holders]
    if value is not None and total is not None and 2 * total <= value:
        # Who is left did not fill it: a program that gives up takes its tasks along.
        left = "; ".join(parts)
        return f"held by: tasks that had ended when /proc was read; {total} of {value} were left: {left}"
    if total is None:
        parts.append("and more: /proc was too large to read completely")
    else:
        others = total - sum(holder.tasks + holder.zombies for holder in holders)
        if others > 0:
            parts.append(f"others {others}")
        if value not in (None, total):
            parts.append(f"{total} total when sampled")
    return f"held by: {'; '.join(parts)}"


def held_mostly(holders: Sequence[Holder]) -> str:
    """Name who holds most of a pool; "": nobody did any more, or it was not read."""
    if not holders:
        return ""
    return f"held by {_holding(holders[0])}{' and others' if holders[1:] else ''}"


def _holding(holder: Holder) -> str:
    pid = "?" if holder.pid is None else holder.pid
    name = "a parent not visible here" if holder.comm is None else f"{safe(holder.comm)}[{pid}]"
    zombies = count(holder.zombies, "zombie", "zombies")
    if not holder.tasks:
        return f"{zombies} of {name}"
    text = f"{name} {count(holder.tasks, 'task', 'tasks')}"
    text += f" ({count(holder.processes, 'process', 'processes')})"
    return f"{text} and {zombies}" if holder.zombies else text
