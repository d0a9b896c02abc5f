"""Failures that differ in when they were and whose, and in nothing else: read once, and made again from that.

A storm is one failure many times over, and a fleet's captures are many storms: of their JSON most was read
before, letter by letter. What is not known to be alike is read as ever. Pure: lines in, records out.
"""

from __future__ import annotations

import re
from operator import itemgetter
from typing import Any

from fork_trace.model.records import Failure, Frame, Record, are_items, as_zeros, from_json, remade

_MOST_BYTES = 8 << 10  # of a line without its stack, to be remembered
_MOST_LINES = 4096
_MOST_STACKS = 4096  # their hashes, and where numbers begin
# As we write them: a number has at most 19 digits, so that it fits whatever they are.
_NUMBER = rb"(?:0|[1-9][0-9]{0,18})"
_TEXT = rb'(?:null|"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*")'
_HEAD = re.compile(
    rb'\{"type": "failure", "time": "([0-9TZ:.-]*)", "time_ns": (%b), "count": ([1-9][0-9]{0,18}), '
    rb'("comm": %b, "exe": %b, )"pid": (null|%b), "tid": (null|%b), '
    % (_NUMBER, _TEXT, _TEXT, _NUMBER, _NUMBER)
)
# What stands in their place in a line that is remembered.
_TIME, _NS, _COUNT, _PID, _TID = "2000-01-01", 3_141_592, 2_718_281, 1_414_213, 1_618_033
_AGAIN = (
    f'{{"type": "failure", "time": "{_TIME}", "time_ns": {_NS}, "count": {_COUNT}, %b'
    f'"pid": {_PID}, "tid": {_TID}, %b'
).encode()
_STACK, _BEHIND = b'"stack": [', b'], "advice": ['
# With other digits JSON stays what it is, but for those that begin a number.
_BEGINS = re.compile(rb"(?<=[ :,\[\t\r\n-])00")
_ZERO = ord("0")


class Alike:
    """Reads lines without their stacks, and remembers them."""

    def __init__(self) -> None:
        self._known: dict[bytes, Failure] = {}
        # Of those that are lists of frames whatever their digits: hash, and what finds the first of numbers.
        self._stacks: dict[int, itemgetter[Any] | None] = {}

    def from_json(self, line: bytes) -> Record:
        """Read one line as `records.from_json` does that keeps no stack; ValueError, TypeError."""
        head = _HEAD.match(line)
        if head is None:
            return from_json(line, keeps_stack=False)
        time, time_ns, count, whose, pid, tid = head.groups()
        rest = line[head.end() :]
        begin = rest.find(_STACK) + len(_STACK)
        end = rest.find(_BEHIND, begin)
        if len(_STACK) <= begin < end:
            if not self._is_stack(rest[begin - 1 : end + 1]):
                return from_json(line, keeps_stack=False)
            rest = rest[:begin] + rest[end:]
        known = self._known.get(whose + rest) or self._learned(whose, rest)
        if known is None:
            return from_json(line, keeps_stack=False)
        return remade(
            known,
            time=time.decode(),
            time_ns=int(time_ns),
            count=int(count),
            pid=None if pid == b"null" else int(pid),
            tid=None if tid == b"null" else int(tid),
        )

    def _learned(self, whose: bytes, rest: bytes) -> Failure | None:
        """Read a line as it is remembered; None: it is none, or says something twice."""
        try:
            found = from_json(_AGAIN % (whose, rest), keeps_stack=False)
        except (ValueError, TypeError, RecursionError):
            return None
        if not isinstance(found, Failure):
            return None
        values = found.time, found.time_ns, found.count, found.pid, found.tid
        if values != (_TIME, _NS, _COUNT, _PID, _TID):
            return None
        object.__setattr__(found, "alike", object())
        if len(rest) <= _MOST_BYTES:
            if len(self._known) >= _MOST_LINES:
                self._known.clear()
            self._known[whose + rest] = found
        return found

    def _is_stack(self, text: bytes) -> bool:
        """Say whether a text is a list of frames; False also where that depends on its digits.

        Nothing but the list that it is can be cut out of a line of JSON then: brackets in strings are
        followed by the quotation mark that ends them.
        """
        shape = as_zeros(text)
        if shape is None:
            return False
        known = hash(shape)
        if known not in self._stacks:
            if not are_items(Frame, text):
                return False
            if len(self._stacks) >= _MOST_STACKS:
                self._stacks.clear()
            begins = [each.start() for each in _BEGINS.finditer(shape)]
            # Of one place alone there would be no tuple.
            self._stacks[known] = itemgetter(begins[0], *begins) if begins else None
        first = self._stacks[known]
        return first is None or _ZERO not in first(text)
