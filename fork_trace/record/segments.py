"""The recorder's files: one capture after the other in a directory, within bounds, on a disk that may be full.

A line is written by one write(2). What finds no room waits in memory, and of that the oldest failures
are dropped first: the checkpoints after them count them all the same. Whole files are removed, the
oldest first; nothing is ever appended to a file of somebody else.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from fork_trace.errors import ForkTraceError
from fork_trace.model.records import (
    INCIDENTS,
    Checkpoint,
    Failure,
    Forks,
    Header,
    Record,
    Slow,
    to_json,
)
from fork_trace.record.packing import PACKED, Packer

_SEGMENT = re.compile(r"\d{8}T\d{6}Z-[0-9a-z]+(-\d+)?\.jsonl(\.gz)?")
_LOCK = ".lock"
_MAY_GO = (
    Failure,
    Slow,
    Forks,
    *INCIDENTS,
)  # where there is no room: the totals count failures all the same
_MOST_WAITING_BYTES = 2 << 20
_LEAST_SEGMENT, _MOST_SEGMENT = 64 << 10, 32 << 20
_SEGMENTS = 8  # at least as many fit into what the directory may hold
_DAY_S = 86400.0
_STEADY_S = 3600.0  # a clock that has just jumped does not decide what is old
_LOOK_S = 10.0
_PACK_AGAIN_S = 600.0  # after it failed


class Bounds(NamedTuple):
    """What the files may take."""

    size: int  # bytes of all files
    age_s: float
    free: int  # bytes, or -percent of the file system, that are left to others


class _Line(NamedTuple):
    """A record that waits to be written."""

    data: bytes
    may_go: bool  # if there is no room: totals count it all the same
    is_checkpoint: bool
    is_header: bool


class Segments:
    """The files of a directory: the one that is written to, and those that are removed for it."""

    def __init__(
        self,
        directory: str,
        bounds: Bounds,
        new_owner: int | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.directory, self._bounds = directory, bounds
        self._monotonic, self._wall = monotonic, wall
        self._parent = _opened(directory, new_owner)
        try:
            self._lock = _locked(self._parent, directory, new_owner)
        except BaseException:
            os.close(self._parent)
            raise
        self._packer = Packer(self._parent)
        self._pack_at_s = float("-inf")
        self._refused: set[str] = set()  # files of another user, say: not to be packed
        self._fd: int | None = None
        self._name = ""
        self._made: dict[str, int] = {}  # by this run, in their order
        self._written = self._others = 0  # bytes of the current one, and of all others
        self._begun_s = self._looked_s = float("-inf")
        self._steady_since_s = self._monotonic()
        self._waiting: deque[_Line] = deque()
        self._waiting_bytes = self._at = 0
        self._is_held = False  # to leave others their room
        self.failed: str | None = None
        self.dropped = 0  # records of which only the totals tell
        self._boot = "unknown"

    def last_ns(self) -> int | None:
        """Return when somebody last wrote here, ns since the epoch; None: nobody has."""
        found = [os.stat(name, dir_fd=self._parent).st_mtime_ns for name in self._names()]
        return max(found, default=None)

    def begin(self, header: Header) -> None:
        """Begin a new file, once everything was written that belongs to the old one: its summary comes last."""
        self._boot = (header.boot_id or "unknown").replace("-", "") or "unknown"
        self._begun_s = self._monotonic()
        self.write(header)
        self.tend()

    def write(self, record: Record) -> None:
        """Write one record, or keep it until there is room for it."""
        line = (to_json(record) + "\n").encode("ascii")
        is_checkpoint = isinstance(record, Checkpoint)
        if is_checkpoint and len(self._waiting) > 1:
            # An earlier one that still waits has nothing to add.
            first, *rest = self._waiting
            kept = [first, *(each for each in rest if not each.is_checkpoint)]
            self._waiting = deque(kept)
            self._waiting_bytes = sum(len(each.data) for each in kept)
        may_go = isinstance(record, _MAY_GO)
        self._waiting.append(_Line(line, may_go, is_checkpoint, isinstance(record, Header)))
        self._waiting_bytes += len(line)
        if self._is_over():
            self.tend()
        self.flush()
        while self._waiting_bytes > _MOST_WAITING_BYTES and self._drop():
            pass

    def _drop(self) -> bool:
        """Drop the oldest failure or death that waits; of a line that was begun the rest must follow."""
        for place in range(1 if self._at else 0, len(self._waiting)):
            line = self._waiting[place]
            if line.may_go:
                del self._waiting[place]
                self._waiting_bytes -= len(line.data)
                self.dropped += 1
                return True
        return False

    def flush(self) -> None:
        """Try to write what waits."""
        if self._is_held:
            return
        try:
            while self._waiting:
                line = self._waiting[0].data
                if self._fd is None or (self._waiting[0].is_header and not self._at):
                    self._switch()
                done = self._put(line[self._at :])
                self._at += done
                self._written += done
                if self._at == len(line):
                    self._waiting.popleft()
                    self._waiting_bytes -= len(line)
                    self._at = 0
            self.failed = None
        except OSError as error:
            self.failed = error.strerror or str(error)

    def _switch(self) -> None:
        """Go on in a new file; of the old one nothing waits any more. OSError: there is no room for one."""
        created = self._created()
        if self._fd is not None:
            os.close(self._fd)
        self._fd, self._written = created, 0

    def _put(self, data: bytes) -> int:
        assert self._fd is not None
        return os.write(self._fd, data)

    def _created(self) -> int:
        start = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._wall()))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        for number in range(1000):
            name = f"{start}-{self._boot}{f'-{number}' if number else ''}.jsonl"
            try:
                fd = os.open(name, flags, 0o600, dir_fd=self._parent)
            except FileExistsError:
                continue
            self._name = name
            self._made[name] = len(self._made)
            return fd
        raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))

    @property
    def is_waiting(self) -> bool:
        """Say whether the current file lacks lines that found no room yet: then it cannot end."""
        return bool(self._waiting)

    def is_due(self) -> bool:
        """Say whether the next file is to begin: by size, or a day after."""
        most = min(max(self._bounds.size // _SEGMENTS, _LEAST_SEGMENT), _MOST_SEGMENT)
        return self._written >= most or self._monotonic() - self._begun_s >= _DAY_S

    def clock_jumped(self) -> None:
        """Note that the time of day is not to be trusted for a while."""
        self._steady_since_s = self._monotonic()

    def beat(self) -> None:
        """Leave word that somebody still watches: the time of the file, without a byte."""
        if self._fd is not None:
            try:
                os.utime(self._fd)
            except OSError as error:
                self.failed = error.strerror or str(error)

    def tend(self, is_now: bool = True) -> None:
        """Remove the oldest files until the others are within bounds; try again to write what waits."""
        now_s = self._monotonic()
        if not is_now and now_s - self._looked_s < _LOOK_S:
            return
        self._looked_s = now_s
        try:
            self._remove(now_s)
        except OSError as error:
            self.failed = error.strerror or str(error)
        self.flush()

    def pack(self) -> None:
        """Go on with making closed files smaller: a little, and nothing while lines wait."""
        if self._waiting or self._is_held:
            return
        try:
            if self._packer.is_busy:
                name = self._packer.work()
                if name in self._made:
                    self._made[name + PACKED] = self._made.pop(name)
            elif self._monotonic() >= self._pack_at_s:
                done = {self._name, *self._refused}
                plain = {each for each in self._names() if not each.endswith(PACKED)}
                name = min(plain - done, default=None)
                if name is None:
                    self._pack_at_s = self._monotonic() + _LOOK_S
                    self._refused &= plain
                elif not self._packer.begins(name):
                    self._refused.add(name)
        except OSError:
            self._pack_at_s = self._monotonic() + _PACK_AGAIN_S

    def _is_over(self) -> bool:
        return 0 < self._others > self._bounds.size - self._written - self._waiting_bytes

    def _remove(self, now_s: float) -> None:
        known = []
        for name in self._names():
            status = os.stat(name, dir_fd=self._parent, follow_symlinks=False)
            known.append((self._made.get(name, -1), name, status.st_size, status.st_mtime))
        known.sort()
        total = sum(size for _, _, size, _ in known) + self._packer.written
        old_s = self._wall() - self._bounds.age_s
        judges_age = now_s - self._steady_since_s >= _STEADY_S
        while known:
            _, name, size, changed_s = known[0]
            if name == self._name and self._fd is not None:
                break
            is_old = judges_age and changed_s < old_s
            is_too_much = total + self._waiting_bytes > self._bounds.size
            if not (is_too_much or is_old or self._lacks_room()):
                break
            os.unlink(name, dir_fd=self._parent)
            self._made.pop(name, None)
            total -= size
            del known[0]
        self._others = sum(size for _, name, size, _ in known if name != self._name)
        self._is_held = self._lacks_room()
        if self._is_held:
            self.failed = "less than --keep-free is left on its file system"

    def _lacks_room(self) -> bool:
        found = os.fstatvfs(self._parent)
        free = found.f_bavail * found.f_frsize
        kept = self._bounds.free
        return free < (kept if kept >= 0 else -kept * found.f_blocks * found.f_frsize // 100)

    def _names(self) -> list[str]:
        return [name for name in os.listdir(self._parent) if _SEGMENT.fullmatch(name)]

    def close(self) -> None:
        """Write what can still be written, and close the file."""
        self.flush()
        self._packer.give_up()
        for fd in (self._fd, self._lock, self._parent):
            if fd is not None:
                os.close(fd)
        self._fd = None


def _opened(directory: str, new_owner: int | None) -> int:
    """Open the recorder's directory, made if it is not there; ForkTraceError if it is not ours alone."""
    if not directory:
        raise ForkTraceError("--directory has an empty name", "Give --directory a directory.")
    try:
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "its name contains a NUL byte"
        hint = "Give --directory a directory that you own."
        if isinstance(error, PermissionError):
            # A directory alone does not help: to watch takes privileges, too.
            hint = "Run it as root, or with CAP_BPF and CAP_PERFMON in a --directory that you own."
        raise ForkTraceError(f"cannot record in {directory}: {why}", hint) from None
    status = os.fstat(fd)
    is_mine = status.st_uid in {os.geteuid(), new_owner}
    if not is_mine or stat.S_IMODE(status.st_mode) & 0o022:
        os.close(fd)
        whose = "can be written by others" if is_mine else f"belongs to uid {status.st_uid}"
        raise ForkTraceError(
            f"cannot record in {directory}: it {whose}",
            "Records name everybody's processes: give --directory a directory of your own.",
        )
    try:
        if new_owner is not None:
            os.fchown(fd, new_owner, new_owner)
            os.fchmod(fd, 0o700)
    except OSError as error:
        os.close(fd)
        raise ForkTraceError(
            f"cannot hand {directory} over to the recorder's own user: {error.strerror}",
            "Give it CAP_CHOWN, start it as another user than root, or use --keep-privileges.",
        ) from None
    return fd


def _locked(parent: int, directory: str, new_owner: int | None) -> int:
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(_LOCK, flags, 0o600, dir_fd=parent)
        if new_owner is not None:
            os.fchown(lock, new_owner, new_owner)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ForkTraceError(
            f"another recorder writes to {directory}",
            "Stop that one first, or give this one another --directory.",
        ) from None
    except OSError as error:
        raise ForkTraceError(
            f"cannot lock {directory}: {error.strerror}",
            "Give --directory a directory on a local file system with some space.",
        ) from None
    return lock
