"""What a recorder saw, for those who collect it: metrics over HTTP, and in a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fork_trace.model.records import Failure, Incident


class NoExporter:
    """In place of `exporter.Exporter` where nobody collects: nothing is loaded or kept for it."""

    def begin(self, session: Any) -> None:
        """Do nothing."""

    def see(self, failures: Sequence[Failure], incidents: Sequence[Incident] = ()) -> None:
        """Do nothing."""

    def time(self, timing: Any) -> None:
        """Do nothing."""

    def see_slow(self, forks: Sequence[tuple[str, float]]) -> None:
        """Do nothing."""

    def turn(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
