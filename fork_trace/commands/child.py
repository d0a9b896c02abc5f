"""The command that a capture runs."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Sequence
from typing import Any

from fork_trace.commands.stop_signals import StopSignals
from fork_trace.errors import ForkTraceError

_PATIENCE_S = 5.0  # for a command that was told to end


def _cannot_run(name: str, why: str | None) -> ForkTraceError:
    return ForkTraceError(f"cannot run {name}: {why}", "Give an existing command after `--`.")


def demand(argv: Sequence[str]) -> None:
    """Refuse a command that does not exist, before anything has begun."""
    if argv and shutil.which(argv[0]) is None:
        raise _cannot_run(argv[0], "command not found")


class Child:
    """A program run by a capture. It is spawned, not forked: that asks for no commit."""

    def __init__(self, argv: Sequence[str], stdout_to_stderr: bool) -> None:
        self.argv = tuple(argv)
        self.status: int | None = None
        actions: list[tuple[Any, ...]] = []
        if stdout_to_stderr:
            actions.append((os.POSIX_SPAWN_DUP2, 2, 1))
        try:
            # Python ignores these two, and what is ignored stays so over exec.
            self._pid = os.posix_spawnp(
                argv[0],
                list(argv),
                os.environ,
                file_actions=actions,
                setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),
            )
        except OSError as error:
            raise _cannot_run(argv[0], error.strerror) from None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status

    def end(self, signals: StopSignals) -> None:
        """Hand on the signal that ends the capture, and wait a little."""
        if self.poll() is None:
            os.kill(self._pid, signals.signal or signal.SIGTERM)
            deadline = time.monotonic() + _PATIENCE_S
            while self.poll() is None and time.monotonic() < deadline and signals.count < 2:
                time.sleep(0.02)

    def as_json(self) -> dict[str, Any]:
        """Say what ran and how it ended; a status of None: it still ran."""
        return {"argv": list(self.argv), "status": self.status}
