"""The service manager's protocol: ready, alive, and what the status line says (sd_notify(3))."""

from __future__ import annotations

import os
import socket
import time


class Notifier:
    """Speaks to the service manager if there is one that listens; says nothing otherwise."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._next_s = 0.0
        self._every_s: float | None = None
        path = os.environ.get("NOTIFY_SOCKET", "")
        if path[:1] not in ("/", "@"):
            return
        usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
        if usec.isdecimal() and pid in ("", str(os.getpid())):
            self._every_s = int(usec) / 1e6 / 2  # sd_watchdog_enabled(3): at half of the time
        address = "\0" + path[1:] if path[0] == "@" else path
        try:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)
            # Now: without its privileges it may not be reached any more.
            self._socket.connect(address)
        except OSError:
            self._socket = None

    def tell(self, *lines: str) -> None:
        """Send an assignment for each line; a manager that does not listen is not waited for."""
        if self._socket is not None:
            try:
                self._socket.send("\n".join(lines).encode("utf-8", "backslashreplace"))
            except OSError:
                return

    def alive(self, status: str) -> None:
        """Say that all is well, as often as the watchdog asks, with a status line."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + min(self._every_s or 10.0, 10.0)
            self.tell("WATCHDOG=1", f"STATUS={status}")
