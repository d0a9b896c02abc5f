"""The child of a rehearsal: it forks, counts, minds signals, and keeps what is to be told.

What makes its forks fail is refusals'; the parent that starts it and listens is rehearse's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from fork_trace.rehearse.restore import Borrowed, Sysctl

# Signals that end a rehearsal early. They stay blocked while something is borrowed, are looked for
# between two forks, and reach the caller when all is given back. The stops wait as well: a process
# stopped by Ctrl-Z must not keep the host's sysctls.
ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
# From parent to child, "end now"; also what the kernel sends when the parent dies.
END_NOW = signal.SIGUSR1
HELD = ENDING | {END_NOW, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15

# Forks that may go through although they should not, before a rehearsal gives up: room may open
# for a moment when other processes of the host end.
_PATIENCE_FORKS = 100

_libc = ctypes.CDLL(None, use_errno=True)


class Stage:
    """The child's side of a rehearsal: it forks, counts, and keeps what is to be told."""

    def __init__(self, comm: str, count: int, borrowed: Borrowed) -> None:
        self.comm = comm
        self.count = count
        self.failures: Counter[str] = Counter()
        self.successes = 0
        self.notes: list[str] = []
        self.times_ms: list[float] = []  # of forks whose own time was taken
        self.slow = 0  # of these, those that took as long as they were to
        self._borrowed = borrowed
        self._parent = os.getpid()
        self._is_successor = False
        # A signal that the caller ignores (nohup) must not end anything; when blocked it is
        # kept pending all the same (kernel/signal.c, sig_ignored()).
        self._ending = {END_NOW} | {
            each for each in ENDING if signal.getsignal(each) is not signal.SIG_IGN
        }

    def enter(self) -> None:
        """Take the scenario's comm, and end when the parent ends."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        name_process(self.comm)
        self.end_with_parent()

    def end_with_parent(self) -> None:
        """Ask for a signal at the parent's death; the kernel forgets it when the uid changes."""
        _prctl(_PR_SET_PDEATHSIG, END_NOW)
        if self.is_orphan():
            os.kill(os.getpid(), END_NOW)

    def is_orphan(self) -> bool:
        """Is the process that prepared this rehearsal gone? A successor leaves that to the first."""
        return not self._is_successor and os.getppid() != self._parent

    def hand_over(self) -> None:
        """Go on in a new child, as one of a new pid namespace must; the old process only waits.

        The signal to end is handed down. A killed process takes all that came after it along.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        alive_from, alive_to = os.pipe()
        pid = os.fork()
        if pid:
            self._wait_for_successor(pid)
        os.close(alive_to)
        self._is_successor = True
        die_with_parent()
        # Not by getppid(), which is 0 below a parent outside the pid namespace.
        if select.select([alive_from], [], [], 0)[0]:
            os._exit(1)
        os.close(alive_from)

    def _wait_for_successor(self, pid: int) -> NoReturn:
        status = 1
        try:
            while True:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    break
                told = signal.sigwaitinfo({signal.SIGCHLD, *self._ending})
                if told.si_signo != signal.SIGCHLD:
                    os.kill(pid, END_NOW)
            self.give_back_as_orphan()
        finally:
            os._exit(1 if status else 0)

    def ended_by(self) -> str:
        """Return the name of the signal that asks to end, or ''."""
        return min((each.name for each in _pending() & self._ending), default="")

    def fork_until_refused(self, keep: Callable[[int], None] | None = None) -> None:
        """Fork until `count` forks were refused.

        A child that was made ends at once; with `keep`, which gets its pid, it sleeps instead.
        """
        self.ask_until_refused(os.fork, keep)

    def ask_until_refused(
        self,
        ask: Callable[[], int],
        keep: Callable[[int], None] | None = None,
        patience: int = _PATIENCE_FORKS,
    ) -> None:
        """Ask for a process by `ask` until `count` of its calls raised OSError.

        Like os.fork, `ask` returns the child's pid in the parent and 0 in the child; see calls.py.
        A child that was made ends at once; with `keep`, which gets its pid, it sleeps instead.
        After `count` and `patience` calls that went through it gives up.
        """
        refused = 0
        parent = os.getpid()
        allowed = self.count + patience
        while refused < self.count and allowed and not self.ended_by():
            try:
                pid = ask()
            except OSError as error:
                refused += 1
                self.failures[errno.errorcode.get(error.errno or 0, f"{error.errno}")] += 1
                continue
            if pid == 0:
                try:
                    if keep:
                        _sleep_till_killed(parent)
                finally:
                    os._exit(0)
            allowed -= 1
            self.successes += 1
            if keep:
                keep(pid)
            else:
                os.waitpid(pid, 0)

    @contextmanager
    def changed(self, *changes: tuple[Sysctl, int]) -> Iterator[None]:
        """Hold sysctls at other values for as long as the block runs, and note for how long."""
        texts = [(sysctl, str(value).encode()) for sysctl, value in changes]
        begin_ns = time.monotonic_ns()
        try:
            for sysctl, text in texts:
                sysctl.write(text)
            yield
        finally:
            self._borrowed.restore_sysctls()
        held_ms = (time.monotonic_ns() - begin_ns) / 1e6
        for sysctl, text in texts:
            self.notes.append(
                f"{sysctl.name} was {text.decode()} instead of {sysctl.original.decode()}"
                f" for {held_ms:.1f} ms."
            )

    def give_back_as_orphan(self) -> None:
        """Do the dead parent's duty: leave the cgroups, remove them, restore the sysctls."""
        if self.is_orphan():
            self._borrowed.leave_cgroups()
            self._borrowed.give_back()


def name_process(comm: str) -> None:
    """Set the comm of the calling process."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(comm.encode()))


def _prctl(option: int, value: int | ctypes.c_char_p) -> None:
    argument = ctypes.c_ulong(value) if isinstance(value, int) else value
    if _libc.prctl(option, argument, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def pid_outside() -> int:
    """Return the pid of the calling process as the one that started the rehearsal sees it."""
    try:
        # The link knows the pid namespace of its mount, proc(5).
        return int(os.readlink("/proc/self"))
    except OSError:
        return os.getpid()


def die_with_parent() -> None:
    """Have the calling process killed when its parent ends."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _sleep_till_killed(parent: int) -> None:
    die_with_parent()
    while os.getppid() == parent:
        signal.pause()


def kill(pids: Iterable[int]) -> None:
    """Kill and reap own children."""
    pids = list(pids)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)


def _pending() -> set[signal.Signals]:
    return {each for each in signal.sigpending() if isinstance(each, signal.Signals)}
