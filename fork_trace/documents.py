"""The texts that come with the package and are no code. What they say is theirs; this finds and reads them."""

from __future__ import annotations

import os

from fork_trace import files

SCHEMA = "records.schema.json"
RUNBOOK = "runbook.md"


def text(name: str) -> str:
    """Return one of them whole."""
    return files.text(os.path.dirname(os.path.realpath(__file__)), name)
