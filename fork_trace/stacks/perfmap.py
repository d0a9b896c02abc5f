"""/tmp/perf-PID.map: names of the functions that a JIT compiler made, as the process itself tells them.

Java, Node and Python write it when asked to. Whoever writes it may be hostile: it is read only if it
is a regular file of the process' own user. Kept is where each function's line is; what was appended
is read and no more than that, and only a map that was read to its end names anything.
"""

from __future__ import annotations

import os
import re
import time

from fork_trace import budget, files
from fork_trace.budget import Budget, Kept, OverBudgetError
from fork_trace.mounts import OwnMounts, View
from fork_trace.stacks.runs import Runs

# Lines are remembered by blocks of the file, whose numbers have 16 bits; addresses have 48.
_BLOCK_BYTES, _BLOCK_BITS = 512, 16
_MOST_BYTES = _BLOCK_BYTES << _BLOCK_BITS
_MOST_LINES = 1 << 18  # 2 MB; a large JVM has some 50,000
_MOST_NAME = 512
_PIECE_BYTES = 1 << 16
_LOOK_COST, _LINE_COST = 50, 1.0
_KEPT_MAPS_BYTES, _KEPT_NAMES_BYTES = 5 << 19, 1 << 18
_FRESH_S = 1.0  # a map that lacks an address is looked at again, not more often than this
# perf's own form: address and size in hexadecimal, then the name to the end of the line
_LINE = re.compile(
    rb"^(?:0x)?([0-9a-f]{1,16}) (?:0x)?([0-9a-f]{1,16}) (.{1,%d})" % _MOST_NAME, re.M
)
_MOST_LINE_BYTES = 2 * 18 + 2 + _MOST_NAME + 1


class _Map:
    """One map: by address, in which block of the file its line begins."""

    def __init__(self, file: tuple[int, int], cost: Budget) -> None:
        self.file = file  # device and inode
        self.cost = cost
        self.looked_s = time.monotonic()
        self.at = 0  # how far it was read
        self.is_whole = self.is_too_long = False
        self._runs = Runs(_BLOCK_BITS)

    @property
    def kept_bytes(self) -> int:
        return 1024 + self._runs.size

    def read_on(self, fd: int, end: int) -> None:
        """Read what was appended; OverBudgetError: not all of it yet."""
        self.is_whole = False
        while self.at < end and not self.is_too_long:
            self.cost.pay(1, _PIECE_BYTES)
            piece = os.pread(fd, min(_PIECE_BYTES, end - self.at), self.at)
            count = piece.count(b"\n")
            if not count and len(piece) < _PIECE_BYTES:
                break  # its last line is still being written
            self.cost.pay(count * _LINE_COST)
            if count:
                piece = piece[: piece.rindex(b"\n") + 1]
            self._runs.add(
                int(match[1], 16) << _BLOCK_BITS | (self.at + match.start()) // _BLOCK_BYTES
                for match in _LINE.finditer(piece)
            )
            self.at += len(piece)
            if self.at >= _MOST_BYTES or self._runs.count > _MOST_LINES:
                self.is_too_long, self._runs = True, Runs(_BLOCK_BITS)
        self.is_whole = not self.is_too_long

    def place(self, address: int) -> tuple[int, int] | None:
        """Return the nearest function that begins at an address or before, and the block of its line."""
        if not self.is_whole:
            return None
        return next(iter(self._runs.before(address, 1)), None)


class PerfMaps:
    """The perf maps of the processes that failed lately."""

    def __init__(self, own: OwnMounts, root: str = "/proc", above: Budget | None = None) -> None:
        self._mounts, self._root = own, root
        self._above = above
        self._maps: Kept[int, _Map] = Kept(_KEPT_MAPS_BYTES)
        self._names: Kept[tuple[int, int, int], str | None] = Kept(_KEPT_NAMES_BYTES)

    @property
    def kept_bytes(self) -> int:
        """How much memory the maps and names take that are kept, about."""
        return self._maps.size + self._names.size

    def name(self, pid: int | None, uid: int, address: int) -> str | None:
        """Name the function at an address of a process; None if its map does not tell, or not yet."""
        if pid is None:
            return None
        known = self._maps.get(pid)
        if known is not None:
            is_fresh = known.is_whole and time.monotonic() - known.looked_s <= _FRESH_S
            if is_fresh and (pid, known.at, address) in self._names:
                return self._names.get((pid, known.at, address))
            if is_fresh and known.place(address) is None:
                return None
        try:
            return self._look(pid, uid, address, known)
        except (OSError, OverBudgetError):
            return None

    def _look(self, pid: int, uid: int, address: int, known: _Map | None) -> str | None:
        if self._above is not None:
            self._above.pay(_LOOK_COST)
        view = View(self._mounts, pid, self._root, self._above)
        path = f"tmp/perf-{self._inner_pid(pid)}.map"
        try:
            named, _ = files.below(f"{self._root}/{pid}/root", path, view)
            fd, status = files.regular(named, (uid, 0))
        except OSError:
            # None yet: as good as an empty one, so that it is not looked for at each frame.
            if known is None:
                self._keep(pid, (0, 0), None, is_whole=True)
            return None
        try:
            file = (status.st_dev, status.st_ino)
            end = status.st_size
            if known is None or known.file != file or end < known.at:
                known = self._keep(pid, file, known, end == 0)
            known.looked_s = time.monotonic()
            if end > known.at or not known.is_whole:
                known.read_on(fd, end)
            name = self._line(fd, known, address)
        finally:
            os.close(fd)
            if known is not None:
                self._maps.put(pid, known, known.kept_bytes)
        if known.is_whole:
            self._names.put((pid, known.at, address), name, 256 + 4 * len(name or ""))
        return name

    def _keep(self, pid: int, file: tuple[int, int], known: _Map | None, is_whole: bool) -> _Map:
        """Begin anew, with what the process' maps may cost together."""
        made = _Map(file, known.cost if known else budget.of_a_file(self._above))
        made.is_whole = is_whole
        self._maps.put(pid, made, made.kept_bytes)
        return made

    @staticmethod
    def _line(fd: int, known: _Map, address: int) -> str | None:
        """Read the line of an address again: what the file says now counts."""
        place = known.place(address)
        if place is None:
            return None
        start, block = place
        known.cost.pay(20)
        # A line that begins with the block does so behind a line's end.
        begin = max(0, block * _BLOCK_BYTES - 1)
        raw = os.pread(fd, 1 + _BLOCK_BYTES + _MOST_LINE_BYTES, begin)
        if begin:
            begin, raw = begin + raw.find(b"\n") + 1, raw.partition(b"\n")[2]
        found = None
        for match in _LINE.finditer(raw):
            if int(match[1], 16) == start and (begin + match.start()) // _BLOCK_BYTES == block:
                # Code that took the place of older code is written later.
                found = match
        if found is None or address >= start + int(found[2], 16):
            return None
        return found[3].decode("utf-8", "backslashreplace").strip() or None

    def _inner_pid(self, pid: int) -> int:
        """The number that the process itself knows: that of its own pid namespace."""
        try:
            with open(f"{self._root}/{pid}/status", encoding="utf-8", errors="replace") as file:
                for line in file:
                    if line.startswith("NSpid:"):
                        return int(line.split()[-1])
        except (OSError, ValueError):
            pass
        return pid
