"""User addresses as frames: which file lies where in a process, what its functions are called, who called whom.

The files come from the process while it runs: through map_files, or through its own root. Of a caller
that has exited, the program and the C library are found by what the kernel side told of them and by
build id; what was looked at before is kept. `unwind` follows the stack, `demangle` reads the names.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from fork_trace import budget, callers, files, procfs, unwind
from fork_trace.budget import Budget, Kept, OverBudgetError
from fork_trace.cfi import Row, Tables
from fork_trace.demangle import Demangler
from fork_trace.elf import BadElfError, Elf
from fork_trace.events import Place, Stack
from fork_trace.names import cut
from fork_trace.perfmap import PerfMaps
from fork_trace.procfs import Mapping
from fork_trace.records import Frame

_OPEN_FILES = 64  # a descriptor each; of 1,024 that a shell usually allows
# What is kept of all files and processes, in bytes: with the perf maps and the paths less than 16 MB.
_FILES_BYTES = 6 << 20  # a symbol table of 16 MB, the largest that is read, takes 5.6
_LAYOUTS_BYTES, _ROWS_BYTES, _NAMES_BYTES = 3 << 20, 2 << 20, 1 << 20
_PATHS, _PROGRAMS, _MISSED = 1000, 256, 1024
_MOST_PATH = 512  # of what is remembered by its path
_MAPPING_BYTES, _RULE_BYTES = 320, 160  # what one takes in memory, about
_MOST_LAYOUT_BYTES = 1 << 20  # 3,000 mappings of code: no honest process has as many
# Of all files together: two seconds at once, and a fifth of the time.
_MOST_WORK, _WORK_PER_S = 2_000_000, 200_000
_FRESH_S = 1.0  # how long mappings are taken to be as they were read
_LEAST_FRESH_S = 0.05  # the same, where something is missing
_MOST_SHARE = 0.05  # of the time, for reading the mappings of one process
# Where distributions have it: Debian, Fedora, Arch, Alpine.
_C_LIBRARIES = (
    *("lib/x86_64-linux-gnu/libc.so.6", "lib/aarch64-linux-gnu/libc.so.6", "lib64/libc.so.6"),
    *("usr/lib/libc.so.6", "lib/ld-musl-x86_64.so.1", "lib/ld-musl-aarch64.so.1"),
)
_NAMING_S = 0.25  # of our own time, for the names of one stack, beside what unwinding it takes
_DEBUG_ROOT = "/usr/lib/debug/.build-id"


@dataclass(frozen=True)
class Caller:
    """Who failed to fork: as much as it takes to look at its files."""

    pid: int | None  # None: its pid is of no use in our /proc
    uid: int


class _File:
    """A file that is open, and its tables."""

    def __init__(self, fd: int, path: str, cost: Budget) -> None:
        self.fd, self.path = fd, path
        self.debug: _File | None = None  # the separate file with its symbols
        self.elf = Elf(lambda size, offset: os.pread(fd, size, offset), cost)
        self.tables = Tables(self.elf)
        # What its rules and names are remembered under, also when it is opened again.
        self.name = self.elf.build_id or f"{path}:{os.fstat(fd).st_mtime_ns}"

    @property
    def kept_bytes(self) -> int:
        """How much memory is taken by what was read of it, about."""
        own = self.elf.kept_bytes + self.tables.kept_bytes + len(self.path)
        return own + (self.debug.kept_bytes if self.debug else 0)

    def close(self) -> None:
        os.close(self.fd)
        if self.debug is not None:
            self.debug.close()


@dataclass(frozen=True)
class _Layout:
    """Where the code of one process lies."""

    mappings: tuple[Mapping, ...]
    starts: tuple[int, ...]
    read_s: float
    cost_s: float

    @property
    def size(self) -> int:
        """How much memory it takes, about: mappings of one file share its path."""
        paths = sum(map(len, {mapping.path for mapping in self.mappings if mapping.path}))
        return 256 + _MAPPING_BYTES * len(self.mappings) + 2 * paths

    def find(self, address: int) -> Mapping | None:
        index = bisect_right(self.starts, address) - 1
        if index < 0 or address >= self.mappings[index].end:
            return None
        return self.mappings[index]


def _layout(mappings: Iterable[Mapping], cost_s: float = 0.0) -> _Layout:
    ordered = tuple(sorted(mappings, key=lambda mapping: mapping.start))
    return _Layout(ordered, tuple(mapping.start for mapping in ordered), time.monotonic(), cost_s)


class Symbols:
    """Names the frames of user stacks."""

    def __init__(self) -> None:
        self.machine = os.uname().machine
        self._demangler = Demangler()
        self._work = Budget(_MOST_WORK, _WORK_PER_S)
        self._perf_maps = PerfMaps(above=self._work)
        self._files: OrderedDict[tuple[str, int], _File | None] = OrderedDict()
        self._keys: dict[str, tuple[str, int]] = {}  # build id -> the file among these
        self._paths: dict[str, str] = {}  # build id -> where it was
        self._programs: dict[tuple[int, str], str | None] = {}  # inode, path in its mount -> path
        self._missed: set[str] = set()  # build ids of libraries that were looked for
        self._layouts: Kept[int, _Layout] = Kept(_LAYOUTS_BYTES)
        self._rows: Kept[tuple[str, int], Row | None] = Kept(_ROWS_BYTES)
        self._names: Kept[tuple[str, int], str | None] = Kept(_NAMES_BYTES)
        # Most callers share our C library: it is known before anybody exits.
        for mapping in procfs.mappings(os.getpid()):
            if mapping.path and os.path.basename(mapping.path).startswith(
                ("libc.", "libc-", "ld-")
            ):
                self._mapped(mapping, os.getpid())

    @property
    def why_not_demangled(self) -> str | None:
        """Say why names of C++ are shown as the linker knows them; None: they are not."""
        return self._demangler.why_not

    @property
    def kept_bytes(self) -> int:
        """How much memory is taken by what is kept of files and processes, about."""
        open_files = sum(file.kept_bytes for file in self._files.values() if file is not None)
        caches = self._layouts.size + self._rows.size + self._names.size
        paths = sum(2 * len(path) + 512 for path in self._paths.values())
        paths += sum(2 * len(path or "") + 1536 for path in self._programs.values())
        return open_files + caches + self._perf_maps.kept_bytes + paths + 128 * len(self._missed)

    def note(self, caller: Caller, places: Sequence[Place], stack: Stack | None) -> None:
        """Learn what a process maps, while it still runs. Cheap if it is known."""
        if caller.pid is None or not (places or stack):
            return
        address = places[0].address if places else None
        layout = self._refreshed(caller.pid, address)
        mapping = layout.find(address) if layout and address is not None else None
        if mapping is not None:
            with suppress(OverBudgetError):
                self._mapped(mapping, caller.pid)

    def _refreshed(self, pid: int, address: int | None) -> _Layout | None:
        """Return where the code of a process lies; read again if that is old, or lacks an address."""
        known = self._layouts.get(pid)
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
        self._layouts.put(pid, layout, layout.size)
        return layout

    def frames(
        self,
        caller: Caller,
        places: Sequence[Place],
        stack: Stack | None = None,
        most_s: float = 60.0,
    ) -> tuple[tuple[Frame, ...], str | None]:
        """Name the frames of a stack, innermost first, and say how they were found.

        That is by "unwinding", or else as "frame-pointers" led the kernel; None: there is no stack.
        One that takes longer than `most_s` is tried once more, as what was read of its files is kept.
        What may not be read now, or not to its end, leaves a frame without its name.
        """
        try:
            return self._frames(caller, places, stack, most_s)
        finally:
            self._work.within(None)
            self._shrink()

    def _frames(
        self, caller: Caller, places: Sequence[Place], stack: Stack | None, most_s: float
    ) -> tuple[tuple[Frame, ...], str | None]:
        self._work.within(min(most_s, _NAMING_S))
        layout = self._layout_of(caller, places, stack)
        addresses, how = [place.address for place in places], "frame-pointers"
        if stack is not None and layout is not None:
            found: list[int] = []
            # The time is looked at between frames: a rule is not read by halves.
            self._work.within(None)
            for _ in range(2):
                deadline_s = time.monotonic() + most_s
                found = self._unwound(stack, layout, caller, deadline_s)
                if time.monotonic() < deadline_s:
                    break
            # A single address is no stack: the tables had no rule for the very first step.
            if len(found) > 1:
                addresses, how = found, "unwinding"
        self._work.within(min(most_s, _NAMING_S))
        # What goes with the process comes first: a large symbol table takes a while.
        compiled = {address: self._compiled(address, layout, caller) for address in addresses}
        by_address = {place.address: place for place in places}
        frames = []
        for index, address in enumerate(addresses):
            # A call that never returns is the last thing in its function: look at the call itself.
            frame = self._frame(address, int(index > 0), layout, caller, by_address.get(address))
            if compiled[address] is not None:
                frame = replace(frame, symbol=compiled[address])
            frames.append(frame)
            if index and frames[index - 1].symbol is None and frame.file != frames[index - 1].file:
                # What has no name of its own, or jumped on from it, has the one it was called by.
                mapping = layout.find(address - 1) if layout is not None else None
                if mapping is not None and mapping.path and frames[index - 1].file is not None:
                    name = self._called(mapping, address, caller)
                    frames[index - 1] = replace(frames[index - 1], symbol=name)
        return tuple(frames), how if frames else None

    def _shrink(self) -> None:
        """Close files, those that were not asked for the longest first, while they take too much."""
        size = sum(file.kept_bytes for file in self._files.values() if file is not None)
        while size > _FILES_BYTES:
            _, oldest = self._files.popitem(last=False)
            if oldest is not None:
                size -= oldest.kept_bytes
                oldest.close()

    def _layout_of(
        self, caller: Caller, places: Sequence[Place], stack: Stack | None
    ) -> _Layout | None:
        layout = self._layouts.get(caller.pid) if caller.pid is not None else None
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
            if place.build_id is not None and place.build_id not in self._keys:
                self._look_beside(place.build_id, stack)
            file = self._by_build_id(place.build_id)
            vaddr = file.elf.vaddr(place.offset or 0) if file else None
            if file and vaddr is not None:
                return self._laid(file, place.address - vaddr)
        return []

    def _look_beside(self, build_id: str, stack: Stack) -> None:
        """Look for the C library of a program that is gone where its root may have been."""
        program = self._program(stack)
        if program is None or build_id in self._missed:
            return
        if len(self._missed) >= _MISSED:
            self._missed.clear()
        self._missed.add(build_id)
        root = os.path.dirname(program.path)
        names = {program.elf.interpreter() or "", *_C_LIBRARIES}
        while True:
            for name in names:
                path = os.path.join(root, name.lstrip("/"))
                if name and os.path.isfile(path):
                    status = os.stat(path)
                    file = self._opened(_device_and_inode(status), [(path, None)], path)
                    if file is not None and file.elf.build_id == build_id:
                        return
            if root in ("/", ""):
                return
            root = os.path.dirname(root)

    def _program_of(self, stack: Stack) -> list[Mapping]:
        """Where the program of a process that is gone lay, by the end of its code."""
        file = self._program(stack)
        if file is None or stack.code_end is None or not file.elf.code():
            return []
        last = max(each.vaddr + each.filesz for each in file.elf.code())
        bias = stack.code_end - last
        # Not the file that ran, if it would not lie on a page.
        return self._laid(file, bias) if bias >= 0 and bias % 4096 == 0 else []

    def _laid(self, file: _File, bias: int) -> list[Mapping]:
        key = _device_and_inode(os.fstat(file.fd))
        return [
            Mapping(
                each.vaddr + bias, each.vaddr + bias + each.filesz, each.offset, *key, file.path
            )
            for each in file.elf.code()
        ]

    def _program(self, stack: Stack) -> _File | None:
        if stack.exe is None or stack.exe_inode is None:
            return None
        key = (stack.exe_inode, stack.exe)
        if key not in self._programs:
            if len(self._programs) >= _PROGRAMS:
                self._programs.clear()
            self._programs[key] = procfs.find_in_mounts(
                stack.exe, stack.exe_inode, stack.exe_device
            )
        path = self._programs[key]
        if path is None:
            return None
        try:
            status = os.stat(path)
        except OSError:
            return None
        if status.st_ino != stack.exe_inode:
            return None
        return self._opened(_device_and_inode(status), [(path, stack.exe_inode)], path)

    def program(self, stack: Stack) -> str | None:
        """Return the path of a program that has exited, if a file of its inode is still there."""
        try:
            found = self._program(stack)
        except OverBudgetError:
            return None
        return None if found is None else self._programs[_program_key(stack)]

    def _unwound(
        self, stack: Stack, layout: _Layout, caller: Caller, deadline_s: float
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

        def search(address: int, sp: int, memory: unwind.Memory) -> int | None:
            return self._search(layout, caller, address, sp, memory)

        return unwind.walk(pc, registers, memory, find, self.machine, deadline_s, search)

    def _search(
        self, layout: _Layout, caller: Caller, address: int, sp: int, memory: unwind.Memory
    ) -> int | None:
        """Find where on the stack a C library without unwind tables, as musl is, keeps its caller.

        That is the next address behind a call, in another file, of a function that forks.
        """
        own = layout.find(address)
        if own is None or not callers.is_c_library(own.path):
            return None
        # vfork takes its return address from the stack before its system call: from one word below.
        for at in range((sp + 7 & ~7) - 8, memory.start + len(memory.data), 8):
            try:
                word = memory.word(at)
            except unwind.LostError:
                continue
            mapping = layout.find(word - 1)
            if mapping is None or mapping.path in (None, own.path):
                continue
            # What earlier calls left lying there was mostly called by other names.
            if self._called(mapping, word, caller) in callers.FORKING:
                return at
        return None

    def _called(self, mapping: Mapping, address: int, caller: Caller) -> str | None:
        """Name the function that returns to an address, by the call before it."""
        try:
            file = self._mapped(mapping, caller.pid)
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
        file = self._mapped(mapping, caller.pid)
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

    def _compiled(self, address: int, layout: _Layout | None, caller: Caller) -> str | None:
        """Name what a JIT compiler made: code that is in no file. A byte before is the call itself."""
        mapping = layout.find(address - 1) if layout is not None else None
        if mapping is None or mapping.path:
            return None
        return self._perf_maps.name(caller.pid, caller.uid, address - 1)

    def _frame(
        self,
        address: int,
        back: int,
        layout: _Layout | None,
        caller: Caller,
        place: Place | None,
    ) -> Frame:
        mapping = layout.find(address - back) if layout is not None else None
        if mapping is not None and mapping.path:
            offset = address - mapping.start + mapping.file_offset
            with suppress(OverBudgetError):
                file = self._mapped(mapping, caller.pid)
                if file is not None:
                    return self._in_file(address, file, offset, back)
            return Frame(address, None, _shown(mapping.path), offset)
        if (
            mapping is None
            and place is not None
            and place.build_id is not None
            and place.offset is not None
        ):
            with suppress(OverBudgetError):
                file = self._by_build_id(place.build_id)
                if file is not None:
                    return self._in_file(address, file, place.offset, back)
            known = self._paths.get(place.build_id)
            return Frame(address, None, known and _shown(known), place.offset, place.build_id)
        return Frame(address, None, None)

    def _in_file(self, address: int, file: _File, offset: int, back: int) -> Frame:
        path = _shown(file.path)
        symbol = None
        with suppress(OverBudgetError):
            symbol = self._name(file, offset - back)
        return Frame(address, symbol, path, offset, file.elf.build_id)

    def _name(self, file: _File, offset: int) -> str | None:
        key = (file.name, offset)
        if key in self._names:
            return self._names.get(key)
        vaddr = file.elf.vaddr(offset)
        raw = None if vaddr is None else file.elf.symbol(vaddr, lambda: self._debug(file))
        name = None if raw is None else self._readable(raw)
        self._names.put(key, name, 300 + (sys.getsizeof(name) if name else 0))
        return name

    def _debug(self, file: _File) -> Elf | None:
        """Open the separate debug file of a file, if one is installed."""
        build_id = file.elf.build_id
        if build_id is None:
            return None
        path = f"{_DEBUG_ROOT}/{build_id[:2]}/{build_id[2:]}.debug"
        try:
            found = _open(path, path, None, self._work)
        except BadElfError:
            return None
        if found is not None and found.elf.build_id != build_id:
            found.close()
            return None
        file.debug = found
        return None if found is None else found.elf

    def _by_build_id(self, build_id: str | None) -> _File | None:
        """Return the file of a build id, if it was seen and is the same still."""
        if build_id is None or build_id not in self._keys:
            return None
        path = self._paths[build_id]
        file = self._opened(self._keys[build_id], [(path, None)], path)
        # A file that was replaced since has another build id: its names would be wrong ones.
        return file if file and file.elf.build_id == build_id else None

    def _mapped(self, mapping: Mapping, pid: int | None) -> _File | None:
        """Return the file of a mapping; None if it has none, or cannot be read."""
        if not mapping.path:
            return None
        ways: list[tuple[str, int | None]] = []
        if pid is not None:
            # The very file, even if it was deleted or replaced; or the one of that name in its root.
            ways.append((f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}", None))
            ways.append((f"/proc/{pid}/root{mapping.path}", mapping.inode))
        ways.append((mapping.path, mapping.inode))
        return self._opened((mapping.device, mapping.inode), ways, mapping.path)

    def _opened(
        self, key: tuple[str, int], ways: Iterable[tuple[str, int | None]], path: str
    ) -> _File | None:
        """Open a file by the first way that leads to it, each with the inode that it must have."""
        if key in self._files:
            self._files.move_to_end(key)
            return self._files[key]
        file = None
        try:
            opened = (_open(way, path, inode, self._work) for way, inode in ways)
            file = next(filter(None, opened), None)
        except BadElfError:
            # It will not get any better: that is remembered too.
            self._remember(key, None)
        if file is not None:
            self._remember(key, file)
            if file.elf.build_id and len(path) <= _MOST_PATH:
                if len(self._paths) >= _PATHS:
                    self._paths.clear()
                    self._keys.clear()
                self._paths[file.elf.build_id] = path
                self._keys[file.elf.build_id] = key
        return file

    def _remember(self, key: tuple[str, int], file: _File | None) -> None:
        self._files[key] = file
        while len(self._files) > _OPEN_FILES:
            _, oldest = self._files.popitem(last=False)
            if oldest is not None:
                oldest.close()

    def close(self) -> None:
        """Close every file."""
        while self._files:
            _, file = self._files.popitem()
            if file is not None:
                file.close()


def _open(way: str, path: str, inode: int | None, above: Budget) -> _File | None:
    """Open a file; None if it cannot be had or is another one, BadElfError if it makes no sense."""
    above.pay(10)
    try:
        fd, status = files.open_regular(way)
    except (OSError, ValueError):
        return None
    if inode is not None and status.st_ino != inode:
        os.close(fd)
        return None
    try:
        return _File(fd, path, budget.of_a_file(above))
    except OverBudgetError:
        os.close(fd)
        raise
    except (OSError, BadElfError, struct.error) as error:
        os.close(fd)
        raise BadElfError(str(error)) from None


def _device_and_inode(status: os.stat_result) -> tuple[str, int]:
    """As a line of maps has them."""
    return (f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}", status.st_ino)


def _program_key(stack: Stack) -> tuple[int, str]:
    assert stack.exe_inode is not None and stack.exe is not None
    return (stack.exe_inode, stack.exe)


def _size_of(row: Row | None) -> int:
    """What a row takes in memory, about."""
    if row is None:
        return 300
    expressions = (what for _, _, what in row.rules if isinstance(what, bytes))
    return 700 + _RULE_BYTES * len(row.rules) + sum(map(len, expressions))


def _shown(path: str) -> str:
    return cut(os.fsencode(path).decode("utf-8", "backslashreplace"))
