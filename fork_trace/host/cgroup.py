"""Cgroup ids and paths, in the v2 hierarchy and the v1 one that holds the pids controller."""

from __future__ import annotations

import ctypes
import os
import re

from fork_trace.host import procfs
from fork_trace.model.dataclass import dataclass

# include/linux/exportfs.h: FILEID_KERNFS, a handle that is just the 64-bit id.
_FILEID_KERNFS = 0xFE
_ID_BYTES = 8
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MOST_KNOWN = 10_000  # paths that are remembered: container hosts make new cgroups for ever


class _FileHandle(ctypes.Structure):
    # struct file_handle, open_by_handle_at(2)
    _fields_ = [
        ("handle_bytes", ctypes.c_uint),
        ("handle_type", ctypes.c_int),
        ("id", ctypes.c_uint64),
    ]


@dataclass(frozen=True)
class Mount:
    """Where one cgroup hierarchy is mounted."""

    path: str
    is_v2: bool
    controllers: tuple[str, ...]  # of a v1 hierarchy
    root: str  # the cgroup at `path`; "/" unless in a container
    # It was mounted outside of our cgroup namespace: its root is as far up as can be seen from here.
    is_outer: bool = False


def _unescape(field: str) -> str:
    # proc(5), mountinfo: octal escapes of space, tab, newline and backslash
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def mounts(root: str = "/proc") -> list[Mount]:
    """List the cgroup mounts of this process' mount namespace (proc(5), mountinfo), without what they hide."""
    found: dict[str, Mount] = {}  # by path: what is mounted over another one comes after it
    try:
        with open(f"{root}/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                left, _, right = line.rstrip("\n").partition(" - ")
                fields, tail = left.split(" "), right.split(" ")
                if len(fields) < 5 or len(tail) < 3 or tail[0] not in ("cgroup", "cgroup2"):
                    continue
                path, mounted = _unescape(fields[4]), _unescape(fields[3])
                # kernel/cgroup/cgroup.c, cgroup_show_path(): relative to our namespace's own root
                inner = re.sub(r"^(/\.\.)+", "", mounted)
                found.pop(path, None)
                found[path] = Mount(
                    path=path,
                    is_v2=tail[0] == "cgroup2",
                    controllers=tuple(tail[2].split(",")),
                    root=inner or "/",
                    is_outer=inner != mounted,
                )
    except OSError:
        return []
    return list(found.values())


def _hierarchies(mount: Mount) -> list[str]:
    """Name the hierarchies of interest that a mount shows: v2, or the v1 ones of two controllers."""
    if mount.is_v2:
        return ["v2"]
    return [name for name in ("pids", "memory") if name in mount.controllers]


class CgroupPaths:
    """Finds the directory of a cgroup by its id, and remembers it: short-lived ones vanish."""

    def __init__(self, root: str = "/proc", lean: int = 1) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._most_known = _MOST_KNOWN // lean
        self._known: dict[tuple[str, int], str] = {}  # the one asked for longest ago comes first
        self._mounts = mounts(root)
        self._fds: dict[str, int] = {}
        for mount in self._mounts:
            for hierarchy in _hierarchies(mount):
                if hierarchy not in self._fds:
                    try:
                        self._fds[hierarchy] = os.open(mount.path, _DIRECTORY)
                    except OSError:
                        continue

    def is_pids_v2(self) -> bool:
        """Say whether the pids controller is v2's: true unless a v1 hierarchy of it is mounted."""
        return not any("pids" in mount.controllers for mount in self._mounts if not mount.is_v2)

    def directory(self, number: int, is_v2: bool = True, controller: str = "pids") -> str | None:
        """Return the directory of a cgroup id, as mounted here; None: not mounted, or gone unseen.

        In v1 a controller's hierarchy has ids of its own.
        """
        hierarchy = "v2" if is_v2 else controller
        known = self._known.pop((hierarchy, number), None)
        if known is not None:
            self._known[hierarchy, number] = known
            return known
        mount_fd = self._fds.get(hierarchy)
        if mount_fd is None:
            return None
        handle = _FileHandle(_ID_BYTES, _FILEID_KERNFS, number)
        fd = self._libc.open_by_handle_at(mount_fd, ctypes.byref(handle), _DIRECTORY)
        if fd < 0:
            return None
        try:
            path = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            return None
        finally:
            os.close(fd)
        if path.endswith(" (deleted)"):
            return None
        path = os.fsencode(path).decode("utf-8", "backslashreplace")
        self._remember(hierarchy, number, path)
        return path

    def is_gone(self, number: int, is_v2: bool, controller: str = "pids") -> bool:
        """Say whether the cgroup of an id is seen to be gone, though another one may be at its path by now."""
        directory = self._known.get(("v2" if is_v2 else controller, number))
        if directory is None:
            return False
        try:
            return os.stat(directory).st_ino != number
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def _remember(self, hierarchy: str, number: int, directory: str) -> None:
        if len(self._known) >= self._most_known:
            del self._known[next(iter(self._known))]
        self._known[hierarchy, number] = directory

    def note(self, number: int, is_v2: bool, path: str, controller: str = "pids") -> None:
        """Remember the path, from its hierarchy's root, of a cgroup that is gone when looked for."""
        if self.directory(number, is_v2, controller) is not None:
            return
        hierarchy = "v2" if is_v2 else controller
        for mount in self._mounts:
            root = mount.root.rstrip("/")
            if hierarchy in _hierarchies(mount) and (path + "/").startswith(root + "/"):
                self._remember(hierarchy, number, mount.path + path[len(root) :].rstrip("/"))
                return

    def relative(self, directory: str) -> str:
        """Turn a directory into the path that /proc/PID/cgroup would show."""
        for mount in sorted(self._mounts, key=lambda each: -len(each.path)):
            if directory == mount.path or directory.startswith(mount.path + "/"):
                return mount.root.rstrip("/") + directory[len(mount.path) :] or "/"
        return directory

    def find(self, text: str) -> int | None:
        """Find the id of the cgroup that a user names by path, where the pids controller is."""
        is_v2 = self.is_pids_v2()
        for mount in self._mounts:
            if mount.is_v2 != is_v2 or not (is_v2 or "pids" in mount.controllers):
                continue
            inside = text[len(mount.path) :] if text.startswith(mount.path) else text
            parts = [part for part in inside.split("/") if part]
            directory = os.path.join(mount.path, *parts)
            if ".." in parts or not os.path.isdir(directory):
                return None
            return os.stat(directory).st_ino
        return None

    def close(self) -> None:
        """Close the mounts."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}


def files_and_kernel(directory: str) -> int | None:
    """Return what files and the kernel hold of a memory cgroup, in bytes; None: it cannot be read."""
    try:
        with open(os.path.join(directory, "memory.stat"), encoding="ascii") as file:
            found = {name: int(value) for name, value in (line.split() for line in file)}
    except (OSError, ValueError):
        return None
    files = found.get("file", found.get("total_cache"))  # of v2, of v1
    if files is None:
        return None
    return files + found.get("kernel", found.get("slab", 0) + found.get("kernel_stack", 0))


def processes(directory: str, most: int) -> list[int] | None:
    """Return the processes in a cgroup and in those below; None: they are too many, or not to be read."""
    found: list[int] = []
    for place, _, _ in os.walk(directory):
        try:
            with open(os.path.join(place, "cgroup.procs"), encoding="ascii") as file:
                found += [int(line) for line in file]
        except (OSError, ValueError):
            return None
        if len(found) > most:
            return None
    return found


def ancestor(path: str, levels: int) -> str | None:
    """Return the cgroup that many levels up a path such as /a/b; None if there are not as many."""
    parts = [part for part in path.split("/") if part]
    if levels > len(parts):
        return None
    return "/" + "/".join(parts[: len(parts) - levels])


def has_room(root: str = "/proc") -> bool:
    """Say whether pids.max of this process' cgroup and of those above it allows another task; unread it does."""
    lines = procfs.cgroups(os.getpid(), root)
    for mount in mounts(root):
        name = "" if mount.is_v2 else "pids"
        paths = [each.path for each in lines if name in each.controllers.split(",")]
        if not paths or name not in ("", *mount.controllers):
            continue
        path, levels = paths[0][len(mount.root.rstrip("/")) :], 0
        while (above := ancestor(path, levels)) is not None:
            directory = mount.path + above
            used = procfs.number("pids.current", directory)
            limit = procfs.number("pids.max", directory)
            if used is not None and limit is not None and used >= limit:
                return False
            levels += 1
    return True
