"""Records out of what is known: event, snapshot and verdict -> Failure; counts -> Failure and totals; plan -> Header."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any, NamedTuple

from fork_trace import __version__
from fork_trace.collect.clock import Clock, iso
from fork_trace.collect.judge import watched
from fork_trace.collect.observe import Cgroups, ProcessSnapshot
from fork_trace.diagnosis import makers
from fork_trace.diagnosis.advice import About, advise, subject
from fork_trace.diagnosis.causes import BY_SLUG
from fork_trace.diagnosis.causes.state import UNKNOWN
from fork_trace.diagnosis.evidence import gather
from fork_trace.diagnosis.readings import HostReadings, KernelReadings
from fork_trace.diagnosis.verdict import INFERRED, Verdict, errno_name
from fork_trace.host import holders, procfs, runtimes
from fork_trace.model import events, places, sizes, steps
from fork_trace.model.records import VERSION, Advice, Evidence, Failure, Frame, Header, bounded
from fork_trace.probes.backend import Backend, Filter
from fork_trace.probes.plan import Plan, Stage
from fork_trace.stacks import callers
from fork_trace.stacks.layouts import Caller
from fork_trace.stacks.symbols import Symbols

# By plan.Stage: when a probe is attached.
_WHEN = ("start", "first-failure", "unexplained")
# What the exact totals tell of each count.
_TOTAL = (
    *("comm", "uid", "cgroup", "syscall", "creates"),
    *("errno", "step", "cause", "certainty"),
)
# What is not known of failures that found no room among the keys.
_UNKNOWN = (
    *("comm", "exe", "pid", "tid", "uid", "ppid", "parent_comm", "cgroup", "container"),
    *("syscall", "creates", "errno", "function"),
)


class Sample(NamedTuple):
    """One failure that was sent, and all that was found out while its process may still be there."""

    key: bytes  # that it is counted under
    event: events.Event
    caller: Caller
    snapshot: ProcessSnapshot
    verdict: Verdict
    held: holders.Holders | None


class Composer:
    """Makes the records of failures, sampled or only counted."""

    def __init__(self, backend: Backend, clock: Clock, cgroups: Cgroups, symbols: Symbols) -> None:
        self._backend = backend  # whose plan can change
        self.clock = clock  # it can be set
        self._cgroups = cgroups
        self._symbols = symbols
        self._names = runtimes.Names()

    def failure(
        self,
        sample: Sample,
        host: HostReadings,
        most_s: float = 0.0,
        is_late: Callable[[], bool] = lambda: False,
    ) -> Failure:
        """Return the record of one failure; its stack is unwound and named within that time."""
        event, verdict, held = sample.event, sample.verdict, sample.held
        key, time_ns = event.key, self.clock.time_ns(event.time_ns)
        evidence = self._evidence(sample, host)
        exe, script = self._program(sample.snapshot, is_late)
        stack, stack_by = self._frames(sample, most_s, is_late)
        cgroup = self._cgroups.own(key, sample.snapshot.cgroups)
        container = self._container(cgroup, key)
        errno = errno_name(key.error)
        whose = subject(key.syscall, event.pid, event.ppid)
        has_ended = sample.snapshot.is_in_proc and whose is not None and procfs.has_ended(whose)
        return Failure(
            time=iso(time_ns),
            time_ns=time_ns,
            count=1,
            comm=key.comm,
            exe=exe,
            pid=event.pid,
            tid=event.tid,
            uid=key.uid,
            ppid=event.ppid,
            parent_comm=event.parent_comm,
            cgroup=cgroup,
            container=container,
            syscall=key.syscall,
            flags=events.flag_names(event.flags),
            creates=key.creates,
            errno=errno,
            **self._judged(key, verdict),
            evidence=evidence,
            caller=_caller(event, stack, script),
            maker=makers.as_record(event.maker) if event.maker else None,
            stack=stack,
            stack_by=stack_by,
            script=script,
            advice=_advised(
                *(verdict.cause, evidence, event.numbers.get("nproc_uid", key.uid), cgroup, whose),
                About(key.comm, errno, None, has_ended),
                tuple(container.items()) if container else None,
            )
            + makers.advice(event.maker),
            holders=held.top if held else None,
            holders_total=held.total if held else None,
        )

    def of_key(self, key: events.Key, verdict: Verdict, count: int) -> Failure:
        """Return the record of failures that were counted under a key, of which no sample is kept."""
        cgroup = self._cgroups.own(key)
        container = self._container(cgroup, key)
        errno = errno_name(key.error)
        about = About(key.command, errno, container)
        return bounded(
            replace(
                self.of_step(verdict.step, count),
                comm=key.command,
                uid=key.user,
                cgroup=cgroup,
                container=container,
                syscall=key.call,
                creates=key.creates,
                errno=errno,
                **self._judged(key, verdict),
                advice=advise(verdict.cause, (), key.user, cgroup, about=about),
            )
        )

    def of_step(self, step: str, count: int) -> Failure:
        """Return the record of failures of which nothing is known but the step."""
        time_ns = self.clock.now_ns()
        unknown: dict[str, Any] = dict.fromkeys(_UNKNOWN)
        return Failure(
            time=iso(time_ns),
            time_ns=time_ns,
            count=count,
            **unknown,
            flags=(),
            step=step,
            cause=UNKNOWN.slug,
            certainty=INFERRED,
        )

    def _judged(self, key: events.Key, verdict: Verdict) -> dict[str, Any]:
        plan = self._backend.plan
        # Of execve there are several, and which one told is not known.
        functions = {probe.function for probe in plan.probes if probe.step == verdict.step}
        return {
            "step": verdict.step,
            "function": functions.pop() if key.is_observed and len(functions) == 1 else None,
            "cause": verdict.cause,
            "certainty": verdict.certainty,
            "alternatives": verdict.alternatives,
            "watched": watched(key, plan),
            "possible_steps": verdict.possible_steps,
        }

    def _evidence(self, sample: Sample, host: HostReadings) -> tuple[Evidence, ...]:
        event, lines = sample.event, sample.snapshot.cgroups
        seen = KernelReadings(
            numbers=event.numbers,
            levels=event.levels,
            uid=event.key.uid,
            detail=event.key.detail,
            step=sample.verdict.step,
            flags=event.flags,
            denied=sample.snapshot.denied,
            cgroup_name=lambda level: self._cgroups.level(level, event.numbers, lines),
        )
        return gather(BY_SLUG[sample.verdict.cause], seen, host)

    def _program(
        self, snapshot: ProcessSnapshot, is_late: Callable[[], bool]
    ) -> tuple[str | None, str | None]:
        """Name the program that ran, and the script if that is an interpreter's."""
        exe, stack = snapshot.exe, snapshot.stack
        if exe is None and stack is not None and not is_late():
            exe = self._symbols.program(stack)
        script = callers.script(exe, stack.arguments if stack else ())
        return _shown(exe), _shown(script)

    def _frames(
        self, sample: Sample, most_s: float, is_late: Callable[[], bool]
    ) -> tuple[tuple[Frame, ...], str | None]:
        """Name who called, within this time."""
        stack = sample.snapshot.stack if most_s else None
        frames = sample.event.user_frames
        try:
            return self._symbols.frames(sample.caller, frames, stack, most_s, is_late)
        except MemoryError:
            # Of a host that has no memory left it is more to know what refused than who asked.
            return (), None

    def _container(self, cgroup: str | None, key: events.Key) -> dict[str, Any] | None:
        directory = self._cgroups.directory(key) if cgroup else None
        return self._names.named(places.place(cgroup), directory).as_record()

    def totals(
        self,
        counted: Iterable[tuple[bytes, Verdict | None, int]],
        overflowed: Mapping[int, int],
        judge: Callable[[events.Key], Verdict],
    ) -> tuple[list[dict[str, Any]], Counter[str]]:
        """Return the exact counts of what is alike in all else, most first, and those of each cause.

        `counted` are keys with their verdicts, None where no record told one; `overflowed` are counts
        by step number that found no room among the keys.
        """
        # Commands are many, and what is told of each is the same: it is found out once.
        counts: Counter[tuple[Any, Any, str]] = Counter()
        told_why: tuple[str | None, str, str]
        by_cause: Counter[str] = Counter()
        judged: dict[bytes, Verdict] = {}
        cgroups: dict[bytes, str | None] = {}
        for raw_key, told, number in counted:
            key = events.decode_key(raw_key)
            verdict = told or judged.get(raw_key[sizes.COMM_BYTES :])
            if verdict is None:
                verdict = judged[raw_key[sizes.COMM_BYTES :]] = judge(key)
            owner = events.owner_of(raw_key)
            if owner not in cgroups:
                cgroups[owner] = self._cgroups.own(key)
            by_cause[verdict.cause] += number
            told_of = (key.command, key.user, cgroups[owner], key.call, key.creates)
            told_why = (errno_name(key.error), verdict.step, verdict.cause)
            counts[told_of, told_why, verdict.certainty] += number
        for step, count in overflowed.items():
            by_cause[UNKNOWN.slug] += count
            told_why = (None, steps.name_of(step), UNKNOWN.slug)
            counts[(None,) * 5, told_why, INFERRED] += count
        totals = [
            {**dict(zip(_TOTAL, (*told_of, *told_why, certainty))), "count": number}
            for (told_of, told_why, certainty), number in counts.most_common()
        ]
        return totals, by_cause


