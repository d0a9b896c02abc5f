"""Functions of a running CPython 3.13 or newer, read from its memory right after a failure.

CPython publishes where its own structures have what: `_Py_DebugOffsets`, first in `_PyRuntime`, which has
an ELF section of its own (Include/internal/pycore_runtime.h in 3.13, pycore_debug_offsets.h since 3.14;
PEP 768). The process goes on meanwhile and may be hostile: every read is bounded, and done by a process
of its own (`peek`). What is under way by then may not have been so at the failure: only a function that
an address points into which the kernel took down at the failure was.
"""

from __future__ import annotations

import os
import re
import struct
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, NamedTuple

from fork_trace.escape import cut
from fork_trace.host import procfs

SECTION = b".PyRuntime"
GONE = "Python's functions are not known: the process was gone, or its memory could not be read"
MOVED_ON = "Python's functions are not known: the process had moved on before they were read"
UNTOLD = "Python's functions are not known: none is borne out by registers or stack of the failure"
STRANGE = "Python's functions are not known: this build of CPython is not known"

_COOKIE = b"xdebugpy"
_RELEASES = (0xC, 0xF)  # PY_VERSION_HEX: candidates and releases; before these the layout changes
_OFFSETS = struct.Struct("<93Q")
_MOST_READS, _MOST_READ_BYTES = 1000, 1 << 16
_MOST_OFFSET = 4096  # within any structure but the runtime's and the interpreter's
_MOST_STATE_BYTES = 4 << 20
_MOST_INTERPRETERS, _MOST_THREADS = 8, 256
_MOST_FRAMES, _MOST_POINTED_AT, _TRIES = 16, 32, 3
# The memory in front of the words is read in pieces: so large, so many for all, and for one.
_PIECE_BITS, _MOST_PIECES, _MOST_BEHIND = 14, 128, 3
_MOST_HEADERS = 2  # tried for a word
_MOST_CODE_BYTES = 1 << 20
_MOST_TEXT, _MOST_TEXT_SHOWN = 4096, 512
# Frames of the interpreter itself (Include/internal/pycore_frame.h, enum _frameowner).
_OF_INTERPRETER = 3
_TAGS = 7  # of _PyStackRef, since 3.14; an object lies at a multiple of eight
_CODECS = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}


class _Starts(NamedTuple):
    """At which of the words of `_Py_DebugOffsets` its parts begin, and what is not at the same place in all."""

    thread: int
    native_id: int  # within `thread`
    frame: int
    code: int
    object: int
    type: int
    unicode: int


# By the minor version. Before: cookie, version, free_threaded, runtime_state, interpreter_state.
_STARTS = {
    13: _Starts(19, 6, 28, 34, 44, 46, 67),
    14: _Starts(22, 6, 31, 39, 50, 52, 77),
    15: _Starts(22, 9, 39, 47, 58, 60, 89),
}
_RUNTIME, _INTERPRETER = 3, 6


class UnreadError(Exception):
    """It could not be read, or makes no sense; the message is for people."""


class Function(NamedTuple):
    """A Python function that runs, or did so."""

    name: str
    file: str
    line: int  # where it begins
    code: range  # the addresses of its instructions


class Seen(NamedTuple):
    """What was read: the calls that were under way by then, innermost first; what the words point into."""

    running: tuple[Function, ...]
    pointed_at: tuple[Function, ...] = ()
    why: str | None = None  # it was not read

    def at(self, instruction: int) -> Function | None:
        """Return the function that an address of a next instruction is in."""
        for each in self.pointed_at:
            if instruction - 1 in each.code:
                return each
        return None

    def as_json(self) -> list[Any]:
        """Return it as it is sent."""
        return [
            *([[*each[:3], each.code.start, each.code.stop] for each in some] for some in self[:2]),
            self.why,
        ]

    @classmethod
    def of_json(cls, sent: Any) -> Seen:
        """Return it as it was sent; ValueError: that is nothing like it."""
        try:
            running, pointed_at = (
                tuple(
                    Function(name, file, line, range(start, stop))
                    for name, file, line, start, stop in some
                )
                for some in sent[:2]
            )
            return cls(running, pointed_at, sent[2])
        except (TypeError, LookupError) as error:
            raise ValueError("not what was seen") from error


