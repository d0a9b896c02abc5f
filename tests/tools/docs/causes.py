"""The README's table of causes, from the catalogue. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from readme import Place

from fork_trace.catalogue import Entry

PLACE = Place("<!-- causes: begin, written by scripts/build-docs -->", "<!-- causes: end -->")
_MOST_ERRNOS = 3


def table(entries: Sequence[Entry]) -> str:
    """Write one row for each cause, in the catalogue's order."""
    rows = [f"| `{entry.cause}` | {_errnos(entry)} | {entry.limit} |" for entry in entries]
    return "\n".join(["| cause | errno | the limit |", "|---|---|---|", *rows])


def _errnos(entry: Entry) -> str:
    return ", ".join(entry.errnos) if 0 < len(entry.errnos) <= _MOST_ERRNOS else "several"
