"""User addresses as frames: which file lies where in a process, what its functions are called, who called whom.

The files come from the process while it runs: through map_files, or through its own root. Of a caller
that has exited, the program and the C library are found by what the kernel side told of them and by
build id; what was looked at before is kept. `unwind` follows the stack, `demangle` reads the names.
"""

from __future__ import annotations

import os
import struct
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from fork_trace import callers, files, procfs, unwind
from fork_trace.cfi import Row, Tables
from fork_trace.demangle import Demangler
from fork_trace.elf import BadElfError, Elf
from fork_trace.events import Place, Stack
from fork_trace.mounts import Mount, OwnMounts, UntouchedError, View, device_name
from fork_trace.perfmap import PerfMaps
from fork_trace.procfs import Mapping
from fork_trace.records import Frame

_OPEN_FILES = 64  # a descriptor each; of 1,024 that a shell usually allows
_LOST_FILES = 1024  # of which it is remembered why they are not read
_IDLE_S = 2.0  # after it a file is closed: an open one keeps its file system from being unmounted
_LAYOUTS = 256  # processes whose mappings are kept
_ROWS = 20_000
_NAMES = 20_000
_PATHS = 10_000
_FRESH_S = 1.0  # how long mappings are taken to be as they were read
_LEAST_FRESH_S = 0.05  # the same, where something is missing
_MOST_SHARE = 0.05  # of the time, for reading the mappings of one process
# Where distributions have it: Debian, Fedora, Arch, Alpine.
_C_LIBRARIES = (
    *("lib/x86_64-linux-gnu/libc.so.6", "lib/aarch64-linux-gnu/libc.so.6", "lib64/libc.so.6"),
    *("usr/lib/libc.so.6", "lib/ld-musl-x86_64.so.1", "lib/ld-musl-aarch64.so.1"),
)
# A rule takes 0.05 ms, so this is 100,000 of them, or a file that was made to take long.
_MOST_ON_FILE_S = 5.0
_DEBUG_ROOT = "/usr/lib/debug"
# Where inodes are numbered otherwise by stat than in maps: the layer's number, a subvolume's device.
_RENUMBERED = ("overlay", "btrfs", "bcachefs")
# A file's descriptor that names it, and the mount that it was named on.
_Way = Callable[[], "tuple[int, Mount]"]
_Key = tuple[str, int]  # device and inode as maps tells them


_LATE = "not looked up: the run was told to end"


@dataclass(frozen=True)
class Caller:
    """Who failed to fork: as much as it takes to look at its files."""

    pid: int | None  # None: its pid is of no use in our /proc
    uid: int


