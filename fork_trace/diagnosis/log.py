"""What a log holds: each distinct message of a refused fork or thread, with how often it is there. Pure.

Lines come in one by one and may be anybody's; what is kept of them is bounded, however long the log.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from fork_trace.diagnosis import errnos, kinds, lookup, texts
from fork_trace.diagnosis.lookup import MOST_LETTERS, Answer

_MOST_MESSAGES = 1000
_MOST_FORGOTTEN = 8192  # lines that are known to tell nothing, by what they have in common

# One of these is in every line that can tell of a refusal: most lines are done with after this.
_MAY = re.compile(
    r"fork|thread|spawn|clone|unshare|namespac|userns|[ug]id_?map|cgroup|set\w*uid|user id|exec|native|"
    r"process|children|\boom|killed|popen|omp: |rescuer|137\b|signal",
    re.IGNORECASE,
)
# What begins a line of syslog, of journalctl in any of its forms, and of dmesg.
_PREFIX = re.compile(
    r"^(?:<\d+>)?(?:"
    r"[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d+)? \S+ |"
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S* (?!\[)(?:[\w.-]+ (?=[\w./-]+(?:\[\d+\])?: ))?|"
    r"\[[ \d.]+\] (?=[\w./-]+(?:\[\d+\])?: )"
    r")?"
)
# What differs between two lines that say the same.
_VARYING = re.compile(r"0x[0-9a-fA-F]+|[0-9a-f]{12,}|\d+")


class Message(NamedTuple):
    """One message, however often it is there and whatever its numbers are."""

    text: str  # as it was first seen, without the date and the host
    times: int
    answer: Answer


class Log:
    """Reads lines, and keeps what they tell."""

    def __init__(self) -> None:
        self.lines = 0
        self.matched = 0
        self.overflowed = 0  # lines that tell of a refusal in yet another way, and were not kept
        self._found: dict[str, Message] = {}
        self._forgotten: set[str] = set()

    def add(self, line: str) -> None:
        """Take one line, without its end."""
        self.lines += 1
        line = line[:MOST_LETTERS]
        if _MAY.search(line) is None:
            return
        text = _PREFIX.sub("", line, 1).strip()
        key = _VARYING.sub("#", text)
        if key in self._forgotten:
            return
        known = self._found.get(key)
        if known is not None:
            self.matched += 1
            self._found[key] = known._replace(times=known.times + 1)
            return
        answer = _read(text)
        if answer is None:
            if len(self._forgotten) >= _MOST_FORGOTTEN:
                self._forgotten.clear()
            self._forgotten.add(key)
            return
        self.matched += 1
        if len(self._found) < _MOST_MESSAGES:
            self._found[key] = Message(text, 1, answer)
        else:
            self.overflowed += 1

    def messages(self) -> list[Message]:
        """Return the messages, the most frequent first; of two, the one that came first."""
        return sorted(self._found.values(), key=lambda each: -each.times)


def _read(text: str) -> Answer | None:
    normal = errnos.normal(text)
    # Most lines that get as far as this tell of nothing that was refused.
    if not kinds.is_refusal(normal) and errnos.told(normal, is_typed=False) is None:
        return None
    answer = lookup.read(text, is_typed=False)
    if answer is None:
        return None
    # Where the line has all of what an application is known to print, that says enough.
    is_known = any(texts.holds(text, each) for each in answer.texts)
    is_fork = answer.kinds[0] != "not-a-fork"
    if (is_known and is_fork) or kinds.is_certain(normal, answer.errno, answer.kinds):
        return answer
    return None


def as_json(log: Log) -> dict[str, Any]:
    """Return what a log holds as one JSON object."""
    found = log.messages()
    return {
        "lines": log.lines,
        "matched": log.matched,
        "overflowed": log.overflowed,
        "messages": [
            {
                "text": each.text,
                "count": each.times,
                "application": each.answer.application,
                "errno": each.answer.errno,
                "kinds": list(each.answer.kinds),
                "causes": [cause.slug for cause in each.answer.causes],
            }
            for each in found
        ],
        "decide": list(found[0].answer.decides) if found else [],
    }
