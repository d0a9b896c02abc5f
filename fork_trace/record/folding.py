"""Failures of a storm as few records: the first ones whole, later ones counted together. Pure but for a clock given.

A storm of one command is 24 samples a second, which tell the same: of weeks of it nobody could keep
the stacks. What is folded is late by `HELD_S`, and never lost but with the process.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

from fork_trace.model.records import Failure

HELD_S = 10.0
_WINDOW_S = 60.0
_SINGLY = 5  # records of a key in a window, before they are counted together
_WHOLE_S = 3600.0  # a stack and holders are told again after so long
_MOST_KEYS = 1024

_Key = tuple[object, ...]


class _State:
    __slots__ = ("count", "held_at_s", "latest", "singly", "whole_at_s", "window_s")

    def __init__(self) -> None:
        self.window_s = self.whole_at_s = self.held_at_s = float("-inf")
        self.singly = self.count = 0
        self.latest: Failure | None = None


class Folder:
    """Holds the latest failure of each key that fails often, with how many it stands for."""

    def __init__(self) -> None:
        self._states: OrderedDict[_Key, _State] = OrderedDict()

    def take(self, failure: Failure, now_s: float) -> list[Failure]:
        """Take in one record; return what is to be written now."""
        key: _Key = (
            *(failure.comm, failure.exe, failure.uid, failure.cgroup, failure.syscall),
            *(failure.errno, failure.step, failure.cause, failure.certainty, failure.caller),
        )
        state = self._states.get(key)
        out: list[Failure] = []
        if state is None:
            state = self._states[key] = _State()
            if len(self._states) > _MOST_KEYS:
                out += _released(self._states.popitem(last=False)[1])
        else:
            self._states.move_to_end(key)
        if now_s - state.window_s >= _WINDOW_S:
            state.window_s, state.singly = now_s, 0
        # Its advice follows from the rest, and is made where it is shown.
        failure = replace(failure, advice=())
        if failure.stack or failure.holders is not None:
            if now_s - state.whole_at_s >= _WHOLE_S:
                state.whole_at_s = now_s
            else:
                failure = replace(failure, stack=(), stack_by=None, frames_omitted=0, holders=None)
                failure = replace(failure, holders_total=None)
        if state.singly < _SINGLY and state.latest is None:
            state.singly += 1
            return [*out, failure]
        if state.latest is None:
            state.held_at_s = now_s
        state.count += failure.count
        # Who speaks for all has evidence, if one of them has.
        if state.latest is None or failure.evidence or not state.latest.evidence:
            state.latest = failure
        return out

    def due(self, now_s: float, is_all: bool = False) -> list[Failure]:
        """Return what was held for long enough, or everything that is held."""
        out: list[Failure] = []
        for state in self._states.values():
            if state.latest is not None and (is_all or now_s - state.held_at_s >= HELD_S):
                out += _released(state)
        return out

    def begin_segment(self) -> None:
        """Tell the next failure of each key whole again: another file is to speak for itself."""
        for state in self._states.values():
            state.whole_at_s = state.window_s = float("-inf")


def _released(state: _State) -> list[Failure]:
    if state.latest is None:
        return []
    held = replace(state.latest, count=state.count)
    state.latest, state.count = None, 0
    return [held]