class _Layout:
    """The offsets that one process publishes; UnreadError where they make no sense."""

    def __init__(self, raw: bytes) -> None:
        words = _OFFSETS.unpack(raw)
        version = words[1]
        starts = _STARTS.get(version >> 16 & 0xFF)
        # A build without the GIL runs copies of its instructions, one for each thread.
        if raw[:8] != _COOKIE or version >> 24 != 3 or starts is None or words[2]:
            raise UnreadError(STRANGE)
        if version >> 4 & 0xF not in _RELEASES:
            raise UnreadError(STRANGE)
        self.interpreters = _within(words, _RUNTIME, 2, _MOST_STATE_BYTES)
        self.next_interpreter = _within(words, _INTERPRETER, 2, _MOST_STATE_BYTES)
        self.threads = _within(words, _INTERPRETER, 3, _MOST_STATE_BYTES)
        thread, frame, code = starts.thread, starts.frame, starts.code
        self.thread_bytes = min(words[thread], _MOST_OFFSET)
        self.next_thread = _within(words, thread, 2)
        self.current_frame = _within(words, thread, 4)
        self.native_id = _within(words, thread, starts.native_id)
        self.frame_bytes = words[frame]
        self.previous = _within(words, frame, 1)
        self.executable = _within(words, frame, 2)
        self.owner = _within(words, frame, 5)
        self.file = _within(words, code, 1)
        self.name = _within(words, code, 3)
        self.line = _within(words, code, 5)
        # In front of what has a length of its own; the instructions are the last of a code object.
        self.code_bytes = _within(words, code, 9)
        self.length = words[starts.object]
        self.type = _within(words, starts.object, 1)
        self.type_name = _within(words, starts.type, 1)
        self.text_state = _within(words, starts.unicode, 1)
        self.text_length = _within(words, starts.unicode, 2)
        self.text_bytes = words[starts.unicode + 3]
        if not (
            self.length == 16
            and self.frame_bytes <= _MOST_OFFSET
            and self.text_bytes <= 256
            and max(self.text_state, self.text_length) + 8 <= self.text_bytes
            and max(self.file, self.name, self.line, self.length) + 8 <= self.code_bytes
        ):
            raise UnreadError(STRANGE)


def _within(words: Sequence[int], start: int, number: int, most: int = _MOST_OFFSET) -> int:
    """Return one offset of a structure, whose size comes first."""
    size, offset = words[start], words[start + number]
    if size > most or offset >= size:
        raise UnreadError(STRANGE)
    return offset


class Memory:
    """The memory of a process, as far as the kernel answers for it alone.

    A mapping of a file can be one that a server answers for, and that may be never: but for the
    interpreter's own file only what has none is read. Memory that the process fills itself as it is
    touched (userfaultfd(2)) is an error here, unlike with process_vm_readv(2).
    """

    def __init__(self, pid: int, file: tuple[str, int], root: str = "/proc") -> None:
        self._left = _MOST_READS
        try:
            # First: from here on it is of this program, whatever the process becomes.
            self._fd = procfs.memory(pid, root)
        except OSError as error:
            raise UnreadError(GONE) from error
        try:
            self._areas = procfs.own_memory(pid, file, root)
        except OSError as error:
            self.close()
            raise UnreadError(GONE) from error

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def within(self, start: int, end: int) -> tuple[int, int]:
        """Return what can be read of this, without a gap from its end; nothing: (end, end)."""
        index = bisect_right(self._areas, (end - 1, 1 << 64)) - 1
        if index < 0 or self._areas[index][1] <= start:
            return end, end
        low, high = self._areas[index]
        return max(start, low), min(end, high)

    def read(self, address: int, size: int) -> bytes:
        """Read exactly that much; UnreadError."""
        self._left -= 1
        if self._left < 0 or not 0 < size <= _MOST_READ_BYTES:
            raise UnreadError(MOVED_ON)
        index = bisect_right(self._areas, (address, 1 << 64)) - 1
        if index < 0 or address + size > self._areas[index][1]:
            raise UnreadError(MOVED_ON)
        try:
            raw = os.pread(self._fd, size, address)
        except OSError as error:
            raise UnreadError(GONE) from error
        if len(raw) != size:
            raise UnreadError(GONE)
        return raw


