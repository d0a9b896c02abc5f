"""One run from facts to the last event: arm, gather, close. It emits records and prints nothing.

Deciding is `plan`'s, meaning is `diagnosis`', showing is `render`'s. On the libbpf path nothing here forks,
starts a thread or runs a program.
"""

from __future__ import annotations

import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

from fork_trace import (
    __version__,
    callers,
    cgroup,
    containers,
    events,
    headers,
    holders,
    kernel,
    ledger,
    privileges,
    procfs,
    reserve,
    runtimes,
    steps,
)
from fork_trace.backends import SAMPLES_PER_SECOND, Backend, Filter, RungRefusedError, bcc
from fork_trace.backends.libbpf.backend import LibbpfBackend
from fork_trace.backends.libbpf.bindings import Library
from fork_trace.backends.libbpf.btf import SYMBOL_ITERATOR, function_params, listed_symbols
from fork_trace.diagnosis.advice import advise
from fork_trace.diagnosis.causes import BY_SLUG
from fork_trace.diagnosis.causes.state import UNKNOWN
from fork_trace.diagnosis.evidence import gather
from fork_trace.diagnosis.readings import HostReadings, KernelReadings, ProcReadings
from fork_trace.diagnosis.verdict import INFERRED, Verdict, diagnose, errno_name
from fork_trace.errors import ForkTraceError
from fork_trace.plan import VARIABLES, Fact, KernelFacts, Plan, Request, Stage, make
from fork_trace.ration import SHORT_RECORD_BYTES, Ration
from fork_trace.records import VERSION, Failure, Frame, Header, Summary, bounded
from fork_trace.symbols import Caller, Symbols

_SETTLE_S = 1.0
# The table of keys is emptied beyond a quarter of its room, but the event loop must go on.
_MOST_USED, _HARVEST_S = 2048, 1.0
# Rung and backend -> the feature that no other needs, which only an attached program proves.
_NEEDED_BY = {
    ("fexit", "libbpf"): "trampolines",
    ("kprobe", "libbpf"): "kprobes",
    ("kprobe", "bcc"): "bcc",
}
_RINGBUF = "bpf_ringbuf_output"  # kernel/bpf/ringbuf.c: there if the map type is
# By plan.Stage: when a probe is attached, and what was watched as a failure was judged.
_WHEN = ("start", "first-failure", "unexplained")
_WATCHED = ("fork", "default", "all")
# Between two looks at the buffer. The first sample of a burst wakes us, those after it do not; once a
# burst is paid for (bpf/fork_trace_logic.h, ft_is_sampled) the next one is a first one again.
_TICK_S, _QUIET_TICK_S, _PAID_S = 0.1, 1.0, 10.0

# Of the time between two looks at the buffer, a tenth of a second: the event loop must go on.
_UNWINDING_S = 0.02
# So many samples may wait for it, which is five looks; of more the oldest keep the frames that the
# kernel found by itself. scripts/bench tells how many stacks a second are unwound.
_MOST_OWED = 500
_ONE_STACK_S = 0.25  # twice that at most, however odd the files of one stack are
_ENDING_S = 2.0  # for those that still wait at the end
_HURRIED_S = 0.3  # the same, and to settle, where somebody waits for the end
_WAITING_STACKS = 512  # whose sample is not read yet
_LOOKS = 512  # processes of which it is remembered what /proc showed
_LATEST = 2048  # keys whose latest sample is kept
_WHOLE = 256  # keys whose latest sample is kept with its stack, most of what a sample takes


# What the exact totals tell of each count.
_TOTAL = (
    *("comm", "uid", "cgroup", "syscall", "creates"),
    *("errno", "step", "cause", "certainty"),
)


