"""One pass over /proc: the tasks of each user and pid namespace, the zombies, and the largest processes.

What the numbers are compared with is `limits`'; who holds one pool is `holders`'.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import field

from fork_trace.headroom.limits import (
    INITIAL_PID_NAMESPACE,
    INITIAL_USER_NAMESPACE,
    UNLIMITED,
    Process,
    Tally,
)
from fork_trace.host import holders, procfs
from fork_trace.model.dataclass import dataclass

BUDGET_S = 10.0  # a pass that is not through by then ends, and its numbers are lower bounds
LARGEST = 20  # processes kept of each kind
# Less of its own memory than this is no matter for copy-on-write.
_LEAST_ANON_KIB = 8 << 10
_MOST_ANON = 8192  # processes kept that have more
_MOST_ELSEWHERE = 1024
_ZOMBIES = 64  # numbers kept of the zombies of one parent: the first half of them and the last

# include/uapi/linux/capability.h
_CAP_SYS_ADMIN = 1 << 21
_CAP_SYS_RESOURCE = 1 << 24


@dataclass(frozen=True)
class Size:
    """What /proc/PID/status tells of one large process."""

    process: Process
    total_kib: int
    private_kib: int  # VmData and VmStk
    data_kib: int
    slots: int  # of the descriptor table
    is_admin: bool  # CAP_SYS_ADMIN, in the initial user namespace
    limits: procfs.SoftLimits | None = None

    def nearest(self, name: str) -> float:
        """Return which part of a soft limit is taken at most; 0 where there is none."""
        soft = self.limits
        if soft is None:
            return 0.0
        if name == "files":
            used, limit = self.slots, soft.files
        elif name == "data":
            used, limit = self.data_kib * 1024, soft.data
        else:
            used, limit = self.total_kib * 1024, soft.address_space
        if limit is None or limit == UNLIMITED:
            return 0.0
        return used / limit if limit else 1.0


@dataclass(frozen=True)
class Anonymous:
    """A process with memory of its own that a fork would share."""

    process: Process
    parent: int
    kib: int  # RssAnon


@dataclass(frozen=True)
class Elsewhere:
    """A process whose children would join another pid namespace than its own."""

    process: Process
    namespace: int  # inode
    tasks: int


@dataclass
class Survey:
    """What one pass found. Zombies count as tasks, as the kernel does."""

    own_user: int | None = None  # inode of our own namespaces
    own_pid: int | None = None
    tasks: int = 0
    processes: int = 0
    numbers: int | None = 0  # pid numbers in use that compete for what can be given out
    unseen: str | None = None  # why tasks are missing
    tallies: dict[tuple[int, int], Tally] = field(default_factory=dict)
    user_lineages: dict[int, list[tuple[int, int | None]]] = field(default_factory=dict)
    pid_tasks: Counter[int] = field(default_factory=Counter)  # of the namespaces below ours
    pid_lineages: dict[int, list[tuple[int, int | None]]] = field(default_factory=dict)
    unplaced: int = 0  # tasks of pid namespaces that we may not name
    zombies: Counter[int] = field(default_factory=Counter)  # by parent
    by_total: list[Size] = field(default_factory=list)
    by_private: list[Size] = field(default_factory=list)
    by_slots: list[Size] = field(default_factory=list)
    by_files: list[Size] = field(default_factory=list)  # nearest to RLIMIT_NOFILE, at most
    by_address_space: list[Size] = field(default_factory=list)  # nearest to RLIMIT_AS
    by_data: list[Size] = field(default_factory=list)  # nearest to RLIMIT_DATA
    anonymous: dict[int, Anonymous] = field(default_factory=dict)  # by pid
    elsewhere: list[Elsewhere] = field(default_factory=list)
    unjoined: int = 0  # processes of which we may not see where their children would be
    inits: set[int] = field(default_factory=set)  # pid namespaces whose init lives
    zombie_pids: dict[int, list[int]] = field(default_factory=dict)  # some of them, by parent
    user_namespaces: Counter[int] = field(default_factory=Counter)  # processes in each


@dataclass
class _Held:
    # The processes of one uid in one user namespace, while they are counted.
    tasks: int = 0
    lowest: int | None = None
    process: Process | None = None
    is_exempt: bool = True
    unread: int = 0
    is_guess: bool = False


def take(
    root: str = "/proc",
    first_number: int = 1,
    pid_max: int | None = None,
    clock: Callable[[], float] = time.monotonic,
    budget_s: float = BUDGET_S,
) -> Survey:
    """Read /proc once. `first_number` and `pid_max` bound the pid numbers that can be given out.

    OSError: /proc could not be read at all.
    """
    pass_ = _Pass(root, first_number, pid_max)
    end_s = clock() + budget_s
    pids = list(holders.pids(root))
    # The numbers above kernel.pid_max, once it was lowered, compete with nobody.
    pass_.is_lowered = pid_max is not None and any(pid >= pid_max for pid in pids)
    for done, pid in enumerate(pids):
        if clock() > end_s:
            left = len(pids) - done
            pass_.survey.unseen = f"{left} processes had not been read after {budget_s:.0f} s"
            break
        pass_.add(pid)
    return pass_.result(set(pids))


class _Pass:
    def __init__(self, root: str, first_number: int, pid_max: int | None) -> None:
        self.survey = Survey(
            own_user=holders.namespace_of(f"{root}/self/ns/user"),
            own_pid=holders.namespace_of(f"{root}/self/ns/pid"),
        )
        self.is_lowered = False
        self._root = root
        self._first = first_number
        self._end = pid_max
        self._held: dict[tuple[int, int], _Held] = {}
        # Kept alive by a group or session whose leader has ended (kernel/pid.c, detach_pid()).
        self._groups: set[int] = set()
        self._denied = 0
        self._own = procfs.own_pid(root)
        self._sizes: list[Size] = []
        if self.survey.own_pid != INITIAL_PID_NAMESPACE:
            self.survey.unseen = "this is not the host's own pid namespace"

    def add(self, pid: int) -> None:
        try:
            raw = holders.slurp(f"{self._root}/{pid}/status")
        except OSError:
            self._denied += 1  # hidepid=, proc(5)
            return
        if raw is None or not raw.startswith(b"Name:\t"):
            return
        try:
            self._count(pid, raw)
        except (ValueError, IndexError):
            return  # cut short, as the process has ended

    def _count(self, pid: int, raw: bytes) -> None:
        survey = self.survey
        comm_end = raw.index(b"\n")
        at = raw.index(b"\nState:\t", comm_end)
        is_dead = raw[at + 8 : at + 9] in (b"Z", b"X")
        parent = int(_line(raw, b"\nPPid:\t", at))
        uid = int(_line(raw, b"\nUid:\t", at).split(b"\t", 1)[0])
        # A zombie may have no threads any more, and is a task still.
        tasks = max(int(_line(raw, b"\nThreads:\t", at)), 1)
        survey.tasks += tasks
        survey.processes += 1
        process = Process(pid, holders.text(holders.comm_of(raw)))
        if is_dead:
            self._add_zombie(pid, parent)
        self._add_numbers(pid, tasks, raw, at)
        own = self._pid_namespace(pid, tasks, _words(raw, b"\nNSpid:\t", at), is_dead)
        capabilities = int(_line(raw, b"\nCapEff:\t", at) or b"0", 16)
        seen = self._user_namespace(pid)
        namespace = survey.own_user or 0 if seen is None else seen
        is_initial = namespace == INITIAL_USER_NAMESPACE
        if seen is not None:
            survey.user_namespaces[seen] += 1
        held = self._held.setdefault((namespace, uid), _Held())
        held.tasks += tasks
        held.is_guess = held.is_guess or seen is None
        total = _kib(raw, b"\nVmSize:\t", at)
        # kernel/fork.c, copy_process(): the host's root, and these two, in the initial namespace.
        may_pass = uid == 0 or capabilities & (_CAP_SYS_ADMIN | _CAP_SYS_RESOURCE)
        is_held = not (is_initial and may_pass) and not is_dead
        # Kernel threads have no memory and are held to nothing.
        limits = procfs.soft_limits(pid, self._root) if total or is_held else None
        if limits is not None and is_held:
            self._hold(held, process, limits.processes)
        # We ourselves are gone when this is read.
        if total and pid != self._own:
            is_admin = is_initial and bool(capabilities & _CAP_SYS_ADMIN)
            self._add_size(process, raw, at, is_admin, limits)
            self._add_anonymous(process, parent, _kib(raw, b"\nRssAnon:\t", at))
            self._add_elsewhere(process, tasks, own)

    def _add_zombie(self, pid: int, parent: int) -> None:
        survey = self.survey
        survey.zombies[parent] += 1
        pids = survey.zombie_pids.setdefault(parent, [])
        if len(pids) >= _ZOMBIES:
            del pids[_ZOMBIES // 2]
        pids.append(pid)

    def _add_size(
        self,
        process: Process,
        raw: bytes,
        at: int,
        is_admin: bool,
        limits: procfs.SoftLimits | None,
    ) -> None:
        data = _kib(raw, b"\nVmData:\t", at)
        self._sizes.append(
            Size(
                process,
                _kib(raw, b"\nVmSize:\t", at),
                data + _kib(raw, b"\nVmStk:\t", at),
                data,
                int(_line(raw, b"\nFDSize:\t", at) or b"0"),
                is_admin,
                limits,
            )
        )
        if len(self._sizes) >= 4096:
            self._keep_largest()

    def _add_anonymous(self, process: Process, parent: int, kib: int) -> None:
        if kib < _LEAST_ANON_KIB:
            return
        kept = self.survey.anonymous
        kept[process.pid] = Anonymous(process, parent, kib)
        if len(kept) > _MOST_ANON:
            largest = heapq.nlargest(_MOST_ANON // 2, kept.values(), lambda each: each.kib)
            self.survey.anonymous = {each.process.pid: each for each in largest}

    def _add_elsewhere(self, process: Process, tasks: int, own: int | None) -> None:
        if len(self.survey.elsewhere) >= _MOST_ELSEWHERE:
            return
        try:
            # None too where no child has been made in it yet: the next one is its init.
            children = holders.namespace_of(f"{self._root}/{process.pid}/ns/pid_for_children")
        except OSError:
            self.survey.unjoined += 1
            return
        if children not in (None, own):
            self.survey.elsewhere.append(Elsewhere(process, children or 0, tasks))

    def _add_numbers(self, pid: int, tasks: int, raw: bytes, at: int) -> None:
        survey = self.survey
        if survey.numbers is None:
            return
        if tasks > 1 and (pid < self._first or self.is_lowered):
            # Threads came after their leader, and so above it, unless the limit has moved.
            try:
                tids = list(holders.pids(f"{self._root}/{pid}/task"))
            except OSError:
                tids = [pid]
            survey.numbers += sum(map(self._is_counted, tids))
        elif self._is_counted(pid):
            survey.numbers += tasks
        for label in (b"\nNSpgid:\t", b"\nNSsid:\t"):
            numbers = _words(raw, label, at)
            if numbers:
                self._groups.add(int(numbers[0]))

    def _is_counted(self, number: int) -> bool:
        return number >= self._first and (self._end is None or number < self._end)

    def _pid_namespace(self, pid: int, tasks: int, depth: list[bytes], is_dead: bool) -> int | None:
        # None: it may not be told.
        survey = self.survey
        if len(depth) <= 1:
            return survey.own_pid
        path = f"{self._root}/{pid}/ns/pid"
        try:
            inode = holders.namespace_of(path)
            if inode is None:
                return None
            if inode not in survey.pid_lineages:
                survey.pid_lineages[inode] = holders.lineage(path)
        except OSError:
            survey.unplaced += tasks
            return None
        survey.pid_tasks[inode] += tasks
        # Its main thread may have ended before the others (pthread_exit in main).
        if depth[-1] == b"1" and (not is_dead or tasks > 1):
            survey.inits.add(inode)
        return inode

    def _user_namespace(self, pid: int) -> int | None:
        # None: we may not see it, and our own is a good guess. Of one that has ended, too.
        survey = self.survey
        path = f"{self._root}/{pid}/ns/user"
        try:
            inode = holders.namespace_of(path)
            if inode is None:
                return survey.own_user
            if inode != survey.own_user and inode not in survey.user_lineages:
                survey.user_lineages[inode] = holders.lineage(path)
        except OSError:
            return None
        return inode

    def _hold(self, held: _Held, process: Process, limit: int | None) -> None:
        held.is_exempt = False
        if limit is None:
            held.unread += 1
        # 0 is how a program says that it will never fork: no shortage.
        elif limit > 0 and (
            held.lowest is None
            or limit < held.lowest
            or (limit == held.lowest and held.process is None)
        ):
            held.lowest = limit
            # Not us: our limit is that of whoever started us.
            held.process = None if process.pid == self._own else process

    def _keep_largest(self) -> None:
        survey = self.survey
        for name, key in _RANKED.items():
            kept: list[Size] = getattr(survey, name)
            setattr(survey, name, heapq.nlargest(LARGEST, kept + self._sizes, key))
        self._sizes = []

    def result(self, listed: set[int]) -> Survey:
        survey = self.survey
        self._keep_largest()
        if survey.numbers is not None:
            survey.numbers += sum(self._is_counted(each) for each in self._groups - listed)
        for key, held in self._held.items():
            survey.tallies[key] = Tally(
                held.tasks, held.lowest, held.process, held.is_exempt, held.unread, held.is_guess
            )
        # Under hidepid=2 even the init of the host has no entry for others.
        if not survey.unseen and (self._denied or 1 not in listed):
            survey.unseen = "/proc hides other users' processes (hidepid)"
        return survey


_RANKED: dict[str, Callable[[Size], float]] = {
    "by_total": lambda each: each.total_kib,
    "by_private": lambda each: each.private_kib,
    "by_slots": lambda each: each.slots,
    "by_files": lambda each: each.nearest("files"),
    "by_address_space": lambda each: each.nearest("address_space"),
    "by_data": lambda each: each.nearest("data"),
}


def _line(raw: bytes, label: bytes, start: int) -> bytes:
    at = raw.find(label, start)
    if at < 0:
        return b""
    at += len(label)
    return raw[at : raw.index(b"\n", at)]


def _words(raw: bytes, label: bytes, start: int) -> list[bytes]:
    return _line(raw, label, start).split()


def _kib(raw: bytes, label: bytes, start: int) -> int:
    return int(_line(raw, label, start).split(b"kB")[0] or b"0")
