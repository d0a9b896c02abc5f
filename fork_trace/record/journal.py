"""Failures in the systemd journal: an entry for each cause, place and unit, at most one a minute, with its numbers.

Native datagrams (systemd's docs/JOURNAL_NATIVE_PROTOCOL.md), not libsystemd: its send waits for a
journald that has stopped reading, and whoever watches does not.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Iterator
from typing import Optional, Union

from fork_trace.escape import cut, safe
from fork_trace.model.records import Failure
from fork_trace.output.place import OTHERS, Key, Places
from fork_trace.output.units import amount, count

SOCKET = "/run/systemd/journal/socket"
EACH_S = 60.0
_MOST_STATES = 1024
_Value = Union[str, int, None, list[str]]
_Whose = tuple[Key, Optional[str]]  # a place, and the unit that was refused there
_MOST_ENTRIES = 100  # of all places in EACH_S
_LOOK_S = 1.0
_MOST_FIELD = 1024  # characters
_WARNING = 4  # syslog(3)
# FNV-1a of 128 bits: draft-eastlake-fnv, section 5.
_FNV_BASIS, _FNV_PRIME = 0x6C62272E07BB014262B821756295C58D, (1 << 88) + 0x13B


def message_id(cause: str) -> str:
    """Return the MESSAGE_ID of a cause, 32 digits: fixed by its slug alone, an RFC 9562 UUID of version 8."""
    number = _FNV_BASIS
    for byte in f"fork-trace/{cause}".encode():
        number = (number ^ byte) * _FNV_PRIME % (1 << 128)
    number = number & ~(0xF << 76) | 8 << 76
    return f"{number & ~(3 << 62) | 2 << 62:032x}"


class _State:
    """One cause and place: what was not told of it yet."""

    __slots__ = ("at_s", "count", "latest")

    def __init__(self, latest: Failure) -> None:
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
        container = failure.container or {}
        whose = key, container.get("unit") or container.get("id")
        if key.where == OTHERS:
            whose = _others(key)
        state = self._states.get(whose)
        if state is None:
            state = self._states[whose] = _State(shown)
        self._states.move_to_end(whose)
        state.count += failure.count
        if failure.evidence or not state.latest.evidence:
            state.latest = failure
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
            self._socket.sendto(_encoded(_fields(key, state)), self._path)
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


def _fields(key: Key, state: _State) -> Iterator[tuple[str, _Value]]:
    """Return the fields of an entry; what is not known is None, what has lines is a list of them."""
    failure = state.latest
    first = failure.evidence[0] if failure.evidence and key.where != OTHERS else None
    container = failure.container or {}
    yield "MESSAGE", _message(key, state)
    yield "MESSAGE_ID", message_id(key.cause)
    yield "PRIORITY", _WARNING
    yield "SYSLOG_IDENTIFIER", "fork-trace"
    yield "FORK_TRACE_CAUSE", key.cause
    yield "FORK_TRACE_CERTAINTY", failure.certainty
    yield "FORK_TRACE_COUNT", state.count
    yield "FORK_TRACE_WHERE", key.where
    if key.where == OTHERS:
        return
    yield "FORK_TRACE_ERRNO", failure.errno
    yield "FORK_TRACE_STEP", failure.step
    if first is not None:
        yield "FORK_TRACE_LIMIT_NAME", first.name
        yield "FORK_TRACE_USED", first.value
        yield "FORK_TRACE_LIMIT", first.limit
    yield "FORK_TRACE_COMM", failure.comm
    yield "FORK_TRACE_PID", failure.pid
    yield "FORK_TRACE_UID", failure.uid
    yield "FORK_TRACE_CALLER", failure.caller
    yield "FORK_TRACE_CGROUP", failure.cgroup
    yield "FORK_TRACE_UNIT", container.get("unit")
    yield "FORK_TRACE_CONTAINER", container.get("name") or container.get("id")
    yield "FORK_TRACE_POD", container.get("pod_name") or container.get("pod")
    for advice in failure.advice:
        if advice.kind == "mitigate":
            yield "FORK_TRACE_MITIGATE", [advice.text, *advice.commands]


def _message(key: Key, state: _State) -> str:
    failure = state.latest
    known = "" if failure.certainty == "observed" else " (inferred)"
    if key.where == OTHERS:
        told = count(state.count, "fork or thread", "forks or threads")
        return f"{key.cause}: {told} refused at {OTHERS}"
    word = {"process": "fork", "thread": "thread"}.get(failure.creates or "", "fork or thread")
    told = count(state.count, word, word.replace(" or ", "s or ") + "s")
    pid = "?" if failure.pid is None else failure.pid
    text = f"{key.cause}{known}: {told} of {failure.comm or '?'}[{pid}] refused"
    text += f" ({failure.errno or 'errno unknown'})"
    first = failure.evidence[0] if failure.evidence else None
    if first is not None and first.value is not None:
        used = amount(first.value, first.unit)
        of = "" if first.limit is None else f" of {amount(first.limit, first.unit)}"
        unit = "" if first.unit in ("", "KiB") else f" {first.unit}"
        text += f", {first.name} {used}{of}{unit}"
    return f"{text}, {key.where}" if key.where else text


def _encoded(fields: Iterator[tuple[str, _Value]]) -> bytes:
    """Write fields as one datagram: NAME=VALUE lines, or with a length where a value has lines."""
    parts = []
    for name, value in fields:
        if value is None:
            continue
        lines = value if isinstance(value, list) else [str(value)]
        data = "\n".join(safe(cut(line, _MOST_FIELD)) for line in lines).encode()
        if len(lines) == 1:
            parts.append(b"%s=%s\n" % (name.encode(), data))
        else:
            size = len(data).to_bytes(8, "little")
            parts.append(b"%s\n%s%s\n" % (name.encode(), size, data))
    return b"".join(parts)
