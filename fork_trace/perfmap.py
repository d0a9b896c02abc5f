"""/tmp/perf-PID.map: names of the functions that a JIT compiler made, as the process itself tells them.

Java, Node and Python write it when asked to. Whoever writes it may be hostile: it is read only if it
is a regular file of the process' own user, and only so much of it.
"""

from __future__ import annotations

import os
import re
import time
from bisect import bisect_right
from collections import OrderedDict

from fork_trace import files
from fork_trace.mounts import OwnMounts, View

_MOST_BYTES = 16 << 20
_MOST_NAME = 512
_MAPS = 8  # processes whose map is kept
_FRESH_S = 1.0  # a map that grew is read again, not more often than this
# perf's own form: address and size in hexadecimal, then the name to the end of the line
_LINE = re.compile(
    rb"^(?:0x)?([0-9a-f]{1,16}) (?:0x)?([0-9a-f]{1,16}) (.{1,%d})" % _MOST_NAME, re.M
)


class _Map:
    def __init__(self, size: int, raw: bytes) -> None:
        self.read_s = time.monotonic()
        self.size = size
        functions = {}
        for match in _LINE.finditer(raw):
            # Code that took the place of older code is written later.
            functions[int(match[1], 16)] = (int(match[2], 16), match.span(3))
        self.starts = sorted(functions)
        self._places = [functions[start] for start in self.starts]
        self._raw = raw

    def name(self, address: int) -> str | None:
        index = bisect_right(self.starts, address) - 1
        if index < 0:
            return None
        size, (begin, end) = self._places[index]
        if address >= self.starts[index] + size:
            return None
        return self._raw[begin:end].decode("utf-8", "backslashreplace").strip() or None


class PerfMaps:
    """The perf maps of the processes that failed lately."""

    def __init__(self, own: OwnMounts, root: str = "/proc") -> None:
        self._mounts, self._root = own, root
        self._maps: OrderedDict[int, _Map] = OrderedDict()

    def name(self, pid: int | None, uid: int, address: int) -> str | None:
        """Name the function at an address of a process; None if its map does not tell."""
        if pid is None:
            return None
        known = self._maps.get(pid)
        name = known.name(address) if known else None
        if name is None and (known is None or time.monotonic() - known.read_s > _FRESH_S):
            found = self._read(pid, uid, known)
            if found is not None:
                self._maps[pid] = found
                self._maps.move_to_end(pid)
                while len(self._maps) > _MAPS:
                    self._maps.popitem(last=False)
                name = found.name(address)
        return name

    def _read(self, pid: int, uid: int, known: _Map | None) -> _Map | None:
        view = View(self._mounts, pid, self._root)
        path = f"tmp/perf-{self._inner_pid(pid)}.map"
        try:
            named, _ = files.below(f"{self._root}/{pid}/root", path, view)
            fd, status = files.regular(named, (uid, 0))
        except OSError:
            # None yet: as good as an empty one, so that it is not looked for at each frame.
            return known or _Map(0, b"")
        try:
            if known is not None and known.size == status.st_size:
                known.read_s = time.monotonic()
                return known
            return _Map(status.st_size, files.read_all(fd, _MOST_BYTES))
        except OSError:
            return known
        finally:
            os.close(fd)

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
