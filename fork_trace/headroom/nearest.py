"""Which limits are near and how much is forked, read again and again by who has other things to do."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fork_trace.errors import ForkTraceError
from fork_trace.headroom import check, here
from fork_trace.host import procfs

_NEAR, _FULL = 80.0, 100.0
_NO_LIMIT = 1 << 53  # fs.file-max is 2^63 - 1 where systemd raised it
_MOST = 40  # limits
_EVERY_S = 5.0
# Reading /proc takes at most this part of a processor.
_SHARE = 0.02
_MOST_RATES = 60


class Near(NamedTuple):
    """What is known at a moment; None: not told."""

    limits: tuple[dict[str, Any], ...]  # as `check` tells them, the fullest first
    why: str | None  # no limits were read
    per_second: float | None  # forks and new threads
    recent: tuple[float, ...]  # the same of late, the newest last
    tasks: int | None


class Nearest:
    """Reads the limits now and then, and the kernel's count of forks each time."""

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._due_s = 0.0
        self._limits: tuple[dict[str, Any], ...] = ()
        self._why: str | None = None
        self._before: tuple[float, int] | None = None
        self._rates: deque[float] = deque(maxlen=_MOST_RATES)

    def now(self, elapsed_s: float) -> Near:
        """Return what is known now; limits that were read a few seconds ago are as good."""
        self._count(elapsed_s)
        if elapsed_s >= self._due_s:
            begin_s = time.monotonic()
            self._read()
            took_s = time.monotonic() - begin_s
            self._due_s = elapsed_s + max(_EVERY_S, took_s / _SHARE)
        rate = self._rates[-1] if self._rates else None
        tasks = procfs.threads(f"{self._root.rstrip('/')}/proc")
        return Near(self._limits, self._why, rate, tuple(self._rates), tasks)

    def _count(self, elapsed_s: float) -> None:
        # Counted in copy_process, for processes and threads alike.
        forks = procfs.forks(f"{self._root.rstrip('/')}/proc")
        if forks is None:
            return
        if self._before is not None and elapsed_s - self._before[0] > 0.2:
            since_s, known = elapsed_s - self._before[0], self._before[1]
            self._rates.append(max(0, forks - known) / since_s)
        if self._before is None or elapsed_s - self._before[0] > 0.2:
            self._before = elapsed_s, forks

    def _read(self) -> None:
        try:
            self._why = here.why_not(self._root)
            found = [] if self._why else check.examine(_NEAR, _FULL, self._root)["limits"]
        except ForkTraceError as error:
            self._why, found = error.message, []
        except OSError as error:
            self._why, found = f"/proc is not readable: {error.strerror}", []
        self._limits = tuple(_nearest(found))


def _nearest(pools: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Choose what is full or near, and of the others the fullest of each cause."""
    causes: set[str] = set()
    left = _MOST
    for pool in pools:
        if not left or pool["percent"] is None or pool["free"] or pool["limit"] >= _NO_LIMIT:
            continue
        if pool["level"] != "fine" or pool["cause"] not in causes:
            yield pool
            left -= 1
        causes.add(pool["cause"])
