"""Instants and spans of time as people read them. Instants are in UTC."""

from __future__ import annotations

from datetime import datetime, timezone


def span(seconds: float) -> str:
    """Write a span of time as people say it: "7 s", "3 min 20 s", "2 h 5 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def clock(time_ns: int) -> str:
    """Write the time of day of an instant, in UTC."""
    try:
        return datetime.fromtimestamp(time_ns // 10**9, timezone.utc).strftime("%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return "?"


def moment(time_ns: int) -> str:
    """Write an instant as ISO 8601, in UTC, to the millisecond."""
    try:
        when = datetime.fromtimestamp(time_ns // 1000 / 1e6, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return "?"
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
