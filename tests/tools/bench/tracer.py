"""Starts a tracer, notices when it is armed, and reads what it has used. Knows no particular one."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


class Config(NamedTuple):
    """A tracer to measure with. One that starts what it traces stands before the loops."""

    argv: tuple[str, ...]
    armed: str  # what it says on stderr then
    report: str = ""  # how its output tells failures: json, or a pattern of its lines
    starts_them: bool = False
    share: float = 1  # of the rounds of each loop, where they would take too long
    shows: Callable[[int], bool] | None = None  # whether it is armed, where it does not say so
    ends_by: int = signal.SIGTERM
    optional: bool = False  # left out where it does not start


class End(NamedTuple):
    """How a tracer ended."""

    seconds: float  # from just before exec until it was gone
    peak_rss_kb: int  # wait4's ru_maxrss
    status: int
    stderr: str


class Tracer:
    """A tracer in the background, armed when `armed` matches what it writes to stderr.

    One that says nothing there is armed when `shows` finds what it was to set up, by its pid. One that
    has `begins` for what it says on a terminal first gets one for its stderr.
    """

    def __init__(
        self,
        argv: Sequence[str],
        armed: str,
        output: Path,
        timeout_s: float = 100_000,
        shows: Callable[[int], bool] | None = None,
        begins: str | None = None,
    ) -> None:
        self._said = b""
        self._is_silent = False
        self._stderr, theirs = os.openpty() if begins else os.pipe()
        with open(output, "wb") as out:
            self._started_s = time.monotonic()
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=theirs
            )
        os.close(theirs)
        self.pid = self._process.pid
        # Reaped by wait4 below, which tells the peak of this child and not of all children.
        self._process.returncode = 0
        self.end: End | None = None
        self.armed_seconds: float | None = None
        self.begun: tuple[float, int] | None = (
            None  # after so many seconds, with so much CPU time in ns
        )
        if shows is not None:
            self._look_until(shows)
            return
        # Waiting for its words costs nothing; looking for them would, on a single processor.
        while self._hear(self._started_s + timeout_s - time.monotonic()):
            seen_s = time.monotonic()
            if begins and not self.begun and self._has_said(begins):
                self.begun = seen_s - self._started_s, self.cpu_ns()
            if self._has_said(armed):
                self._is_armed(seen_s)
                return
        # Silence for good means that it has ended by itself; signal 0 then only asks.
        self.stop(0 if self._is_silent else signal.SIGTERM)

    def _has_said(self, pattern: str) -> bool:
        return bool(re.search(pattern, self._said.decode(errors="replace"), re.MULTILINE))

    def _look_until(self, shows: Callable[[int], bool]) -> None:
        # Where the clock counts instructions, waiting for a file takes no time: no fixed time would do.
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            time.sleep(0.2)
            if shows(self.pid):
                self._is_armed(time.monotonic())
                return
        self.stop(0)

    def _is_armed(self, seen_s: float) -> None:
        self.armed_seconds = seen_s - self._started_s
        self.armed_cpu_ns = self.cpu_ns()
        self.armed_rss_kb = self._status("VmRSS")
        self.armed_peak_rss_kb = self._status("VmHWM")

    def _hear(self, timeout_s: float) -> bool:
        if not select.select([self._stderr], [], [], max(0.0, timeout_s))[0]:
            return False
        try:
            said = os.read(self._stderr, 1 << 16)
        except OSError as error:
            if error.errno != errno.EIO:  # the end of a terminal
                raise
            said = b""
        self._said += said
        self._is_silent = not said
        return not self._is_silent

    def cpu_ns(self) -> int:
        """Return the processor time used so far, of its first thread."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0])

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text()
        match = re.search(rf"^{name}:\s*(\d+) kB", text, re.MULTILINE)
        return int(match[1]) if match else 0

    def stop(self, number: int = signal.SIGTERM) -> End:
        """End it, unless it has ended, and wait until it is gone."""
        if self.end is None:
            # Not yet reaped, so the number is still its own.
            os.kill(self.pid, number)
            _pid, status, usage = os.wait4(self.pid, 0)
            seconds = time.monotonic() - self._started_s
            while self._hear(0):
                pass
            os.close(self._stderr)
            self.end = End(
                seconds,
                usage.ru_maxrss,
                os.waitstatus_to_exitcode(status),
                self._said.decode(errors="replace"),
            )
        return self.end
