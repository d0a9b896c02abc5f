"""User stacks as frames: which file lies where in a process, what its functions are called, who called whom.

`layouts` tell where code lies, `symbol_files` finds and opens the files, `unwind` follows the stack,
`names` reads what functions are called.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from fork_trace.budget import Budget, Kept, OverBudgetError
from fork_trace.host import procfs
from fork_trace.host.procfs import Mapping
from fork_trace.model.dataclass import dataclass
from fork_trace.model.events import Place, Stack
from fork_trace.model.records import Frame
from fork_trace.mounts import OwnMounts
from fork_trace.stacks import arm64, callers, pythons, unwind
from fork_trace.stacks.cfi import Row
from fork_trace.stacks.layouts import Caller, Layout, Layouts
from fork_trace.stacks.names import Names
from fork_trace.stacks.symbol_files import SymbolFiles

# What is kept of rules, in bytes: with layouts, names, the files, perf maps and paths less than 16 MB.
_ROWS_BYTES = 3 << 19
_RULE_BYTES = 160  # what one takes in memory, about
_MOST_ROWS = 64  # that a layout refers to
# Of all files together: two seconds at once, and a fifth of the time.
_MOST_WORK, _WORK_PER_S = 2_000_000, 200_000
# The names of one stack may take so many times what unwinding it may, of our own time: a slow host reads a
# large symbol table for more than a second, once. What a hostile file takes its own budget bounds.
_NAMING = 6


@dataclass(frozen=True)
class _Search:
    """Finds who called a C library without unwind tables, as musl is.

    That is the next address behind a call, in another file, of a function that forks.
    """

    files: SymbolFiles
    layout: Layout
    caller: Caller
    machine: str
    called: Callable[[Mapping, int], str | None]  # where an address lies, and it -> what was called

    def caller_of(
        self, address: int, registers: dict[int, int], memory: unwind.Memory
    ) -> tuple[int, dict[int, int]] | None:
        """Return the address behind the call, and the registers there; None: not found."""
        own = self.layout.find(address)
        if own is None or not callers.is_c_library(own.path):
            return None
        if self.machine == "aarch64":
            return self._on_arm64(own, registers, memory)
        # vfork takes its return address from the stack before its system call: from one word below.
        for at, word in self._words(own, (registers[7] + 7 & ~7) - 8, memory):
            # What earlier calls left lying there was mostly called by other names.
            if self._forking(own, word):
                # What else the callee had saved is not known.
                return word, {7: at + 8}
        return None

    def _words(
        self, own: Mapping, start: int, memory: unwind.Memory, mask: int = (1 << 64) - 1
    ) -> Iterator[tuple[int, int]]:
        """Where words lie on the stack, and those of them that can be addresses in other files.

        Most cannot, as their upper halves tell: a stack is searched within its time on a slow host too.
        """
        halves = set[int]()
        for each in self.layout.mappings:
            if each.path not in (None, own.path):
                halves.update(range(each.start >> 32, (each.end >> 32) + 1))
        start = max(start, memory.start + 7 & ~7)
        count = max(0, memory.start + len(memory.data) - start) // 8
        words = struct.unpack_from(f"<{count}Q", memory.data, start - memory.start)
        for at, word in zip(range(start, start + 8 * count, 8), words):
            if (word & mask) >> 32 in halves:
                with suppress(unwind.LostError):
                    memory.word(at)  # it may have been in a hole
                    yield at, word & mask

    def _on_arm64(
        self, own: Mapping, registers: dict[int, int], memory: unwind.Memory
    ) -> tuple[int, dict[int, int]] | None:
        """Where the caller's stack was, the beginning of what it called tells."""
        sp = registers[arm64.STACK_POINTER]
        link = unwind.unsigned(registers.get(arm64.LINK, 0), sp)
        frame = self._frame(own, link)
        if frame is not None and frame.depth is None:
            return link, {**registers, arm64.STACK_POINTER: sp + frame.lowered}
        for at, word in self._words(own, sp + 7 & ~7, memory, unwind.unsigned(-1, sp)):
            frame = self._frame(own, word)
            if frame is None or frame.depth is None:
                continue
            known = {arm64.STACK_POINTER: at + frame.depth}
            if frame.has_pointer:
                with suppress(unwind.LostError):
                    known[arm64.FRAME_POINTER] = memory.word(at - 8)
            return word, known
        return None

    def _frame(self, own: Mapping, address: int) -> arm64.Frame | None:
        name = self._forking(own, address)
        file = self.files.mapped(own, self.caller.pid) if name else None
        return file.elf.frame(name.encode()) if file and name else None

    def _forking(self, own: Mapping, address: int) -> str | None:
        mapping = self.layout.find(address - 1)
        if mapping is None or mapping.path in (None, own.path):
            return None
        name = self.called(mapping, address)
        return name if name in callers.FORKING else None


