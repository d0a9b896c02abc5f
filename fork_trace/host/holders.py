"""Who holds a pool that ran out: a census of /proc right after the failure, rarely enough to cost little.

What a pool's numbers mean is `diagnosis`' and how they were read the kernel side's; nothing here forks.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Callable, NamedTuple

from fork_trace.model.dataclass import dataclass
from fork_trace.model.records import Holder

TOP = 5  # how many commands are named
FRESH_S = 10.0  # how long one reading of a pool stands for it
REST = 20  # after a reading that took t, none for REST * t: below 5 % of one CPU
BUDGET_S = 2.0  # a reading that is not through by then ends; samples wait meanwhile

# include/linux/proc_ns.h, PROC_USER_INIT_INO and PROC_PID_INIT_INO
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC
# ioctl_ns(2), Linux 4.9 and 4.11
_NS_GET_PARENT = 0xB702
_NS_GET_OWNER_UID = 0xB704

_COMMANDS = 4096  # counted apart at a time
_PARENTS = 256  # of zombies, named at most
_POOLS = 256  # remembered by a cache
_READ_BYTES = 8192

Clock = Callable[[], float]


@dataclass(frozen=True)
class Pool:
    """What ran out: kind is "host", "user", "cgroup" or "pid-namespace"."""

    kind: str
    uid: int | None = None  # user: the real uid, as the initial user namespace counts it
    namespace: int | None = None  # inode of the pid or user namespace; user: None counts all
    hierarchy: int = 0  # cgroup: as in /proc/PID/cgroup; 0 is v2
    path: str | None = None  # cgroup: as in /proc/PID/cgroup
    cgroup_id: int | None = None  # with that path: a service that starts anew has another


@dataclass(frozen=True)
class Holders:
    """The commands that hold most of a pool, most first.

    `total` counts the tasks and the zombies of all commands; None: /proc is so large that the time
    was up before its end, and every number is a lower bound.
    """

    top: tuple[Holder, ...]
    total: int | None


NOBODY = Holders((), 0)


def pool_of(
    kind: str,
    numbers: Mapping[str, int],
    uid: int | None,
    cgroup: str | None,
    pid: int,
    root: str = "/proc",
) -> Pool | None:
    """Return the pool of this kind that a failure found exhausted; None: there is none, or it is not known.

    `cgroup` is the path of the one that limits, as in /proc/PID/cgroup; `pid` is who failed.
    """
    if kind == "host":
        return Pool("host")
    if kind == "cgroup" and cgroup is not None:
        return Pool(
            "cgroup",
            hierarchy=numbers.get("pids_hierarchy", 0),
            path=cgroup,
            cgroup_id=numbers.get("pids_cgroup"),
        )
    if kind == "pid-namespace":
        namespace = numbers.get("pidns_inum")
        if numbers.get("pidns_level") == 0 or namespace == _INITIAL_PID_NAMESPACE:
            return Pool("host")
        return None if namespace is None else Pool("pid-namespace", namespace=namespace)
    if kind == "user":
        return _user_pool(numbers, uid, pid, root)
    return None


def _user_pool(numbers: Mapping[str, int], uid: int | None, pid: int, root: str) -> Pool | None:
    counted, level = numbers.get("nproc_uid"), numbers.get("nproc_level")
    if counted is None:
        # Before Linux commit 21d1c5e386bc ("Reimplement RLIMIT_NPROC on top of ucounts") (in
        # v5.14), a user's tasks were counted whatever their user namespace.
        return None if uid is None else Pool("user", uid=uid)
    if level == 0:
        return Pool("user", uid=counted, namespace=_INITIAL_USER_NAMESPACE)
    if level is None:
        return None
    try:
        line = lineage(f"{root}/{pid}/ns/user")
    except OSError:
        return None
    if len(line) <= level:
        return None
    return Pool("user", uid=counted, namespace=line[-1 - level][0])


def read(
    pool: Pool, root: str = "/proc", clock: Clock = time.monotonic, budget_s: float = BUDGET_S
) -> Holders | None:
    """Count who is in a pool now; None: /proc could not be read, or not all that it takes.

    A process is named by its main thread's comm and counted with all its threads. It belongs
    - to a user by its main thread's real uid, which its threads share unless a program took care
      that they do not (kernel/fork.c, copy_process, charges a real uid); with a namespace, to those that charge this user of it: its own tasks there, and all in the
      user namespaces below that it created (kernel/ucount.c, inc_rlimit_ucounts);
    - to a cgroup by its main thread's, or one below; threads that were moved out of it
      (cgroups(7), threaded mode, and v1) count with their process all the same;
    - to a pid namespace by its own, or one below: it holds a number in each (pid_namespaces(7)).

    A zombie counts in each pool until it is reaped, so it is put down to its parent, who has to do
    that. v1 shows a zombie in no cgroup (kernel/cgroup/cgroup.c, proc_cgroup_show): there it is
    taken to be where its parent is.

    /proc/PID/stat is not read: it adds up all threads of a process, before Linux commit 7601df8031fd
    ("fs/proc: do_task_stat: use sig->stats_lock to gather the threads/children stats") (in v6.8) with
    interrupts off, and who holds a pool can have tens of thousands of them.

    On an x86-64 machine, 1,000 processes that are all in the pool took 18 ms of CPU time for a host, 22
    to 26 for a user or a pid namespace, 24 for a v1 cgroup; those outside a cgroup 9. Threads cost
    nothing. The numbers are exact while nothing changes and no more than 4,096 commands differ.
    """
    try:
        return _read(pool, root, clock, budget_s)
    except (OSError, MemoryError):
        return None


def _read(pool: Pool, root: str, clock: Clock, budget_s: float) -> Holders | None:
    end_s = clock() + budget_s
    is_member = _membership(pool, root)
    census = _Census()
    unplaced: Counter[int] = Counter()  # zombies that v1 shows in no cgroup, by their parent
    is_whole = True
    for pid in pids(root):
        if clock() > end_s:
            is_whole = False
            break
        where = is_member(pid)
        if where is False:
            continue
        status = _status(root, pid)
        if status is None:
            continue
        if where is None and pool.kind == "user":
            where = status.uid == pool.uid
        elif where is None and status.is_dead:
            if status.threads <= 1:
                unplaced[status.parent] += 1
            else:
                where = _has_thread_inside(root, pid, is_member)
        if not where:
            continue
        if not status.is_dead:
            census.add(status.comm, pid, status.threads)
            continue
        census.zombies[status.parent] += 1
        if status.threads > 1:  # the main thread has ended, the others live
            census.add(status.comm, pid, status.threads - 1)
    for parent, count in unplaced.items():
        if is_member(parent):
            census.zombies[parent] += count
    return census.result(root, is_whole)


class _Status(NamedTuple):
    comm: bytes
    is_dead: bool
    parent: int
    uid: int  # real
    threads: int


def pids(root: str) -> Iterator[int]:
    """Name the processes of /proc, in its order."""
    # Not a list of all at once: there can be millions.
    with os.scandir(root) as entries:
        for entry in entries:
            name = entry.name
            if name.isdigit():
                yield int(name)


def slurp(path: str) -> bytes | None:
    """Read a whole file of /proc; None: its process is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        raw = os.read(fd, _READ_BYTES)
        if len(raw) == _READ_BYTES:
            while piece := os.read(fd, _READ_BYTES):
                raw += piece
        return raw
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)


