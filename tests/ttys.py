"""A terminal of the tests' own: a pty, and as much of its screen as the tool may write to."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
_TOKEN = re.compile(r"\033\[(\??)([0-9;]*)([A-Za-z])|([\x00-\x1f])|([^\x00-\x1f]+)")
_TIMEOUT_S = 120  # under emulation everything takes longer


class Screen:
    """What a terminal would show; it knows no more than is written here, and says so."""

    def __init__(self, columns: int, lines: int) -> None:
        self.resize(columns, lines)
        self.modes: dict[str, bool] = {}
        self.styles: set[str] = set()

    def resize(self, columns: int, lines: int) -> None:
        self.columns, self.height = columns, lines
        self._lines = [""] * lines
        self._at = (0, 0)

    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self._lines).rstrip()

    def feed(self, text: str) -> None:
        done = 0
        for token in _TOKEN.finditer(text):
            assert token.start() == done, f"not understood: {text[done : token.start()]!r}"
            done = token.end()
            private, number, letter, control, plain = token.groups()
            if letter:
                self._obey(private, number, letter)
            elif control:
                self._move(control)
            else:
                self._write(plain)

    def _obey(self, private: str, number: str, letter: str) -> None:
        line, column = self._at
        if private:
            assert letter in "hl"
            self.modes[number] = letter == "h"
        elif letter == "m":
            self.styles.add(number)
        elif letter == "H":
            first, _, second = number.partition(";")
            self._at = (int(first or 1) - 1, int(second or 1) - 1)
        elif letter == "K" and not number:
            self._lines[line] = self._lines[line][:column]
        else:
            assert (letter, number) == ("J", "2"), f"not understood: {number}{letter}"
            self._lines = [""] * self.height

    def _move(self, control: str) -> None:
        line, column = self._at
        if control == "\r":
            column = 0
        elif control == "\n":
            line += 1
            if line == self.height:
                self._lines = [*self._lines[1:], ""]
                line -= 1
        else:
            assert control in "\a\b", f"not understood: {control!r}"
        self._at = (line, column)

    def _write(self, text: str) -> None:
        line, column = self._at
        old = self._lines[line].ljust(column)
        self._lines[line] = (old[:column] + text + old[column + len(text) :])[: self.columns]
        self._at = (line, column + len(text))


class Tty:
    """A program on a terminal of its own."""

    def __init__(
        self, argv: Sequence[str], size: tuple[int, int] = (80, 24), **environ: str
    ) -> None:
        self.screen = Screen(*size)
        self.raw = ""
        self._unread = b""
        names = ("PATH", "HOME", "FORK_TRACE_VM")
        passed: Mapping[str, str] = {name: os.environ[name] for name in names if name in os.environ}
        start, go = os.pipe()
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.read(start, 1)  # until the size is set
            os.chdir(CHECKOUT)
            os.execvpe(
                argv[0], list(argv), {**passed, "TERM": "xterm", "LANG": "C.UTF-8", **environ}
            )
        self.found = self.modes()
        self.resize(*size)
        os.write(go, b"x")
        os.close(go)
        os.close(start)

    def resize(self, columns: int, lines: int) -> None:
        """Change the size, which a terminal of 0 by 0 does not tell."""
        self.screen.resize(columns or 80, lines or 24)
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def modes(self) -> list[object]:
        """The terminal's modes: whether it echoes, breaks lines, and so on."""
        return termios.tcgetattr(self._fd)

    def is_echoing(self) -> bool:
        return bool(termios.tcgetattr(self._fd)[3] & termios.ECHO)

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def kill(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def read(self, timeout_s: float) -> bool:
        """Take what was written; False: nothing more comes."""
        if not select.select([self._fd], [], [], timeout_s)[0]:
            return True
        try:
            data = self._unread + os.read(self._fd, 65536)
        except OSError:  # whoever had the other end has gone
            return False
        text = data.decode("utf-8", "surrogateescape")
        # A sequence or letter that is cut off waits for its rest.
        whole = re.sub(r"(\033(\[[?0-9;]*)?|[\udc80-\udcff]+)\Z", "", text)
        self._unread = text[len(whole) :].encode("utf-8", "surrogateescape")
        self.raw += whole
        self.screen.feed(whole)
        return True

    def wait_for(self, text: str, timeout_s: float = _TIMEOUT_S) -> str:
        """Wait until the screen shows a text; return the screen."""
        deadline = time.monotonic() + timeout_s
        while text not in self.screen.text():
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.screen.text()}"
            assert self.read(0.1), f"it ended without {text!r}:\n{self.screen.text()}"
        return self.screen.text()

    def end(self, timeout_s: float = _TIMEOUT_S) -> int:
        """Wait until the program has ended; return its exit status, negative for a signal."""
        deadline = time.monotonic() + timeout_s
        while True:
            self.read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                while self.read(0.0) and select.select([self._fd], [], [], 0)[0]:
                    pass
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            assert time.monotonic() < deadline, f"it does not end:\n{self.screen.text()}"

    def close(self) -> None:
        """End it, whatever it does."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)
