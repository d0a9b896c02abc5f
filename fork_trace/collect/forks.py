"""Forks of large parents that went through, remembered for the case that a process is killed for one later.

Whoever executes a program is of no interest any more, so its fork is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic

from fork_trace.host import procfs
from fork_trace.model import deaths
from fork_trace.model.dataclass import dataclass
from fork_trace.model.events import Stack
from fork_trace.stacks import callers
from fork_trace.stacks.layouts import Caller
from fork_trace.stacks.symbols import Symbols

_MOST = 64  # with a stack of some 10 KB each; the oldest is forgotten
_SETTLED_S = 0.3  # who executes a program has done so by then
_ONE_STACK_S = 0.25


@dataclass
class _Fork:
    seen: deaths.BigFork
    since_s: float
    stack: Stack | None  # None: there was none, or its functions are named
    caller: str | None = None


class Forks:
    """Says who asked for a fork."""

    def __init__(self, symbols: Symbols, sees_all_pids: bool) -> None:
        self._symbols, self._sees_all_pids = symbols, sees_all_pids
        self._kept: dict[tuple[int, int], _Fork] = {}  # by the child's pid and start, oldest first

    def take(self, raws: Iterable[bytes], stack_of: Callable[[int, int], Stack | None]) -> None:
        """Remember those that came, and name the caller of one that is still of interest."""
        now_s = monotonic()
        for raw in raws:
            fork = deaths.decode_fork(raw)
            kept = _Fork(fork, now_s, stack_of(fork.time_ns, fork.tid))
            # Where its files lie is to be read while it lives: it can be the one that is killed.
            self._symbols.note(self._asker(fork), (), kept.stack)
            self._kept[fork.child_pid, fork.child_start_ns] = kept
        while len(self._kept) > _MOST:
            del self._kept[next(iter(self._kept))]
        if self._sees_all_pids:
            self._name_one(now_s - _SETTLED_S)

    def caller(self, child_pid: int, child_start_ns: int) -> str | None:
        """Name the function that forked this child; None: it is not known."""
        kept = self._kept.get((child_pid, child_start_ns))
        return None if kept is None else self._named(kept)

    def _asker(self, fork: deaths.BigFork) -> Caller:
        return Caller(fork.pid if self._sees_all_pids else None, fork.uid)

    def _name_one(self, before_s: float) -> None:
        """Name one caller, as its process may be gone later; forget the forks that led to an exec."""
        for key, kept in list(self._kept.items()):
            if kept.since_s > before_s:
                return
            if kept.stack is None:
                continue
            stat = procfs.stat(kept.seen.child_pid)
            if stat is not None and stat.is_forked:
                self._named(kept)
                return
            del self._kept[key]

    def _named(self, kept: _Fork) -> str | None:
        stack, kept.stack = kept.stack, None
        if stack is not None:
            try:
                frames, _ = self._symbols.frames(self._asker(kept.seen), (), stack, _ONE_STACK_S)
                exe = self._symbols.program(stack)
            except MemoryError:
                return None
            kept.caller = callers.caller(frames, callers.script(exe, stack.arguments))
        return kept.caller
