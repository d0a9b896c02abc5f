"""The files of callers: found with care, open for a while, and read at a price.

A file comes from the process while it runs: through map_files, or through its own root. Of a caller
that has exited, the program and the C library are found by what the kernel side told of them and by
build id; what was looked at before is kept. Who uses them for what is `symbols`' matter.
"""

from __future__ import annotations

import os
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from fork_trace import budget, files
from fork_trace.budget import Budget
from fork_trace.host.procfs import Mapping
from fork_trace.model.events import Stack
from fork_trace.mounts import Mount, OwnMounts, UntouchedError, View, device_name
from fork_trace.stacks.cfi import Tables
from fork_trace.stacks.elf import BadElfError, Elf

_OPEN_FILES = 64  # a descriptor each; of 1,024 that a shell usually allows
_FILES_BYTES = 6 << 20  # a symbol table of 16 MB, the largest that is read, takes 5.6
_WEIGHED_WORK = 100  # makes no more than 50 KB
_LOST_FILES = 512  # of which it is remembered why they are not read
_IDLE_S = 2.0  # after it a file is closed: an open one keeps its file system from being unmounted
_PATHS, _PROGRAMS, _MISSED = 1000, 256, 1024
_MOST_PATH = 512  # of what is remembered by its path
_OPEN_COST = 10
# Where distributions have it: Debian, Fedora, Arch, Alpine.
_C_LIBRARIES = (
    *("lib/x86_64-linux-gnu/libc.so.6", "lib/aarch64-linux-gnu/libc.so.6", "lib64/libc.so.6"),
    *("usr/lib/libc.so.6", "lib/ld-musl-x86_64.so.1", "lib/ld-musl-aarch64.so.1"),
)
_DEBUG_ROOT = "/usr/lib/debug"
# Where inodes are numbered otherwise by stat than in maps: the layer's number, a subvolume's device.
_RENUMBERED = ("overlay", "btrfs", "bcachefs")
# A file's descriptor that names it, and the mount that it was named on.
_Way = Callable[[], "tuple[int, Mount]"]
_Key = tuple[str, int]  # device and inode as maps tells them


class File:
    """A file, and what was read of it; that stays while it is closed for a rest."""

    def __init__(self, fd: int, status: os.stat_result, path: str, cost: Budget) -> None:
        self.fd, self.status, self.path = fd, status, path
        self.key: _Key = device_and_inode(status)  # what it is kept under
        self.used_s = time.monotonic()
        self.debug: File | None = None  # the separate file with its symbols
        self.elf = Elf(lambda size, offset: files.piece(self.fd, size, offset), cost)
        self.tables = Tables(self.elf)
        # What its rules and names are remembered under, also when it is opened again.
        self.name = self.elf.build_id or f"{path}:{status.st_mtime_ns}"

    @property
    def is_open(self) -> bool:
        """Say whether it can be read."""
        return self.fd >= 0

    @property
    def kept_bytes(self) -> int:
        """How much memory is taken by what was read of it, about."""
        own = self.elf.kept_bytes + self.tables.kept_bytes + len(self.path)
        return own + (self.debug.kept_bytes if self.debug else 0)

    def goes_on(self, fd: int, status: os.stat_result) -> bool:
        """Take up where it was left, if this is the same file still and was not written to."""
        if self.is_open or _stamp(status) != _stamp(self.status):
            return False
        self.fd, self.used_s = fd, time.monotonic()
        return True

    def close(self) -> None:
        """Close it; safe to call twice."""
        if self.is_open:
            os.close(self.fd)
        self.fd = -1
        if self.debug is not None:
            self.debug.close()