def read_facts(request: Request, root: str = "/") -> tuple[KernelFacts, Library | None]:
    """Ask the host what it offers; the library is None where libbpf cannot be loaded."""
    functions = [watch.function for step in steps.STEPS for watch in step.watches]
    functions.append(steps.MEMORY_CGROUP.function)
    btf = kernel.btf(root)
    library: Library | None = None
    params: dict[str, int | None] = {}
    last_params: dict[str, str] = {}
    voids: frozenset[str] = frozenset()
    try:
        library = Library()
        libbpf = Fact(True, library.version())
    except ForkTraceError as error:
        libbpf = Fact(False, error.message)
    may_load = kernel.may_load(root)
    ringbuf = Fact(None, "not checked: requires permission to load BPF programs")
    if library and btf.value and "btf" not in request.without:
        try:
            params, voids, last_params = function_params(library, [*functions, SYMBOL_ITERATOR])
        except ForkTraceError as error:
            btf = Fact(False, error.message)
    if library and may_load.value:
        has = library.has_ringbuf()
        ringbuf = Fact(has, "" if has else "this kernel has no BPF ring buffer")
    names = ("copy_process", *functions, *VARIABLES, *kernel.TRACEPOINT_GUARDS, _RINGBUF)
    listed = None
    has_iterator = params.pop(SYMBOL_ITERATOR, None) is not None
    # Programs ask the running kernel, whatever the root.
    if library and may_load.value and has_iterator and root == "/":
        listed = listed_symbols(library, names)
    kallsyms, addresses, range_ = kernel.symbols(names, root, listed)
    if not library and addresses:
        has = _RINGBUF in addresses
        ringbuf = Fact(has, "" if has else "this kernel has no BPF ring buffer")
    release = os.uname().release
    found, remedy = headers.find(release, root)
    facts = KernelFacts(
        release=release,
        machine=os.uname().machine,
        may_load=may_load,
        unlocked=kernel.unlocked(root),
        libbpf=libbpf,
        btf=btf,
        trampolines=Fact(None, "unknown until a program is attached"),
        ringbuf=ringbuf,
        kprobes=kernel.kprobes(root),
        tracepoints=kernel.tracepoints(root),
        kallsyms=kallsyms,
        params=params,
        voids=voids,
        last_params=last_params,
        addresses=addresses,
        copy_process_range=range_,
        max_map_count=kernel.limits(root)["vm.max_map_count"],
        preempts_tracepoints=kernel.preempts_tracepoints(addresses),
        bcc=bcc.module(),
        headers=found,
        headers_remedy=remedy,
    )
    return facts, library


def iso(time_ns: int) -> str:
    """Write ns since the epoch as ISO 8601 in UTC, to the microsecond."""
    moment = datetime.fromtimestamp(time_ns // 1000 / 1e6, timezone.utc)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def find_filter(
    comm: str | None, pid: int | None, uid: int | None, cgroup_path: str | None
) -> Filter:
    """Turn what the user names into what the kernel compares."""
    number = None
    if cgroup_path is not None:
        paths = cgroup.Paths()
        try:
            number = paths.find(cgroup_path)
        finally:
            paths.close()
        if number is None:
            raise ForkTraceError(
                f"no cgroup {cgroup_path} in the pids hierarchy",
                "Give a path as shown in /proc/PID/cgroup, or a directory under /sys/fs/cgroup.",
            )
    if comm is not None:
        # The kernel keeps 15 bytes of a command's name; compare with what it keeps.
        comm = os.fsdecode(os.fsencode(comm)[: events.COMM_BYTES - 1])
    return Filter(comm=comm, pid=pid, uid=uid, cgroup_id=number)


@dataclass(frozen=True)
class _Look:
    """What /proc showed of a process right after its fork failed."""

    identity: tuple[int, str]
    exe: str | None
    cgroups: list[procfs.CgroupLine]
    stack: events.Stack | None = None


def _open(
    plan: Plan,
    library: Library | None,
    filter_: Filter,
    samples_per_second: int,
    stack_bytes: int,
) -> Backend:
    if plan.backend == "bcc":
        return bcc.BccBackend(plan, filter_, samples_per_second)
    assert library is not None  # the plan refuses a host without libbpf
    return LibbpfBackend(library, plan, filter_, samples_per_second, stack_bytes)


def _stage_of(key: events.Key) -> Stage:
    """Say which probes had let a call pass that was judged by state."""
    if key.is_alone:
        return Stage.START
    # Once all of them are attached, a step is silent only if it let the call pass.
    return Stage.UNEXPLAINED if key.is_detailed else Stage.FAILED


def _demand_another_user(why_not: str | None) -> None:
    if why_not is not None:
        raise ForkTraceError(
            f"cannot give up privileges: {why_not}",
            "Give it CAP_SETUID and CAP_SETGID, which it gives up too, or --keep-privileges to go on with "
            "all that it has.",
        )


def _are_threads_far() -> bool:
    """Say whether the host is nowhere near kernel.threads-max, as far as /proc tells now."""
    threads, limit = procfs.threads(), procfs.number("sys/kernel/threads-max")
    return threads is not None and limit is not None and threads < limit * 0.8


