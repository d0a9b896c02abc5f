"""The README's table of causes, from the catalogue. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fork_trace.catalogue import Entry

BEGIN = "<!-- causes: begin, written by scripts/build-docs -->"
END = "<!-- causes: end -->"
_MOST_ERRNOS = 3


def table(entries: Sequence[Entry]) -> str:
    """Write one row for each cause, in the catalogue's order."""
    rows = [f"| `{entry.cause}` | {_errnos(entry)} | {entry.limit} |" for entry in entries]
    return "\n".join(["| cause | errno | the limit |", "|---|---|---|", *rows])


def put_into(readme: str, block: str) -> str:
    """Return the README with the table between its markers; ValueError if they are not there."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there are no lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def _errnos(entry: Entry) -> str:
    return ", ".join(entry.errnos) if 0 < len(entry.errnos) <= _MOST_ERRNOS else "several"
