"""Waiting for failures and for somebody else: whoever is first, and no longer than asked."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from fork_trace.collect.waiting import wait


class Waker:
    """Somebody with a descriptor, who may be in a hurry."""

    def __init__(self, fd: int, patience_s: float | None = None) -> None:
        self._fd, self._patience_s = fd, patience_s

    def fileno(self) -> int:
        return self._fd

    def patience_s(self) -> float | None:
        return self._patience_s


@pytest.fixture
def pipes() -> Iterator[tuple[int, int, int, int]]:
    made = (*os.pipe(), *os.pipe())
    yield made
    for fd in made:
        os.close(fd)


@pytest.mark.parametrize("who", [1, 3])
def test_either_of_two_ends_it(pipes: tuple[int, int, int, int], who: int) -> None:
    os.write(pipes[who], b"x")
    begun_s = time.monotonic()

    assert 0.0 == wait((pipes[0],), Waker(pipes[2]), 5.0)
    assert time.monotonic() - begun_s < 2


@pytest.mark.parametrize("patience_s", [None, 5.0])
def test_when_nobody_comes_it_ends_with_the_time(
    pipes: tuple[int, int, int, int], patience_s: float | None
) -> None:
    begun_s = time.monotonic()

    assert 0.0 == wait((pipes[0],), Waker(pipes[2], patience_s), 0.1)
    assert 0.09 < time.monotonic() - begun_s < 2


def test_who_is_in_a_hurry_ends_it_sooner(pipes: tuple[int, int, int, int]) -> None:
    begun_s = time.monotonic()

    assert 0.0 == wait((pipes[0],), Waker(pipes[2], 0.1), 5.0)
    assert time.monotonic() - begun_s < 2


def test_where_nothing_can_be_waited_on_the_backend_waits_for_a_tenth_of_a_second() -> None:
    assert 0.1 == wait((), Waker(-1), 5.0)
    assert 0.05 == wait((), Waker(-1, 0.05), 5.0)
