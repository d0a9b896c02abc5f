"""Which processes run a CPython whose functions can be read, and where these stand in a stack.

`cpython` reads them, right after the failure; it is imported when the first such process is met.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from fork_trace.budget import Budget, OverBudgetError
from fork_trace.host import procfs
from fork_trace.host.procfs import Mapping
from fork_trace.model.events import Stack
from fork_trace.model.records import CONFIRMED, UNCONFIRMED, Frame
from fork_trace.stacks import unwind
from fork_trace.stacks.symbol_files import SymbolFiles

if TYPE_CHECKING:
    from fork_trace.stacks import cpython
    from fork_trace.stacks.cpython import Function, Seen
    from fork_trace.stacks.peek import Peeker

_FILE = re.compile(r"(?:lib)?python3\.(\d{1,3})")
_FIRST = 13  # the first minor version that publishes its offsets
_WAITING = 512  # that were read and are not named yet
_LOOK_COST = 200
_MOST_WORDS = 1024
_USER = range(1 << 16, 1 << 56)  # addresses that a process can have
# What a function that is called keeps for its caller, by DWARF's numbers: rbx, rbp, r12 to r15; x19 to x28.
_SAVED = {"x86_64": (3, 6, 12, 13, 14, 15), "aarch64": tuple(range(19, 29))}
_STACK_POINTER = {"x86_64": 7, "aarch64": 31}
_MOST_OWN_BYTES = 4096  # of one frame
# The interpreter's loop is that large, about: so much around an address in it shows how it was compiled.
_LOOP_BYTES, _LOOP_COST = 1 << 15, 3000
_MOST_LOOPS = 256

# Of an interpreter's file, by what it is kept under, and of a place in it -> `cpython.kept`.
_Loops = dict[tuple[str, int], "tuple[cpython.Kept, ...]"]


class _Found(NamedTuple):
    """A function that was running, and before which frame it goes."""

    number: int
    function: Function
    is_sure: bool


def interpreter(mappings: Sequence[Mapping]) -> Mapping | None:
    """Return the first mapping of an interpreter that publishes its offsets; None: there is none.

    That is the library, where the program is but its caller.
    """
    found: Mapping | None = None
    for mapping in mappings:
        name = mapping.path.rpartition("/")[2] if mapping.path else ""
        match = _FILE.match(name)
        if match is not None and int(match[1]) >= _FIRST:
            if name.startswith("lib"):
                return mapping
            found = found or mapping
    return found


class Pythons:
    """Keeps what was read of Python processes until the stacks of their failures are named."""

    def __init__(self, files: SymbolFiles, work: Budget) -> None:
        self._files, self._work = files, work
        self._seen: dict[tuple[int, int], Seen | None] = {}  # by time and thread; None: it was gone
        self._peeker: Peeker | None = None
        self._loops: _Loops = {}

    def close(self) -> None:
        """End the process that reads."""
        if self._peeker is not None:
            self._peeker.close()

    def note(self, pid: int, mapping: Mapping | None, stack: Stack) -> None:
        """Read what the thread of a stack is running, if that is Python."""
        if pid == os.getpid():
            return  # its own failure to start the reader
        with suppress(OverBudgetError):
            seen = None if mapping is None else self._look(pid, mapping, stack)
            if mapping is None and procfs.exe(pid) is not None:
                return  # something else
            if len(self._seen) >= _WAITING:
                self._seen.clear()
            self._seen[stack.time_ns, stack.tid] = seen

    def _look(self, pid: int, mapping: Mapping, stack: Stack) -> Seen | None:
        from fork_trace.stacks import cpython
        from fork_trace.stacks.peek import Peeker

        self._work.pay(_LOOK_COST)
        file = self._files.mapped(mapping, pid)
        tid = procfs.inner_tid(pid, stack.tid)
        section = file.elf.section(cpython.SECTION) if file is not None else None
        linked = file.elf.vaddr(mapping.file_offset) if file is not None else None
        if tid is None or section is None or linked is None:
            return None if tid is None else cpython.Seen((), (), cpython.STRANGE)
        if self._peeker is None:
            self._peeker = Peeker()
        words = memoryview(stack.slice[: len(stack.slice) & ~7]).cast("Q")
        places = dict.fromkeys(each for each in (*stack.registers, *words) if each in _USER)
        return self._peeker.ask(
            {
                **{"pid": pid, "tid": tid, "device": mapping.device, "inode": mapping.inode},
                "runtime": mapping.start - linked + section.vaddr,
                "words": list(places)[:_MOST_WORDS],
            }
        )

    def placed(
        self,
        frames: tuple[Frame, ...],
        stack: Stack | None,
        trail: Sequence[dict[int, int]],
        machine: str,
        mapping: Mapping | None,
        pid: int | None,
    ) -> tuple[Frame, ...]:
        """Put the functions that were running among the frames of a stack, or say why none is known.

        `trail` are the registers of each frame.
        """
        key = (stack.time_ns, stack.tid) if stack is not None else None
        if stack is None or key not in self._seen:
            return frames
        seen = self._seen.pop(key)
        # By its own perf map it is known better.
        if (
            not trail
            or mapping is None
            or any((each.symbol or "")[:4] == "py::" for each in frames)
        ):
            return frames
        from fork_trace.stacks import cpython

        if seen is not None and seen.why is None:
            found = self._confirmed(seen, frames, stack, trail, machine, (mapping, pid))
            if found:
                return _among(frames, found, seen.running)
        why = cpython.GONE if seen is None else seen.why or cpython.UNTOLD
        for index, frame in enumerate(frames):
            if frame.file == mapping.path and frame.note is None:
                return (*frames[:index], replace(frame, note=why), *frames[index + 1 :])
        return frames

    def _confirmed(
        self,
        seen: Seen,
        frames: tuple[Frame, ...],
        stack: Stack,
        trail: Sequence[dict[int, int]],
        machine: str,
        of: tuple[Mapping, int | None],
    ) -> list[_Found]:
        """Find which functions the interpreter's loops were running: by the frames of these, innermost first.

        A loop keeps the address of its next instruction over calls, in a register that these leave
        alone or on the stack. Where that can be at several places, the others may have older ones.
        """
        memory = unwind.Memory(stack.start, stack.slice, stack.holes)
        loops: list[tuple[cpython.Kept, ...]] = [()]
        if machine == "x86_64":
            loops = [self._kept(frame, of) for frame in frames]
        if not any(loops):
            return _by_registers(seen, frames, trail, (memory, machine, of[0].path))
        found: list[_Found] = []
        for number, (loop, registers) in enumerate(zip(loops, trail)):
            known: list[Function] = []
            for place in loop:
                with suppress(unwind.LostError, KeyError):
                    value = registers[place.register]
                    if place.distance is not None:
                        value = memory.word(value + place.distance)
                    function = seen.at(value)
                    known += [function] if function is not None else []
            if loop and not known and not found:
                break  # the innermost one is not known, so none stands for the caller
            if known:
                found.append(_Found(number, known[0], len(set(known)) == 1))
        return found

    def _kept(self, frame: Frame, of: tuple[Mapping, int | None]) -> tuple[cpython.Kept, ...]:
        """Say where a frame of the interpreter's loop can keep its next instruction; none: no loop, or unknown."""
        from fork_trace.stacks import cpython

        if frame.file != of[0].path or frame.offset is None:
            return ()
        with suppress(OverBudgetError):
            file = self._files.mapped(*of)
            if file is None:
                return ()
            page = frame.offset & ~0xFFF
            key = (file.name, page)
            if key not in self._loops:
                self._work.pay(_LOOP_COST)
                start = max(0, page - _LOOP_BYTES)
                if len(self._loops) >= _MOST_LOOPS:
                    self._loops.clear()
                self._loops[key] = cpython.kept(file.elf.upto(start, 2 * _LOOP_BYTES))
            return self._loops[key]
        return ()


