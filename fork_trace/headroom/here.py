"""Which causes have a limit that is near or full on this host now: `check`'s reading, for `explain`."""

from __future__ import annotations

import os
from typing import NamedTuple

from fork_trace.errors import ForkTraceError
from fork_trace.headroom import check
from fork_trace.host import holders

_NEAR, _FULL = 80.0, 100.0
# One pass over /proc reads some 5,000 processes in a second: nobody who looks up a word waits longer.
_MOST_PROCESSES = 2000


class Limit(NamedTuple):
    """One limit that is near or full."""

    cause: str  # its slug
    level: str  # "full" or "near"
    name: str  # the setting
    used: int | None
    limit: int | None
    unit: str
    where: str


class Reading(NamedTuple):
    """What was read; where nothing was, why."""

    limits: tuple[Limit, ...]  # the fullest first
    why: str | None = None  # a clause


def why_not(root: str = "/", most_processes: int = _MOST_PROCESSES) -> str | None:
    """Say why it would take too long to read the limits here, in a clause; None: it would not."""
    processes = sum(1 for _ in holders.pids(os.path.join(root, "proc")))
    return f"this host has {processes} processes" if processes > most_processes else None


def read(root: str = "/", most_processes: int = _MOST_PROCESSES) -> Reading:
    """Read the limits of this host, without root and without waiting; it never raises."""
    try:
        why = why_not(root, most_processes)
        if why is not None:
            return Reading((), why)
        found = check.examine(_NEAR, _FULL, root)
    except ForkTraceError as error:
        return Reading((), error.message)
    except OSError as error:
        return Reading((), f"/proc is not readable: {error.strerror}")
    return Reading(
        tuple(
            Limit(*(each[key] for key in Limit._fields))
            for each in found["limits"]
            if each["level"] in ("full", "near")
        )
    )
