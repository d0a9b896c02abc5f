"""Instants as people give them, against a clock and a time zone that stand still."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fork_trace.errors import ForkTraceError
from fork_trace.record.times import instant_ns, iso_ns, span_s

S = 10**9
NOW = int(datetime(2026, 11, 28, 9, 0, 0, tzinfo=timezone.utc).timestamp()) * S


@pytest.fixture(autouse=True)
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Five hours behind UTC in November, four in July: local time is neither UTC nor always the same."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def utc(*moment: int) -> int:
    return int(datetime(*moment, tzinfo=timezone.utc).timestamp()) * S  # type: ignore[arg-type,misc]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("now", NOW),
        ("1h", NOW - 3600 * S),
        ("3d2h", NOW - (3 * 24 + 2) * 3600 * S),
        ("10m", NOW - 600 * S),
        ("1.5h", NOW - 5400 * S),
        ("-1h30min", NOW - 5400 * S),
        ("+5 min", NOW + 300 * S),
        ("3m ago", NOW - 180 * S),
        ("2 weeks 1 day ago", NOW - 15 * 86400 * S),
        ("1 hour left", NOW + 3600 * S),
        ("100ms", NOW - S // 10),
        ("@0", 0),
        ("@1764300000", 1764300000 * S),
        ("@1764300000.5", 1764300000 * S + S // 2),
        ("2026-11-28T03:12:00Z", utc(2026, 11, 28, 3, 12)),
        ("2026-11-28 03:12:00 UTC", utc(2026, 11, 28, 3, 12)),
        ("2026-11-28 03:12", utc(2026, 11, 28, 8, 12)),
        ("2026-07-28 03:12", utc(2026, 7, 28, 7, 12)),
        ("26-11-28", utc(2026, 11, 28, 5)),
        ("Sat 2026-11-28 03:12", utc(2026, 11, 28, 8, 12)),
        ("2026-11-28 03:12:01.25", utc(2026, 11, 28, 8, 12, 1) + S // 4),
        ("03:12", utc(2026, 11, 28, 8, 12)),
        ("03:12Z", utc(2026, 11, 28, 3, 12)),
        ("today", utc(2026, 11, 28, 5)),
        ("yesterday", utc(2026, 11, 27, 5)),
        ("yesterday 03:12", utc(2026, 11, 27, 8, 12)),
        ("tomorrow", utc(2026, 11, 29, 5)),
    ],
)
def test_what_journalctl_takes_and_what_is_shorter(text: str, expected: int) -> None:
    assert expected == instant_ns(text, NOW)


@pytest.mark.parametrize(
    "text",
    ["", "soon", "1x", "@", "@x", "2026-13-01", "25:00", "2026-11-28 3", "--", "ago", "1h 5"]
    + ["@99999999999999999999", "9" * 400 + "d", "@1e999", "0x10", "-"],
)
def test_what_is_no_time_is_refused_with_the_forms_that_are(text: str) -> None:
    with pytest.raises(ForkTraceError) as raised:
        instant_ns(text, NOW)

    assert "is not a time" in raised.value.message
    assert "3d2h" in raised.value.hint


@given(some.text(max_size=20))
def test_any_text_is_a_time_or_is_refused(text: str) -> None:
    try:
        instant_ns(text, NOW)
    except ForkTraceError:
        return


def test_a_span_of_nothing_is_none() -> None:
    assert [None, None, 0.0] == [span_s(""), span_s("  "), span_s("0s")]


def test_our_own_times_are_read_back() -> None:
    assert NOW + 5000 == iso_ns("2026-11-28T09:00:00.000005Z")
    assert [None, None] == [iso_ns("2026-11-28T09:00:00"), iso_ns("?")]
