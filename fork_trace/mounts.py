"""Mounts: which file system a file is on, and whether that may be asked anything at all.

A file system that a server answers for can hang whoever asks it, for ever and beyond the reach of any
signal but SIGKILL: already a walk of its directories or a stat. So its type is told first, by numbers
that the kernel keeps itself: the device of a line in /proc/PID/maps, or the mount of an O_PATH
descriptor, each looked up in mountinfo (proc(5)).
"""

from __future__ import annotations

import os
import re
import select
from collections.abc import Container, Iterator
from typing import NamedTuple

from fork_trace.budget import Budget

# What the kernel answers for by itself. All else is not asked: FUSE, network and cluster file systems,
# autofs, and what is not known here.
_LOCAL = frozenset(
    {
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "bcachefs", "f2fs", "zfs", "jfs", "nilfs2"),
        *("reiserfs", "tmpfs", "ramfs", "rootfs", "devtmpfs", "hugetlbfs", "overlay", "squashfs"),
        *("erofs", "cramfs", "romfs", "iso9660", "udf", "vfat", "msdos", "exfat", "ntfs3"),
        *("ubifs", "jffs2", "hfsplus", "minix"),
    }
)
# A user can mount 100,000 in a namespace of his own; what is not read is not known, and not asked.
# Of ours the list is kept: 10,000 containers have some 4 MB.
_MOST_BYTES, _MOST_OWN_BYTES = 1 << 20, 4 << 20
# Of a mount; of a KB of a list: that the kernel writes it for us, that it is searched, that each is read.
_LOOK_COST, _WRITING_COST, _SEARCH_COST, _READING_COST = 10, 10, 3, 80
_LINE = re.compile(rb"^(\d+) \d+ (\d+):(\d+) (\S+) (\S+) [^\n]*? - (\S+)", re.M)
_ESCAPED = re.compile(rb"\\([0-7]{3})")


class UntouchedError(OSError):
    """The file was left alone for where it lies; the message says so, for people."""


class Mount(NamedTuple):
    """One line of mountinfo."""

    number: int
    device: str  # as a line of maps has it
    root: str  # the directory of its file system that is mounted
    point: str
    type: str


def device_name(major: int, minor: int) -> str:
    """Write a device number as /proc/PID/maps does."""
    return f"{major:02x}:{minor:02x}"


def _bytes(field: bytes) -> bytes:
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 8) & 0xFF]), field)


def _mount(line: re.Match[bytes]) -> Mount:
    number, major, minor, root, point, type_ = line.groups()
    return Mount(
        int(number),
        device_name(int(major), int(minor)),
        os.fsdecode(_bytes(root)),
        os.fsdecode(_bytes(point)),
        type_.decode("ascii", "replace"),
    )


class Mounts:
    """The mounts of one mountinfo, which can be so many that they are searched as they are."""

    def __init__(self, raw: bytes) -> None:
        self._raw = b"\n" + raw
        self.size = len(raw)

    def of_number(self, number: int) -> Mount | None:
        """Return the mount of a number; None: it is another's."""
        return self._line_at(self._raw.find(b"\n%d " % number) + 1)

    def of_device(self, device: str) -> Mount | None:
        """Return a mount of a file system; None: it is not mounted here."""
        return next(self.all_of_device(device), None)

    def all_of_device(self, device: str) -> Iterator[Mount]:
        """Return each mount of a file system."""
        major, _, minor = device.partition(":")
        if not minor:
            return
        # Nothing else begins so between two blanks: those within a field are written as \040.
        wanted, found = b" %d:%d /" % (int(major, 16), int(minor, 16)), -1
        while (found := self._raw.find(wanted, found + 1)) >= 0:
            mount = self._line_at(self._raw.rfind(b"\n", 0, found) + 1)
            if mount is not None:
                yield mount

    def at(self, path: str) -> Mount | None:
        """Return the mount that a path without links lies on; None: none is told."""
        found, longest, wanted = None, b"", os.fsencode(path) + b"/"
        for match in _LINE.finditer(self._raw):
            point = _bytes(match[5])
            # Of those on the same place the last one is seen.
            if len(point) >= len(longest) and wanted.startswith(point.rstrip(b"/") + b"/"):
                found, longest = match, point
        return None if found is None else _mount(found)

    def _line_at(self, begin: int) -> Mount | None:
        match = _LINE.match(self._raw, begin) if begin > 0 else None
        return None if match is None else _mount(match)