class SymbolFiles:
    """The files that callers have mapped, by device and inode; what they cost is paid from `work`.

    Whoever asks for one can meet an OverBudgetError: it is not known yet what it is.
    """

    def __init__(self, work: Budget, mounts: OwnMounts) -> None:
        self._work, self._mounts = work, mounts
        self._own = View(mounts, cost=work)
        self._files: OrderedDict[_Key, File] = OrderedDict()  # the one used last comes last
        # Not to be had: since when, and what a person is told of it, if anything.
        self._lost: dict[_Key, tuple[float, str]] = {}
        self._keys: dict[str, _Key] = {}  # build id -> the file among these
        self._paths: dict[str, str] = {}  # build id -> where it was
        # Inode, and path in its mount -> its path, and what it is kept under; None: not found.
        self._programs: dict[tuple[int, str], tuple[str, _Key] | None] = {}
        self._missed: set[str] = set()  # build ids of libraries that were looked for
        self._weigh_at = 0.0  # once so much work is spent

    @property
    def kept_bytes(self) -> int:
        """How much memory is taken by what is kept of files and of where they are, about."""
        paths = sum(2 * len(path) + 512 for path in self._paths.values())
        paths += sum(2 * len(each[0] if each else "") + 1664 for each in self._programs.values())
        return self._read_bytes() + paths + 128 * len(self._missed) + 512 * len(self._lost)

    def _read_bytes(self) -> int:
        return sum(file.kept_bytes for file in self._files.values())

    def knows(self, build_id: str) -> bool:
        """Say whether a file of this build id was seen."""
        return build_id in self._keys

    def path_of(self, build_id: str) -> str | None:
        """Return where the file of a build id was."""
        return self._paths.get(build_id)

    def by_build_id(self, build_id: str | None) -> File | None:
        """Return the file of a build id, if it was seen and is the same still."""
        if build_id is None or build_id not in self._keys:
            return None
        path = self._paths[build_id]
        file = self._known(self._keys[build_id]) or self._at(self._below(path))
        # A file that was replaced since has another build id: its names would be wrong ones.
        return file if file and file.elf.build_id == build_id else None

    def program(self, stack: Stack) -> File | None:
        """Find the program of a process that is gone, by its path and inode in our own mounts."""
        if stack.exe is None or stack.exe_inode is None:
            return None
        key = (stack.exe_inode, stack.exe)
        if key in self._programs:
            known = self._programs[key]
            if known is None:
                return None
            return self._known(known[1]) or self._at(self._below(known[0]), stack.exe_inode)
        self._work.pay(_OPEN_COST)
        found = file = None
        device = device_name(*stack.exe_device)
        for path in self._mounts.find(stack.exe, device, self._work):
            file = self._at(self._below(path), stack.exe_inode)
            if file is not None:
                found = path, file.key
                break
        if len(self._programs) >= _PROGRAMS:
            self._programs.clear()
        self._programs[key] = found
        return file

    def program_path(self, stack: Stack) -> str | None:
        """Return the path of a program that has exited, if a file of its inode is still there."""
        if self.program(stack) is None:
            return None
        assert stack.exe_inode is not None and stack.exe is not None
        known = self._programs[stack.exe_inode, stack.exe]
        return None if known is None else known[0]

    def look_beside(self, program: File, build_id: str) -> None:
        """Look for the C library of a program that is gone where its root may have been."""
        if build_id in self._missed:
            return
        if len(self._missed) >= _MISSED:
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

    def mapped(self, mapping: Mapping, pid: int | None) -> File | None:
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
        self._work.pay(_OPEN_COST)
        try:
            self._view(pid).demand_device(mapping.device, mapping.path)
            for way, is_exact in self._ways(mapping, pid):
                file = self._tried(way, is_exact, mapping, pid)
                if file is not None:
                    return file
        except UntouchedError as error:
            self._lose(keys[-1], str(error))
        except OSError:
            pass
        return None

    def why_lost(self, mapping: Mapping, pid: int | None) -> str | None:
        """Say why the file of a mapping is not read, where that was a choice."""
        return self._why_lost(_keys_of(mapping, pid)[-1]) or None

    def debug(self, file: File) -> Elf | None:
        """Open the separate debug file of a file, if one is installed."""
        build_id = file.elf.build_id
        if build_id is None:
            return None
        name = f".build-id/{build_id[:2]}/{build_id[2:]}.debug"
        self._work.pay(_OPEN_COST)
        try:
            fd, status = files.regular(self._within(_DEBUG_ROOT, name)()[0])
        except (OSError, ValueError):
            return None
        found = self._read(fd, status, f"{_DEBUG_ROOT}/{name}")
        if found is None or found.elf.build_id != build_id:
            if found is not None:
                found.close()
            return None
        file.debug = found
        return found.elf

    def _view(self, pid: int | None) -> View:
        return View(self._mounts, pid, cost=self._work)

    def _below(self, path: str) -> _Way:
        return lambda: files.below("/", path, self._own)

    def _within(self, directory: str, name: str) -> _Way:
        return lambda: files.within(directory, name, self._own)

    def _known(self, key: _Key) -> File | None:
        """Return a file that is open."""
        file = self._files.get(key)
        if file is None or not file.is_open:
            return None
        self._files.move_to_end(key)
        file.used_s = time.monotonic()
        return file

    def _ways(self, mapping: Mapping, pid: int | None) -> Iterator[tuple[_Way, bool]]:
        """How the file of a mapping can be found, and whether that finds no other one."""
        path = mapping.path or ""
        if pid is not None:
            view = self._view(pid)
            # The very file, even if it was deleted or replaced; or the one of that name in its root.
            link = f"/proc/{pid}/map_files/{mapping.start:x}-{mapping.end:x}"
            yield lambda: files.linked(link, view), True
            yield lambda: files.below(f"/proc/{pid}/root", path, view), False
        yield self._below(path), False

    def _tried(self, way: _Way, is_exact: bool, mapping: Mapping, pid: int | None) -> File | None:
        """Open the file of a mapping by one way; None if it is not there, or another one."""
        try:
            named, mount = way()
            fd, status = files.regular(named)
        except UntouchedError:
            raise
        except (OSError, ValueError):
            return None
        shared, own = _keys_of(mapping, pid)
        if device_and_inode(status) == shared:
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

    def _at(self, way: _Way, inode: int | None = None) -> File | None:
        """Open a file of our own root; None if it is not there, of another inode, or no ELF file."""
        self._work.pay(_OPEN_COST)
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
        key = device_and_inode(status)
        known = self._known(key)
        if (
            known is not None
            or inode not in (None, status.st_ino)
            or self._why_lost(key) is not None
        ):
            os.close(fd)
            return known if inode in (None, status.st_ino) else None
        return self._kept(fd, status, path, key)

    def _kept(self, fd: int, status: os.stat_result, path: str, key: _Key) -> File | None:
        file = self._files.pop(key, None)
        if file is None or not file.goes_on(fd, status):
            if file is not None:
                file.close()
            file = self._read(fd, status, path)
        if file is None:
            # It will not get any better soon: that is remembered too.
            self._lose(key, "")
            return None
        file.key = key
        self._files[key] = file
        while len(self._files) > _OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        if file.elf.build_id and len(path) <= _MOST_PATH:
            if len(self._paths) >= _PATHS:
                self._paths.clear()
                self._keys.clear()
            self._paths[file.elf.build_id] = path
            self._keys[file.elf.build_id] = key
        return file

    def _read(self, fd: int, status: os.stat_result, path: str) -> File | None:
        """Read the first of an open file, and keep it open; None if it is no ELF file."""
        try:
            return File(fd, status, path, budget.of_a_file(self._work))
        except (BadElfError, struct.error):
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise

    def _lose(self, key: _Key, why: str) -> None:
        if len(self._lost) >= _LOST_FILES:
            self._lost.clear()
        self._lost[key] = (time.monotonic(), why)

    def _why_lost(self, key: _Key) -> str | None:
        """Say why a file is not read, "" if there is nothing to be said of it; None: it may be tried."""
        since_s, why = self._lost.get(key, (-_IDLE_S, ""))
        return why if time.monotonic() - since_s < _IDLE_S else None

    def shrink(self) -> None:
        """Forget files, those that were not asked for the longest first, while they take too much."""
        if self._work.spent < self._weigh_at:
            return  # nothing is kept that was not paid for
        self._weigh_at = self._work.spent + _WEIGHED_WORK
        size = self._read_bytes()
        while size > _FILES_BYTES:
            _, oldest = self._files.popitem(last=False)
            size -= oldest.kept_bytes
            oldest.close()

    def rest(self) -> None:
        """Close the files that nobody asked for lately; what was read of them is kept."""
        long_ago_s = time.monotonic() - _IDLE_S
        for key, file in list(self._files.items()):
            if not file.is_open or file.used_s > long_ago_s:
                continue
            file.close()
            if file.debug is not None:
                # It would have to be found again with it.
                del self._files[key]

    def close(self) -> None:
        """Close every file."""
        while self._files:
            self._files.popitem()[1].close()
        self._mounts.close()


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _keys_of(mapping: Mapping, pid: int | None) -> tuple[_Key, _Key]:
    """What a mapping's file is kept under: for all processes, or where that is in doubt, for one."""
    return (mapping.device, mapping.inode), (f"{mapping.device} of {pid}", mapping.inode)


def device_and_inode(status: os.stat_result) -> _Key:
    """Return the two as a line of maps has them."""
    return (device_name(os.major(status.st_dev), os.minor(status.st_dev)), status.st_ino)
