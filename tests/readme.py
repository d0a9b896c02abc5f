"""The blocks of the README that are written from elsewhere, each between two markers of its own."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """Where a block goes: the lines before and behind it, which stay."""

    begin: str
    end: str


def put_into(readme: str, place: Place, block: str) -> str:
    """Return the README with the block between its markers; ValueError if they are not there."""
    before, begin, rest = readme.partition(place.begin)
    _, end, after = rest.partition(place.end)
    if not begin or not end:
        raise ValueError(f"there are no lines {place.begin} and {place.end}")
    return f"{before}{begin}\n{block}\n{end}{after}"