def header(
    plan: Plan, release: str, time_ns: int, limits: Mapping[str, int | None], filter_: Filter
) -> Header:
    """Say what is watched since then, and what is not."""
    return Header(
        version=VERSION,
        time=iso(time_ns),
        host=procfs.host_name(),
        kernel=release,
        machine=os.uname().machine,
        tool=f"fork-trace {__version__}",
        attach=plan.attach,
        backend=plan.backend,
        attached=tuple(
            {
                "step": probe.step,
                "function": probe.function,
                "later": probe.stage is not Stage.START,
                "when": _WHEN[probe.stage],
            }
            for probe in (*plan.probes, *plan.late)
        ),
        missing=tuple(
            {"step": gap.step, "function": gap.function, "reason": gap.reason}
            for gap in (*plan.missing, *plan.unread)
        ),
        limits=dict(limits),
        filter={name: value for name, value in filter_.__dict__.items() if value},
        fallbacks=tuple(asdict(each) for each in plan.fallbacks),
        boot_id=procfs.boot_id(),
    )


@lru_cache(32)
def _advised(
    cause: str,
    evidence: tuple[Evidence, ...],
    uid: int | None,
    cgroup: str | None,
    pid: int | None,
    about: About,
    container: tuple[tuple[str, Any], ...] | None,
) -> tuple[Advice, ...]:
    # Who fails in a loop is told the same each time.
    about = about._replace(container=dict(container) if container else None)
    return advise(cause, evidence, uid, cgroup, pid, about)


def _caller(event: events.Event, stack: tuple[Frame, ...], script: str | None) -> str | None:
    # Of what the kernel makes, the stack says only where the thread was at that moment.
    if event.maker is not None or event.key.syscall == "kernel":
        return makers.caller(event.maker)
    return callers.caller(stack, script)


def _shown(path: str | None) -> str | None:
    return None if path is None else os.fsencode(path).decode("utf-8", "backslashreplace")