def _by_registers(
    seen: Seen,
    frames: Sequence[Frame],
    trail: Sequence[dict[int, int]],
    of: tuple[unwind.Memory, str, str | None],
) -> list[_Found]:
    """Find them where it is not known how the loops were compiled.

    Of several functions that a frame has addresses of, all but one are of earlier calls: then the one
    by a register is no more than likely, and those further out are not looked for.
    """
    memory, machine, path = of
    found: list[_Found] = []
    held: Function | None = None  # by a register, up to the loop that it is saved for
    for number, (frame, registers) in enumerate(zip(frames, trail)):
        saved = {seen.at(registers.get(each, 0)) for each in _SAVED[machine]} - {None}
        others: set[Function] = set()
        if frame.file == path:
            others.update(_among_own(seen, memory, trail[number:], machine))
        function = next(iter(saved), None)
        is_next = function is None or function is not held
        if len(saved) > 1 or (others and not saved and not found):
            break
        if is_next and found and not found[-1].is_sure:
            break
        if function is not None and is_next:
            found.append(_Found(number, function, others <= saved))
        elif function is not None:
            found[-1] = _Found(number, function, found[-1].is_sure and others <= saved)
        held = function
    return found


def _among_own(
    seen: Seen, memory: unwind.Memory, trail: Sequence[dict[int, int]], machine: str
) -> Iterator[Function]:
    """The functions that the words of the first of these frames point into, as far as these are known."""
    start, end = (each.get(_STACK_POINTER[machine], 0) for each in (*trail[:2], trail[-1])[:2])
    for at in range(start, min(end, start + _MOST_OWN_BYTES), 8):
        function = None
        with suppress(unwind.LostError):
            function = seen.at(memory.word(at))
        if function is not None:
            yield function


def _among(
    frames: tuple[Frame, ...], found: Sequence[_Found], running: Sequence[Function]
) -> tuple[Frame, ...]:
    """Put functions before the frames of the loops that ran them, and those in between that may have been there."""
    placed: list[Frame] = []
    rest, at = list(running), 0
    for index, (number, function, is_sure) in enumerate(found):
        how = CONFIRMED if is_sure else UNCONFIRMED
        placed += [*frames[at:number], _frame(function, how)]
        at = number
        if function not in rest:
            rest = []  # by then another one was running
            continue
        rest = rest[rest.index(function) + 1 :]
        outer = found[index + 1].function if index + 1 < len(found) else None
        if outer is None:
            placed += [_frame(each, UNCONFIRMED) for each in rest]
        elif outer in rest:
            placed += [_frame(each, UNCONFIRMED) for each in rest[: rest.index(outer)]]
    return (*placed, *frames[at:])


def _frame(function: Function, how: str) -> Frame:
    return Frame(
        function.code.start, function.name, function.file, line=function.line, read_later=how
    )
