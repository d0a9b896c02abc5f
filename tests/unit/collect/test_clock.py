"""Instants are UTC, to the microsecond."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fork_trace.collect import clock


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1772600767000008000, "2026-03-04T05:06:07.000008Z"),
        (1772600767999999999, "2026-03-04T05:06:07.999999Z"),
        (1_000_000_000, "1970-01-01T00:00:01.000000Z"),
    ],
)
def test_a_time_is_utc_to_the_microsecond(time_ns: int, text: str) -> None:
    assert text == clock.iso(time_ns)


@given(some.integers(0, 4_000_000_000), some.integers(0, 999_999))
def test_no_microsecond_is_rounded_to_another(seconds: int, micros: int) -> None:
    text = clock.iso(seconds * 10**9 + micros * 1000 + 999)

    assert text.endswith(f".{micros:06d}Z")


def test_what_the_kernel_counts_from_boot_is_a_time_of_day() -> None:
    run = clock.started(time.monotonic_ns())
    before_ns = time.time_ns()
    told_ns = run.time_ns(time.monotonic_ns())

    assert abs(told_ns - before_ns) < 10**9
    assert told_ns - run.time_ns(run.start_ns) <= run.elapsed_s() * 1e9 < 60e9


def test_who_gets_no_processor_between_two_clocks_sees_no_jump(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began = clock.started(time.monotonic_ns())
    waits_s = [0.0, 3.0, 0.0, 2.0]  # before each reading of a clock, and then no more
    late_ns = 0

    def later(read_ns: int) -> int:
        nonlocal late_ns
        late_ns += round((waits_s.pop(0) if waits_s else 0.0) * 1e9)
        return read_ns + late_ns

    real = time.monotonic_ns, time.time_ns, time.clock_gettime_ns
    monkeypatch.setattr(time, "monotonic_ns", lambda: later(real[0]()))
    monkeypatch.setattr(time, "time_ns", lambda: later(real[1]()))
    monkeypatch.setattr(time, "clock_gettime_ns", lambda which: later(real[2](which)))

    assert [] == clock.followed(began)[1]
    assert not waits_s
