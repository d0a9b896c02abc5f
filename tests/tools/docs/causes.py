"""What documents list of the causes: the README's two tables, and the schema's enumeration. Pure."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Sequence

from readme import Place

from fork_trace.diagnosis.cause import Cause

PLACE = Place("<!-- causes: begin, written by scripts/build-docs -->", "<!-- causes: end -->")
CHECKED = Place("<!-- checked: begin, written by scripts/build-docs -->", "<!-- checked: end -->")
_MOST_ERRNOS = 3
_ENUM = re.compile(r'("cause": \{\n +"enum": \[\n)[^]]*(\n +\])')


def table(causes: Sequence[Cause]) -> str:
    """Write one row for each cause, likeliest first."""
    rows = [f"| `{cause.slug}` | {_errnos(cause)} | {cause.limit} |" for cause in causes]
    return "\n".join(["| cause | errno | the limit |", "|---|---|---|", *rows])


def _errnos(cause: Cause) -> str:
    return ", ".join(cause.errnos) if 0 < len(cause.errnos) <= _MOST_ERRNOS else "several"


def checked_table(causes: Sequence[Cause]) -> str:
    """Write one row for each cause whose limit `check` compares, likeliest first."""
    rows = [f"| `{cause.slug}` | {cause.check.compares} |" for cause in causes if cause.check]
    return "\n".join(["| cause | what is compared |", "|---|---|", *rows])


def put_into_schema(schema: str, causes: Sequence[Cause]) -> str:
    """Return the text of the schema with these causes; ValueError if there is no place for them."""
    names = ", ".join(json.dumps(cause.slug) for cause in causes)
    indent = " " * 8
    lines = textwrap.fill(
        names, 90, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    written, places = _ENUM.subn(lambda match: match[1] + lines + match[2], schema)
    if places != 1:
        raise ValueError("the schema has no enumeration of causes")
    return written