class OwnMounts:
    """Our own mounts, read again once they have changed.

    `relied_on` are the devices of what this program itself runs from: it waits for these anyhow.
    """

    def __init__(self, relied_on: Container[str] = (), proc: str = "/proc") -> None:
        self.relied_on = relied_on
        self._known: Mounts | None = None
        self._changes = select.poll()
        try:
            # Of ours alone the file is kept open: it holds on to all that is mounted there.
            self._fd = os.open(f"{proc}/self/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
            self._changes.register(self._fd, select.POLLPRI)
        except OSError:
            self._fd = -1  # then nothing is known to be local, and nothing is asked
        self.memory = _memory()

    def now(self) -> Mounts:
        """Return them as they are now."""
        has_changed = any(events & select.POLLERR for _, events in self._changes.poll(0))
        if self._known is None or has_changed:
            self._known = None
            try:
                os.lseek(self._fd, 0, os.SEEK_SET)
                self._known = Mounts(_read(self._fd, _MOST_OWN_BYTES))
            except OSError:
                return Mounts(b"")
        return self._known

    def of_device(self, device: str) -> Mount | None:
        """Return a mount of a file system of ours; None: it is not mounted here."""
        return self.memory if device == self.memory.device else self.now().of_device(device)

    def of_number(self, number: int) -> Mount | None:
        """Return one of our mounts; None: it is another's."""
        return self.memory if number == self.memory.number else self.now().of_number(number)

    def find(self, path: str, device: str, cost: Budget | None = None) -> list[str]:
        """Name the places where a path within a file system can be seen here; nothing is asked."""
        found = []
        for each in self.now().all_of_device(device):
            if cost is not None:
                cost.pay(_LOOK_COST)
            inner = each.root.rstrip("/")
            if path.startswith(f"{inner}/"):
                found.append(f"{each.point.rstrip('/')}{path[len(inner) :]}")
        return found

    def close(self) -> None:
        """Close their file; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


class View:
    """What a process sees mounted, behind what we do. Of no process: what we see ourselves.

    To look can raise OverBudgetError: whoever mounts much makes it dear.
    """

    def __init__(
        self,
        own: OwnMounts,
        pid: int | None = None,
        proc: str = "/proc",
        cost: Budget | None = None,
    ) -> None:
        self._own, self._proc, self._pid, self._cost = own, proc, pid, cost

    def _theirs(self) -> Mounts | None:
        """Read the mounts of the process; None: it is gone, or may not be seen."""
        if self._pid is None:
            return self._own.now()
        try:
            fd = os.open(f"{self._proc}/{self._pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return Mounts(_read(fd, _MOST_BYTES, self._cost))
        except OSError:
            return None
        finally:
            os.close(fd)

    def demand_device(self, device: str, path: str) -> None:
        """See to it that a mapped file may be looked at, by the two that maps tells; UntouchedError."""
        if device in self._own.relied_on:
            return
        self._pay(self._own.now().size * _SEARCH_COST)
        mount = self._own.of_device(device)
        if mount is None:
            theirs = self._theirs()
            if theirs is None:
                raise OSError("the process is gone")
            mount = theirs.of_device(device)
            if mount is None:
                self._pay(theirs.size * _READING_COST)
                # Before 6.8 (def3ae83da02, "fs: store real path instead of fake path in backing
                # file f_path") maps tells the device of the layer, which may be mounted nowhere.
                above = theirs.at(path)
                mount = above if above is not None and above.type == "overlay" else None
        self._demand(mount)

    def demand(self, fd: int) -> Mount:
        """Return the mount of an O_PATH descriptor if it may be asked; UntouchedError if not."""
        self._pay(self._own.now().size * _SEARCH_COST)
        # As long as it is open the mount's number is nobody else's: what is read now is true of it.
        number = mount_number(fd)
        mount = self._own.of_number(number)
        if mount is None and self._pid is not None:
            theirs = self._theirs()
            mount = None if theirs is None else theirs.of_number(number)
        return self._demand(mount)

    def _pay(self, size: int) -> None:
        if self._cost is not None:
            self._cost.pay(_LOOK_COST, size)

    def _demand(self, mount: Mount | None) -> Mount:
        if mount is None:
            raise UntouchedError("not read: its file system is mounted nowhere that can be seen")
        if mount.device in self._own.relied_on:
            return mount
        if mount.type not in _LOCAL:
            kind = mount.type.partition(".")[0][:32]
            raise UntouchedError(f"not read: its file system, {kind}, may never answer")
        if mount.type == "overlay" and self._is_of_strangers(mount):
            raise UntouchedError(
                "not read: its file system, overlay of another user namespace, may never answer"
            )
        return mount

    def _is_of_strangers(self, mount: Mount) -> bool:
        """Say whether an overlay may have been mounted by anybody, over a FUSE layer of his own.

        Whoever makes a user namespace may do so since 5.11 (459c7c565ac3, "ovl: unprivieged mounts").
        """
        if self._own.of_device(mount.device) is not None or self._pid is None:
            return False
        try:
            return os.readlink(f"{self._proc}/{self._pid}/ns/user") != os.readlink(
                f"{self._proc}/self/ns/user"
            )
        except OSError:
            return True


def mount_number(fd: int) -> int:
    """Return the number of the mount that a descriptor was opened on; OSError. The file is not asked."""
    info = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        raw = os.read(info, 4096)
    finally:
        os.close(info)
    _, _, rest = raw.partition(b"mnt_id:")
    if not rest:
        raise OSError("no mount is told")
    return int(rest.split(None, 1)[0])


def _memory() -> Mount:
    """Tell what memfd_create and shared memory lie on, which is mounted nowhere."""
    try:
        fd = os.memfd_create("fork-trace", os.MFD_CLOEXEC)
    except OSError:
        return Mount(-1, "", "/", "", "tmpfs")
    try:
        return Mount(mount_number(fd), _device(os.fstat(fd)), "/", "", "tmpfs")
    finally:
        os.close(fd)


def _device(status: os.stat_result) -> str:
    return device_name(os.major(status.st_dev), os.minor(status.st_dev))


def _read(fd: int, most: int, cost: Budget | None = None) -> bytes:
    pieces, size = [], 0
    # The kernel gives a page at a time: what is not paid for is one of them.
    while size < most and (piece := os.read(fd, 1 << 16)):
        if cost is not None:
            cost.pay(size=_WRITING_COST * len(piece))
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)
