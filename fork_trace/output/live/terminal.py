"""The terminal that `live` draws on: what it can do, its modes, its signals and its keys.

It is left as it was found, however the run ends. What is drawn is `screen`'s.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from fork_trace.output.live.screen import Line
from fork_trace.output.wording import cut

_KEYS_FD = 0
# The alternate screen keeps what was there before; where there is none, this is ignored. No cursor,
# and no line breaks of the terminal's own.
_ENTER = "\033[?1049h\033[?25l\033[?7l\033[H\033[2J"
_LEAVE = "\033[0m\033[H\033[2J\033[?7h\033[?25h\033[?1049l"
_STYLES = {"bar": "\033[7m", "strong": "\033[1m"}
_NOTED = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT, signal.SIGQUIT)
_SIZE = (80, 24)  # what a serial line does not tell


def is_dumb() -> bool:
    """Say whether the terminal says of itself that it can only append."""
    return os.environ.get("TERM", "") in ("", "dumb")


class Terminal:
    """Draws screens on a terminal, each over the last; can do nothing where stdout is not one."""

    def __init__(self, wants_lines: bool = False) -> None:
        self._fd = sys.stdout.fileno() if sys.stdout.isatty() else None
        self._encoding = sys.stdout.encoding
        self._is_in = False
        self._noted: set[int] = set()
        self._shown: list[Line] = []
        self._saved: list[Any] | None = None
        self._has_keys = os.isatty(_KEYS_FD)
        self._has_styles = not os.environ.get("NO_COLOR")
        self.redraws = (
            self._fd is not None and not wants_lines and not is_dumb() and self._is_foreground()
        )

    @property
    def keys_to_end(self) -> str:
        """Name the keys that end what runs here."""
        return "q or Ctrl-C" if self.redraws and self._has_keys else "Ctrl-C"

    def size(self) -> tuple[int, int]:
        """Return columns and lines; what a terminal does not tell is as usual."""
        with suppress(OSError):
            if self._fd is not None:
                columns, lines = os.get_terminal_size(self._fd)
                return columns or _SIZE[0], lines or _SIZE[1]
        return _SIZE

    def width(self) -> int | None:
        """Return how long a line may be that is appended; None: it is no terminal."""
        return None if self._fd is None else self.size()[0] - 1

    def enter(self) -> None:
        """Take the terminal over, if it can be redrawn."""
        if not self.redraws:
            return
        for number in _NOTED:
            signal.signal(number, self._note)
        self._take()

    def _take(self) -> None:
        # A job in the background would be stopped for touching it, or draw over its shell.
        if not self._is_foreground():
            return
        if self._has_keys:
            try:
                modes = termios.tcgetattr(_KEYS_FD)
                self._saved = self._saved or list(modes)
                # Keys one by one and unseen; Ctrl-C stays a signal.
                modes[3] &= ~(termios.ICANON | termios.ECHO)
                termios.tcsetattr(_KEYS_FD, termios.TCSANOW, modes)
            except termios.error:
                self._has_keys = False
        self._is_in = True
        self._shown = []
        self._write(_ENTER)

    def leave(self) -> None:
        """Give the terminal back as it was; safe to call twice, and when it has gone."""
        if not self._is_in:
            return
        self._is_in = False
        with suppress(OSError):
            self._write(_LEAVE)
        if self._saved is not None and self._is_foreground():
            with suppress(termios.error):
                termios.tcsetattr(_KEYS_FD, termios.TCSANOW, self._saved)

    def attend(self) -> bool:
        """Do what signals asked for; say whether the screen is to be drawn at once."""
        noted, self._noted = self._noted, set()
        if signal.SIGQUIT in noted:
            self._yield_to(signal.SIGQUIT)
        if signal.SIGTSTP in noted:
            self._yield_to(signal.SIGTSTP)
            signal.signal(signal.SIGTSTP, self._note)
        if signal.SIGTSTP in noted or signal.SIGCONT in noted:
            # Whoever had the terminal meanwhile has changed its modes.
            self._is_in = False
            self._take()
        elif signal.SIGWINCH in noted and self._is_in:
            self._shown = []
            self._write("\033[2J")
        return bool(noted)

    def _yield_to(self, number: int) -> None:
        """Let a signal do what it does to others, with the terminal as it was."""
        self.leave()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def is_told_to_end(self) -> bool:
        """Say whether the key for it was pressed."""
        while self._is_in and self._has_keys and select.select([_KEYS_FD], [], [], 0)[0]:
            try:
                keys = os.read(_KEYS_FD, 64)
            except OSError:
                keys = b""
            if b"q" in keys.lower():
                return True
            self._has_keys = bool(keys)
        return False

    def draw(self, lines: Sequence[Line]) -> None:
        """Show a screen: only what differs from the last one is written, so that nothing flickers."""
        if not self._is_in:
            return
        columns, height = self.size()
        # In the last column the cursor would stand on what it is to clear the rest behind.
        lines = [Line(cut(line.text, columns - 1), line.style) for line in lines[:height]]
        out = []
        for number in range(max(len(lines), len(self._shown))):
            line = lines[number] if number < len(lines) else Line("")
            if number >= len(self._shown) or line != self._shown[number]:
                out.append(f"\033[{number + 1};1H{self._styled(line)}\033[K")
        self._shown = list(lines)
        self._write("".join(out))

    def _styled(self, line: Line) -> str:
        style = _STYLES.get(line.style, "") if self._has_styles else ""
        return f"{style}{line.text}\033[0m" if style else line.text

    def _is_foreground(self) -> bool:
        try:
            return self._fd is not None and os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return True  # a terminal, but not the one that controls us: nobody else draws there

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._noted.add(number)

    def _write(self, text: str) -> None:
        # Past sys.stdout: what waits there must not come in between.
        data = text.encode(self._encoding, "backslashreplace")
        while data and self._fd is not None:
            data = data[os.write(self._fd, data) :]


def wait_for_key(prompt: str, most_s: float) -> None:
    """Ask for a key, and wait until one is pressed, the terminal goes away, or the time is up."""
    try:
        modes = termios.tcgetattr(_KEYS_FD)
    except termios.error:
        return
    keys = list(modes)
    # Ctrl-C is a key too: as a signal it could come just before select, which then would not see it.
    keys[3] &= ~(termios.ICANON | termios.ECHO | termios.ISIG)
    with suppress(termios.error, OSError):
        try:
            # What was typed before it asks is no answer.
            termios.tcsetattr(_KEYS_FD, termios.TCSAFLUSH, keys)
            print(prompt, file=sys.stderr, flush=True)
            if select.select([_KEYS_FD], [], [], most_s)[0]:
                os.read(_KEYS_FD, 64)
        finally:
            termios.tcsetattr(_KEYS_FD, termios.TCSANOW, modes)
