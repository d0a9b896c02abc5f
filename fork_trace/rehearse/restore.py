"""What a rehearsal borrows from the host, sysctls and cgroups, and how it gives them back.

Giving back needs no fork and no new descriptor: everything is opened when it is borrowed. What is
done with the borrowed things, and when, is rehearse's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import time
from dataclasses import dataclass, field

from fork_trace import files
from fork_trace.errors import ForkTraceError, NotHereError

# fsopen(2), fsconfig(2) and fsmount(2), Linux 5.2: one table for every architecture but alpha
# (include/uapi/asm-generic/unistd.h).
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_CMD_CREATE = 6

# How long a cgroup may stay busy after its last process was reaped.
_RMDIR_PATIENCE_S = 2.0

_PRIVATE = "/proc/self/fd/"


@dataclass
class Sysctl:
    """One open sysctl, with the text that it held when it was opened."""

    name: str
    fd: int
    original: bytes

    def read(self) -> bytes:
        """Return the text that the sysctl holds now, without the newline."""
        return os.pread(self.fd, 64, 0).strip()

    def write(self, text: bytes) -> None:
        """Write the whole value; position 0, as kernel.sysctl_writes_strict demands."""
        os.pwrite(self.fd, text, 0)


@dataclass
class PidsCgroups:
    """A line of own cgroups, top to leaf, with a limit of pids on the top one, or '' for none.

    With controller '' the hierarchy may have any or none.
    """

    base: str
    version: int
    name: str
    below: tuple[str, ...]
    controller: str = "pids"
    limit: str = "1"
    mount_fd: int = -1
    subtree_fd: int = -1
    made: list[str] = field(default_factory=list)

    @property
    def top(self) -> str:
        """The directory of the cgroup that holds the limit."""
        return os.path.join(self.base, self.name)

    @property
    def leaf(self) -> str:
        """The directory of the cgroup that the forking process enters."""
        return os.path.join(self.top, *self.below)

    def build(self) -> None:
        """Make the cgroups and set the limit; OSError says why it cannot be done here."""
        if self.version == 2 and self.controller:
            if self.controller not in files.text(self.base, "cgroup.controllers").split():
                raise OSError(errno.ENODEV, f"the hierarchy has no {self.controller} controller")
            self._hand_down()
        path = self.top
        for below in (*self.below, ""):
            os.mkdir(path, 0o755)
            self.made.append(path)
            if self.version == 2 and below:
                # Without it the leaf would have no counter of its own, and nothing would tell
                # a limit on an ancestor from a limit on the leaf.
                write_text(os.path.join(path, "cgroup.subtree_control"), f"+{self.controller}")
            path = os.path.join(path, below)
        if self.limit:
            write_text(os.path.join(self.top, "pids.max"), self.limit)

    def enter(self) -> None:
        """Move the calling process into the leaf; pids_can_attach() lets it in over any limit."""
        write_text(os.path.join(self.leaf, "cgroup.procs"), "0")

    def leave(self) -> None:
        """Move the calling process to the top of the hierarchy, so that the leaf can go."""
        write_text(os.path.join(self.base, "cgroup.procs"), "0")

    def counts(self) -> str:
        """Say what the limited cgroup counts, as 'pids.current 1 of pids.max 1'."""
        current = files.text(self.top, "pids.current").strip()
        limit = files.text(self.top, "pids.max").strip()
        return f"pids.current {current} of pids.max {limit}"

    def shown(self, path: str) -> str:
        """Return the path as a person can use it: a private mount has no name of its own."""
        if self.mount_fd < 0:
            return path
        return f"(private cgroup v{self.version} mount)" + path[len(self.base) :]

    def remove(self) -> None:
        """Remove what build made; needs every process of it gone and reaped."""
        while self.made:
            _rmdir(self.made[-1])
            self.made.pop()
        if self.subtree_fd >= 0:
            os.pwrite(self.subtree_fd, f"-{self.controller}".encode(), 0)
            os.close(self.subtree_fd)
            self.subtree_fd = -1
        if self.mount_fd >= 0:
            os.close(self.mount_fd)
            self.mount_fd = -1

    def _hand_down(self) -> None:
        path = os.path.join(self.base, "cgroup.subtree_control")
        if self.controller in files.text(path).split():
            return
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(fd, f"+{self.controller}".encode(), 0)
        except OSError:
            os.close(fd)
            raise
        self.subtree_fd = fd


class Borrowed:
    """Everything that one rehearsal holds of the host, to be given back by whoever lives longest."""

    def __init__(self, host_wide: bool) -> None:
        self._host_wide = host_wide
        self._sysctls: list[Sysctl] = []
        self._restore: list[Sysctl] = []
        self._cgroups: list[PidsCgroups] = []

    def demand_host_wide(self, what: str) -> None:
        """Refuse unless the caller allowed changes that other programs of the host feel."""
        if not self._host_wide:
            raise ForkTraceError(
                f"{what} makes forks fail on the whole host for some milliseconds.",
                "Add --host-wide on a host that may suffer that; all is restored afterwards.",
            )

    def sysctl(self, name: str, restore: bool = True) -> Sysctl:
        """Open a sysctl ('kernel/pid_max') to change it; the last one opened is restored first.

        With restore=False it is only watched, as its partner's restoring brings it back.
        """
        dotted = name.replace("/", ".")
        self.demand_host_wide(f"changing {dotted}")
        path = f"/proc/sys/{name}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise ForkTraceError(
                f"cannot open {path} for writing: {error.strerror}.",
                "Run as root on the host itself: /proc/sys is read-only in most containers.",
            ) from None
        sysctl = Sysctl(dotted, fd, os.pread(fd, 64, 0).strip())
        self._sysctls.append(sysctl)
        if restore:
            self._restore.append(sysctl)
        return sysctl

    def commit_limit(self) -> tuple[Sysctl, Sysctl]:
        """Open vm.overcommit_kbytes and vm.overcommit_memory, in the order of changing them.

        Writing kbytes zeroes vm.overcommit_ratio and the other way round (mm/util.c,
        overcommit_kbytes_handler()), so the one that was in force is the one to restore.
        """
        in_force = files.text("/proc/sys/vm/overcommit_kbytes").strip() != "0"
        kbytes = self.sysctl("vm/overcommit_kbytes", restore=in_force)
        self.sysctl("vm/overcommit_ratio", restore=not in_force)
        return kbytes, self.sysctl("vm/overcommit_memory")

    def pids_cgroups(
        self, *below: str, limit: str = "1", versions: tuple[int, ...] = (2, 1)
    ) -> PidsCgroups:
        """Make a cgroup with that pids.max and a line of cgroups below it, wherever pids lives.

        NotHereError: no hierarchy of these versions has pids.
        """
        return self._make_cgroups("pids", below, limit, versions)

    def memory_cgroup(self) -> PidsCgroups:
        """Make a cgroup with the memory controller and no limit, wherever memory lives."""
        return self._make_cgroups("memory", ())

    def plain_cgroup(self) -> PidsCgroups:
        """Make a cgroup of version 2 without any controller."""
        return self._make_cgroups("", (), versions=(2,))

    def _make_cgroups(
        self,
        controller: str,
        below: tuple[str, ...],
        limit: str = "",
        versions: tuple[int, ...] = (2, 1),
    ) -> PidsCgroups:
        refusals = []
        is_absent = True
        name = f"fork-trace-rehearse-{os.getpid()}"
        mounts = places(files.text("/proc/self/mountinfo"), controller)
        for version, base in (*mounts, *((each, "") for each in versions)):
            if version not in versions:
                continue
            cgroups = PidsCgroups(base, version, name, below, controller, limit)
            try:
                if not base:
                    cgroups.mount_fd = _mount_privately(version, controller)
                    cgroups.base = f"{_PRIVATE}{cgroups.mount_fd}"
                cgroups.build()
            except OSError as error:
                refusals.append(f"{base or f'private cgroup v{version} mount'}: {error.strerror}")
                is_absent = is_absent and error.errno == errno.ENODEV
                cgroups.remove()
                continue
            self._cgroups.append(cgroups)
            return cgroups
        if is_absent:
            wanted = f"cgroup v{versions[0]}" if len(versions) == 1 else "cgroup"
            raise NotHereError(
                f"this host has no {wanted} hierarchy for it ({'; '.join(refusals)}).",
                "Boot with the other cgroup layout: systemd.unified_cgroup_hierarchy=1 is v2 alone.",
            )
        raise ForkTraceError(
            f"cannot make a cgroup{controller and f' with a {controller} limit'} ({'; '.join(refusals)}).",
            "Run as root on the host, or in a container that may write its cgroup tree.",
        )

    def restore_sysctls(self) -> None:
        """Write the original sysctl values, unless all of them are in place already."""
        if any(sysctl.read() != sysctl.original for sysctl in self._sysctls):
            for sysctl in reversed(self._restore):
                sysctl.write(sysctl.original)

    def leave_cgroups(self) -> None:
        """Move the calling process out of the borrowed cgroups."""
        for cgroups in self._cgroups:
            cgroups.leave()

    def give_back(self) -> None:
        """Restore every sysctl and remove every cgroup; may be called again."""
        self.restore_sysctls()
        while self._sysctls:
            os.close(self._sysctls.pop().fd)
        self._restore.clear()
        while self._cgroups:
            self._cgroups.pop().remove()


def places(mountinfo: str, controller: str) -> list[tuple[int, str]]:
    """Return (cgroup version, directory) of each mount where a controller may live, v1 first.

    A v1 mount that lists it holds it for certain; a v2 mount holds it if no v1 hierarchy does.
    """
    found = []
    for line in mountinfo.splitlines():
        mount, _, source = line.partition(" - ")
        # A space is \040 there, proc_pid_mountinfo(5).
        where = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), mount.split()[4])
        kind, _, options = source.split(maxsplit=2)
        if kind == "cgroup" and controller in options.split(","):
            found.append((1, where))
        elif kind == "cgroup2":
            found.append((2, where))
    return sorted(found)


def _mount_privately(version: int, controller: str) -> int:
    """Return a descriptor of a cgroup mount that no namespace shows; closing it unmounts."""
    context = _syscall(_SYS_FSOPEN, b"cgroup2" if version == 2 else b"cgroup", _FSOPEN_CLOEXEC)
    try:
        if version == 1:
            _syscall(_SYS_FSCONFIG, context, _FSCONFIG_SET_FLAG, controller.encode(), None, 0)
        _syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
    finally:
        os.close(context)


def _syscall(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    wide = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *wide))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _rmdir(path: str) -> None:
    give_up_s = time.monotonic() + _RMDIR_PATIENCE_S
    while True:
        try:
            return os.rmdir(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            # EBUSY while the last reaped process still leaves (kernel/cgroup/cgroup.c,
            # cgroup_destroy_locked()).
            if error.errno != errno.EBUSY or time.monotonic() > give_up_s:
                raise
            time.sleep(0.005)


def write_text(path: str, text: str) -> None:
    """Write a file of /proc or a cgroup, in one write as these want it; it is never made."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
