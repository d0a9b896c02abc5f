"""How near each limit of a fork is: readings in, headroom out. Pure: reading is survey's, procfs' and cgroup's.

Everywhere "used reaches limit" means that the kernel refuses the next one, so 100 % is the limit
itself. What is not known is None with a reason, and never counts as fine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fork_trace.diagnosis.cause import Cause
from fork_trace.diagnosis.causes.descriptors import FD_TABLE_LIMIT, FILE_MAX, RLIMIT_NOFILE
from fork_trace.diagnosis.causes.late import COPY_ON_WRITE
from fork_trace.diagnosis.causes.memory import (
    MEMORY_CGROUP,
    OVERCOMMIT_HEURISTIC,
    OVERCOMMIT_NEVER,
    THREAD_STACK,
)
from fork_trace.diagnosis.causes.namespaces import NAMESPACE_LIMIT, PID_NAMESPACE_DEAD
from fork_trace.diagnosis.causes.tasks import PID_MAX, PIDS_CGROUP, RLIMIT_NPROC, THREADS_MAX
from fork_trace.model.dataclass import dataclass

# include/uapi/asm-generic/resource.h: RLIM_INFINITY, "unlimited"
UNLIMITED = (1 << 64) - 1
# kernel/pid.c: RESERVED_PIDS, not given out again once the count has passed them
RESERVED_PIDS = 300
# include/linux/proc_ns.h: PROC_USER_INIT_INO and PROC_PID_INIT_INO
INITIAL_USER_NAMESPACE = 0xEFFFFFFD
INITIAL_PID_NAMESPACE = 0xEFFFFFFC

HOST = "the whole host"
# Near as well when there is room for fewer tasks than this; a limit below the other is only ever full.
LEAST_LEFT, _SMALL = 50, 10
# Worst first.
LEVELS = ("full", "near", "unknown", "fine")
_NOT_TOLD = "/proc does not show it"
# What a small process is charged for: its stack in the kernel, its page tables, what describes it.
_FORK_KIB = 256
# A snapshot lasts minutes. Workers that have shared their memory for so long do not write it.
_SETTLED_S = 3600
_MAPPINGS_A_THREAD = 2  # its stack, and the guard page before it

# (inode, creator) of a namespace and of all above it that we may see, the own one first.
Lineages = Mapping[int, Sequence[tuple[int, "int | None"]]]


@dataclass(frozen=True)
class Process:
    """One process, as a person looks for it."""

    pid: int
    comm: str


@dataclass(frozen=True)
class Headroom:
    """One limit, and how much of it is used."""

    cause: str  # what a refusal would be called
    name: str  # the setting, as in the evidence of a failure
    used: int | None
    limit: int | None
    unit: str
    where: str
    why: str | None = None  # why a number is not known, or not the whole
    is_at_least: bool = False  # `used` is a lower bound
    free: str | None = None  # why nothing is refused here; None: something can be
    note: str | None = None
    setting: int | None = None  # what the setting holds, where `limit` follows from it
    hits: int | None = None  # how often it was reached, where the kernel counts that
    uid: int | None = None
    namespace: int | None = None  # inode
    process: Process | None = None
    peak: int | None = None  # the most so far, where the kernel keeps it
    per_task: int | None = None  # how much one task takes, where it is tasks that run out
    refuses: str | None = None  # why each fork there is refused, whatever the numbers
    is_vital: bool = False  # everybody may read it: not to know it is a failure of the check
    default: str | None = None  # the default that the limit probably comes from
    is_never_near: bool = False  # many are close to it all the time, and well

    @property
    def tasks_left(self) -> int | None:
        """Return how many more tasks there is room for; None: not known, or not counted in tasks."""
        if self.per_task is None or self.used is None or self.limit is None:
            return None
        return max(self.limit - self.used, 0) // self.per_task

    @property
    def percent(self) -> float | None:
        """Return the part that is used; None: not known, or nothing is refused."""
        if self.refuses:
            return 100.0
        if self.free or self.used is None or self.limit is None:
            return None
        # Nothing of nothing is full: pids.max may be 0.
        return 100.0 * self.used / self.limit if self.limit > 0 else 100.0

    def level(self, near: float, full: float, least_left: int = LEAST_LEFT) -> str:
        """Return one of LEVELS by these percentages, and by the tasks that there is room for."""
        if self.free:
            return "fine"
        if self.refuses:
            return "full"
        if self.percent is None:
            return "unknown"
        if self.percent >= full:
            return "full"
        if self._is_near(near, least_left):
            return "near"
        return "unknown" if self.is_at_least else "fine"

    def _is_near(self, near: float, least_left: int) -> bool:
        if self.is_never_near:
            return False
        left = self.tasks_left
        if left is None or self.per_task is None or self.limit is None:
            return self.percent is not None and self.percent >= near
        if self.limit // self.per_task < _SMALL:
            return False  # so small a limit is always near
        return left < least_left or (self.percent is not None and self.percent >= near)


@dataclass(frozen=True)
class Tally:
    """The tasks of one real uid in one user namespace."""

    tasks: int
    lowest: int | None  # soft RLIMIT_NPROC of those that are held to it; None: not read
    process: Process | None  # which has the lowest
    is_exempt: bool  # none of its processes is held to it
    unread: int = 0  # processes whose limit was not told
    is_guess: bool = False  # the user namespace of some was not told, and ours assumed


@dataclass(frozen=True)
class Big:
    """One large process: what its fork would ask for."""

    process: Process
    total_kib: int  # VmSize
    asks_kib: int | None  # all that fork would charge
    largest_kib: int | None  # the largest single mapping of it
    is_admin: bool  # CAP_SYS_ADMIN, in the initial user namespace
    is_estimate: bool  # by VmData and VmStk, as smaps was not read
    why: str | None = None
    has_reaped: bool | None = None  # it has waited for a child before; None: not told


@dataclass(frozen=True)
class Memory:
    """What the overcommit rule reads; in KiB."""

    mode: int | None
    committed: int | None = None
    commit_limit: int | None = None
    admin_reserve: int | None = None
    user_reserve: int | None = None
    ram_and_swap: int | None = None


@dataclass(frozen=True)
class Numbers:
    """The pid numbers of one namespace: those in use that compete for what can be given out."""

    used: int | None
    pid_max: int | None
    last: int | None = None  # the last number given out, which tells if the reserved ones are gone
    is_at_least: bool = False
    why: str | None = None


@dataclass(frozen=True)
class CgroupLimit:
    """One cgroup with a pids.max."""

    directory: str
    current: int | None
    limit: int | None
    hits: int | None  # "max" of pids.events
    peak: int | None = None  # pids.peak
    default: str | None = None  # as in Headroom


@dataclass(frozen=True)
class Most:
    """The process that has most of something, with the highest value; None: not told, and why."""

    process: Process
    value: int | None
    why: str | None = None


def headroom(
    cause: Cause,
    used: int | None,
    limit: int | None,
    where: str,
    why: str | None = None,
    **more: Any,
) -> Headroom:
    """Compare what a cause counts with its limit, under the names that the cause has for them."""
    assert cause.check is not None
    gauge = cause.check
    return Headroom(cause.slug, gauge.name, used, limit, gauge.unit, where, why, **more)


def threads(used: int | None, limit: int | None) -> Headroom:
    """Compare all threads of the host with kernel.threads-max."""
    why = _NOT_TOLD if None in (used, limit) else None
    return headroom(THREADS_MAX, used, limit, HOST, why, per_task=1, is_vital=True)


def cgroups(found: Iterable[CgroupLimit]) -> list[Headroom]:
    """Compare each limited pids cgroup with its limit; ancestors are cgroups like others."""
    return [
        headroom(
            *(PIDS_CGROUP, each.current, each.limit, each.directory),
            why="its files could not be read" if None in (each.current, each.limit) else None,
            hits=each.hits,
            peak=each.peak,
            default=each.default,
            per_task=1,
        )
        for each in found
    ]


def first_number(last: int | None) -> int:
    """Return the least number that the kernel gives out, by the last one that it gave."""
    # kernel/pid.c, alloc_pid(): by the cursor, which is one above the last number.
    return 1 if last is not None and last + 1 <= RESERVED_PIDS else RESERVED_PIDS


def host_numbers(numbers: Numbers, where: str, is_vital: bool = True) -> Headroom:
    """Compare the numbers of our own pid namespace with what kernel.pid_max leaves of them."""
    limit = None
    if numbers.pid_max is not None:
        limit = numbers.pid_max - first_number(numbers.last)
    why = numbers.why or (_NOT_TOLD if None in (numbers.used, limit) else None)
    return headroom(
        *(PID_MAX, numbers.used, limit, where),
        why=why,
        is_at_least=numbers.is_at_least,
        setting=numbers.pid_max,
        namespace=INITIAL_PID_NAMESPACE if where == HOST else None,
        per_task=1,
        is_vital=is_vital,
    )


def nested_numbers(
    tasks: Mapping[int, int],
    lineages: Lineages,
    own: int | None,
    pid_max: int | None,
    is_by_namespace: bool | None,
) -> list[Headroom]:
    """Compare each pid namespace below ours; `tasks` has those of each, without the ones below."""
    held: dict[int, int] = {}
    levels: dict[int, int] = {}
    for inode, count in tasks.items():
        line = [each for each, _ in lineages.get(inode, ())]
        if own in line:
            line = line[: line.index(own)]
        for up, each in enumerate(line):
            held[each] = held.get(each, 0) + count
            levels[each] = len(line) - up
    found = []
    for inode, count in held.items():
        where = f"pid namespace {inode} (level {levels[inode]})"
        # Since Linux commit 7863dcc72d0f ("pid: allow pid_max to be set per pid namespace") (in
        # v6.14), each has its own, which shows only to those inside. Before that, there is one.
        limit = why = None
        if is_by_namespace is False and pid_max is not None:
            limit = pid_max - RESERVED_PIDS
        else:
            why = "its kernel.pid_max is readable only from inside (4194304 unless lowered)"
        found.append(
            headroom(
                *(PID_MAX, count, limit, where),
                why=why,
                setting=pid_max if limit is not None else None,
                namespace=inode,
                per_task=1,
            )
        )
    return found


def users(
    tallies: Mapping[tuple[int, int], Tally],
    lineages: Lineages,
    own: int | None,
    is_by_namespace: bool | None,
    unseen: str | None,
) -> list[Headroom]:
    """Compare each user with RLIMIT_NPROC as the kernel counts it.

    `tallies` is by (user namespace, real uid), without what namespaces below charge to it; `unseen`
    says why not all tasks of a user are seen, or is None.
    """
    # Since Linux commit 21d1c5e386bc ("Reimplement RLIMIT_NPROC on top of ucounts") (in v5.14), a
    # user is counted in each user namespace, and charged for those below that it made. Before
    # that, once for the host.
    charged: dict[tuple[int | None, int], int] = {}
    direct: dict[tuple[int | None, int], list[Tally]] = {}
    for (namespace, uid), tally in tallies.items():
        home = (namespace if is_by_namespace else None, uid)
        direct.setdefault(home, []).append(tally)
        charged[home] = charged.get(home, 0) + tally.tasks
        if not is_by_namespace:
            continue
        line = list(lineages.get(namespace, ()))
        for (_, creator), (above, _) in zip(line, line[1:]):
            if creator is not None:
                charged[(above, creator)] = charged.get((above, creator), 0) + tally.tasks
    found = []
    for (home_namespace, uid), count in charged.items():
        held = [each for each in direct.get((home_namespace, uid), []) if not each.is_exempt]
        is_own = home_namespace in (None, own)
        note = None
        if is_by_namespace is None and len({key[0] for key in tallies}) > 1:
            note = "across all user namespaces: this kernel does not say how it counts"
        elif any(each.is_guess for each in held):
            note = "some may be in user namespaces that count separately, which cannot be read"
        first = headroom(
            *(RLIMIT_NPROC, count, None),
            f"uid {uid}" if is_own else f"uid {uid} in user namespace {home_namespace}",
            uid=uid,
            namespace=home_namespace,
            is_at_least=unseen is not None,
            note=note,
            per_task=1,
        )
        found.append(_user(first, held, bool(direct.get((home_namespace, uid))), own, unseen))
    return found


def _user(
    first: Headroom, held: Sequence[Tally], has_tasks: bool, own: int | None, unseen: str | None
) -> Headroom:
    if first.uid == 0 and own == INITIAL_USER_NAMESPACE and first.namespace in (None, own):
        return replace(first, free="root is exempt", is_at_least=False)
    if not held:
        if has_tasks:
            free = "exempt: CAP_SYS_ADMIN or CAP_SYS_RESOURCE"
            return replace(first, free=free, is_at_least=False)
        return replace(first, why="the limit of whoever created its namespaces is not visible")
    known = [each for each in held if each.lowest is not None]
    unread = sum(each.unread for each in held)
    if not known:
        if not unread:
            return replace(
                first,
                free="its processes have RLIMIT_NPROC 0, or have exited",
                is_at_least=False,
            )
        return replace(first, why="cannot read /proc/PID/limits")
    lowest = min(known, key=lambda each: each.lowest or 0)
    if unread:
        first = replace(first, why=f"cannot read /proc/PID/limits of {unread} processes")
    else:
        first = replace(first, why=unseen)
    first = replace(first, process=lowest.process)
    if lowest.lowest == UNLIMITED:
        return replace(first, free=None if unread else "unlimited", is_at_least=False)
    return replace(first, limit=lowest.lowest, is_at_least=first.is_at_least or bool(unread))


def memory(state: Memory, biggest: Sequence[Big]) -> list[Headroom]:
    """Say how far memory is from a refusal, by the overcommit mode in force."""
    if state.mode == 1:
        return [
            headroom(
                *(OVERCOMMIT_NEVER, state.committed, None, HOST),
                free="vm.overcommit_memory is 1: never refused",
            )
        ]
    if state.mode == 0:
        # Since Linux commit 8c7829b04c52 ("mm: fix false-positive OVERCOMMIT_GUESS failures") (in
        # v5.2), only a single mapping above RAM and swap is refused. Before that, free memory
        # counted, which cannot be told from here.
        return [
            _asking(OVERCOMMIT_HEURISTIC, big, big.largest_kib, 0, state.ram_and_swap)
            for big in biggest
        ]
    if state.mode != 2:
        return [
            headroom(
                *(OVERCOMMIT_NEVER, None, None, HOST),
                why="vm.overcommit_memory could not be read",
                is_vital=True,
            )
        ]
    # mm/util.c, __vm_enough_memory(): what is kept back for root, and for everybody to recover.
    root_limit = state.commit_limit
    other_limit = None
    if root_limit is not None and state.admin_reserve is not None:
        other_limit = max(root_limit - state.admin_reserve, 0)
    why = _NOT_TOLD if None in (state.committed, other_limit) else None
    found = [
        headroom(
            *(OVERCOMMIT_NEVER, state.committed, limit),
            f"{HOST}, {who}",
            why=why,
            setting=state.commit_limit,
        )
        for limit, who in ((other_limit, "without CAP_SYS_ADMIN"), (root_limit, "for root"))
    ]
    for big in biggest:
        limit = root_limit if big.is_admin else other_limit
        if limit is not None and state.user_reserve is not None:
            limit = max(limit - min(big.total_kib // 32, state.user_reserve), 0)
        found.append(_asking(OVERCOMMIT_NEVER, big, big.asks_kib, state.committed, limit))
    return found


def _asking(
    cause: Cause, big: Big, asks: int | None, already: int | None, limit: int | None
) -> Headroom:
    used = None if asks is None or already is None else already + asks
    why = big.why or (_NOT_TOLD if None in (used, limit) else None)
    of_what = "including the copy that its fork would ask for" if already else ""
    estimate = "estimated from VmData and VmStk" if big.is_estimate else ""
    never = "it has waited for no child so far, and if it never forks nothing is refused"
    return headroom(
        *(cause, used, limit, f"process {big.process.pid}"),
        why=why,
        note="; ".join(filter(None, (of_what, estimate, never if big.has_reaped is False else "")))
        or None,
        process=big.process,
    )


def descriptor_tables(most: Sequence[Most], nr_open: int | None) -> list[Headroom]:
    """Compare the highest open descriptors with fs.nr_open, as fork does."""
    # fs/file.c, alloc_fdtable(): a table has a multiple of 64 slots, at most nr_open.
    limit = None if nr_open is None else nr_open // 64 * 64
    return [
        headroom(
            *(FD_TABLE_LIMIT, each.value, limit),
            f"process {each.process.pid}",
            why=each.why or (_NOT_TOLD if None in (each.value, limit) else None),
            note="the highest open one; a table has a multiple of 64 slots",
            setting=nr_open,
            process=each.process,
        )
        for each in most
    ]


def open_files(used: int | None, limit: int | None) -> Headroom:
    """Compare the open files of the host with fs.file-max, which a fork with a pidfd needs."""
    why = _NOT_TOLD if None in (used, limit) else None
    note = "checked for CLONE_PIDFD only, and not for root"
    return headroom(FILE_MAX, used, limit, HOST, why, note=note)


def mappings(most: Sequence[Most], limit: int | None) -> list[Headroom]:
    """Compare the mappings of the largest processes with vm.max_map_count; a thread needs two more."""
    return [
        headroom(
            *(THREAD_STACK, each.value, limit),
            f"process {each.process.pid}",
            why=each.why or (_NOT_TOLD if None in (each.value, limit) else None),
            note=_room(each.value, limit),
            process=each.process,
            per_task=_MAPPINGS_A_THREAD,
        )
        for each in most
    ]


def _room(value: int | None, limit: int | None) -> str | None:
    if value is None or limit is None:
        return None
    return f"room for {max(limit - value, 0) // _MAPPINGS_A_THREAD} more threads"


def open_descriptors(most: Sequence[Most], limits: Mapping[int, int]) -> list[Headroom]:
    """Compare the open descriptors of processes with their soft RLIMIT_NOFILE, by pid."""
    return [
        headroom(
            *(RLIMIT_NOFILE, each.value, limits[each.process.pid]),
            f"process {each.process.pid}",
            why=each.why or (_NOT_TOLD if each.value is None else None),
            note="fork takes none, but popen's pipe and a pidfd do",
            process=each.process,
        )
        for each in most
    ]


def stacks(name: str, process: Process, used: int, stack: int, limit: int) -> Headroom:
    """Compare RLIMIT_AS or RLIMIT_DATA of a process with what it has and one more stack; in KiB."""
    room = max(limit - used, 0) // max(stack, 1)
    return replace(
        headroom(THREAD_STACK, used + stack, limit, f"process {process.pid}", process=process),
        name=name,
        unit="KiB",
        note=f"including a stack of {_mib(stack)} for one more thread; room for {room}",
    )


def dead_namespace(process: Process, namespace: int, tasks: int, why: str | None) -> Headroom:
    """Say that no child of a process can be made, as its pid namespace is dead; `why` not known."""
    return headroom(
        *(PID_NAMESPACE_DEAD, None, None, f"pid namespace {namespace}", why),
        note="its children would join a pid namespace that has no init any more"
        if why is None
        else None,
        process=process,
        namespace=namespace,
        refuses=None if why else "its init has exited",
    )


def unseen_namespaces(count: int) -> Headroom:
    """Say of how many processes it is not known whether their pid namespace is dead."""
    why = "which pid namespace a child would join is readable only with CAP_SYS_PTRACE"
    return headroom(PID_NAMESPACE_DEAD, None, None, f"{count} process{'es' * (count > 1)}", why)


def namespaces(
    kind: str, used: int | None, limit: int, own: int | None, why: str | None = None
) -> Headroom:
    """Compare the namespaces of a type that processes are in with what one user may have of them.

    `own` is our own user namespace, which has that limit.
    """
    name = f"user.max_{kind}_namespaces"
    return replace(
        headroom(
            *(NAMESPACE_LIMIT, used, limit),
            HOST if own in (None, INITIAL_USER_NAMESPACE) else f"user namespace {own}",
            why,
        ),
        name=name,
        free=f"{name} is 0" if limit == 0 else None,
        note="those of all users together, as far as a process is in them",
    )


@dataclass(frozen=True)
class Room:
    """Where the copies would have to go: what is held there, what there is; in KiB."""

    where: str
    held: int
    limit: int
    setting: int | None = None  # where `limit` has the swap added


def memory_cgroups(rooms: Iterable[Room]) -> list[Headroom]:
    """Say of memory cgroups at their limit whether one more fork can be charged without a kill."""
    return [
        headroom(
            *(MEMORY_CGROUP, each.held + _FORK_KIB, each.limit, each.where),
            note=f"what it can neither drop nor swap, and {_FORK_KIB} KiB for one more fork",
            setting=each.setting,
            is_never_near=True,
        )
        for each in rooms
    ]


@dataclass(frozen=True)
class Family:
    """A process and its children that were forked and have executed nothing since; in KiB."""

    parent: Process
    child: Process  # the one that shares most
    children: int
    shared: int | None  # what the child still shares; None: not told
    at_most: int  # its own memory, shared or not
    age_s: float | None  # of the child
    why: str | None = None


def exposure(family: Family, rooms: Sequence[Room]) -> Headroom:
    """Compare one more copy of what a family shares with the tightest of the rooms for it."""
    shared = family.at_most if family.shared is None else family.shared
    tightest = max(rooms, key=lambda each: (each.held + shared) / max(each.limit, 1), default=None)
    age = "" if family.age_s is None else f" {_age(family.age_s)} ago"
    who = f"{family.child.comm}[{family.child.pid}]"
    note = f"{who} was forked{age} and has executed no program since"
    if family.children > 1:
        note += f", as have {family.children - 1} other children"
    if tightest is None:
        unread = "neither memory.max nor MemAvailable can be read"
        return headroom(COPY_ON_WRITE, None, None, HOST, unread, note=note, process=family.parent)
    used: int | None = tightest.held + shared
    why: str | None = None
    settled = None
    if family.age_s is not None and family.age_s >= _SETTLED_S:
        settled = f"what it shares has been left unwritten for {_age(family.age_s)}"
    if family.shared is None:
        # An upper bound that is far enough is good enough.
        if (tightest.held + shared) * 2 >= tightest.limit:
            used, why = None, f"{family.why}; it shares {_mib(family.at_most)} at most"
        else:
            note += "; what it still shares cannot be read, so that all of it is counted"
    else:
        note += f"; {_mib(shared)} are still shared, and copied once they are written"
    return headroom(
        *(COPY_ON_WRITE, used, tightest.limit, tightest.where, why),
        note=note,
        free=settled,
        process=family.parent,
        setting=tightest.setting,
    )


def _mib(kib: int) -> str:
    return f"{kib / 1024:.0f} MiB"


def _age(seconds: float) -> str:
    for name, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"


def order(
    found: Iterable[Headroom], near: float, full: float, least_left: int = LEAST_LEFT
) -> list[Headroom]:
    """Return them worst first: full, near, unknown, fine; in each the fullest first."""
    return sorted(
        found,
        key=lambda each: (
            LEVELS.index(each.level(near, full, least_left)),
            -(each.percent or 0.0),
            each.cause,
            each.where,
        ),
    )