class _Reader:
    """Reads the structures of one interpreter."""

    def __init__(self, memory: Memory, runtime: int) -> None:
        self._memory, self._runtime = memory, runtime
        self._layout = _Layout(memory.read(runtime, _OFFSETS.size))
        self._type: int | None = None  # of code objects
        self._functions: dict[int, Function] = {}  # by their code objects
        self._headers: dict[int, list[int]] = {}  # by pieces of the memory
        self._left = _MOST_PIECES

    def _word(self, address: int) -> int:
        return int.from_bytes(self._memory.read(address, 8), "little")

    def thread(self, native_id: int) -> int:
        """Find a thread by the number that it knows itself."""
        layout = self._layout
        interpreter, left = self._word(self._runtime + layout.interpreters), _MOST_THREADS
        for _ in range(_MOST_INTERPRETERS):
            if not interpreter:
                break
            thread = self._word(interpreter + layout.threads)
            while thread and left:
                left -= 1
                raw = self._memory.read(thread, layout.thread_bytes)
                if _at(raw, layout.native_id) == native_id:
                    return thread
                thread = _at(raw, layout.next_thread)
            interpreter = self._word(interpreter + layout.next_interpreter)
        raise UnreadError(MOVED_ON)

    def running(self, thread: int) -> tuple[Function, ...]:
        """Read the calls that are under way in a thread; UnreadError if it went on meanwhile."""
        top = frame = self._word(thread + self._layout.current_frame)
        found: list[Function] = []
        first = b""
        for _ in range(4 * _MOST_FRAMES):
            if not frame or len(found) == _MOST_FRAMES:
                break
            raw = self._memory.read(frame, self._layout.frame_bytes)
            first = first or raw
            if raw[self._layout.owner] < _OF_INTERPRETER:
                found.append(self._function(_at(raw, self._layout.executable) & ~_TAGS))
            frame = _at(raw, self._layout.previous)
        again = self._word(thread + self._layout.current_frame)
        if again != top or (top and self._memory.read(top, len(first)) != first):
            raise UnreadError(MOVED_ON)
        return tuple(found)

    def pointed_at(self, words: Iterable[int]) -> Iterable[Function]:
        """Find the functions whose instructions these words point into."""
        found: list[Function] = []
        for word in words:
            if any(word - 1 in each.code for each in found):
                continue
            for code in self._headers_before(word):
                with suppress(UnreadError):
                    function = self._function(code)
                    if word - 1 in function.code:
                        found.append(function)
                        yield function
                        break

    def _headers_before(self, address: int) -> Iterable[int]:
        """Where the code object may begin that an address is in, the nearest first."""
        number = address >> _PIECE_BITS
        left = _MOST_HEADERS
        for headers in map(self._headers_in, range(number, number - _MOST_BEHIND, -1)):
            at = bisect_left(headers, address)
            yield from reversed(headers[max(0, at - left) : at])
            left -= min(left, at)

    def _headers_in(self, number: int) -> list[int]:
        """Where code objects may begin in a piece of the memory: their type is known by now."""
        if number not in self._headers:
            found = self._headers[number] = []
            start, end = self._memory.within(number << _PIECE_BITS, number + 1 << _PIECE_BITS)
            if start < end and self._type is not None and self._left:
                self._left -= 1
                mark, raw = self._type.to_bytes(8, "little"), b""
                with suppress(UnreadError):
                    raw = self._memory.read(start, end - start)
                at = raw.find(mark)
                while at >= 0:
                    found.append(start + at - self._layout.type)
                    at = raw.find(mark, at + 8)
        return self._headers[number]

    def _function(self, code: int) -> Function:
        """Read which function a code object is of; UnreadError: it is none."""
        layout = self._layout
        if code in self._functions:
            return self._functions[code]
        raw = self._memory.read(code, layout.code_bytes)
        type_ = _at(raw, layout.type)
        if self._type is None:
            if self._memory.read(self._word(type_ + layout.type_name), 5) != b"code\0":
                raise UnreadError(MOVED_ON)
            self._type = type_
        if type_ != self._type:
            raise UnreadError(MOVED_ON)
        size, start = 2 * _at(raw, layout.length), code + layout.code_bytes
        line = int.from_bytes(raw[layout.line : layout.line + 4], "little", signed=True)
        if size > _MOST_CODE_BYTES or line < 0:
            raise UnreadError(MOVED_ON)
        name, file = self._text(_at(raw, layout.name)), self._text(_at(raw, layout.file))
        function = Function(name, file, line, range(start, start + size))
        self._functions[code] = function
        return function

    def _text(self, address: int) -> str:
        layout = self._layout
        raw = self._memory.read(address, layout.text_bytes)
        # Two bits say whether it is interned, three how wide a character is; then: compact, ASCII only.
        state, length = raw[layout.text_state], _at(raw, layout.text_length)
        width = state >> 2 & 7
        if width not in _CODECS or not state & 0x20 or not 0 <= length <= _MOST_TEXT:
            raise UnreadError(MOVED_ON)
        # Otherwise its UTF-8 form comes in between: a length and an address (PyCompactUnicodeObject).
        start = address + layout.text_bytes + (0 if state & 0x40 else 16)
        characters = self._memory.read(start, length * width) if length else b""
        return cut(characters.decode(_CODECS[width], "backslashreplace"), _MOST_TEXT_SHOWN)


