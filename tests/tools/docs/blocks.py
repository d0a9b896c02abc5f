"""The blocks of a page that are written from elsewhere, each between two markers of its own. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from fork_trace.diagnosis.cause import Cause
from fork_trace.diagnosis.lookup import StepEntry
from fork_trace.probes.privileges import Capability

WIDTH = 79
_MOST_ERRNOS = 3


def put_into(page: str, name: str, block: str) -> str:
    """Return the page with the block between its markers; ValueError if they are not there."""
    begin = f"<!-- {name}: begin, written by scripts/build-docs -->\n"
    end = f"<!-- {name}: end -->"
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"there are no lines {begin.strip()} and {end}")
    return f"{before}{begin}{block}\n{end}{after}"


def items(lines: Iterable[str]) -> str:
    """Write a list, no line of it wider than a terminal."""
    return "\n".join(wrapped(line, "- ", "  ") for line in lines)


def wrapped(text: str, first: str = "", others: str = "") -> str:
    """Wrap a paragraph, so that no word and no command is broken."""
    return textwrap.fill(
        " ".join(text.split()),
        WIDTH,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table as Markdown has it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def causes(known: Iterable[Cause]) -> str:
    """Write one item for each cause, likeliest first."""
    return items(f"`{each.slug}` ({_errnos(each)}): {each.limit}" for each in known)


def _errnos(cause: Cause) -> str:
    if not cause.steps:
        return "no errno: the fork goes through"
    return ", ".join(cause.errnos) if 0 < len(cause.errnos) <= _MOST_ERRNOS else "several"


def checked(known: Iterable[Cause]) -> str:
    """Write one item for each cause whose limit `check` compares, likeliest first."""
    return items(f"`{each.slug}`: {each.check.compares}" for each in known if each.check)


def steps(known: Iterable[StepEntry]) -> str:
    """Write one item for each step, in the kernel's order."""
    return items(f"`{each.name}`: {each.what}" for each in known)


def noted(found: Iterable[dict[str, str]]) -> str:
    """Write what was measured by hand or by a test, each with how, where and when."""
    return items(
        f"{each['what']}: {each['result']} ({each['how']}; {each['where']}, {each['date']})"
        for each in found
    )


def capabilities(known: Iterable[Capability]) -> str:
    """Write what each capability is for, and whether it is kept while watching."""
    return items(
        f"{each.name}: {each.for_what}"
        f" ({'needed' if each.is_needed else 'optional'}; "
        f"{'kept' if each.is_kept else 'given up once it watches'})"
        for each in known
    )


def index(topics: Iterable[tuple[str, str]], folder: str) -> str:
    """Write the book's index, with a link to each page."""
    return "\n".join(f"- [{name}]({folder}/{name}.md): {what}" for name, what in topics)