class Session:
    """Watches failed forks from construction to `finish`."""

    def __init__(
        self,
        request: Request = Request(),
        filter_: Filter = Filter(),
        samples_per_second: int = SAMPLES_PER_SECOND,
        stack_bytes: int = events.STACK_BYTES,
        keeps_privileges: bool = False,
    ) -> None:
        self._keeps_privileges = keeps_privileges
        if not keeps_privileges:
            _demand_another_user(privileges.why_root_must_stay())
        self.descriptors = reserve.Descriptors()
        facts, library = read_facts(request)
        plan = make(facts, request)
        # Everything that a record needs later is opened now, while it can be had.
        self._paths = cgroup.Paths()
        self._sees_all_pids = procfs.is_initial_pid_namespace()
        if filter_.pid is not None and not self._sees_all_pids:
            raise ForkTraceError(
                "cannot filter by --pid inside a pid namespace: the kernel sees different pids",
                "Use --comm, --uid or --cgroup, or run fork-trace in the host's pid namespace.",
            )
        self._is_pids_v2 = self._paths.is_pids_v2()
        self._symbols = Symbols()
        self._limits = kernel.limits()
        self._host = HostReadings(
            page_bytes=os.sysconf("SC_PAGE_SIZE"), hugetlb_pages=kernel.hugetlb_pages()
        )
        self._filter = filter_
        self._backend: Backend
        while True:
            if plan.backend == "bcc" and not facts.header_fields:
                declared = headers.read(facts.release)
                facts = replace(facts, header_fields=declared.has, header_params=declared.params)
                plan = make(facts, request)
            try:
                self._backend = _open(plan, library, filter_, samples_per_second, stack_bytes)
                break
            except RungRefusedError as error:
                # What the files promise, the kernel may still refuse: then the next rung has its turn.
                feature = _NEEDED_BY.get((plan.rung, plan.backend))
                if request.rung is not None or request.backend == "bcc":
                    raise
                if feature is None or not facts.may_load.value:
                    raise
                facts = facts.with_feature(feature, Fact(False, error.message))
                plan = make(facts, request)
        reserve.memory()
        proven = _NEEDED_BY.get((plan.rung, plan.backend))
        if proven:
            facts = facts.with_feature(proven, Fact(True, "a program was attached"))
        self._facts = facts
        self._wanted = Stage.START  # which of the plan's probes are to be attached by now
        self._is_attaching = False
        # What privileges hold back once the rest is given up: it takes more to attach than to watch.
        self._lends = (
            not keeps_privileges
            and plan.rung == "kprobe"
            and any(probe.stage is not Stage.START for probe in plan.probes)
            and kernel.perf_paranoia() is not None
        )
        self._start_monotonic_ns = time.monotonic_ns()
        self._epoch_offset_ns = time.time_ns() - self._start_monotonic_ns
        self._busy_until_s = 0.0
        self._sampled = 0  # events read so far
        # As a sample was judged, so is what it stands for. /proc can tell two samples of one key
        # apart: how many records each verdict is in.
        self._ledger: ledger.Ledger[Verdict] = ledger.Ledger()
        self._harvest_at_s = 0.0
        self._folded: Counter[int] = Counter()
        self._latest: dict[bytes, Failure] = {}
        self._whole: dict[bytes, None] = {}  # those of them that have their stack, oldest first
        self._looks: dict[int, _Look] = {}
        self._huge: dict[int, tuple[float, bool | None]] = {}  # by pid: when, and the answer
        self._ration = Ration()
        self._keeper = holders.Keeper()
        self._names = runtimes.Names()
        self._stacks: dict[tuple[int, int], events.Stack] = {}  # by time and thread
        # Read, and not made a record of yet: its stack is to be unwound.
        self._owed: deque[tuple[bytes, events.Event, _Look, Verdict, Any]] = deque()
        self._signals: Callable[[], int] = lambda: 0  # by which the run was told to end

    @property
    def plan(self) -> Plan:
        """The plan as it was carried out."""
        return self._backend.plan

    @property
    def facts(self) -> KernelFacts:
        """What the host offers, with what attaching has shown."""
        return self._facts

    def header(self) -> Header:
        """Say what is watched and what is not."""
        chosen = {name: value for name, value in self._filter.__dict__.items() if value}
        return Header(
            version=VERSION,
            time=iso(self._start_monotonic_ns + self._epoch_offset_ns),
            host=os.uname().nodename,
            kernel=self._facts.release,
            machine=self._facts.machine,
            tool=f"fork-trace {__version__}",
            rung=self.plan.rung,
            backend=self.plan.backend,
            attached=tuple(
                {
                    "step": probe.step,
                    "function": probe.function,
                    "later": probe.stage is not Stage.START,
                    "when": _WHEN[probe.stage],
                }
                for probe in self.plan.probes
            ),
            missing=tuple(
                {"step": gap.step, "function": gap.function, "reason": gap.reason}
                for gap in self.plan.missing
            ),
            limits=self._limits,
            filter=chosen,
            passed_over=tuple(asdict(each) for each in self.plan.passed_over),
        )

    def give_up_privileges(self, may_signal: bool = False) -> None:
        """Give up whatever watching does not need, unless told to keep it; ForkTraceError if that fails."""
        if not self._keeps_privileges:
            _demand_another_user(privileges.give_up(may_signal, self._lends))

    def tick_s(self) -> float:
        """Say how long `poll` may wait, so that no sample lies in the buffer for longer than a tenth of a second."""
        is_quiet = time.monotonic() > self._busy_until_s
        return _QUIET_TICK_S if is_quiet else _TICK_S

    def poll(self, timeout_s: float) -> list[Failure]:
        """Wait for failures at most this long and return those that were sampled."""
        raws = self._backend.poll(0.0 if self._owed or self._is_attaching else timeout_s)
        sampled = [events.decode(raw) for raw in raws]
        for raw in self._backend.stacks():
            stack = events.decode_stack(raw)
            self._stacks[stack.time_ns, stack.tid] = stack
        # /proc first, for all of them: who failed to fork often exits next.
        seen = [self._look(event) for event in sampled]
        verdicts = [self._diagnose(event.key, event) for event in sampled]
        held = [self._held(*each) for each in zip(sampled, seen, verdicts)]
        self._sampled += len(raws)
        if sampled:
            self._busy_until_s = time.monotonic() + _PAID_S
            self._wanted = max(self._wanted, Stage.FAILED)
        # One at a time: each takes the kernel a moment, and the buffer must be read meanwhile.
        if self._wanted is not Stage.START:
            self._attach_more()
        self._owed += zip(raws, sampled, seen, verdicts, held)
        if sampled:
            self._harvest()
        if len(self._stacks) > _WAITING_STACKS:
            self._stacks.clear()  # their samples were lost
        failures = self._told(0.0 if self._signals() else _UNWINDING_S)
        self._symbols.rest()
        return failures

    def heed(self, signals: Callable[[], int]) -> None:
        """Cut short what takes long once the run was told to end, and leave it at the second time."""
        self._signals = signals

    def _attach_more(self) -> None:
        with privileges.lent() if self._lends else nullcontext():
            self._is_attaching = self._backend.attach_more(self._wanted)
        if self._lends and not self._is_attaching and self._wanted is Stage.UNEXPLAINED:
            privileges.give_back()
            self._lends = False

    def _told(self, budget_s: float, drains: bool = False) -> list[Failure]:
        """Make records of what is owed, until the time is up; what is left waits for the next look.

        More than may wait is told at once, and so is all with `drains`: then without unwinding, and
        with no names but those that are known.
        """
        failures = []
        until_s = time.monotonic() + budget_s

        def is_late() -> bool:
            nonlocal until_s
            signals, now_s = self._signals(), time.monotonic()
            if signals:
                until_s = min(until_s, now_s + _HURRIED_S)
            return signals > 1 or (signals == 1 and now_s > until_s)

        while self._owed:
            left_s = until_s - time.monotonic()
            is_too_much = len(self._owed) > _MOST_OWED
            if not (left_s > 0 or is_too_much or drains):
                break
            raw, event, look, verdict, who = self._owed.popleft()
            most_s = _ONE_STACK_S if left_s > 0 and not is_too_much else 0.0
            if drains:
                # It is unwound twice and named once at most.
                most_s = max(0.0, min(most_s, left_s / 3))
            failure = self._failure(event, look, verdict, most_s, is_late)
            if who is not None:
                failure = replace(failure, holders=who.top, holders_total=who.total)
            # struct ft_event: the key follows the time
            key = events.counted_under(raw[8 : 8 + events.KEY_BYTES])
            fitted = self._ration.fitted(failure, self._ledger.verdict(key) != verdict)
            if fitted is None:
                # As if it had not been sampled: `settle` tells it with others of its key.
                self._ledger.leave(key)
                continue
            failure = fitted
            self._keep(key, failure)
            self._ledger.judge(key, verdict)
            failures.append(failure)
        return failures

    def _harvest(self) -> None:
        """Make room in the kernel's table, before those who have much of it get no more."""
        now_s = time.monotonic()
        if now_s < self._harvest_at_s or self._backend.used() <= _MOST_USED:
            return
        self._harvest_at_s = now_s + _HARVEST_S
        for key in self._ledger.take(self._backend.harvest()):
            self._latest.pop(key, None)
            self._whole.pop(key, None)

    def _keep(self, key: bytes, failure: Failure) -> None:
        """Keep the latest sample of a key for those that are counted and not sampled."""
        # New cgroups make new keys for ever.
        self._latest.pop(key, None)
        self._latest[key] = bounded(failure, SHORT_RECORD_BYTES)
        if len(self._latest) > _LATEST:
            del self._latest[next(iter(self._latest))]
        self._whole.pop(key, None)
        self._whole[key] = None
        if len(self._whole) > _WHOLE:
            oldest = next(iter(self._whole))
            del self._whole[oldest]
            if oldest in self._latest:
                self._latest[oldest] = replace(self._latest[oldest], stack=(), stack_by=None)

    def _frames(
        self,
        event: events.Event,
        stack: events.Stack | None,
        most_s: float,
        is_late: Callable[[], bool],
    ) -> tuple[tuple[Frame, ...], str | None]:
        """Name who called, within this time."""
        caller = self._caller(event)
        try:
            return self._symbols.frames(
                caller, event.user_frames, stack if most_s else None, most_s, is_late
            )
        except MemoryError:
            # Of a host that has no memory left it is more to know what refused than who asked.
            return (), None

    def _look(self, event: events.Event) -> _Look:
        # A pid can be another process by now; its parent and name make that unlikely to pass.
        identity = (event.ppid, event.key.comm)
        stack = self._stacks.pop((event.time_ns, event.tid), None)
        if not self._sees_all_pids:
            # The kernel's pids are of the initial namespace: in our /proc they are strangers.
            return _Look(identity, None, [], stack)
        # Where its code lies first: a process that exits has no mappings before it is gone.
        with suppress(MemoryError):
            self._symbols.note(self._caller(event), event.user_frames, stack)
        look = _Look(identity, procfs.exe(event.pid), procfs.cgroups(event.pid), stack)
        known = self._looks.get(event.pid)
        if look.exe is None and not look.cgroups and known and known.identity == identity:
            look = replace(known, stack=stack)
        self._looks.pop(event.pid, None)
        self._looks[event.pid] = replace(look, stack=None)
        if len(self._looks) > _LOOKS:
            del self._looks[next(iter(self._looks))]
        # Cgroups vanish like processes do; what is found is remembered.
        self._paths.directory(event.key.cgroup_id, self._is_pids_v2)
        self._note_cgroups(event)
        for level in event.levels:
            self._level_path(event, look, level)
        return look

    def _note_cgroups(self, event: events.Event) -> None:
        """Remember the paths that came with the sample: its cgroups can be gone by now."""
        path = event.cgroup_path
        if path is None:
            return
        self._paths.note(event.key.cgroup_id, self._is_pids_v2, path)
        for kind in ("pids-cgroup", "memory-cgroup"):
            levels = [level for level in event.levels if level.kind == kind]
            # Else they begin elsewhere: above, in v1's other hierarchy, or where CLONE_INTO_CGROUP is.
            if levels and levels[0].number == event.key.cgroup_id:
                for level in levels:
                    above = cgroup.ancestor(path, level.up)
                    if above is not None:
                        self._paths.note(level.number, self._is_pids_v2, above)

    def _held(self, event: events.Event, look: _Look, verdict: Verdict) -> holders.Holders | None:
        """Say who holds the pool that ran out; our /proc must show all that can be in it."""
        if not self._sees_all_pids:
            return None
        path = self._limiting_path(event, look)
        path = None if path is None else self._paths.relative(path)
        return self._keeper.look(
            holders.pool_of(
                BY_SLUG[verdict.cause].pool, event.numbers, event.key.uid, path, event.pid
            )
        )

    def settle(self, drains: bool = False, ending_s: float = _ENDING_S) -> list[Failure]:
        """Return what was counted but not sampled since the last call, one record for each key.

        Samples that are still under way or owed are not among these, they come by `poll`; except with
        `drains`: then what is owed comes first.
        """
        failures = self._told(ending_s, drains=True) if drains else []
        self._harvest()
        for raw_key, rest in self._ledger.owed(self._backend.tallies()):
            failures.append(self._fold(raw_key, rest))
        for number, count in self._backend.folded().items():
            rest = count - self._folded[number]
            if rest > 0:
                self._folded[number] += rest
                failures.append(self._fold_step(number, rest))
        return failures

    def stop(self) -> list[Failure]:
        """Stop watching and return every failure that is still owed; told to end, with fewer names."""
        self._backend.detach()
        failures = self.poll(0.0)
        # A program that ran while it was detached may still be at its last lines.
        hurries = self._signals() > 0
        deadline_s = time.monotonic() + (_HURRIED_S if hurries else _SETTLE_S)
        while not self._is_settled() and time.monotonic() < deadline_s and self._signals() < 2:
            failures += self.poll(0.01)
        return failures + self.settle(True, _HURRIED_S if hurries else _ENDING_S)

    def _is_settled(self) -> bool:
        stats = self._backend.stats()
        told = stats["sampled"] + stats["skipped"] + stats["lost"] + stats["folded"]
        return told == stats["failures"] and self._sampled == stats["sampled"]

    def finish(self, ended: str, command: dict[str, Any] | None = None) -> Summary:
        """Read the exact totals and free everything; `stop` comes first."""
        stats = self._backend.stats()
        totals, by_cause = self._totals()
        summary = Summary(
            time=iso(time.monotonic_ns() + self._epoch_offset_ns),
            duration_s=round((time.monotonic_ns() - self._start_monotonic_ns) / 1e9, 3),
            failures=stats["failures"],
            causes=dict(sorted(by_cause.items())),
            totals=tuple(totals),
            lost=stats["lost"],
            missed=self._backend.missed(),
            left_out=sum(self._backend.left_out().values()),
            skipped=stats["skipped"],
            folded=sum(total["count"] for total in totals if total["comm"] is None),
            retries=stats["retries"],
            dying=stats["dying"],
            filtered=stats["filtered"],
            early=stats["early"],
            unmarked=stats["unmarked"],
            mismatched=stats["mismatch"],
            stackless=stats["stackless"],
            ended=ended,
            command=command,
        )
        self.close()
        return summary

    def close(self) -> None:
        """Detach; safe to call twice."""
        self._backend.close()
        self._paths.close()
        self._symbols.close()

    def elapsed_s(self) -> float:
        """Seconds since the programs were attached."""
        return (time.monotonic_ns() - self._start_monotonic_ns) / 1e9

    def lost(self) -> tuple[int, int]:
        """Samples lost so far, since the buffer was full, and if there are any, calls missed as well."""
        samples = self._backend.stats()["lost"]
        return samples, (self._backend.missed() or 0) if samples else 0

    def failures(self) -> int:
        """Failures so far, exactly."""
        return self._backend.stats()["failures"]

    def _totals(self) -> tuple[list[dict[str, Any]], Counter[str]]:
        # Commands are many, and what is told of each is the same: it is found out once.
        counts: Counter[tuple[Any, Any, str]] = Counter()
        told_why: tuple[str | None, str, str]
        by_cause: Counter[str] = Counter()
        diagnosed: dict[bytes, Verdict] = {}
        cgroups: dict[bytes, str | None] = {}
        for raw_key, told, number in self._ledger.totals(self._backend.tallies()):
            key = events.decode_key(raw_key)
            verdict = told or diagnosed.get(raw_key[events.COMM_BYTES :])
            if verdict is None:
                verdict = diagnosed[raw_key[events.COMM_BYTES :]] = self._diagnose(key)
            owner = events.owner_of(raw_key)
            if owner not in cgroups:
                cgroups[owner] = self._own_cgroup((), key)
            by_cause[verdict.cause] += number
            told_of = (key.command, key.user, cgroups[owner], key.call, key.creates)
            told_why = (errno_name(key.error), verdict.step, verdict.cause)
            counts[told_of, told_why, verdict.certainty] += number
        for step, count in self._backend.folded().items():
            by_cause[UNKNOWN.slug] += count
            told_why = (None, steps.name_of(step), UNKNOWN.slug)
            counts[(None,) * 5, told_why, INFERRED] += count
        totals = [
            {**dict(zip(_TOTAL, (*told_of, *told_why, certainty))), "count": number}
            for (told_of, told_why, certainty), number in counts.most_common()
        ]
        return totals, by_cause

    def _function(self, step: str) -> str | None:
        return next((probe.function for probe in self.plan.probes if probe.step == step), None)

    def _diagnose(self, key: events.Key, event: events.Event | None = None) -> Verdict:
        """Name the cause; with the sample, /proc helps where the kernel side cannot tell."""
        watched = {
            probe.step for probe in self.plan.probes if probe.step and probe.stage <= _stage_of(key)
        }
        if self.plan.can_leave_out and not key.is_observed:
            # The kernel counts it before the failure gets here.
            watched -= self._backend.left_out().keys()
        after = ProcReadings(overcommit_memory=self._limits.get("vm.overcommit_memory"))
        if event is not None and "threads-unknown" in key.fits:
            after = after._replace(threads_are_far=_are_threads_far())
        if (
            event is not None
            and self._sees_all_pids
            and key.fits & {"overcommit", "overcommit-unknown"}
        ):
            mode = procfs.number("sys/vm/overcommit_memory")
            is_huge = self._has_huge(event)
            after = after._replace(overcommit_memory=mode, has_huge_mapping=is_huge)
        return diagnose(key, watched, after)

    def _has_huge(self, event: events.Event) -> bool | None:
        """Say whether one mapping of a process exceeds RAM and swap; looked at once in a while."""
        now_s = time.monotonic()
        known = self._huge.get(event.pid)
        if known is None or now_s > known[0] + 1:
            total = procfs.ram_and_swap()
            is_huge = None if total is None else procfs.has_accountable_mapping(event.pid, total)
            if is_huge is False and self._has_shrunk(event):
                is_huge = None
            if len(self._huge) >= 1024:
                self._huge.clear()
            known = self._huge[event.pid] = (now_s, is_huge)
        return known[1]

    @staticmethod
    def _has_shrunk(event: events.Event) -> bool:
        """Say whether a process has less memory now than at its refusal: what was refused may be gone."""
        # "data" of statm is the very sum that the kernel side read (fs/proc/task_mmu.c, task_statm).
        now, then = procfs.number(f"{event.pid}/statm", field=5), event.numbers.get("data_pages")
        return now is None or then is None or now < then

    def _host_after(self, verdict: Verdict, event: events.Event) -> HostReadings:
        """Read what the kernel side could not, right after; only what this cause is about."""
        host = self._host
        reads = BY_SLUG[verdict.cause].reads
        if reads == "overcommit":
            # The pools can have been resized since the start.
            host = host._replace(hugetlb_pages=kernel.hugetlb_pages())
            if "overcommit_memory" not in event.numbers:
                mode = procfs.number("sys/vm/overcommit_memory")
                host = host._replace(overcommit_memory=mode)
        elif reads == "threads" and not (
            "nr_threads" in event.numbers and "max_threads" in event.numbers
        ):
            limit = procfs.number("sys/kernel/threads-max")
            host = host._replace(threads=procfs.threads(), threads_max=limit)
        elif reads == "descriptors" and self._sees_all_pids:
            host = host._replace(descriptors=procfs.descriptors(event.pid))
        elif reads == "files":
            files = procfs.number("sys/fs/file-nr")
            host = host._replace(files=files, files_max=procfs.number("sys/fs/file-max"))
        return host

    def _caller(self, event: events.Event) -> Caller:
        return Caller(event.pid if self._sees_all_pids else None, event.key.uid)

    def _failure(
        self,
        event: events.Event,
        look: _Look,
        verdict: Verdict,
        most_s: float,
        is_late: Callable[[], bool],
    ) -> Failure:
        key = event.key
        is_open = verdict.step == "copy_process" or verdict.also or self._is_in_detail(verdict.step)
        # Before a fork had failed nothing could be explained: of the next one more is known.
        if is_open and not key.is_observed and not key.is_alone:
            self._wanted = Stage.UNEXPLAINED
        seen = KernelReadings(
            numbers=event.numbers,
            levels=event.levels,
            uid=key.uid,
            detail=key.detail,
            step=verdict.step,
            flags=event.flags,
            cgroup_name=lambda level: self._level_path(event, look, level),
        )
        host = self._host_after(verdict, event)
        evidence = gather(BY_SLUG[verdict.cause], seen, host)
        exe = look.exe
        if exe is None and look.stack is not None and not is_late():
            exe = self._symbols.program(look.stack)
        arguments = look.stack.arguments if look.stack else ()
        script = callers.script(exe, arguments)
        stack, stack_by = self._frames(event, look.stack, most_s, is_late)
        step = verdict.step
        time_ns = event.time_ns + self._epoch_offset_ns
        own_cgroup = self._own_cgroup(look.cgroups, key)
        return Failure(
            time=iso(time_ns),
            time_ns=time_ns,
            count=1,
            comm=key.comm,
            exe=_shown(exe),
            pid=event.pid,
            tid=event.tid,
            uid=key.uid,
            ppid=event.ppid,
            parent_comm=event.parent_comm,
            cgroup=own_cgroup,
            container=self._container(own_cgroup, key),
            syscall=key.syscall,
            flags=events.flag_names(event.flags),
            creates=key.creates,
            errno=errno_name(key.error),
            step=step,
            function=self._function(step) if key.is_observed else None,
            cause=verdict.cause,
            certainty=verdict.certainty,
            evidence=evidence,
            caller=callers.caller(stack, _shown(script)),
            stack=stack,
            stack_by=stack_by,
            script=_shown(script),
            advice=advise(
                verdict.cause,
                evidence,
                event.numbers.get("nproc_uid", key.uid),
                own_cgroup,
                event.pid,
            ),
            also=verdict.also,
            watched=self._watched(key),
        )

    def _watched(self, key: events.Key) -> str | None:
        """Say what was watched as a call was judged by state; None: it was not."""
        if steps.name_of(key.step) != "copy_process" or key.is_observed:
            return None
        stage = Stage.START if self.plan.rung == "tracepoint" else _stage_of(key)
        return _WATCHED[stage]

    def _own_cgroup(self, lines: Sequence[procfs.CgroupLine], key: events.Key) -> str | None:
        """Name the cgroup of the caller: by its id, or else by what /proc showed."""
        if key.is_of_all:
            return None
        directory = self._paths.directory(key.cgroup_id, self._is_pids_v2)
        if directory is not None:
            return self._paths.relative(directory)
        for line in lines:
            if line.hierarchy == 0 if self._is_pids_v2 else "pids" in line.controllers.split(","):
                return line.path
        return None

    def _container(self, own_cgroup: str | None, key: events.Key) -> dict[str, Any] | None:
        known = own_cgroup and not key.is_of_all
        directory = self._paths.directory(key.cgroup_id, self._is_pids_v2) if known else None
        return self._names.named(containers.place(own_cgroup), directory).as_record()

    @staticmethod
    def _is_in_detail(step: str) -> bool:
        known = steps.BY_NAME.get(step)
        return known is not None and known.in_detail

    def _limiting_path(self, event: events.Event, look: _Look) -> str | None:
        """Name the cgroup whose pids.max refused."""
        for level in event.levels:
            if level.kind == "pids-cgroup" and level.number == event.numbers.get("pids_cgroup"):
                return self._level_path(event, look, level)
        return None

    def _level_path(self, event: events.Event, look: _Look, level: events.Level) -> str | None:
        """Name the cgroup of a level: by its id, or else up from the task's own."""
        controllers = {"pids-cgroup": "pids", "memory-cgroup": "memory"}
        controller = controllers.get(level.kind)
        if controller is None:
            return None
        numbers: Mapping[str, int] = event.numbers
        hierarchy = numbers.get("pids_hierarchy" if controller == "pids" else "memcg_hierarchy", 0)
        directory = self._paths.directory(level.number, hierarchy == 0, controller)
        if directory is not None:
            return directory
        # In v2 the levels can begin above the task's own cgroup, which may lack the controller.
        for line in look.cgroups:
            if line.hierarchy == hierarchy != 0:
                return cgroup.ancestor(line.path, level.up)
        return None

    def _fold(self, raw_key: bytes, count: int) -> Failure:
        key = events.decode_key(raw_key)
        latest = self._latest.get(raw_key)
        told = self._ledger.verdict(raw_key)
        if latest is not None and told is not None and not key.is_of_others:
            self._ledger.judge(raw_key, told, count)
            return replace(latest, count=count)
        verdict = told or self._diagnose(key)
        self._ledger.judge(raw_key, verdict, count)
        step = verdict.step
        failure = self._bare(step, count)
        own_cgroup = self._own_cgroup((), key)
        failure = replace(
            failure,
            comm=key.command,
            uid=key.user,
            cgroup=own_cgroup,
            container=self._container(own_cgroup, key),
            syscall=key.call,
            creates=key.creates,
            errno=errno_name(key.error),
            function=self._function(step) if key.is_observed else None,
            cause=verdict.cause,
            certainty=verdict.certainty,
            advice=advise(verdict.cause, (), key.user, own_cgroup),
            also=verdict.also,
            watched=self._watched(key),
        )
        return bounded(failure)

    def _fold_step(self, number: int, count: int) -> Failure:
        return self._bare(steps.name_of(number), count)

    def _bare(self, step: str, count: int) -> Failure:
        time_ns = time.monotonic_ns() + self._epoch_offset_ns
        return Failure(
            time=iso(time_ns),
            time_ns=time_ns,
            count=count,
            comm=None,
            exe=None,
            pid=None,
            tid=None,
            uid=None,
            ppid=None,
            parent_comm=None,
            cgroup=None,
            container=None,
            syscall=None,
            flags=(),
            creates=None,
            errno=None,
            step=step,
            function=None,
            cause=UNKNOWN.slug,
            certainty=INFERRED,
        )


def _shown(path: str | None) -> str | None:
    return None if path is None else os.fsencode(path).decode("utf-8", "backslashreplace")
