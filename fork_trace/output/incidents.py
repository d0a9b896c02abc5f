"""What was seen beside refused forks, for reports: each kind is counted apart from failures. Pure.

What one kind is and how it is told stands in the file of its own that KINDS names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, Callable, Protocol

from fork_trace.model.records import Death, Incident
from fork_trace.output.deaths import Deaths
from fork_trace.output.paragraph import Told


class Kind(Protocol):
    """All incidents of one kind so far."""

    name: str  # of its list in a report as JSON
    by_cause: Counter[str]

    def add(self, incident: Any) -> None:
        """Count one."""

    def is_failure(self) -> bool:
        """Say whether a report with these is one of something that failed: exit code 1."""

    def headline(self) -> str:
        """Say in a clause what happened; "": nothing did."""

    def told(self, names_host: bool = False) -> list[Told]:
        """Explain them, the worst first."""

    def as_json(self) -> list[dict[str, Any]]:
        """Return them as JSON objects, the worst first."""


KINDS: Mapping[type[Any], Callable[[], Kind]] = {Death: Deaths}


class Incidents:
    """All that was seen beside refused forks."""

    def __init__(self) -> None:
        self._kinds: dict[type[Any], Kind] = {type_: make() for type_, make in KINDS.items()}

    def add(self, incident: Incident) -> None:
        """Count one."""
        self._kinds[type(incident)].add(incident)

    def counts(self, type_: type[Any]) -> dict[str, int]:
        """Count those of one type by cause."""
        return dict(sorted(self._kinds[type_].by_cause.items()))

    def is_failure(self) -> bool:
        """Say whether something failed."""
        return any(kind.is_failure() for kind in self._kinds.values())

    def headlines(self) -> list[str]:
        """Say in a clause for each kind what happened."""
        return [each for each in (kind.headline() for kind in self._kinds.values()) if each]

    def told(self, names_host: bool = False) -> list[Told]:
        """Explain them, a paragraph for each cause."""
        return [told for kind in self._kinds.values() for told in kind.told(names_host)]

    def as_json(self) -> dict[str, list[dict[str, Any]]]:
        """Return them by kind."""
        return {kind.name: kind.as_json() for kind in self._kinds.values()}