class Symbols:
    """Names the frames of user stacks."""

    def __init__(self) -> None:
        self.machine = os.uname().machine
        self._work = Budget(_MOST_WORK, _WORK_PER_S)
        own = procfs.mappings(os.getpid())
        mounts = OwnMounts({mapping.device for mapping in own if mapping.path})
        self._files = SymbolFiles(self._work, mounts)
        self._layouts = Layouts(self._files)
        self._names = Names(self._files, self._work, mounts)
        self._pythons = pythons.Pythons(self._files, self._work)
        self._rows: Kept[tuple[str, int], Row | None] = Kept(_ROWS_BYTES)
        # Most callers share our C library: it is known before anybody exits.
        for mapping in own:
            if mapping.path and os.path.basename(mapping.path).startswith(
                ("libc.", "libc-", "ld-")
            ):
                self._files.mapped(mapping, os.getpid())

    @property
    def why_not_demangled(self) -> str | None:
        """Say why names of C++ are shown as the linker knows them; None: they are not."""
        return self._names.demangler.why_not

    @property
    def kept_bytes(self) -> int:
        """How much memory is taken by what is kept of files and processes, about."""
        caches = self._layouts.kept.size + self._rows.size + self._names.kept_bytes
        return self._files.kept_bytes + caches

    def note(self, caller: Caller, places: Sequence[Place], stack: Stack | None) -> None:
        """Learn what a process maps, while it still runs. Cheap if it is known."""
        if caller.pid is None or not (places or stack):
            return
        address = places[0].address if places else None
        layout = self._layouts.refreshed(caller.pid, address)
        mapping = layout.find(address) if layout and address is not None else None
        if mapping is not None:
            with suppress(OverBudgetError):
                self._files.mapped(mapping, caller.pid)
        if stack is not None:
            self._pythons.note(caller.pid, layout.python if layout else None, stack)

    def program(self, stack: Stack) -> str | None:
        """Return the path of a program that has exited, if a file of its inode is still there."""
        try:
            return self._files.program_path(stack)
        except OverBudgetError:
            return None

    def frames(
        self,
        caller: Caller,
        places: Sequence[Place],
        stack: Stack | None = None,
        most_s: float = 60.0,
        is_late: Callable[[], bool] = lambda: False,
    ) -> tuple[tuple[Frame, ...], str | None]:
        """Name the frames of a stack, innermost first, and say how they were found.

        That is by "unwinding", or else as "frame-pointers" led the kernel; None: there is no stack.
        One that takes longer than `most_s` is tried once more, as what was read of its files is kept.
        What may not be read now, or not to its end, leaves a frame without its name, and so does what
        is not known yet once `is_late`.
        """
        try:
            self._work.within(_NAMING * most_s)
            layout = self._layouts.of(caller, places, stack)
            addresses, how = [place.address for place in places], "frame-pointers"
            trail: list[dict[int, int]] = []
            if stack is not None and layout is not None:
                found, registers = self._unwound_in(stack, layout, caller, most_s, is_late)
                # A single address is no stack: the tables had no rule for the very first step.
                if len(found) > 1:
                    addresses, how, trail = found, "unwinding", registers
            self._work.within(_NAMING * most_s)
            frames = self._names.frames(tuple(addresses), layout, caller, tuple(places), is_late)
            python = layout.python if layout is not None else None
            frames = self._pythons.placed(frames, stack, trail, self.machine, python, caller.pid)
        finally:
            self._work.within(None)
            self._files.shrink()
        return frames, how if frames else None

    def rest(self) -> None:
        """Close the files that nobody asked for lately; to be called once in a while."""
        self._files.rest()

    def close(self) -> None:
        """Close every file, and end what reads for it."""
        self._pythons.close()
        self._files.close()

    def _unwound_in(
        self,
        stack: Stack,
        layout: Layout,
        caller: Caller,
        most_s: float,
        is_late: Callable[[], bool],
    ) -> tuple[list[int], list[dict[int, int]]]:
        """Unwind a stack, and once more if that takes too long: what was read is kept."""
        found: list[int] = []
        trail: list[dict[int, int]] = []
        # The time is looked at between frames: a rule is not read by halves.
        self._work.within(None)
        for _ in range(2):
            deadline_s = time.monotonic() + most_s
            if is_late():
                break
            trail = []
            found = self._unwound(stack, layout, caller, deadline_s, trail)
            if time.monotonic() < deadline_s:
                break
        return found, trail

    def _unwound(
        self,
        stack: Stack,
        layout: Layout,
        caller: Caller,
        deadline_s: float,
        trail: list[dict[int, int]],
    ) -> list[int]:
        start = stack.dwarf_registers(self.machine)
        if start is None or not stack.slice:
            return []

        rows = layout.rows

        def find(address: int) -> Row | None:
            row = rows.get(address)
            if row is None:
                mapping = layout.find(address)
                if mapping is None:
                    raise LookupError
                row = self._row(mapping, address, caller)
            # None can be of a file that will be there the next time.
            if row is not None:
                if len(rows) >= _MOST_ROWS:
                    rows.clear()
                rows[address] = row
            return row

        pc, registers = start
        memory = unwind.Memory(stack.start, stack.slice, stack.holes)

        def called(mapping: Mapping, address: int) -> str | None:
            return self._names.called(mapping, address, caller)

        search = _Search(self._files, layout, caller, self.machine, called).caller_of
        return unwind.walk(pc, registers, memory, find, self.machine, deadline_s, search, trail)

    def _row(self, mapping: Mapping, address: int, caller: Caller) -> Row | None:
        file = self._files.mapped(mapping, caller.pid)
        if file is None:
            return None
        offset = address - mapping.start + mapping.file_offset
        key = (file.name, offset)
        if key in self._rows:
            return self._rows.get(key)
        vaddr = file.elf.vaddr(offset)
        row = None if vaddr is None else file.tables.row(vaddr)
        self._rows.put(key, row, _size_of(row))
        return row


def _size_of(row: Row | None) -> int:
    """What a row takes in memory, about."""
    if row is None:
        return 300
    expressions = (what for _, _, what in row.rules if isinstance(what, bytes))
    return 700 + _RULE_BYTES * len(row.rules) + sum(map(len, expressions))
