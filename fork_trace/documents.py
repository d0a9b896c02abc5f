"""The book and the schema: texts that come with the package and are no code. This finds and reads them."""

from __future__ import annotations

import difflib
import os

from fork_trace import files
from fork_trace.errors import ForkTraceError

SCHEMA = "schema"
# The pages in the order in which one would read them.
PAGES = (
    *(
        "runbook",
        "report",
        "causes",
        "steps",
        "callers",
        "headroom",
        "recording",
        "latency",
        "fleet",
    ),
    *("formats", "capture-file", "kernels", "overhead", "privileges", "install", "comparison"),
    "development",
)
_ROOM = 14  # the longest name and two blanks


def topics() -> tuple[tuple[str, str], ...]:
    """Return each topic with what it is about: a page's title says so."""
    titles = ((name, text(name).partition("\n")[0].partition(": ")[2]) for name in PAGES)
    return (*titles, (SCHEMA, "the JSON Schema of all records, for programs"))


def text(topic: str) -> str:
    """Return the text of a topic whole; ForkTraceError with the nearest ones if there is none."""
    here = os.path.dirname(os.path.realpath(__file__))
    if topic == SCHEMA:
        return files.text(here, "records.schema.json")
    if topic not in PAGES:
        raise ForkTraceError(f"there is no topic {topic!r}", _nearest(topic))
    page = files.text(here, "docs", f"{topic}.md")
    # Marks of what writes parts of a page, and pictures: nothing to read in a terminal.
    return "".join(each for each in page.splitlines(True) if not each.startswith(("<!--", "![")))


def _nearest(topic: str) -> str:
    near = difflib.get_close_matches(topic, (*PAGES, SCHEMA), 3, 0.5)
    listed = "`fork-trace docs` lists them"
    return f"Did you mean {' or '.join(near)}? {listed}" if near else listed


def index() -> str:
    """List the topics, one a line."""
    lines = [f"  {name:{_ROOM}}{what}" for name, what in topics()]
    return "\n".join(["`fork-trace docs TOPIC` prints one of these:", "", *lines]) + "\n"
