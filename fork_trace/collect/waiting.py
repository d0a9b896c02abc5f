"""Waiting for failures and for somebody else at once: without a thread, in one loop."""

from __future__ import annotations

import select
from collections.abc import Sequence
from typing import Protocol

_BLIND_S = 0.1  # at a time, where a backend has nothing to wait on


class Waker(Protocol):
    """Whoever has something to do in the loop besides: `serve.exporter.Exporter`."""

    def fileno(self) -> int:
        """Return a descriptor that can be read when it has."""

    def patience_s(self) -> float | None:
        """Say in how many seconds it has, whatever can be read; None: not by itself."""


def wait(descriptors: Sequence[int], waker: Waker, timeout_s: float) -> float:
    """Wait until one can be read or the time is over; return for how long is to be waited still."""
    patience_s = waker.patience_s()
    if patience_s is not None:
        timeout_s = min(timeout_s, patience_s)
    if not descriptors:
        return min(timeout_s, _BLIND_S)
    ready = select.poll()
    for fd in (*descriptors, waker.fileno()):
        ready.register(fd, select.POLLIN)
    ready.poll(1000 * timeout_s)
    return 0.0
