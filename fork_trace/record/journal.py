"""Failures and deaths in the systemd journal: an entry for each cause, place and unit, at most one a minute.

Native datagrams (systemd's docs/JOURNAL_NATIVE_PROTOCOL.md), not libsystemd: its send waits for a
journald that has stopped reading, and whoever watches does not.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from typing import Optional

from fork_trace.model.records import Death, Failure
from fork_trace.output.place import OTHERS, Key, Places
from fork_trace.record.entries import encoded, fields, place_of, unit_of

SOCKET = "/run/systemd/journal/socket"
EACH_S = 60.0
_MOST_STATES = 1024
_Whose = tuple[Key, Optional[str]]  # a place, and the unit that it happened to
_MOST_ENTRIES = 100  # of all places in EACH_S
_LOOK_S = 1.0


class _State:
    """One cause and place: what was not told of it yet."""

    __slots__ = ("at_s", "count", "latest")

    def __init__(self, latest: Failure | Death) -> None:
        self.at_s = float("-inf")  # of the last entry
        self.count = 0
        self.latest = latest


class Journal:
    """Tells journald if there is one; waits for nobody, and tells later what could not be told."""

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._places = Places()
        self._states: OrderedDict[_Whose, _State] = OrderedDict()
        self._looked_s = self._window_s = self._pause_until_s = float("-inf")
        self._sent = 0  # in this window

    def take(self, failure: Failure, now_s: float) -> None:
        """Count one record with its place, which is told at once if it was not within a minute."""
        key, shown = self._places.add(failure, None)
        if key.kind == "process":
            key = key._replace(where=failure.comm or "?", pid=None)  # who starts again is no news
        state = self._state(key, shown, unit_of(failure))
        state.count += failure.count
        latest = state.latest
        if failure.evidence or not (isinstance(latest, Failure) and latest.evidence):
            state.latest = failure
        self._told_at_first(key, state, now_s)

    def take_death(self, death: Death, now_s: float) -> None:
        """Count a process that the OOM killer ended, as `take` counts a failure."""
        key = place_of(death)
        state = self._state(key, death, unit_of(death))
        state.count += 1
        state.latest = death
        self._told_at_first(key, state, now_s)

    def _state(self, key: Key, latest: Failure | Death, unit: str | None) -> _State:
        whose = _others(key) if key.where == OTHERS else (key, unit)
        state = self._states.get(whose)
        if state is None:
            state = self._states[whose] = _State(latest)
        self._states.move_to_end(whose)
        return state

    def _told_at_first(self, key: Key, state: _State, now_s: float) -> None:
        if now_s - state.at_s >= EACH_S:
            self._tell(key, state, now_s)
        if len(self._states) > _MOST_STATES:
            self._fold()

    def _fold(self) -> None:
        """Forget the place that failed longest ago; what was not told of it is told of its cause."""
        (key, _), state = self._states.popitem(last=False)
        if key.where == OTHERS or state.count:
            kept = self._states.setdefault(_others(key), state)
            if kept is not state:
                kept.count += state.count

    def due(self, now_s: float, is_all: bool = False) -> None:
        """Tell what happened since the last entry of its place, where that is a minute ago; or all."""
        if not is_all and now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        for (key, _), state in self._states.items():
            if state.count and (is_all or now_s - state.at_s >= EACH_S):
                self._tell(key, state, now_s)
                if now_s < self._pause_until_s:
                    break

    def forget(self) -> None:
        """Begin anew to learn places, of which there are ever more."""
        self._places = Places()

    def _tell(self, key: Key, state: _State, now_s: float) -> None:
        if now_s - self._window_s >= EACH_S:
            self._window_s, self._sent = now_s, 0
        if self._sent >= _MOST_ENTRIES or now_s < self._pause_until_s:
            return
        try:
            self._socket.sendto(encoded(fields(key, state.latest, state.count)), self._path)
        except OSError:  # there is none, or it is behind
            self._pause_until_s = now_s + _LOOK_S
            return
        self._sent += 1
        state.at_s, state.count = now_s, 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _others(key: Key) -> _Whose:
    return key._replace(limit=None, kind="others", where=OTHERS, pid=None), None
