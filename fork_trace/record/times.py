"""Instants as people give them: journalctl's forms and short ones. Pure but for the local time zone.

systemd.time(7) describes the forms: relative ones, "yesterday", dates with or without a time of day,
"@" with seconds since the epoch. Here a span alone, "1h", is that long ago as well.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time, timedelta, timezone

from fork_trace.errors import ForkTraceError

_UNITS = {
    **dict.fromkeys(("us", "usec", "\u00b5s", "\u03bcs"), 1e-6),
    **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    **dict.fromkeys(("w", "week", "weeks"), 7 * 86400.0),
    **dict.fromkeys(("M", "month", "months"), 30.44 * 86400),
    **dict.fromkeys(("y", "year", "years"), 365.25 * 86400),
}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z\u00b5\u03bc]+)")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,9}))?)?")
_DATE = re.compile(r"(\d{4}|\d{2})-(\d{1,2})-(\d{1,2})")
_DAYS = {"yesterday": -1, "today": 0, "tomorrow": 1}
_FORMS = (
    'Give "1h", "3d2h", "2026-11-28 03:00", "03:00", "yesterday", "...Z" for UTC, or "@SECONDS".'
)


def instant_ns(text: str, now_ns: int) -> int:
    """Read an instant in ns since the epoch; local time unless it says UTC. ForkTraceError if it is none."""
    words = text.strip()
    try:
        if words.startswith("@"):
            return _whole_ns(float(words[1:]) if "." in words else int(words[1:]))
        span = _relative(words)
        if span is not None:
            return now_ns + _whole_ns(span)
        return _whole_ns(_absolute(words, now_ns))
    except (ValueError, OverflowError, OSError):
        raise ForkTraceError(f"{text!r} is not a time", _FORMS) from None


def span_s(text: str) -> float | None:
    """Read a span of time such as "3d2h"; None if it is none."""
    at, total = 0, 0.0
    while at < len(text):
        part = _PART.match(text, at)
        if not part or part[2] not in _UNITS:
            return None
        total += float(part[1]) * _UNITS[part[2]]
        at = part.end()
    return total if text.strip() else None


def iso_ns(text: str) -> int | None:
    """Read ISO 8601 as our records have it; None if it is not."""
    try:
        when = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return _whole_ns(when.timestamp()) if when.tzinfo else None
    except (ValueError, OverflowError):
        return None


def _whole_ns(seconds: float) -> int:
    if abs(seconds) > 9e9:
        raise OverflowError  # beyond what 64 bits of nanoseconds tell
    whole = int(seconds // 1)
    return whole * 10**9 + round((seconds - whole) * 1e6) * 1000


def _relative(words: str) -> float | None:
    if words == "now":
        return 0.0
    for sign, rest in ((-1, words[1:]) if words[:1] == "-" else (0, ""), (1, words[1:])):
        if sign == -1 or (sign == 1 and words[:1] == "+"):
            span = span_s(rest)
            return None if span is None else sign * span
    for ending, sign in ((" ago", -1), (" left", 1)):
        if words.endswith(ending):
            span = span_s(words[: -len(ending)])
            return None if span is None else sign * span
    span = span_s(words)
    return None if span is None else -span


def _absolute(words: str, now_ns: int) -> float:
    zone: timezone | None = None
    for mark in (" UTC", "Z", " utc", "z"):
        if words.endswith(mark):
            words, zone = words[: -len(mark)].strip(), timezone.utc
            break
    now = datetime.fromtimestamp(now_ns / 1e9, zone)
    # A weekday may come first: it says nothing that the date does not.
    words = re.sub(r"^[A-Z][a-z]{2,8},? (?=\d)", "", words)
    day_word, _, clock = words.replace("T", " ", 1).partition(" ")
    if words in _DAYS:
        day, clock = now.date() + timedelta(_DAYS[words]), ""
    elif day_word in _DAYS:
        day = now.date() + timedelta(_DAYS[day_word])
    elif _CLOCK.fullmatch(words):
        day, clock = now.date(), words
    else:
        day = _day(day_word)
    when = datetime.combine(day, _time(clock.strip()), zone)
    return when.timestamp()


def _day(word: str) -> date:
    found = _DATE.fullmatch(word)
    if not found:
        raise ValueError
    year = int(found[1])
    if len(found[1]) == 2:
        year += 2000 if year < 69 else 1900  # as strptime(3) has %y
    return date(year, int(found[2]), int(found[3]))


def _time(word: str) -> time:
    if not word:
        return time()
    found = _CLOCK.fullmatch(word)
    if not found:
        raise ValueError
    micro = int((found[4] or "0").ljust(9, "0")[:6])
    return time(int(found[1]), int(found[2]), int(found[3] or 0), micro)
