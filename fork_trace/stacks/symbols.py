"""User addresses as frames: which file lies where in a process, what its functions are called, who called whom.

`symbol_files` finds and opens the files, `unwind` follows the stack, `demangle` reads the names.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from fork_trace.budget import Budget, Kept, OverBudgetError
from fork_trace.escape import cut
from fork_trace.host import procfs
from fork_trace.host.procfs import Mapping
from fork_trace.model.events import Place, Stack
from fork_trace.model.records import Frame
from fork_trace.mounts import OwnMounts
from fork_trace.stacks import arm64, callers, pythons, unwind
from fork_trace.stacks.cfi import Row
from fork_trace.stacks.demangle import Demangler
from fork_trace.stacks.perfmap import PerfMaps
from fork_trace.stacks.symbol_files import File, SymbolFiles

# What is kept of all processes, in bytes: with the files, perf maps and paths less than 16 MB.
_LAYOUTS_BYTES, _ROWS_BYTES, _NAMES_BYTES = 2 << 20, 3 << 19, 1 << 20
_MAPPING_BYTES, _RULE_BYTES = 320, 160  # what one takes in memory, about
_MOST_LAYOUT_BYTES = 1 << 20  # 3,000 mappings of code: no honest process has as many
# Of all files together: two seconds at once, and a fifth of the time.
_MOST_WORK, _WORK_PER_S = 2_000_000, 200_000
_FRESH_S = 1.0  # how long mappings are taken to be as they were read
_LEAST_FRESH_S = 0.05  # the same, where something is missing
_MOST_SHARE = 0.05  # of the time, for reading the mappings of one process
# The names of one stack may take so many times what unwinding it may, of our own time: a slow host reads a
# large symbol table for more than a second, once. What a hostile file takes its own budget bounds.
_NAMING = 6
_LATE = "not looked up: the run was told to end"


@dataclass(frozen=True)
class Caller:
    """Who failed to fork: as much as it takes to look at its files."""

    pid: int | None  # None: its pid is of no use in our /proc
    uid: int


@dataclass(frozen=True)
class Layout:
    """Where the code of one process lies."""

    mappings: tuple[Mapping, ...]
    starts: tuple[int, ...]
    read_s: float
    cost_s: float
    python: Mapping | None = None  # the first of an interpreter whose functions can be read

    @property
    def size(self) -> int:
        """How much memory it takes, about: mappings of one file share its path."""
        paths = sum(map(len, {mapping.path for mapping in self.mappings if mapping.path}))
        return 256 + _MAPPING_BYTES * len(self.mappings) + 2 * paths

    def find(self, address: int) -> Mapping | None:
        """Return the mapping that an address lies in."""
        index = bisect_right(self.starts, address) - 1
        if index < 0 or address >= self.mappings[index].end:
            return None
        return self.mappings[index]


def _layout(mappings: Iterable[Mapping], cost_s: float = 0.0) -> Layout:
    ordered = tuple(sorted(mappings, key=lambda mapping: mapping.start))
    starts = tuple(mapping.start for mapping in ordered)
    return Layout(ordered, starts, time.monotonic(), cost_s, pythons.interpreter(ordered))


class Layouts:
    """Where the code of processes lies: by their mappings, or once they are gone by what is known of their files."""

    def __init__(self, files: SymbolFiles) -> None:
        self._files = files
        self.kept: Kept[int, Layout] = Kept(_LAYOUTS_BYTES)

    def refreshed(self, pid: int, address: int | None) -> Layout | None:
        """Return where the code of a process lies; read again if that is old, or lacks an address."""
        known = self.kept.get(pid)
        now_s = time.monotonic()
        if known is not None:
            has_it = address is None or known.find(address) is not None
            fresh_s = max(_FRESH_S if has_it else _LEAST_FRESH_S, known.cost_s / _MOST_SHARE)
            if now_s - known.read_s < fresh_s:
                return known
        mappings = procfs.mappings(pid)
        if not mappings:
            return known
        layout = _layout(mappings, time.monotonic() - now_s)
        if layout.size > _MOST_LAYOUT_BYTES:
            layout = _layout((), layout.cost_s)
        self.kept.put(pid, layout, layout.size)
        return layout

    def of(self, caller: Caller, places: Sequence[Place], stack: Stack | None) -> Layout | None:
        """Return where the code of a caller lay, as it was read or as its stack tells."""
        layout = self.kept.get(caller.pid) if caller.pid is not None else None
        if stack is None:
            return layout
        # By now the number can be another process', or it has run another program.
        if layout is not None and stack.code_end is not None:
            last = layout.find(stack.code_end - 1)
            if last is None or not last.path:
                layout = None
        if layout is None:
            pieces = []
            with suppress(OverBudgetError):
                pieces = self._program_of(stack)
                pieces = [*self._library_of(places, stack), *pieces]
            layout = _layout(pieces) if pieces else None
        return layout

    def _library_of(self, places: Sequence[Place], stack: Stack) -> list[Mapping]:
        """Where the file of the innermost frame lies: its build id and one offset tell."""
        for place in places[:1]:
            if place.build_id is not None and not self._files.knows(place.build_id):
                program = self._files.program(stack)
                if program is not None:
                    self._files.look_beside(program, place.build_id)
            file = self._files.by_build_id(place.build_id)
            vaddr = file.elf.vaddr(place.offset or 0) if file else None
            if file and vaddr is not None:
                return self._laid(file, place.address - vaddr)
        return []

    def _program_of(self, stack: Stack) -> list[Mapping]:
        """Where the program of a process that is gone lay, by the end of its code."""
        file = self._files.program(stack)
        if file is None or stack.code_end is None or not file.elf.code():
            return []
        last = max(each.vaddr + each.filesz for each in file.elf.code())
        bias = stack.code_end - last
        # Not the file that ran, if it would not lie on a page.
        return self._laid(file, bias) if bias >= 0 and bias % 4096 == 0 else []

    @staticmethod
    def _laid(file: File, bias: int) -> list[Mapping]:
        # Under what it is kept: on overlay its own numbers are not those of a mapping.
        return [
            Mapping(
                each.vaddr + bias,
                each.vaddr + bias + each.filesz,
                each.offset,
                *file.key,
                file.path,
            )
            for each in file.elf.code()
        ]


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
        self._demangler = Demangler()
        self._work = Budget(_MOST_WORK, _WORK_PER_S)
        own = procfs.mappings(os.getpid())
        mounts = OwnMounts({mapping.device for mapping in own if mapping.path})
        self._files = SymbolFiles(self._work, mounts)
        self._layouts = Layouts(self._files)
        self._perf_maps = PerfMaps(mounts, above=self._work)
        self._pythons = pythons.Pythons(self._files, self._work)
        self._rows: Kept[tuple[str, int], Row | None] = Kept(_ROWS_BYTES)
        self._names: Kept[tuple[str, int], str | None] = Kept(_NAMES_BYTES)
        # Most callers share our C library: it is known before anybody exits.
        for mapping in own:
            if mapping.path and os.path.basename(mapping.path).startswith(
                ("libc.", "libc-", "ld-")
            ):
                self._files.mapped(mapping, os.getpid())

    @property
    def why_not_demangled(self) -> str | None:
        """Say why names of C++ are shown as the linker knows them; None: they are not."""
        return self._demangler.why_not

    @property
    def kept_bytes(self) -> int:
        """How much memory is taken by what is kept of files and processes, about."""
        caches = self._layouts.kept.size + self._rows.size + self._names.size
        return self._files.kept_bytes + caches + self._perf_maps.kept_bytes

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
            by_address = {place.address: place for place in places}
            frames = self._named(addresses, layout, caller, by_address, is_late)
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

    def _named(
        self,
        addresses: Sequence[int],
        layout: Layout | None,
        caller: Caller,
        places: dict[int, Place],
        is_late: Callable[[], bool],
    ) -> tuple[Frame, ...]:
        def hurry() -> bool:
            has_to = is_late()
            if has_to:
                self._work.within(0)  # from here on only what is known already
            return has_to

        # What goes with the process comes first: a large symbol table takes a while.
        compiled = {
            address: None if hurry() else self._compiled(address, layout, caller)
            for address in addresses
        }
        frames: list[Frame] = []
        for index, address in enumerate(addresses):
            hurries = hurry()
            # A call that never returns is the last thing in its function: look at the call itself.
            frame = self._frame(address, int(index > 0), layout, caller, places.get(address))
            if compiled[address] is not None:
                frame = replace(frame, symbol=compiled[address])
            if hurries and frame.symbol is None and frame.note is None:
                frame = replace(frame, note=_LATE)
            frames.append(frame)
            if index and frames[index - 1].symbol is None and frame.file != frames[index - 1].file:
                # What has no name of its own, or jumped on from it, has the one it was called by.
                mapping = layout.find(address - 1) if layout is not None else None
                if mapping is not None and mapping.path and frames[index - 1].file is not None:
                    name = self._called(mapping, address, caller)
                    if name is not None:
                        frames[index - 1] = replace(frames[index - 1], symbol=name, note=None)
        return tuple(frames)

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

        def find(address: int) -> Row | None:
            mapping = layout.find(address)
            if mapping is None:
                raise LookupError
            return self._row(mapping, address, caller)

        pc, registers = start
        memory = unwind.Memory(stack.start, stack.slice, stack.holes)

        def called(mapping: Mapping, address: int) -> str | None:
            return self._called(mapping, address, caller)

        search = _Search(self._files, layout, caller, self.machine, called).caller_of
        return unwind.walk(pc, registers, memory, find, self.machine, deadline_s, search, trail)

    def _called(self, mapping: Mapping, address: int, caller: Caller) -> str | None:
        """Name the function that returns to an address, by the call before it."""
        try:
            file = self._files.mapped(mapping, caller.pid)
            if file is None:
                return None
            vaddr = file.elf.vaddr(address - mapping.start + mapping.file_offset)
            name = None if vaddr is None else file.elf.called(vaddr)
            return None if name is None else self._readable(name)
        except OverBudgetError:
            return None

    def _readable(self, name: bytes) -> str:
        self._work.pay(10 + len(name))
        return cut(self._demangler.text(name))

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

    def _compiled(self, address: int, layout: Layout | None, caller: Caller) -> str | None:
        """Name what a JIT compiler made: code that is in no file. A byte before is the call itself."""
        mapping = layout.find(address - 1) if layout is not None else None
        if mapping is None or mapping.path:
            return None
        return self._perf_maps.name(caller.pid, caller.uid, address - 1)

    def _frame(
        self,
        address: int,
        back: int,
        layout: Layout | None,
        caller: Caller,
        place: Place | None,
    ) -> Frame:
        mapping = layout.find(address - back) if layout is not None else None
        if mapping is not None and mapping.path:
            build_id = None if place is None else place.build_id
            return self._mapped_frame(address, back, mapping, caller, build_id)
        if mapping is not None or place is None or place.build_id is None or place.offset is None:
            return Frame(address, None, None)
        with suppress(OverBudgetError):
            file = self._files.by_build_id(place.build_id)
            if file is not None:
                return self._in_file(address, file, place.offset, back)
        known = self._files.path_of(place.build_id)
        symbol = self._names.get((place.build_id, place.offset - back))
        return Frame(address, symbol, known and _shown(known), place.offset, place.build_id)

    def _mapped_frame(
        self, address: int, back: int, mapping: Mapping, caller: Caller, build_id: str | None
    ) -> Frame:
        offset, note = address - mapping.start + mapping.file_offset, None
        with suppress(OverBudgetError):
            file = self._files.mapped(mapping, caller.pid)
            # What the kernel read at the refusal tells another file that lies there by now.
            if file is not None and (build_id is None or _is_of(file, build_id)):
                return self._in_file(address, file, offset, back)
            note = self._files.why_lost(mapping, caller.pid) if file is None else None
        return Frame(address, None, _shown(mapping.path or ""), offset, build_id, note)

    def _in_file(self, address: int, file: File, offset: int, back: int) -> Frame:
        symbol = None
        with suppress(OverBudgetError):
            symbol = self._name(file, offset - back)
        return Frame(address, symbol, _shown(file.path), offset, file.elf.build_id)

    def _name(self, file: File, offset: int) -> str | None:
        key = (file.name, offset)
        if key in self._names:
            return self._names.get(key)
        vaddr = file.elf.vaddr(offset)
        raw = None if vaddr is None else file.elf.symbol(vaddr, lambda: self._files.debug(file))
        name = None if raw is None else self._readable(raw)
        self._names.put(key, name, 300 + (sys.getsizeof(name) if name else 0))
        return name


def _is_of(file: File, build_id: str) -> bool:
    # The kernel fills a shorter one up with zeros (lib/buildid.c).
    return (file.elf.build_id or "").ljust(len(build_id), "0") == build_id


def _size_of(row: Row | None) -> int:
    """What a row takes in memory, about."""
    if row is None:
        return 300
    expressions = (what for _, _, what in row.rules if isinstance(what, bytes))
    return 700 + _RULE_BYTES * len(row.rules) + sum(map(len, expressions))


def _shown(path: str) -> str:
    return cut(os.fsencode(path).decode("utf-8", "backslashreplace"))
