"""A death from the kernel side into its record: where its cgroups are, what else they hold, who is behind it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from fork_trace.collect.clock import iso
from fork_trace.collect.forks import Forks
from fork_trace.diagnosis import deaths as judging
from fork_trace.diagnosis.causes.late import HOST, HUGE_PAGE_COPY, POOL
from fork_trace.diagnosis.causes.state import UNKNOWN
from fork_trace.diagnosis.deaths import Behind, Surroundings
from fork_trace.diagnosis.verdict import INFERRED, OBSERVED
from fork_trace.host import procfs
from fork_trace.host.cgroup import CgroupPaths, ancestor, files_and_kernel, processes
from fork_trace.model import deaths
from fork_trace.model.deaths import ANONYMOUS, Killed, Kin
from fork_trace.model.events import Stack
from fork_trace.model.records import Allocator, Death, Fork, Level, Relative
from fork_trace.probes.backend import Filter
from fork_trace.probes.plan import CGROUP_KILLER, CHOOSER, COPIERS, KILLER, TRAMPOLINES, Plan

_NO_PAGE_LIMIT = 1 << 50  # PAGE_COUNTER_MAX is LONG_MAX in pages
_NEAR_PAGES = 64  # MEMCG_CHARGE_BATCH: a full cgroup has less room than that
_LEAST_FRAMES = 4  # from the kill to the charge that caused it there are more
_MOST_PROCESSES = 512  # of a full cgroup, that are looked at


class Coroner:
    """Makes the records of deaths."""

    def __init__(
        self, paths: CgroupPaths, plan: Callable[[], Plan], filter_: Filter, forks: Forks
    ) -> None:
        self._paths, self._plan, self._filter = paths, plan, filter_
        self._forks = forks
        self._is_pids_v2 = paths.is_pids_v2()
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")
        self._host = procfs.host_name()
        self._told: list[Death] = []
        self._counted: Counter[str] = Counter()

    def take(self, raws: Iterable[bytes], time_ns: Callable[[int], int]) -> None:
        """Make the records of those that came, and count them."""
        for raw in raws:
            is_huge = len(raw) == deaths.HUGE_DEATH_BYTES
            death = self._huge(raw, time_ns) if is_huge else self._death(raw, time_ns)
            if death is not None:
                self._counted[death.cause] += 1
                self._told.append(death)

    def remember(self, raws: Iterable[bytes], stack_of: Callable[[int, int], Stack | None]) -> None:
        """Keep the forks that came, for the deaths that come of them."""
        self._forks.take(raws, stack_of)

    def told(self) -> list[Death]:
        """Return the records that were not returned yet."""
        told, self._told = self._told, []
        return told

    def counts(self, lost: int, begins_anew: bool = False) -> dict[str, int] | None:
        """Count by cause, those that were lost as unknown; None: not watched."""
        if not self._plan().late:
            return None
        found = {**dict(sorted(self._counted.items())), **({UNKNOWN.slug: lost} if lost else {})}
        if begins_anew:
            self._counted.clear()
        return found

    def _huge(self, raw: bytes, time_ns: Callable[[int], int]) -> Death | None:
        """Return the record of one who had no huge page; None: the filter leaves it out."""
        killed = deaths.decode_huge(raw)
        directory = self._paths.directory(killed.cgroup_id, self._is_pids_v2)
        cgroup = None if directory is None else self._paths.relative(directory)
        victim, parent, filter_ = killed.victim, killed.parent, self._filter
        if not (
            filter_.cgroup_id in (None, killed.cgroup_id)
            and filter_.comm in (None, victim.comm)
            and filter_.pid in (None, victim.pid)
            and filter_.uid in (None, killed.uid)
        ):
            return None
        page = self._page_bytes << killed.page_order
        used = killed.total - killed.free + killed.reserved
        age_s = max(0.0, (killed.time_ns - victim.start_ns) / 1e9)
        return Death(
            time=iso(time_ns(killed.time_ns)),
            host=self._host,
            cause=HUGE_PAGE_COPY.slug,
            certainty=OBSERVED if used >= killed.total else INFERRED,
            comm=victim.comm,
            pid=victim.pid,
            uid=killed.uid,
            cgroup=cgroup,
            allocator=Allocator(victim.comm, victim.pid, victim.pid),
            fork=None if parent is None else self._fork(Behind(parent, victim, age_s, None)),
            levels=(Level(f"{POOL}-{page >> 10}kB", used * page, killed.total * page),),
            thp=None,
            relatives=(),
        )

    def _death(self, raw: bytes, time_ns: Callable[[int], int]) -> Death | None:
        """Return the record of one death; None: it was none, or the filter leaves it out."""
        killed = deaths.decode(raw)
        frames = _functions(killed.kernel_frames, self._plan().ranges)
        if not self._is_kill(frames):
            return None
        cgroup = self._cgroup(killed)
        if not self._takes(killed, cgroup):
            return None
        levels, over = self._levels(killed), killed.over
        is_memcg = killed.is_memcg
        if is_memcg is None:
            is_memcg, over = _told_by_stack(killed, frames, self._plan().ranges)
        first = levels[over] if over is not None else None
        around = Surroundings(
            is_copying=_is_copying(killed, frames, self._plan().ranges),
            is_memcg=is_memcg,
            page_bytes=self._page_bytes,
            limit=self._limit(killed, is_memcg, first),
            used=first.used if first else None,
            others=self._others(killed, first.where) if first else None,
        )
        found = judging.judge(killed, around)
        victim = killed.victim
        return Death(
            time=iso(time_ns(killed.time_ns)),
            host=self._host,
            cause=found.cause,
            certainty=found.certainty,
            comm=victim.comm if victim else None,
            pid=victim.pid if victim else killed.victim_pid,
            uid=killed.uid if victim else None,
            cgroup=cgroup,
            allocator=Allocator(killed.allocator_comm, killed.allocator_pid, killed.allocator_tid),
            fork=None if found.fork is None else self._fork(found.fork),
            levels=self._ordered(killed, levels, first, is_memcg),
            thp=procfs.huge_pages(),
            relatives=tuple(self._relatives(killed)),
        )

    def _is_kill(self, frames: Iterable[str]) -> bool:
        """Say whether it is a death: who exits anyway is marked as a victim too, and not killed."""
        plan = self._plan()
        is_by_mark = all(probe.function not in (CHOOSER, KILLER) for probe in plan.late)
        return not is_by_mark or KILLER not in plan.ranges or KILLER in frames

    def _takes(self, killed: Killed, cgroup: str | None) -> bool:
        filter_, victim = self._filter, killed.victim
        if filter_ == Filter():
            return True
        if victim is None:
            return False
        # In v1 each hierarchy has numbers of its own, and the filter's is one of the pids controller's.
        is_one = self._is_pids_v2 and killed.hierarchy == 0
        inside = {killed.cgroup_id, *(level.number for level in killed.levels if is_one)}
        if filter_.cgroup_id is not None and filter_.cgroup_id not in inside:
            directory = self._paths.directory(filter_.cgroup_id, self._is_pids_v2)
            above = None if directory is None else self._paths.relative(directory)
            if above is None or not ((cgroup or "") + "/").startswith(above.rstrip("/") + "/"):
                return False
        return (
            filter_.comm in (None, victim.comm)
            and filter_.pid in (None, victim.pid)
            and filter_.uid in (None, killed.uid)
        )

    def _cgroup(self, killed: Killed) -> str | None:
        if killed.cgroup_path is not None:
            self._paths.note(killed.cgroup_id, self._is_pids_v2, killed.cgroup_path)
        directory = self._paths.directory(killed.cgroup_id, self._is_pids_v2)
        if directory is None:
            return killed.cgroup_path
        return self._paths.relative(directory)

    def _levels(self, killed: Killed) -> list[Level]:
        is_v2 = killed.hierarchy == 0
        found = []
        for level in killed.levels:
            path = killed.cgroup_path
            # Else they begin above: the victim's own cgroup lacks the controller.
            is_own = self._is_pids_v2 == is_v2 and killed.levels[0].number == killed.cgroup_id
            if path is not None and is_own:
                above = ancestor(path, level.up)
                if above is not None:
                    self._paths.note(level.number, is_v2, above, "memory")
            directory = self._paths.directory(level.number, is_v2, "memory")
            limit = None if level.limit >= _NO_PAGE_LIMIT else level.limit * self._page_bytes
            where = directory or f"cgroup id {level.number}"
            found.append(Level(where, level.used * self._page_bytes, limit))
        return found

    def _limit(self, killed: Killed, is_memcg: bool | None, first: Level | None) -> int | None:
        if is_memcg or killed.total_pages is None:
            return first.limit if first else None
        return killed.total_pages * self._page_bytes

    def _ordered(
        self, killed: Killed, levels: list[Level], first: Level | None, is_memcg: bool | None
    ) -> tuple[Level, ...]:
        """Put what was full first, then the victim's own cgroup and those above."""
        if is_memcg or is_memcg is None:
            rest = [level for level in levels if level is not first]
            return (*([first] if first else []), *rest)
        total = killed.total_pages
        limit = None if total is None else total * self._page_bytes
        confined = f" ({killed.constraint})" if killed.constraint else ""
        return (Level(HOST + confined, None, limit), *levels)

    def _others(self, killed: Killed, where: str) -> int | None:
        """Return what of a full cgroup cannot be copies of the family's pages, in bytes; None: not read."""
        total = files_and_kernel(where)
        inside = processes(where, _MOST_PROCESSES)
        if total is None or inside is None:
            return None
        mine = {each.pid for _, each in judging.family(killed)}
        mine.add(killed.victim.pid if killed.victim else 0)
        held = [procfs.anonymous(pid) for pid in inside if pid not in mine]
        known = [each for each in held if each is not None]
        return total + sum(known) if len(known) == len(held) else None

    def _fork(self, behind: Behind) -> Fork:
        return Fork(
            parent_comm=behind.parent.comm,
            parent_pid=behind.parent.pid,
            child_pid=behind.child.pid,
            age_s=round(behind.age_s, 3),
            caller=self._forks.caller(behind.child.pid, behind.child.start_ns),
            parent_anon_bytes=self._bytes(behind.parent),
            child_anon_bytes=self._bytes(behind.child),
            unshared_bytes_max=behind.unshared_max,
        )

    def _bytes(self, kin: Kin) -> int | None:
        return None if kin.anon_pages is None else kin.anon_pages * self._page_bytes

    def _relatives(self, killed: Killed) -> Iterator[Relative]:
        for kind, each in judging.family(killed):
            if not each.is_exiting:
                age_s = round(max(0, killed.time_ns - each.start_ns) / 1e9, 3)
                yield Relative(each.comm, each.pid, kind, self._bytes(each), age_s)