def _status(root: str, pid: int) -> _Status | None:
    """Read what counts of /proc/PID/status (proc(5)); None: the process is gone."""
    raw = slurp(f"{root}/{pid}/status")
    if raw is None or not raw.startswith(b"Name:\t"):
        return None
    try:
        return _Status(
            comm_of(raw),
            raw[raw.index(b"\nState:\t") + 8 :][:1] in (b"Z", b"X"),
            _number(raw, b"\nPPid:\t"),
            _number(raw, b"\nUid:\t"),
            _number(raw, b"\nThreads:\t"),
        )
    except (IndexError, ValueError):
        return None


def comm_of(status: bytes) -> bytes:
    """Return the name that begins /proc/PID/status."""
    comm = status[6 : status.find(b"\n")]
    if b"\\" in comm:
        # Newline and backslash are escaped (fs/proc/array.c, proc_task_name): no line is forged.
        parts = comm.split(b"\\\\")
        comm = b"\\".join(part.replace(b"\\n", b"\n") for part in parts)
    return comm


def _number(raw: bytes, label: bytes) -> int:
    start = raw.index(label) + len(label)
    # At most ten digits; what follows is a newline or, after the real uid, a tab.
    return int(raw[start : start + 11].split()[0])


@dataclass
class _Group:
    """What one command holds, and its process that holds most."""

    pid: int = 0
    most: int = -1
    tasks: int = 0
    processes: int = 0
    zombies: int = 0

    @property
    def held(self) -> int:
        return self.tasks + self.zombies