def _at(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 8], "little")


def look(memory: Memory, runtime: int, native_id: int, words: Iterable[int]) -> Seen:
    """Read what a thread is running, by where `_PyRuntime` lies in its process.

    `words` are what its registers and its stack held at the failure.
    """
    try:
        reader = _Reader(memory, runtime)
        thread = reader.thread(native_id)
        running: tuple[Function, ...] = ()
        for _ in range(_TRIES):
            try:
                running = reader.running(thread)
                break
            except UnreadError:
                pass
        return Seen(running, tuple(islice(reader.pointed_at(words), _MOST_POINTED_AT)))
    except UnreadError as error:
        return Seen((), (), str(error))


def answer(question: dict[str, Any]) -> Seen:
    """Answer what `look` finds, of a process; a reason, whatever that one has in its memory."""
    try:
        memory = Memory(question["pid"], (question["device"], question["inode"]))
    except UnreadError as error:
        return Seen((), (), str(error))
    try:
        return look(memory, question["runtime"], question["tid"], question["words"])
    finally:
        memory.close()


# x86-64's registers by the numbers of instructions, as DWARF numbers them; and which of them a call leaves alone.
_BY_DWARF = (0, 2, 1, 3, 7, 6, 4, 5, *range(8, 16))
_LEFT_ALONE = frozenset((3, 6, 12, 13, 14, 15))
# movzwl (REGISTER),%eXX, and soon after that a jump to where a register or a table says: the next instruction.
_FETCH = re.compile(
    rb"([\x41\x45]?)\x0f\xb7(?:([\x00-\x03\x06-\x0b\x0e-\x13\x16-\x1b\x1e-\x23\x26-\x2b\x2e-\x33\x36-\x3b\x3e\x3f])"
    rb"|[\x04\x0c\x14\x1c\x24\x2c\x34\x3c](\x24)|[\x45\x4d\x55\x5d\x65\x6d\x75\x7d](\x00))"
    rb"(?=.{0,40}?\xff[\x20-\x27\xe0-\xe7])",
    re.S,
)
# mov DISTANCE(%rbp or %rsp),REGISTER: shortly before one.
_LOAD = re.compile(
    rb"[\x48\x4c]\x8b(?:([\x45\x4d\x55\x5d\x65\x6d\x75\x7d\x85\x8d\x95\x9d\xa5\xad\xb5\xbd])"
    rb"|([\x44\x4c\x54\x5c\x64\x6c\x74\x7c\x84\x8c\x94\x9c\xa4\xac\xb4\xbc])\x24)"
)
_LEAST_FETCHES, _MOST_BETWEEN, _MOST_KEPT = 16, 28, 8
_RBP, _RSP = 6, 7


class Kept(NamedTuple):
    """Where a loop of the interpreter can keep the address of its next instruction while it calls."""

    register: int  # by DWARF's numbers
    distance: int | None = (
        None  # on the stack, that far from where the register points; None: in it
    )


def kept(code: bytes) -> tuple[Kept, ...]:
    """Tell it by the x86-64 code of a loop, which fetches all its instructions alike; none: it is no loop, or not told.

    What most of it does comes first.
    """
    fetches: dict[int, int] = {}  # at which place in the code, by which register
    for match in _FETCH.finditer(code):
        low = 4 if match[3] else 5 if match[4] else match[2][0] & 7
        fetches[match.start()] = low | (match[1] > b"" and match[1][0] & 1) << 3
    if len(fetches) < _LEAST_FETCHES:
        return ()
    found = Counter(
        Kept(_BY_DWARF[each]) for each in fetches.values() if _BY_DWARF[each] in _LEFT_ALONE
    )
    places = sorted(fetches)
    for match in _LOAD.finditer(code):
        form = (match[1] or match[2])[0]
        at = match.end() + (1 if form < 0x80 else 4)
        register = form >> 3 & 7 | (match[0][0] & 4) << 1
        fetch = places[bisect_left(places, at) :][:1]
        if fetch and fetch[0] - at <= _MOST_BETWEEN and fetches[fetch[0]] == register:
            distance = int.from_bytes(code[match.end() : at], "little", signed=True)
            found[Kept(_RBP if match[1] else _RSP, distance)] += 1
    return tuple(each for each, _ in found.most_common(_MOST_KEPT))
