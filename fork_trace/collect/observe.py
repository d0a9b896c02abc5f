"""What /proc and cgroupfs show right after a failure: an event in, a snapshot of its process out.

Who failed to fork often exits next, and its cgroup with it: what was found is remembered. What the
numbers mean is `diagnosis`'.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Generic, NamedTuple, TypeVar

from fork_trace.diagnosis.causes import BY_SLUG
from fork_trace.diagnosis.readings import HostReadings, ProcReadings
from fork_trace.diagnosis.verdict import MAPPINGS_SEEN, Verdict
from fork_trace.host import holders, procfs, userns
from fork_trace.host.cgroup import CgroupPaths, ancestor
from fork_trace.model import events
from fork_trace.probes import kernel
from fork_trace.stacks.layouts import Caller
from fork_trace.stacks.symbols import Symbols

_WAITING_STACKS = 512  # whose sample is not read yet
_CLONE_NEWUSER = 0x10000000  # include/uapi/linux/sched.h
_SNAPSHOTS = 512  # processes of which it is remembered what /proc showed
_MAPPINGS, _MAPPINGS_FRESH_S = 1024, 1.0
# Kind of level -> the controller whose hierarchy it stands in.
_CONTROLLERS = {"pids-cgroup": "pids", "memory-cgroup": "memory"}


_Value = TypeVar("_Value")


class Nearest(Generic[_Value]):
    """A reading of the whole host, of which each failure has the one that is nearest in time."""

    def __init__(self, read: Callable[[], _Value]) -> None:
        self._read = read
        # The last two, with their time by CLOCK_MONOTONIC.
        self._earlier: tuple[int, _Value] | None = None
        self._latest: tuple[int, _Value] | None = None

    def of(self, event: events.Event) -> _Value:
        """Return what was read just before this event or just after it; read it now where that may be nearer."""
        if self._latest is None or event.time_ns > self._latest[0]:
            self._earlier, self._latest = self._latest, (time.monotonic_ns(), self._read())
        if self._earlier and event.time_ns - self._earlier[0] < self._latest[0] - event.time_ns:
            return self._earlier[1]
        return self._latest[1]


class ProcessSnapshot(NamedTuple):
    """What was to be seen of a process right after its fork failed."""

    exe: str | None
    cgroups: Sequence[procfs.CgroupLine] = ()
    stack: events.Stack | None = None
    # Why it may create no user namespace, and details.
    denied: tuple[str, str] | None = None
    is_in_proc: bool = False  # while it lives; else its pid is a stranger's there


class Cgroups:
    """Names the cgroups of failures: by their ids, by what came with a sample, or by /proc."""

    def __init__(self, paths: CgroupPaths) -> None:
        self._paths = paths
        self._is_pids_v2 = paths.is_pids_v2()

    def directory(self, key: events.Key) -> str | None:
        """Return the directory of the caller's cgroup; None: several, not mounted, or gone unseen."""
        return None if key.is_of_all else self._paths.directory(key.cgroup_id, self._is_pids_v2)

    def own(self, key: events.Key, lines: Sequence[procfs.CgroupLine] = ()) -> str | None:
        """Name the cgroup of the caller: by its id, or else by what /proc showed."""
        if key.is_of_all:
            return None
        directory = self.directory(key)
        if directory is not None:
            return self._paths.relative(directory)
        for line in lines:
            if line.hierarchy == 0 if self._is_pids_v2 else "pids" in line.controllers.split(","):
                return line.path
        return None

    def level(
        self,
        level: events.Level,
        numbers: Mapping[str, int],
        lines: Sequence[procfs.CgroupLine] = (),
    ) -> str | None:
        """Name the cgroup of a level: by its id, or else up from the task's own."""
        controller = _CONTROLLERS.get(level.kind)
        if controller is None:
            return None
        name = "pids_hierarchy" if controller == "pids" else "memcg_hierarchy"
        hierarchy = numbers.get(name, 0)
        directory = self._paths.directory(level.number, hierarchy == 0, controller)
        if directory is not None:
            return directory
        # In v2 the levels can begin above the task's own cgroup, which may lack the controller.
        for line in lines:
            if line.hierarchy == hierarchy != 0:
                return ancestor(line.path, level.up)
        return None

    def is_gone(self, pool: holders.Pool) -> bool:
        """Say whether the cgroup that a pool is of is seen to be gone."""
        return pool.cgroup_id is not None and self._paths.is_gone(
            pool.cgroup_id, pool.hierarchy == 0
        )

    def limiting(self, event: events.Event, lines: Sequence[procfs.CgroupLine]) -> str | None:
        """Name the cgroup whose pids.max refused, as /proc/PID/cgroup would."""
        for level in event.levels:
            if level.kind == "pids-cgroup" and level.number == event.numbers.get("pids_cgroup"):
                path = self.level(level, event.numbers, lines)
                return None if path is None else self._paths.relative(path)
        return None

    def note(self, event: events.Event) -> None:
        """Remember the paths that came with the sample: its cgroups can be gone by now."""
        path = event.cgroup_path
        if path is None:
            return
        self._paths.note(event.key.cgroup_id, self._is_pids_v2, path)
        for kind in _CONTROLLERS:
            levels = [level for level in event.levels if level.kind == kind]
            # Else they begin elsewhere: above, in v1's other hierarchy, or where CLONE_INTO_CGROUP is.
            if levels and levels[0].number == event.key.cgroup_id:
                for level in levels:
                    above = ancestor(path, level.up)
                    if above is not None:
                        self._paths.note(level.number, self._is_pids_v2, above)

    def close(self) -> None:
        """Close the mounts."""
        self._paths.close()


