"""Samples that wait for their stacks: how long, how many, and what becomes of them at the end."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from conftest import make_failure

from fork_trace.collect import owed
from fork_trace.collect.owed import Owed
from fork_trace.model.records import Failure

SAMPLE: Any = None  # what is in one is the teller's business


def owing(count: int, told: list[bool]) -> Owed:
    """So many samples that wait; `told` is whether each was given time for its stack."""

    def tell(_sample: object, most_s: float, _is_late: object) -> Failure:
        told.append(most_s > 0)
        return make_failure()

    found = Owed(tell)
    found.add([SAMPLE] * count)
    return found


def test_stacks_are_unwound_until_the_time_is_up() -> None:
    told: list[bool] = []

    assert 5 == len(owing(5, told).told(60.0))
    assert [True] * 5 == told


def test_what_is_over_the_time_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []
    monkeypatch.setattr(owed, "MOST", 5)
    waiting = owing(5, told)

    assert [] == waiting.told(-1.0)
    assert [] == told
    assert 5 == len(waiting)


def test_more_than_may_wait_is_told_at_once_by_frame_pointers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[bool] = []
    monkeypatch.setattr(owed, "MOST", 3)
    waiting = owing(5, told)

    assert 2 == len(waiting.told(-1.0))
    assert [False, False] == told
    assert 3 == len(waiting.told(60.0))
    assert [True] * 3 == told[2:]


def test_at_the_end_nothing_is_left_over() -> None:
    told: list[bool] = []

    assert 5 == len(owing(5, told).told(-1.0, drains=True))
    assert [False] * 5 == told


def test_what_gets_no_record_of_its_own_does_not_wait_either() -> None:
    waiting = Owed(lambda _sample, _most_s, _is_late: None)
    waiting.add([SAMPLE] * 3)

    assert [] == waiting.told(60.0)
    assert 0 == len(waiting)


@pytest.mark.parametrize(
    ("signals", "waited_s", "is_late"),
    [(0, 99.0, False), (1, 0.0, False), (1, 0.4, True), (2, 0.0, True)],
)
def test_told_to_end_it_names_for_a_moment_and_told_twice_no_more(
    monkeypatch: pytest.MonkeyPatch, signals: int, waited_s: float, is_late: bool
) -> None:
    """However long it had, as the signal may come while it names the last ones."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    late: list[bool] = []

    def tell(_sample: object, _most_s: float, asks: Callable[[], bool]) -> Failure:
        asks()
        now[0] += waited_s
        late.append(asks())
        return make_failure()

    waiting = Owed(tell)
    waiting.add([SAMPLE])
    waiting.signals = lambda: signals
    waiting.told(10.0, drains=True)

    assert [is_late] == late
