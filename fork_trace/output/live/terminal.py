"""The terminal that `live` draws on: what it can do, its modes, its signals and its keys.

It is left as it was found, however the run ends. What is drawn is `screen`'s.
"""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby
from operator import itemgetter
from time import monotonic
from types import FrameType
from typing import Any

from fork_trace.output.live.line import Line
from fork_trace.output.wording import columns as columns_of

_KEYS_FD = 0
# The alternate screen keeps what was there before; where there is none, this is ignored. No cursor,
# and no line breaks of the terminal's own.
_ENTER = "\033[?1049h\033[?25l\033[?7l\033[H\033[2J"
_LEAVE = "\033[0m\033[H\033[2J\033[?7h\033[?25h\033[?1049l"
# By attributes and not by colors alone, which some do not see and some terminals do not have.
_STYLES = {
    "bar": "\033[7m",
    "strong": "\033[1m",
    "chosen": "\033[7m",
    "dim": "\033[2m",
    "heading": "\033[4m",
    "trend": "\033[36m",
    "command": "\033[36m",
    "full": "\033[31m",
    "near": "\033[33m",
    "fine": "\033[32m",
}
_WITHOUT_COLORS = ("bar", "strong", "chosen", "heading")  # what a VT100 has as well
# Terminals that may lack the block elements, whatever the locale says.
_ASCII_ONLY = ("linux", "vt", "ansi", "cons", "sun", "wyse")
# What Python sets where no locale is (PEP 538).
_COERCED = ("C.UTF-8", "C.utf8", "UTF-8")
_KEYS = {
    b"\033[A": "up",
    b"\033OA": "up",
    b"\033[B": "down",
    b"\033OB": "down",
    b"\r": "enter",
    b"\n": "enter",
    b"\x7f": "backspace",
    b"\b": "backspace",
}
_SEQUENCE = re.compile(rb"\033(?:\[[0-9;]*[@-~]|O.)|\033|.", re.DOTALL)
_SPLIT_S = 0.05  # between the bytes of one key, on a slow line
# Of lines; a terminal that is none tells 38400.
_SPEEDS = {
    getattr(termios, f"B{speed}"): speed for speed in (110, 300, 600, 1200, 2400, 4800, 9600, 19200)
}
_BITS, _SHARE = 10, 0.5  # of a byte with its start and stop; of a slow line that screens may take
_NOTED = (signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT, signal.SIGQUIT)
_SIZE = (80, 24)  # what a serial line does not tell


def is_dumb() -> bool:
    """Say whether the terminal says of itself that it can only append."""
    return os.environ.get("TERM", "") in ("", "dumb")


def is_ascii(encoding: str) -> bool:
    """Say whether block elements may not be shown: so it is on consoles, and where no locale is set."""
    names = ["LC_ALL", "LC_CTYPE", "LANG"]
    if not os.environ.get("LANG") and os.environ.get("LC_CTYPE") in _COERCED:
        names.remove("LC_CTYPE")
    told = next(filter(None, map(os.environ.get, names)), "")
    is_utf8 = "utf" in encoding.lower() and "utf" in told.lower()
    return not is_utf8 or os.environ.get("TERM", "").startswith(_ASCII_ONLY)


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
        self._styles = dict(_STYLES)
        if os.environ.get("TERM", "").startswith("vt"):
            self._styles = {name: _STYLES[name] for name in _WITHOUT_COLORS}
        if os.environ.get("NO_COLOR"):
            self._styles = {}
        self.is_ascii = is_ascii(self._encoding)
        self._free_at_s = 0.0
        self.redraws = (
            self._fd is not None and not wants_lines and not is_dumb() and self._is_foreground()
        )

    @property
    def keys_to_end(self) -> str:
        """Name the keys that end what runs here."""
        return "q or Ctrl-C" if self.redraws and self._has_keys else "Ctrl-C"

    @property
    def is_slow(self) -> bool:
        """Say whether this is a line on which each byte counts."""
        return self._speed() is not None

    @property
    def is_busy(self) -> bool:
        """Say whether a slow line has better to do than another screen: what was written takes its time."""
        return monotonic() < self._free_at_s

    def _speed(self) -> int | None:
        with suppress(OSError, termios.error):
            if self._fd is not None:
                return _SPEEDS.get(termios.tcgetattr(self._fd)[5])
        return None

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

    def pressed(self) -> list[str]:
        """Return the keys that were pressed: letters, and "up", "down", "enter", "esc", "backspace"."""
        data = b""
        while self._is_in and self._has_keys and select.select([_KEYS_FD], [], [], 0)[0]:
            try:
                read = os.read(_KEYS_FD, 64)
            except OSError:
                read = b""
            self._has_keys = bool(read)
            data += read
            if data.endswith((b"\033", b"\033[", b"\033O")):
                select.select([_KEYS_FD], [], [], _SPLIT_S)
        found = (_key(each) for each in _SEQUENCE.findall(data))
        return [each for each in found if each]

    def append(self, lines: Sequence[Line]) -> None:
        """Write lines one below the other, with their styles, as any program does."""
        sys.stdout.write("".join(f"{self._styled(self._cells(line))}\n" for line in lines))
        sys.stdout.flush()

    def draw(self, lines: Sequence[Line]) -> None:
        """Show a screen: only what differs from the last one is written, so that nothing flickers."""
        if not self._is_in:
            return
        columns, height = self.size()
        # In the last column the cursor would stand on what it is to clear the rest behind.
        lines = [line.fitted(columns - 1) for line in lines[:height]]
        out = []
        for number in range(max(len(lines), len(self._shown))):
            line = lines[number] if number < len(lines) else Line("")
            shown = self._shown[number] if number < len(self._shown) else None
            if line != shown:
                out.append(self._changed(number, line, shown))
        self._shown = list(lines)
        text = "".join(out)
        self._write(text)
        speed = self._speed()
        if speed is not None:
            self._free_at_s = monotonic() + len(text.encode()) * _BITS / speed / _SHARE

    def _changed(self, number: int, line: Line, shown: Line | None) -> str:
        """Write what differs of a line, from its first other character to the last."""
        cells = self._cells(line)
        known = self._cells(shown) if shown is not None else []
        begin, end = 0, len(cells)
        # Where letters are wider than others, a place in the text is no column.
        if shown is not None and all(
            columns_of(each.text) == len(each.text) for each in (line, shown)
        ):
            while begin < min(len(cells), len(known)) and cells[begin] == known[begin]:
                begin += 1
            while len(cells) == len(known) and end > begin and cells[end - 1] == known[end - 1]:
                end -= 1
        clears = "" if shown is not None and len(known) == len(cells) else "\033[K"
        return f"\033[{number + 1};{begin + 1}H{self._styled(cells[begin:end])}{clears}"

    def _cells(self, line: Line) -> list[tuple[str, str]]:
        return [(char, self._styles.get(style, "")) for char, style in line.cells()]

    def _styled(self, cells: Sequence[tuple[str, str]]) -> str:
        out = []
        for style, group in groupby(cells, key=itemgetter(1)):
            text = "".join(char for char, _ in group)
            out.append(f"{style}{text}\033[0m" if style else text)
        return "".join(out)

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


def _key(raw: bytes) -> str:
    """Name a key; "": one that means nothing here."""
    if raw == b"\033":
        return "esc"
    if raw in _KEYS:
        return _KEYS[raw]
    text = raw.decode("ascii", "replace")
    return text if len(text) == 1 and " " <= text <= "~" else ""


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
