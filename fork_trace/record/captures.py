"""Captures on disk as one stream of records: files, directories, patterns, stdin; plain or gzip.

One line is held at a time, so a terabyte takes no more memory than a page. A capture that is given
twice, whole and torn or packed and plain, is read once: of its copies the longest.
"""

from __future__ import annotations

import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from glob import glob, has_magic
from typing import BinaryIO

from fork_trace.errors import ForkTraceError
from fork_trace.host import procfs
from fork_trace.model.alike import Alike
from fork_trace.model.reading import Ending, read
from fork_trace.model.records import Header, Record, from_json

DIRECTORY = "/var/log/fork-trace"
STDIN = "-"
_ENDINGS = (".jsonl", ".jsonl.gz")
_MOST_LINE = 16 << 20  # bytes of a record; a full table of counts has 4 million
_MOST_HEADER = 1 << 20
_GZIP = b"\x1f\x8b"  # RFC 1952, 2.3.1: ID1, ID2
_BUFFER = 256 << 10
_MOST_NOTES = 5
_AS_OWNER = "Run it as root, or as whoever made it: captures are for their owner alone."
_GIVE = "Give a file written by `fork-trace capture --output` or `fork-trace record`."


def running_boot() -> str | None:
    """Return the id of the boot that this host runs; None: not known."""
    return procfs.boot_id()


class Captures:
    """The captures that were named, and what could not be read of them."""

    def __init__(self, names: Sequence[str], default: str = DIRECTORY) -> None:
        self._asked = names or (default,)
        self.files = [path for name in self._asked for path in _found(name, bool(names))]
        self.copies = 0  # files that hold what another one holds as well
        self._refused: list[ForkTraceError] = []
        self._more_refused = 0

    def read(self, keeps_stack: bool = True) -> Iterator[Record | Ending]:
        """Read all of them, file by file; ForkTraceError if there is nothing to be read."""
        seen: set[int] = set()
        known = 0
        parse = from_json if keeps_stack else Alike().from_json
        for path in self._longest(self.files):
            before = len(seen)
            try:
                with _opened(path) as file:
                    yield from read(path, _lines(file), seen, parse)
            except ForkTraceError as error:
                self._refuse(error)
            else:
                known += len(seen) > before
                self.copies += len(seen) == before
        if not known and self._refused:
            raise self._refused[0]

    def _refuse(self, error: ForkTraceError) -> None:
        if len(self.files) == 1:
            raise error
        if len(self._refused) < _MOST_NOTES:
            self._refused.append(error)
        else:
            self._more_refused += 1

    def notes(self) -> list[str]:
        """Say what is not in the stream that was asked for."""
        notes = [f"left out: {error.message}" for error in self._refused]
        if self._more_refused:
            notes.append(f"left out: {self._more_refused} more files that are no captures")
        if self.copies:
            files = "1 file was" if self.copies == 1 else f"{self.copies} files were"
            notes.append(f"{files} given twice and counted once")
        return notes

    def headers(self) -> Iterator[Header]:
        """Return the first header of every file that has one; stdin cannot be read twice."""
        for path in self.files:
            header = _header(_first(path)[0])
            if header:
                yield header

    def _longest(self, paths: Sequence[str]) -> Iterable[str]:
        """Leave out the copies of a capture but the longest: a torn one has nothing that it has not."""
        if len(paths) < 2:
            return paths
        best: dict[int, tuple[int, str]] = {}
        order: dict[str, None] = {}
        for path in paths:
            line, size = _first(path)
            if not line.endswith(b"\n"):
                order[path] = None  # not for us to judge
                continue
            same = hash(line.rstrip())
            if same in best:
                self.copies += 1
                if best[same][0] >= size:
                    continue
                del order[best[same][1]]
            best[same] = size, path
            order[path] = None
        return order


def _found(name: str, is_named: bool) -> list[str]:
    """Return the files that a name stands for; ForkTraceError if there is none."""
    if name == STDIN:
        return [name]
    if has_magic(name) and not os.path.lexists(name):
        found = sorted(glob(name))
        if not found:
            raise ForkTraceError(f"no file matches {name}", _GIVE)
        return [path for each in found for path in _found(each, is_named)]
    try:
        if not stat.S_ISDIR(os.stat(name).st_mode):
            return [name]
        found = sorted(
            os.path.join(directory, each)
            for directory, _, names in os.walk(name, onerror=_raise)
            for each in names
            if each.endswith(_ENDINGS)
        )
    except (OSError, ValueError) as error:
        raise _unreadable(name, error, is_named) from None
    if not found:
        raise ForkTraceError(
            f"{name} holds no captures (no *{_ENDINGS[0]}, no *{_ENDINGS[1]})",
            "Give another directory, or start the recorder: `fork-trace record`.",
        )
    return found


def _raise(error: OSError) -> None:
    raise error


def _unreadable(name: str, error: OSError | ValueError, is_named: bool = True) -> ForkTraceError:
    why = error.strerror if isinstance(error, OSError) else "its name contains a NUL byte"
    if is_named:
        hint = _AS_OWNER if isinstance(error, PermissionError) else _GIVE
        return ForkTraceError(f"cannot read {name}: {why}", hint)
    hint = "Give a capture, or start the recorder: `fork-trace record`."
    if isinstance(error, PermissionError):
        hint = "Run it as root, or give a capture that you may read."
    return ForkTraceError(
        f"no FILE was given, and the recorder's directory {name} cannot be read: {why}", hint
    )


def _opened(path: str) -> BinaryIO:
    try:
        if path == STDIN:
            file: BinaryIO = io.BufferedReader(io.FileIO(0, closefd=False), _BUFFER)
        else:
            file = io.BufferedReader(_there(path), _BUFFER)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from None
    return file


def _there(path: str) -> io.FileIO:
    try:
        return io.FileIO(path)
    except FileNotFoundError:
        if path.endswith(_ENDINGS[0]):
            with suppress(OSError):
                return io.FileIO(f"{path}.gz")  # the recorder has packed it meanwhile
        raise


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Read the lines of an open file; where it is torn, the last one is the begin of a record."""
    assert isinstance(file, io.BufferedReader)
    try:
        is_packed = file.peek(2)[:2] == _GZIP
        lines = gzip.GzipFile(fileobj=file) if is_packed else file
        yield from iter(partial(lines.readline, _MOST_LINE), b"")
    except (OSError, EOFError, zlib.error):
        yield b"{"


def _first(path: str) -> tuple[bytes, int]:
    """Return the first line of a regular file, and how long it is unpacked; of others nothing."""
    if path == STDIN:
        return b"", 0
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return b"", 0
        with _opened(path) as file:
            assert isinstance(file, io.BufferedReader)
            size = os.fstat(file.fileno()).st_size
            if file.peek(2)[:2] != _GZIP:
                return file.readline(_MOST_HEADER), size
            line = gzip.GzipFile(fileobj=file).readline(_MOST_HEADER)
            # ISIZE, the last four bytes (RFC 1952, 2.3.1); of a torn file they are anything.
            file.seek(-4, os.SEEK_END)
            return line, int.from_bytes(file.read(4), "little")
    except (OSError, ValueError, EOFError, zlib.error, ForkTraceError):
        return b"", 0


def _header(line: bytes) -> Header | None:
    try:
        record = from_json(line)
    except (ValueError, TypeError, RecursionError):
        return None
    return record if isinstance(record, Header) else None
