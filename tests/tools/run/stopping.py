"""The end of a run before its time: what runs is told to end, whole; what has not begun does not begin."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# As Ctrl-C would, so that tests take their cgroups and settings back; then less kindly.
_STEPS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)


class Programs:
    """The programs that run, each with a process group of its own, until a signal ends them all."""

    def __init__(self, patience_s: float = 15) -> None:
        self.stopped_by: int | None = None
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._running: set[int] = set()

    def start(
        self, argv: Sequence[str], cwd: Path, environment: Mapping[str, str], out: IO[bytes]
    ) -> subprocess.Popen[bytes] | None:
        """Start one; None once they are to end."""
        with self._lock:
            if self.stopped_by is not None:
                return None
            process = subprocess.Popen(
                argv,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(process.pid)
            return process

    def wait(self, process: subprocess.Popen[bytes]) -> tuple[int, float]:
        """Wait for its end; returns its status, and its processor time with that of all it waited for."""
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        if self.stopped_by is not None:
            # Not yet reaped, it keeps the number of its group, in which others may still be at work.
            for step in _STEPS[1:]:
                _tell(process.pid, step)
                time.sleep(min(1, self._patience_s))
        with self._lock:
            self._running.discard(process.pid)
            _, raw, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(raw)
        return process.returncode, usage.ru_utime + usage.ru_stime

    def stop(self, number: int) -> None:
        """Begin to end them all; safe in a signal handler, as the rest is done by a thread."""
        if self.stopped_by is None:
            self.stopped_by = number
            threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        for step in _STEPS:
            with self._lock:
                for pid in self._running:
                    _tell(pid, step)
            time.sleep(self._patience_s)

    @contextlib.contextmanager
    def stopping_at_signals(self) -> Iterator[None]:
        """Let SIGINT, SIGTERM and SIGHUP stop them, in place of this process alone."""
        before = {each: signal.signal(each, lambda got, _: self.stop(got)) for each in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _tell(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
