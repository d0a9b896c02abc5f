"""`check` as a custom plugin of the Kubernetes Node Problem Detector: one line, which becomes the condition.

The detector keeps 80 bytes of stdout (max_output_length), and starts its plugin by a fork: where no fork
goes through any more, it learns nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fork_trace.escape import safe
from fork_trace.output.check import counted, used_of

_MOST_BYTES = 80


def write(found: Mapping[str, Any], is_all: bool) -> str:
    """Write the worst limit, its end being what tells it from others."""
    pools = found["limits"]
    bad = [pool for pool in pools if pool["level"] in ("full", "near")]
    if bad:
        worst = bad[0]
        numbers = worst["refuses"] or used_of(worst)
        start = f"{worst['level']}: {worst['cause']} {numbers}"
        more = f" (+{len(bad) - 1})" if len(bad) > 1 else ""
        process = worst["process"]
        place = f"{process['comm']}[{process['pid']}]" if process else worst["where"]
        return _fitted(start, place, more)
    if found["level"] == "unknown":
        unread = next(pool for pool in pools if pool["level"] == "unknown")
        return _fitted(f"unknown: {unread['cause']}", "", "")
    forks = found["refusals_total"].get("pids.events max", 0)
    return _fitted(f"ok; {counted('pids.events max', forks)}" if forks else "ok", "", "")


def failed(sentence: str) -> str:
    """Write that nothing could be found out."""
    return _fitted(f"unknown: {sentence}", "", "")


def _fitted(start: str, place: str, end: str) -> str:
    start, place = (_ascii(text) for text in (start, place))
    room = _MOST_BYTES - len(start) - len(end) - 1
    if not place or room < 8:
        return start[: _MOST_BYTES - len(end)] + end + "\n"
    # Of a path the end tells most.
    shown = place if len(place) <= room else f"~{place[len(place) - room + 1 :]}"
    return f"{start} {shown}{end}\n"


def _ascii(text: str) -> str:
    return safe(text).encode("ascii", "backslashreplace").decode()
