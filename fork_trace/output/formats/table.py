"""A report for people, as `report` writes it."""

from __future__ import annotations

from fork_trace.output.report import text as write

__all__ = ["write"]