class _Census:
    """Counts by command. Names are hostile and without number: the small ones are dropped in time."""

    def __init__(self) -> None:
        self.zombies: Counter[int] = Counter()  # by parent
        self._groups: dict[bytes, _Group] = {}
        self._tasks = 0

    def add(self, comm: bytes, pid: int, tasks: int) -> None:
        self._tasks += tasks
        group = self._group(comm)
        group.tasks += tasks
        group.processes += 1
        if tasks > group.most:
            group.pid, group.most = pid, tasks

    def _group(self, comm: bytes) -> _Group:
        group = self._groups.get(comm)
        if group is None:
            if len(self._groups) >= _COMMANDS:
                order = sorted(self._groups.items(), key=lambda item: -item[1].held)
                self._groups = dict(order[: _COMMANDS // 2])
            group = self._groups[comm] = _Group()
        return group

    def result(self, root: str, is_whole: bool) -> Holders:
        unnamed = 0
        for parent, count in self.zombies.most_common(_PARENTS):
            status = _status(root, parent)
            if status is None:  # the parent is outside our pid namespace
                unnamed += count
                continue
            is_inside = status.comm in self._groups
            group = self._group(status.comm)
            group.zombies += count
            most = count + (status.threads if is_inside else 0)
            if most > group.most:
                group.pid, group.most = parent, most
        found = [
            Holder(text(comm), group.pid, group.tasks, group.processes, group.zombies)
            for comm, group in self._groups.items()
        ]
        if unnamed:
            found.append(Holder(None, None, 0, 0, unnamed))
        found.sort(key=lambda each: (-each.tasks - each.zombies, each.comm or ""))
        total = self._tasks + sum(self.zombies.values())
        return Holders(tuple(found[:TOP]), total if is_whole else None)


def text(comm: bytes) -> str:
    """Turn a name of the kernel's into text, with what is no UTF-8 in it escaped."""
    return comm.decode("utf-8", "backslashreplace")


def _membership(pool: Pool, root: str) -> Callable[[int], bool | None]:
    """Return what says of a pid whether it is in the pool; None: its status has to decide.

    For a user, by the uid there; for a v1 cgroup, as what is shown outside can be a zombie.
    """
    if pool.kind == "host":
        return lambda pid: True
    if pool.kind == "cgroup":
        return _in_cgroup(pool, root)
    if pool.kind == "pid-namespace":
        return _in_pid_namespace(pool, root)
    return _of_user(pool, root)


def _in_cgroup(pool: Pool, root: str) -> Callable[[int], bool | None]:
    start = b"%d:" % pool.hierarchy
    path = (pool.path or "/").rstrip("/")
    # Many processes are in the same cgroups, and so their files are alike.
    known: dict[bytes, bool | None] = {}

    def decide(raw: bytes) -> bool | None:
        for line in raw.split(b"\n"):
            if line.startswith(start):
                where = text(line.split(b":", 2)[-1])
                if where == "/" and path and pool.hierarchy:
                    return None
                # cgroups(7): a zombie can be the last one of a cgroup that was removed.
                return where in (path or "/", f"{path} (deleted)") or where.startswith(f"{path}/")
        return False

    def is_member(pid: int) -> bool | None:
        raw = slurp(f"{root}/{pid}/cgroup")
        if raw is None:
            return False
        if raw not in known:
            if len(known) >= 1024:
                known.clear()
            known[raw] = decide(raw)
        return known[raw]

    return is_member


def _has_thread_inside(root: str, pid: int, is_member: Callable[[int], bool | None]) -> bool:
    """Ask a thread that lives where the main one has ended; /proc/TID works, though not listed."""
    try:
        tids = [int(name) for name in os.listdir(f"{root}/{pid}/task") if int(name) != pid]
    except (OSError, ValueError):
        return False
    return bool(tids and is_member(tids[0]))


def _in_pid_namespace(pool: Pool, root: str) -> Callable[[int], bool]:
    known: dict[int, bool] = {}

    def is_member(pid: int) -> bool:
        path = f"{root}/{pid}/ns/pid"
        try:
            own = namespace_of(path)
        except PermissionError:
            if _is_outermost(root, pid):
                return False
            raise
        if own is None:
            return False
        if own not in known:
            known[own] = own == pool.namespace or pool.namespace in dict(lineage(path))
        return known[own]

    return is_member


def _is_outermost(root: str, pid: int) -> bool:
    # proc(5), status: NSpid has one number for each pid namespace from ours down.
    _, found, rest = (slurp(f"{root}/{pid}/status") or b"").partition(b"\nNSpid:\t")
    return not found or b"\t" not in rest.partition(b"\n")[0]


def _of_user(pool: Pool, root: str) -> Callable[[int], bool | None]:
    known: dict[int, bool] = {}

    def charges(path: str) -> bool:
        # In a namespace below, it is the creator of the topmost of these who is charged.
        owner = None
        for inode, creator in lineage(path):
            if inode == pool.namespace:
                return owner == pool.uid
            owner = creator
        return False

    def is_member(pid: int) -> bool | None:
        if pool.namespace is None:
            return None
        path = f"{root}/{pid}/ns/user"
        try:
            own = namespace_of(path)
        except PermissionError:  # a security module may hide one process; its uid is a good guess
            return None
        if own is None:
            return False
        if own == pool.namespace:
            return None
        if own not in known:
            known[own] = charges(path)
        return known[own]

    return is_member


def namespace_of(path: str) -> int | None:
    """Return the inode of a namespace by its link in /proc/PID/ns; None: the process is gone."""
    try:
        link = os.readlink(path)
    except (FileNotFoundError, ProcessLookupError):
        return None
    inode = link.rpartition("[")[2].rstrip("]")
    return int(inode) if inode.isdigit() else None


def lineage(path: str) -> list[tuple[int, int | None]]:
    """Return inode and creator of a pid or user namespace and of all above it, as far as we see.

    Pid namespaces have no creator. Source: ioctl_ns(2). OSError: we may not look.
    """
    found: list[tuple[int, int | None]] = []
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return found
    try:
        while True:
            found.append((os.fstat(fd).st_ino, _owner(fd)))
            try:
                above = fcntl.ioctl(fd, _NS_GET_PARENT)
            except PermissionError:  # there is none, or it is outside our own
                return found
            os.close(fd)
            fd = above
    finally:
        os.close(fd)


def _owner(fd: int) -> int | None:
    try:
        raw = fcntl.ioctl(fd, _NS_GET_OWNER_UID, bytes(4))
    except OSError:
        return None
    return int.from_bytes(raw, sys.byteorder)


class HolderCache:
    """Reads pools seldom: each at most once in FRESH_S, all together a bounded share of the time."""

    def __init__(
        self, read: Callable[[Pool], Holders | None] = read, clock: Clock = time.monotonic
    ) -> None:
        self._read = read
        self._clock = clock
        self._kept: dict[Pool, tuple[float, Holders | None]] = {}
        self._rests_until = float("-inf")

    def look(self, pool: Pool | None) -> Holders | None:
        """Return who holds the pool, read now or less than FRESH_S ago; None: not read."""
        if pool is None:
            return None
        begin_s = self._clock()
        kept = self._kept.get(pool)
        if kept is not None and begin_s - kept[0] < FRESH_S:
            return kept[1]
        if begin_s < self._rests_until:
            return None
        found = self._read(pool)
        end_s = self._clock()
        self._rests_until = end_s + REST * (end_s - begin_s)
        # Whoever was there had gone: the next failure deserves a look of its own.
        if found is None or found.top:
            if len(self._kept) >= _POOLS:
                self._kept.pop(min(self._kept, key=lambda each: self._kept[each][0]))
            self._kept[pool] = (end_s, found)
        return found