class LargeMappings:
    """Says whether one mapping of a process exceeds RAM and swap; looked at once in a while."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[int, tuple[float, bool | None]] = {}  # by pid: when, and the answer

    def __len__(self) -> int:
        return len(self._known)

    def has_one(self, event: events.Event) -> bool | None:
        """Say whether the caller has one; None: it is gone, or so may be what was refused."""
        now_s = self._clock()
        known = self._known.get(event.pid)
        if known is None or now_s > known[0] + _MAPPINGS_FRESH_S:
            total = procfs.ram_and_swap()
            has_one = None if total is None else procfs.has_accountable_mapping(event.pid, total)
            if has_one is False and self._has_shrunk(event):
                has_one = None
            if len(self._known) >= _MAPPINGS:
                self._known.clear()
            known = self._known[event.pid] = (now_s, has_one)
        return known[1]

    @staticmethod
    def _has_shrunk(event: events.Event) -> bool:
        """Say whether a process has less memory now than at its refusal: what was refused may be gone."""
        # "data" of statm is the very sum that the kernel side read (fs/proc/task_mmu.c, task_statm).
        now, then = procfs.number(f"{event.pid}/statm", field=5), event.numbers.get("data_pages")
        return now is None or then is None or now < then


class Observer:
    """Looks at the callers of failed forks, and at what limited them."""

    def __init__(
        self,
        cgroups: Cgroups,
        symbols: Symbols,
        limits: Mapping[str, int | None],
        sees_all_pids: bool,  # else the kernel's pids are strangers in our /proc
    ) -> None:
        self._cgroups = cgroups
        self._symbols = symbols
        self._sees_all_pids = sees_all_pids
        # What is taken to be so where nobody looks.
        self.at_start = ProcReadings(overcommit_memory=limits.get("vm.overcommit_memory"))
        self._host = HostReadings(
            page_bytes=os.sysconf("SC_PAGE_SIZE"), hugetlb_pages=kernel.hugetlb_pages()
        )
        self._stacks: dict[tuple[int, int], events.Stack] = {}  # by time and thread
        # By pid: parent and command, and what was seen.
        self._seen: dict[int, tuple[tuple[int, str], ProcessSnapshot]] = {}
        self._mappings = LargeMappings()
        self._holders = holders.HolderCache(self._read_holders)
        self._overcommit = Nearest(lambda: procfs.number("sys/vm/overcommit_memory"))
        self._sizes = Nearest(lambda: (kernel.hugetlb_pages(), procfs.ram_and_swap()))
        self._threads = Nearest(lambda: (procfs.threads(), procfs.number("sys/kernel/threads-max")))
        self._files = Nearest(
            lambda: (procfs.number("sys/fs/file-nr"), procfs.number("sys/fs/file-max"))
        )

    def keep_stacks(self, stacks: Iterable[events.Stack]) -> None:
        """Keep the stacks that came, until the sample of each is looked at."""
        if len(self._stacks) > _WAITING_STACKS:
            self._stacks.clear()  # their samples were lost
        for stack in stacks:
            self._stacks[stack.time_ns, stack.tid] = stack

    def stack_of(self, time_ns: int, tid: int) -> events.Stack | None:
        """Take out the stack that came from this thread at this time; None: none did."""
        return self._stacks.pop((time_ns, tid), None)

    def look(self, event: events.Event) -> ProcessSnapshot:
        """Take down what there is to be seen of a caller, and remember where its cgroups are."""
        stack = self.stack_of(event.time_ns, event.tid)
        if not self._sees_all_pids:
            return ProcessSnapshot(None, (), stack)
        # Where its code lies first: a process that exits has no mappings before it is gone.
        with suppress(MemoryError):
            self._symbols.note(self.caller(event), event.user_frames, stack)
        snapshot = self._snapshot(event)
        # Cgroups vanish like processes do; what is found is remembered.
        self._cgroups.directory(event.key)
        self._cgroups.note(event)
        for level in event.levels:
            self._cgroups.level(level, event.numbers, snapshot.cgroups)
        return snapshot._replace(stack=stack, is_in_proc=True)

    def _snapshot(self, event: events.Event) -> ProcessSnapshot:
        # A pid can be another process by now; its parent and name make that unlikely to pass.
        identity = (event.ppid, event.key.comm)
        snapshot = ProcessSnapshot(procfs.exe(event.pid), procfs.cgroups(event.pid))
        if event.flags & _CLONE_NEWUSER and event.key.error == errno.EPERM:
            snapshot = snapshot._replace(denied=userns.why_denied(event.pid))
        known = self._seen.pop(event.pid, None)
        if snapshot.exe is None and not snapshot.cgroups and known and known[0] == identity:
            snapshot = known[1]
        self._seen[event.pid] = (identity, snapshot)
        if len(self._seen) > _SNAPSHOTS:
            del self._seen[next(iter(self._seen))]
        return snapshot

    def caller(self, event: events.Event) -> Caller:
        """Say who failed to fork, as `symbols` wants to know it."""
        return Caller(event.pid if self._sees_all_pids else None, event.key.uid)

    def readings(self, event: events.Event) -> ProcReadings:
        """Read what decides where the kernel side could not tell."""
        found = self.at_start
        fits = event.key.fits
        if "threads-unknown" in fits:
            threads, limit = self._threads.of(event)
            are_far = threads is not None and limit is not None and threads < limit * 0.8
            found = found._replace(threads_are_far=are_far)
        if self._sees_all_pids and fits & {"overcommit", "overcommit-unknown"}:
            found = found._replace(
                overcommit_memory=self._overcommit.of(event),
                has_huge_mapping=(None if fits & MAPPINGS_SEEN else self._mappings.has_one(event)),
            )
        return found

    def held(
        self, event: events.Event, snapshot: ProcessSnapshot, verdict: Verdict
    ) -> holders.Holders | None:
        """Say who holds the pool that ran out; None: not read, as our /proc must show all that can be in it."""
        if not self._sees_all_pids:
            return None
        path = self._cgroups.limiting(event, snapshot.cgroups)
        kind = BY_SLUG[verdict.cause].pool
        return self._holders.look(
            holders.pool_of(kind, event.numbers, event.key.uid, path, event.pid)
        )

    def _read_holders(self, pool: holders.Pool) -> holders.Holders | None:
        found = holders.read(pool)
        # By its path, which can be another's by now: a service that starts anew has a new cgroup there.
        return holders.NOBODY if self._cgroups.is_gone(pool) else found

    def host(self, event: events.Event, verdict: Verdict) -> HostReadings:
        """Read what the kernel side could not, right after; only what this cause is about."""
        host = self._host
        reads = BY_SLUG[verdict.cause].reads
        if reads == "overcommit":
            # The pools can have been resized since the start.
            pages, ram_and_swap = self._sizes.of(event)
            host = host._replace(hugetlb_pages=pages)
            if "overcommit_memory" not in event.numbers:
                host = host._replace(overcommit_memory=self._overcommit.of(event))
            if "pages_ram" not in event.numbers:
                host = host._replace(ram_and_swap=ram_and_swap)
        elif reads == "threads" and not (
            "nr_threads" in event.numbers and "max_threads" in event.numbers
        ):
            threads, limit = self._threads.of(event)
            host = host._replace(threads=threads, threads_max=limit)
        elif reads == "descriptors" and self._sees_all_pids:
            host = host._replace(descriptors=procfs.descriptors(event.pid))
        elif reads == "files":
            files, limit = self._files.of(event)
            host = host._replace(files=files, files_max=limit)
        return host