def _functions(frames: Iterable[int], ranges: Mapping[str, tuple[int, int]]) -> list[str]:
    """Name those of these functions that a kernel stack goes through, innermost first."""
    return [
        name for address in frames for name, (start, end) in ranges.items() if start < address < end
    ]


def _is_whole(killed: Killed, ranges: Mapping[str, tuple[int, int]]) -> bool:
    """Say whether a function that is not in the stack was not there."""
    cuts = [ranges[name] for name in TRAMPOLINES if name in ranges]
    frames = killed.kernel_frames
    return len(frames) >= _LEAST_FRAMES and not any(
        start <= frame < end for frame in frames for start, end in cuts
    )


def _is_copying(
    killed: Killed, frames: Iterable[str], ranges: Mapping[str, tuple[int, int]]
) -> bool | None:
    """Say whether a page that a fork had shared was being copied; None: that is not known.

    The zero page, a file's and ksmd's are copied by the same functions, and no fork is behind that.
    """
    is_by_stack = any(name in COPIERS for name in frames)
    is_whole = _is_whole(killed, ranges) and not ranges.keys().isdisjoint(COPIERS)
    if killed.copied:
        # Else it may be left in the stack from before.
        is_live = is_by_stack or (killed.is_in_fault and not is_whole)
        return killed.copied == ANONYMOUS if is_live else (False if is_whole else None)
    return False if is_whole and not is_by_stack else None


def _told_by_stack(
    killed: Killed, frames: Iterable[str], ranges: Mapping[str, tuple[int, int]]
) -> tuple[bool | None, int | None]:
    """Say whether a memory cgroup was full, and which level, where the kernel's own words were not read."""
    full = [
        place
        for place, level in enumerate(killed.levels)
        if level.limit < _NO_PAGE_LIMIT and level.used + _NEAR_PAGES >= level.limit
    ]
    is_memcg = CGROUP_KILLER in frames
    if is_memcg or (CGROUP_KILLER in ranges and _is_whole(killed, ranges)):
        return is_memcg, (full[0] if is_memcg and full else None)
    return (True, full[0]) if full else (None, None)
