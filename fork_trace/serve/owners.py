"""Whose failures they are, as labels: few at a time, however many pods, units and containers come and go. Pure.

So many owners have series of their own; the failures of all others are told as those of "(other)". A
series never goes back: what was counted for others stays theirs, and who had a series before goes on
where it was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fork_trace.model import places
from fork_trace.model.records import Failure
from fork_trace.output.exposition import label

MOST = 50  # series at a time, without those of others
_WINDOW_S = 60.0
_IDLE_S = 3600.0  # then a series is anybody's who fails now
_LEAST = 10  # failures in a window for which a series that is not idle is given up
_MOST_REPLACED = 5  # in a window
_MOST_WAITING = 1024
_MOST_BEFORE = 4096
_MOST_ID, _MOST_NAME = 12, 100


class Owner(NamedTuple):
    """Who failed, and of what; "" is what does not apply or is not known."""

    cause: str
    namespace: str = ""
    pod: str = ""
    container: str = ""
    unit: str = ""


def owner_of(failure: Failure) -> Owner:
    """Return the owner of a failure: a pod's container, a container or a systemd unit; else of nothing.

    Where a user calls his units and containers as he likes, his service manager is part of the unit.
    """
    place = places.place(failure.cgroup)
    told: Mapping[str, Any] = failure.container or {}
    manager = "" if place.user is None else f"user@{place.user}.service"
    if place.id is None and place.pod is None:
        unit = place.unit or ""
        unit = f"{manager}/{unit}" if manager and unit else unit
        return Owner(failure.cause, unit=label(unit, _MOST_NAME))
    namespace, _, pod = (told.get("pod_name") or "").rpartition("/")
    container = told.get("name") or (place.id or "")[:_MOST_ID]
    return Owner(
        failure.cause,
        label(namespace, _MOST_NAME),
        label(pod or place.pod or "", _MOST_NAME),
        label(container, _MOST_NAME),
        manager,
    )


def others(cause: str) -> Owner:
    """Return who stands for all that have no series."""
    return Owner(cause, *("(other)",) * 4)


class _Series:
    __slots__ = ("count", "failed_at_s", "in_window")

    def __init__(self, count: int, now_s: float) -> None:
        self.count, self.failed_at_s, self.in_window = count, now_s, 0


class Owners:
    """The counts of those who fail most."""

    def __init__(self) -> None:
        self._shown: dict[Owner, _Series] = {}
        self._others: Counter[str] = Counter()  # by cause
        self._waiting: Counter[Owner] = Counter()  # failures in this window of who has no series
        self._before: dict[
            Owner, int
        ] = {}  # where their series were when they lost them, oldest first
        self._window_at_s = float("-inf")

    def add(self, owner: Owner, count: int, now_s: float) -> None:
        """Count so many failures of an owner."""
        series = self._shown.get(owner)
        if series is None and len(self._shown) < MOST:
            series = self._show(owner, now_s)
        if series is not None:
            series.count += count
            series.in_window += count
            series.failed_at_s = now_s
            return
        self._others[owner.cause] += count
        if owner in self._waiting or len(self._waiting) < _MOST_WAITING:
            self._waiting[owner] += count

    def _show(self, owner: Owner, now_s: float) -> _Series:
        series = self._shown[owner] = _Series(self._before.pop(owner, 0), now_s)
        return series

    def tend(self, now_s: float) -> None:
        """Give the series of those who fail least, or no more, to those who fail now; a few at a time."""
        if now_s - self._window_at_s < _WINDOW_S:
            return
        self._window_at_s = now_s
        idlest = sorted(
            self._shown.items(), key=lambda item: (item[1].in_window, item[1].failed_at_s)
        )
        for (owner, count), (least, series) in zip(
            self._waiting.most_common(_MOST_REPLACED), idlest
        ):
            is_idle = now_s - series.failed_at_s >= _IDLE_S
            if is_idle or (count >= _LEAST and count > 2 * series.in_window):
                del self._shown[least]
                self._before[least] = series.count
                self._show(owner, now_s)
        while len(self._before) > _MOST_BEFORE:
            del self._before[next(iter(self._before))]
        self._waiting.clear()
        for series in self._shown.values():
            series.in_window = 0

    def counts(self, causes: tuple[str, ...]) -> Iterator[tuple[Owner, int]]:
        """Return each series with its count; of all these causes there is one of others."""
        for owner, series in self._shown.items():
            yield owner, series.count
        for cause in causes:
            yield others(cause), self._others[cause]
