"""The texts that come with the package and are no code. What they say is theirs; this finds and reads them."""

from __future__ import annotations

from pathlib import Path

SCHEMA = "records.schema.json"
RUNBOOK = "runbook.md"


def text(name: str) -> str:
    """Return one of them whole."""
    return (Path(__file__).resolve().parent / name).read_text(encoding="utf-8")
