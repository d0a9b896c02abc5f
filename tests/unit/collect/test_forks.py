"""Which forks are remembered, and when their callers are named."""

from __future__ import annotations

import os
import struct
from typing import Any

import pytest

from fork_trace.collect import forks
from fork_trace.collect.forks import Forks
from fork_trace.host import procfs
from fork_trace.model.events import Stack
from fork_trace.model.records import Frame
from fork_trace.stacks.layouts import Caller

STACK = Stack(1, 2, (0,) * 21, 0)


class Symbols:
    """Names every stack alike, and counts how often it was asked; keeps whose files it was shown."""

    asked = 0

    def __init__(self) -> None:
        self.noted: list[int | None] = []

    def note(self, caller: Caller, _places: Any, _stack: Stack | None) -> None:
        self.noted.append(caller.pid)

    def frames(self, *_given: Any) -> tuple[tuple[Frame, ...], str]:
        self.asked += 1
        frame = Frame(1, "save", "/bin/db")
        return (frame,), "unwinding"

    def program(self, _stack: Stack) -> str:
        return "/bin/db"


def made(child: int, time_ns: int = 1, start_ns: int = 9) -> bytes:
    return struct.pack("=QQIIII", time_ns, start_ns, 2, os.getpid(), 0, child)


def forked(is_forked: bool | None) -> procfs.Stat | None:
    return None if is_forked is None else procfs.Stat(is_forked, 0, False)


@pytest.fixture
def symbols() -> Symbols:
    return Symbols()


@pytest.fixture
def kept(symbols: Symbols, monkeypatch: pytest.MonkeyPatch) -> Forks:
    monkeypatch.setattr(forks, "_SETTLED_S", -1.0)
    return Forks(symbols, True)  # type: ignore[arg-type]


def test_the_caller_is_named_while_its_process_is_there(
    kept: Forks, symbols: Symbols, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procfs, "stat", lambda _pid: forked(True))
    kept.take([made(50)], lambda _time, _tid: STACK)

    assert 1 == symbols.asked
    assert "save" == kept.caller(50, 9)
    assert 1 == symbols.asked
    assert kept.caller(50, 8) is None


@pytest.mark.parametrize("is_forked", [False, None], ids=["executed", "gone"])
def test_what_executes_a_program_is_forgotten(
    kept: Forks, symbols: Symbols, monkeypatch: pytest.MonkeyPatch, is_forked: bool | None
) -> None:
    monkeypatch.setattr(procfs, "stat", lambda _pid: forked(is_forked))
    kept.take([made(50)], lambda _time, _tid: STACK)

    assert kept.caller(50, 9) is None
    assert 0 == symbols.asked


def test_who_is_killed_at_once_is_named_at_the_kill(symbols: Symbols) -> None:
    kept = Forks(symbols, True)  # type: ignore[arg-type]
    kept.take([made(50)], lambda _time, _tid: STACK)

    assert 0 == symbols.asked
    assert "save" == kept.caller(50, 9)


@pytest.mark.parametrize(
    ("sees_all", "pid"), [(True, os.getpid()), (False, None)], ids=["host", "container"]
)
def test_where_its_files_lie_is_read_at_the_fork(
    symbols: Symbols, sees_all: bool, pid: int | None
) -> None:
    kept = Forks(symbols, sees_all)  # type: ignore[arg-type]
    kept.take([made(50)], lambda _time, _tid: STACK)

    assert [pid] == symbols.noted


def test_the_oldest_is_forgotten(symbols: Symbols) -> None:
    kept = Forks(symbols, False)  # type: ignore[arg-type]
    kept.take([made(pid) for pid in range(100, 100 + 65)], lambda _time, _tid: STACK)

    assert kept.caller(100, 9) is None
    assert "save" == kept.caller(101, 9)


def test_without_a_stack_nobody_knows_who_asked(symbols: Symbols) -> None:
    kept = Forks(symbols, False)  # type: ignore[arg-type]
    kept.take([made(50)], lambda _time, _tid: None)

    assert kept.caller(50, 9) is None
