"""Instants and spans of time as people read them. Instants are in UTC."""

from __future__ import annotations

from datetime import datetime, timezone

_LONG_S = 600  # from here on a span of time is told in minutes or hours


def span(seconds: float) -> str:
    """Write a span of time as people say it: "7 s", "3 min 20 s", "2 h 5 min"."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def rough_span(seconds: float) -> str:
    """Write a span of time in seconds as long as these are few: "300 s", "2 h 5 min"."""
    return f"{seconds:.0f} s" if seconds < _LONG_S else span(seconds)


def clock(time_ns: int, has_day: bool = False) -> str:
    """Write the time of day of an instant, in UTC, and its date where that is not plain."""
    form = "%Y-%m-%d %H:%M:%SZ" if has_day else "%H:%M:%SZ"
    try:
        return datetime.fromtimestamp(time_ns // 10**9, timezone.utc).strftime(form)
    except (ValueError, OverflowError, OSError):
        return "?"


def day(time_ns: int) -> str:
    """Write the date of an instant, in UTC."""
    return clock(time_ns, has_day=True).partition(" ")[0]


def moment(time_ns: int) -> str:
    """Write an instant as ISO 8601, in UTC, to the millisecond."""
    try:
        when = datetime.fromtimestamp(time_ns // 1000 / 1e6, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return "?"
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