class _File:
    """A file that is open, and its tables."""

    def __init__(self, fd: int, status: os.stat_result, path: str) -> None:
        self.fd, self.status, self.path = fd, status, path
        self.used_s = time.monotonic()
        self.debug: _File | None = None  # the separate file with its symbols
        self.spent_s = 0.0  # on its unwind tables
        self.elf = Elf(lambda size, offset: files.piece(fd, size, offset))
        self.tables = Tables(self.elf)
        # What its rules and names are remembered under, also when it is opened again.
        self.name = self.elf.build_id or f"{path}:{status.st_mtime_ns}"

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
        own = procfs.mappings(os.getpid())
        self._mounts = OwnMounts({mapping.device for mapping in own if mapping.path})
        self._own = View(self._mounts)
        self._perf_maps = PerfMaps(self._mounts)
        self._files: OrderedDict[_Key, _File] = OrderedDict()  # the one used last comes last
        # Not to be had: since when, and what a person is told of it, if anything.
        self._lost: dict[_Key, tuple[float, str]] = {}
        self._keys: dict[str, _Key] = {}  # build id -> the file among these
        self._paths: dict[str, str] = {}  # build id -> where it was
        self._programs: dict[tuple[int, str], str | None] = {}  # inode, path in its mount -> path
        self._missed: set[str] = set()  # build ids of libraries that were looked for
        self._layouts: OrderedDict[int, _Layout] = OrderedDict()
        self._rows: dict[tuple[str, int], Row | None] = {}
        self._names: dict[tuple[str, int], str | None] = {}
        # Most callers share our C library: it is known before anybody exits.
        for mapping in own:
            if mapping.path and os.path.basename(mapping.path).startswith(
                ("libc.", "libc-", "ld-")
            ):
                self._mapped(mapping, os.getpid())

    @property
    def why_not_demangled(self) -> str | None:
        """Say why names of C++ are shown as the linker knows them; None: they are not."""
        return self._demangler.why_not

    def note(self, caller: Caller, places: Sequence[Place], stack: Stack | None) -> None:
        """Learn what a process maps, while it still runs. Cheap if it is known."""
        if caller.pid is None or not (places or stack):
            return
        address = places[0].address if places else None
        layout = self._refreshed(caller.pid, address)
        mapping = layout.find(address) if layout and address is not None else None
        if mapping is not None:
            self._mapped(mapping, caller.pid)

    def _refreshed(self, pid: int, address: int | None) -> _Layout | None:
        """Return where the code of a process lies; read again if that is old, or lacks an address."""
        known = self._layouts.get(pid)
        now_s = time.monotonic()
        if known is not None:
            self._layouts.move_to_end(pid)
            has_it = address is None or known.find(address) is not None
            fresh_s = max(_FRESH_S if has_it else _LEAST_FRESH_S, known.cost_s / _MOST_SHARE)
            if now_s - known.read_s < fresh_s:
                return known
        mappings = procfs.mappings(pid)
        if not mappings:
            return known
        self._layouts[pid] = layout = _layout(mappings, time.monotonic() - now_s)
        while len(self._layouts) > _LAYOUTS:
            self._layouts.popitem(last=False)
        return layout

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
        Once `is_late`, what is not named yet stays without a name.
        """
        layout = self._layout_of(caller, places, stack)
        addresses, how = [place.address for place in places], "frame-pointers"
        if stack is not None and layout is not None:
            found: list[int] = []
            for _ in range(2):
                deadline_s = time.monotonic() + most_s
                found = self._unwound(stack, layout, caller, deadline_s)
                if time.monotonic() < deadline_s or is_late():
                    break
            # A single address is no stack: the tables had no rule for the very first step.
            if len(found) > 1:
                addresses, how = found, "unwinding"
        # What goes with the process comes first: a large symbol table takes a while.
        compiled = {
            address: None if is_late() else self._compiled(address, layout, caller)
            for address in addresses
        }
        by_address = {place.address: place for place in places}
        frames = []
        for index, address in enumerate(addresses):
            if is_late():
                frames.append(Frame(address, None, None, note=_LATE))
                continue
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
            program = self._program_of(stack)
            pieces = [*self._library_of(places, stack), *program]
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
        if len(self._missed) >= 1024:
            self._missed.clear()
        self._missed.add(build_id)
        root = os.path.dirname(program.path)
        names = {program.elf.interpreter() or "", *_C_LIBRARIES}
        while True:
            for name in filter(None, names):
                file = self._at(self._within(root, name))
                if file is not None and file.elf.build_id == build_id:
                    return
            if root in ("/", ""):
                return
            root = os.path.dirname(root)

    def _within(self, directory: str, name: str) -> _Way:
        return lambda: files.within(directory, name, self._own)

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
        key = _device_and_inode(file.status)
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
        if key in self._programs:
            path = self._programs[key]
            return None if path is None else self._at(self._below(path), stack.exe_inode)
        if len(self._programs) >= 1024:
            self._programs.clear()
        self._programs[key] = None
        for path in self._mounts.find(stack.exe, device_name(*stack.exe_device)):
            file = self._at(self._below(path), stack.exe_inode)
            if file is not None:
                self._programs[key] = path
                return file
        return None

    def _below(self, path: str) -> _Way:
        return lambda: files.below("/", path, self._own)

    def program(self, stack: Stack) -> str | None:
        """Return the path of a program that has exited, if a file of its inode is still there."""
        return None if self._program(stack) is None else self._programs[_program_key(stack)]

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
        file = self._mapped(mapping, caller.pid)
        if file is None:
            return None
        vaddr = file.elf.vaddr(address - mapping.start + mapping.file_offset)
        name = None if vaddr is None else file.elf.called(vaddr)
        return None if name is None else self._demangler.text(name)

    def _row(self, mapping: Mapping, address: int, caller: Caller) -> Row | None:
        file = self._mapped(mapping, caller.pid)
        if file is None:
            return None
        offset = address - mapping.start + mapping.file_offset
        key = (file.name, offset)
        if key not in self._rows:
            if len(self._rows) >= _ROWS:
                self._rows.clear()
            vaddr = file.elf.vaddr(offset)
            began_s = time.monotonic()
            is_too_dear = file.spent_s > _MOST_ON_FILE_S
            self._rows[key] = None if vaddr is None or is_too_dear else file.tables.row(vaddr)
            file.spent_s += time.monotonic() - began_s
        return self._rows[key]

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
            file = self._mapped(mapping, caller.pid)
            # What the kernel read at the refusal tells another file that lies there by now.
            build_id = None if place is None else place.build_id
            if file is not None and (build_id is None or _is_of(file, build_id)):
                return self._in_file(address, file, offset, back)
            note = self._why_lost(_keys_of(mapping, caller.pid)[1]) if file is None else None
            return Frame(address, None, _shown(mapping.path), offset, build_id, note or None)
        if (
            mapping is None
            and place is not None
            and place.build_id is not None
            and place.offset is not None
        ):
            file = self._by_build_id(place.build_id)
            if file is not None:
                return self._in_file(address, file, place.offset, back)
            known = self._paths.get(place.build_id)
            symbol = self._names.get((place.build_id, place.offset - back))
            return Frame(address, symbol, known and _shown(known), place.offset, place.build_id)
        return Frame(address, None, None)

    def _in_file(self, address: int, file: _File, offset: int, back: int) -> Frame:
        path = _shown(file.path)
        frame = Frame(address, None, path, offset, file.elf.build_id)
        return replace(frame, symbol=self._name(file, offset - back))

    def _name(self, file: _File, offset: int) -> str | None:
        key = (file.name, offset)
        if key not in self._names:
            if len(self._names) >= _NAMES:
                self._names.clear()
            vaddr = file.elf.vaddr(offset)
            raw = None if vaddr is None else file.elf.symbol(vaddr, lambda: self._debug(file))
            self._names[key] = None if raw is None else self._demangler.text(raw)
        return self._names[key]

    def _debug(self, file: _File) -> Elf | None:
        """Open the separate debug file of a file, if one is installed."""
        build_id = file.elf.build_id
        if build_id is None:
            return None
        name = f".build-id/{build_id[:2]}/{build_id[2:]}.debug"
        try:
            found = _File(
                *files.regular(files.within(_DEBUG_ROOT, name, self._own)[0]),
                f"{_DEBUG_ROOT}/{name}",
            )
        except (OSError, ValueError, struct.error):
            return None
        if found.elf.build_id != build_id:
            found.close()
            return None
        file.debug = found
        return found.elf

    def _by_build_id(self, build_id: str | None) -> _File | None:
        """Return the file of a build id, if it was seen and is the same still."""
        if build_id is None or build_id not in self._keys:
            return None
        path = self._paths[build_id]
        file = self._known(self._keys[build_id]) or self._at(self._below(path))
        # A file that was replaced since has another build id: its names would be wrong ones.
        return file if file and file.elf.build_id == build_id else None

    def _known(self, key: _Key) -> _File | None:
        """Return a file that is open."""
        file = self._files.get(key)
        if file is not None:
            self._files.move_to_end(key)
            file.used_s = time.monotonic()
        return file

    def _mapped(self, mapping: Mapping, pid: int | None) -> _File | None:
        """Return the file of a mapping; None if it has none, or cannot be read."""
        if not mapping.path:
            return None
        keys = _keys_of(mapping, pid)
        for key in keys:
            file = self._known(key)
            if file is not None:
                return file
        if any(self._why_lost(key) is not None for key in keys):
            return None
        try:
            View(self._mounts, pid).demand_device(mapping.device, mapping.path)
            for way, is_exact in self._ways(mapping, pid):
                file = self._tried(way, is_exact, mapping, pid)
                if file is not None:
                    return file
        except UntouchedError as error:
            self._lose(keys[-1], str(error))
        except OSError:
            pass
        return None

    def _ways(self, mapping: Mapping, pid: int | None) -> Iterator[tuple[_Way, bool]]:
        """How the file of a mapping can be found, and whether that finds no other one."""
        path = mapping.path or ""
        if pid is not None:
            view = View(self._mounts, pid)
            # The very file, even if it was deleted or replaced; or the one of that name in its root.
            link = f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"
            yield lambda: files.linked(link, view), True
            yield lambda: files.below(f"/proc/{pid}/root", path, view), False
        yield self._below(path), False

    def _tried(self, way: _Way, is_exact: bool, mapping: Mapping, pid: int | None) -> _File | None:
        """Open the file of a mapping by one way; None if it is not there, or another one."""
        try:
            named, mount = way()
            fd, status = files.regular(named)
        except UntouchedError:
            raise
        except (OSError, ValueError):
            return None
        shared, own = _keys_of(mapping, pid)
        if _device_and_inode(status) == shared:
            return self._kept(fd, status, mapping.path or "", shared)
        is_it = mount.type in _RENUMBERED and (
            is_exact
            or (
                status.st_ino == mapping.inode
                and (mount.device == mapping.device or mount.type == "overlay")
            )
        )
        if not is_it:
            os.close(fd)
            return None
        # Its numbers may be another file's as well: what was found is for this process alone.
        return self._kept(fd, status, mapping.path or "", own)

    def _at(self, way: _Way, inode: int | None = None) -> _File | None:
        """Open a file of our own root; None if it is not there, of another inode, or no ELF file."""
        try:
            fd, status = files.regular(way()[0])
        except (OSError, ValueError):
            return None
        try:
            # Links within our root may have led here, and shall not be needed to come again.
            path = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            os.close(fd)
            return None
        key = _device_and_inode(status)
        known = self._known(key)
        if (
            known is not None
            or inode not in (None, status.st_ino)
            or self._why_lost(key) is not None
        ):
            os.close(fd)
            return known if inode in (None, status.st_ino) else None
        return self._kept(fd, status, path, key)

    def _kept(self, fd: int, status: os.stat_result, path: str, key: _Key) -> _File | None:
        try:
            file = _File(fd, status, path)
        except (BadElfError, struct.error):
            os.close(fd)
            # It will not get any better: that is remembered too.
            self._lose(key, "")
            return None
        self._files[key] = file
        while len(self._files) > _OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        if file.elf.build_id:
            if len(self._paths) >= _PATHS:
                self._paths.clear()
                self._keys.clear()
            self._paths[file.elf.build_id] = path
            self._keys[file.elf.build_id] = key
        return file

    def _lose(self, key: _Key, why: str) -> None:
        if len(self._lost) >= _LOST_FILES:
            self._lost.clear()
        self._lost[key] = (time.monotonic(), why)

    def _why_lost(self, key: _Key) -> str | None:
        """Say why a file is not read, "" if there is nothing to be said of it; None: it may be tried."""
        since_s, why = self._lost.get(key, (-_IDLE_S, ""))
        return why if time.monotonic() - since_s < _IDLE_S else None

    def rest(self) -> None:
        """Close the files that nobody asked for lately; to be called once in a while."""
        long_ago_s = time.monotonic() - _IDLE_S
        while self._files:
            key = next(iter(self._files))
            if self._files[key].used_s > long_ago_s:
                break
            self._files.pop(key).close()

    def close(self) -> None:
        """Close every file."""
        while self._files:
            self._files.popitem()[1].close()
        self._mounts.close()


def _keys_of(mapping: Mapping, pid: int | None) -> tuple[_Key, _Key]:
    """What a mapping's file is kept under: for all processes, or where that is in doubt, for one."""
    return (mapping.device, mapping.inode), (f"{mapping.device} of {pid}", mapping.inode)


def _device_and_inode(status: os.stat_result) -> tuple[str, int]:
    """As a line of maps has them."""
    return (device_name(os.major(status.st_dev), os.minor(status.st_dev)), status.st_ino)


def _is_of(file: _File, build_id: str) -> bool:
    # The kernel fills a shorter one up with zeros (lib/buildid.c).
    return (file.elf.build_id or "").ljust(len(build_id), "0") == build_id


def _program_key(stack: Stack) -> tuple[int, str]:
    assert stack.exe_inode is not None and stack.exe is not None
    return (stack.exe_inode, stack.exe)


def _shown(path: str) -> str:
    return os.fsencode(path).decode("utf-8", "backslashreplace")
