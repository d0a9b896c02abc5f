"""One run from its arming to its summary: in which order bytes become records. It emits them and prints nothing.

What is done with each is `observe`'s, `judge`'s and `compose`'s; showing is `output`'s.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from fork_trace.collect import arm, clock, compose, stretch
from fork_trace.collect.deaths import Coroner
from fork_trace.collect.forks import Forks
from fork_trace.collect.judge import Judge, calls_for_more
from fork_trace.collect.ledger import Ledger
from fork_trace.collect.observe import Cgroups, Observer
from fork_trace.collect.owed import HURRIED_S, Owed
from fork_trace.collect.ration import Latest, Ration
from fork_trace.collect.waiting import Waker, wait
from fork_trace.diagnosis.verdict import Verdict
from fork_trace.host import cgroup, procfs
from fork_trace.model import events, sizes, steps
from fork_trace.model.records import Failure, Header, Incident, Summary
from fork_trace.probes import kernel, privileges, reserve
from fork_trace.probes.backend import SAMPLES_PER_SECOND, Filter
from fork_trace.probes.libbpf.counting import Counting
from fork_trace.probes.plan import KernelFacts, Plan, Stage
from fork_trace.probes.request import Request
from fork_trace.stacks.symbols import Symbols

# The table of keys is emptied beyond a quarter of its room, but the event loop must go on.
_MOST_USED, _HARVEST_S = 2048, 1.0
# Between two looks at the buffer. The first sample of a burst wakes us, those after it do not; once a
# burst is paid for (bpf/fork_trace_logic.h, ft_is_sampled) the next one is a first one again.
_TICK_S, _QUIET_TICK_S, _PAID_S = 0.1, 1.0, 10.0
# Of the time between two looks, a tenth of a second: the event loop must go on.
_UNWINDING_S = 0.02
_ENDING_S = 2.0  # for the samples that still wait at the end
_SETTLE_S = 1.0  # for programs that still run at the end
_LEAN = 4
_COUNTED_AS = ("sampled", "rate_limited", "early", "lost", "overflowed")  # each failure as one
_MOST_LOOKS = 64  # at the buffer, as a segment ends: in a storm it is never empty

has_ended = procfs.has_ended  # by its pid, as of now: for what is told when a run is over


class Session:
    """Watches failed forks from construction to `finish`."""

    def __init__(
        self,
        request: Request = Request(),
        filter_: Filter = Filter(),
        samples_per_second: int = SAMPLES_PER_SECOND,
        stack_bytes: int = sizes.STACK_BYTES,
        keeps_privileges: bool = False,
        counting: Counting | None = None,
    ) -> None:
        if not keeps_privileges:
            arm.demand_another_user(privileges.why_root_must_stay())
        self.descriptors = reserve.Descriptors()
        prepared = arm.prepare(request, counting)
        self._lean = _LEAN if request.is_lean else 1  # by which its tables are smaller
        # Everything that a record needs later is opened now, while it can be had.
        paths = cgroup.CgroupPaths(lean=self._lean)
        self._cgroups = Cgroups(paths)
        sees_all_pids = procfs.is_initial_pid_namespace()
        arm.check_filter(filter_, sees_all_pids)
        self._symbols = Symbols()
        self._limits = kernel.limits()
        self._oom_kills = procfs.vmstat("oom_kill")
        self._observer = Observer(self._cgroups, self._symbols, self._limits, sees_all_pids)
        self._filter = filter_
        self._armed = arm.arm(prepared, filter_, samples_per_second, stack_bytes, keeps_privileges)
        self._backend = self._armed.backend
        self._clock = clock.started(counting.start_ns if counting else time.monotonic_ns())
        self._composer = compose.Composer(self._backend, self._clock, self._cgroups, self._symbols)
        forks = Forks(self._symbols, sees_all_pids)
        self._coroner = Coroner(paths, lambda: self.plan, filter_, forks)
        self._busy_until_s = self._harvest_at_s = 0.0
        self._sampled = 0  # events read so far
        # As a sample was judged, so is what it stands for. /proc can tell two samples of one key
        # apart: how many records each verdict is in.
        self._ledger: Ledger[Verdict] = Ledger(self._lean)
        self._overflowed: Counter[int] = Counter()  # told so far, by step number
        self._latest = Latest(self._lean)
        self._ration = Ration()
        self._owed = Owed(self._tell, self._lean)
        # Of the run's counters, what earlier segments have told (`renew`).
        self._segment_ns = self._clock.start_ns
        self._before = stretch.NOTHING
        self._held_back: list[bytes] = []  # events of the next segment
        self._waker: Waker | None = None

    @property
    def plan(self) -> Plan:
        """The plan as it was carried out."""
        return self._backend.plan

    @property
    def facts(self) -> KernelFacts:
        """What the host offers, with what attaching has shown."""
        return self._armed.facts

    def header(self) -> Header:
        """Say what is watched and what is not, since the run or its latest segment began."""
        time_ns = self._clock.time_ns(self._segment_ns)
        return compose.header(self.plan, self.facts.release, time_ns, self._limits, self._filter)

    def give_up_privileges(self, may_signal: bool = False) -> None:
        """Give up whatever watching does not need, unless told to keep it; ForkTraceError if that fails."""
        self._armed.give_up_privileges(may_signal)

    def heed(self, signals: Callable[[], int]) -> None:
        """Cut short what takes long once the run was told to end, and leave it at the second time."""
        self._owed.signals = signals

    def wake_by(self, waker: Waker) -> None:
        """Let `poll` return early when somebody else has something to do."""
        self._waker = waker

    def tick_s(self) -> float:
        """Say how long `poll` may wait, so that no sample lies in the buffer for longer than a tenth of a second."""
        is_quiet = time.monotonic() > self._busy_until_s
        return _QUIET_TICK_S if is_quiet else _TICK_S

    def poll(self, timeout_s: float) -> list[Failure]:
        """Wait for failures at most this long and return those that were sampled."""
        waits = not (self._owed or self._armed.is_attaching or self._held_back)
        if waits and self._waker is not None:
            timeout_s = wait(self._backend.descriptors(), self._waker, timeout_s)
        raws = self._held_back + self._backend.poll(timeout_s if waits else 0.0)
        self._held_back = []
        failures = self._take(raws)
        self._coroner.remember(self._backend.forks(), self._observer.stack_of)
        self._coroner.take(self._backend.deaths(), self._clock.time_ns)
        self._symbols.rest()
        return failures

    def incidents(self) -> list[Incident]:
        """Return what was seen beside refused forks, by the last call of `poll`, `renew` or `stop`."""
        return list(self._coroner.told())

    def _take(self, raws: list[bytes]) -> list[Failure]:
        """Make records of events; some of them owed from before, and some left for the next time."""
        sampled = [events.decode(raw) for raw in raws]
        self._observer.keep_stacks(map(events.decode_stack, self._backend.stacks()))
        # /proc first, for all of them: who failed to fork often exits next, and a limit is lifted.
        readings = [self._observer.readings(event) for event in sampled]
        seen = [self._observer.look(event) for event in sampled]
        judge = Judge(self._backend).judge
        verdicts = [judge(event.key, after) for event, after in zip(sampled, readings)]
        held = [self._observer.held(*each) for each in zip(sampled, seen, verdicts)]
        self._sampled += len(raws)
        if sampled:
            self._busy_until_s = time.monotonic() + _PAID_S
            self._armed.want(Stage.FAILED)
        # One at a time: the buffer must be read meanwhile.
        self._armed.attach_more()
        keys = map(events.counted_under, map(events.key_of, raws))
        callers = map(self._observer.caller, sampled)
        self._owed.add(map(compose.Sample, keys, sampled, callers, seen, verdicts, held))
        if sampled:
            self._harvest()
        return self._owed.told(0.0 if self._owed.signals() else _UNWINDING_S)

    def _tell(
        self, sample: compose.Sample, most_s: float, is_late: Callable[[], bool]
    ) -> Failure | None:
        """Make the record of a sample; None: it is told by `settle` with others of its key."""
        key, verdict = sample.key, sample.verdict
        waits = sample.event.key.is_alone and self.plan.waits
        if calls_for_more(sample.event.key, verdict, waits):
            self._armed.want(Stage.UNEXPLAINED)
        host = self._observer.host(sample.event, verdict)
        failure = self._composer.failure(sample, host, most_s, is_late)
        fitted = self._ration.fitted(failure, self._ledger.verdict(key) != verdict)
        if fitted is None:
            # As if it had not been sampled.
            self._ledger.leave(key)
            return None
        self._latest.keep(key, fitted)
        self._ledger.judge(key, verdict)
        return fitted

    def _harvest(self) -> None:
        """Make room in the kernel's table, before those who have much of it get no more."""
        now_s = time.monotonic()
        if now_s < self._harvest_at_s or self._backend.used() <= _MOST_USED // self._lean:
            return
        self._harvest_at_s = now_s + _HARVEST_S
        for key in self._ledger.take(self._backend.harvest()):
            self._latest.forget(key)

    def settle(self, drains: bool = False, ending_s: float = _ENDING_S) -> list[Failure]:
        """Return what was counted but not sampled since the last call, one record for each key.

        Samples that are still under way or owed are not among these, they come by `poll`; except with
        `drains`: then what is owed comes first.
        """
        failures = self._owed.told(ending_s, drains=True) if drains else []
        self._harvest()
        return failures + self._unsampled(self._backend.tallies(), self._backend.overflowed())

    def _unsampled(
        self, table: Iterable[tuple[bytes, bytes]], overflowed: Mapping[int, int]
    ) -> list[Failure]:
        judge = Judge(self._backend, self._observer.at_start).judge
        failures = [self._counted(*each, judge) for each in self._ledger.owed(table)]
        for number, count in overflowed.items():
            rest = count - self._overflowed[number]
            if rest > 0:
                self._overflowed[number] += rest
                failures.append(self._composer.of_step(steps.name_of(number), rest))
        return failures

    def _counted(
        self, raw_key: bytes, count: int, judge: Callable[[events.Key], Verdict]
    ) -> Failure:
        """Return the record of failures that were not sampled: as the latest sample of their key, if there is one."""
        key = events.decode_key(raw_key)
        latest = self._latest.get(raw_key)
        told = self._ledger.verdict(raw_key)
        verdict = told or judge(key)
        self._ledger.judge(raw_key, verdict, count)
        if latest is not None and told is not None and not key.is_of_others:
            return replace(latest, count=count)
        return self._composer.of_key(key, verdict, count)

    def stop(self) -> list[Failure]:
        """Stop watching and return every failure that is still owed; told to end, with fewer names."""
        self._backend.detach()
        failures = self.poll(0.0)
        # A program that ran while it was detached may still be at its last lines.
        signals = self._owed.signals
        hurries = signals() > 0
        deadline_s = time.monotonic() + (HURRIED_S if hurries else _SETTLE_S)
        while not self._is_settled() and time.monotonic() < deadline_s and signals() < 2:
            failures += self.poll(0.01)
        return failures + self.settle(True, HURRIED_S if hurries else _ENDING_S)

    def _is_settled(self) -> bool:
        stats = self._backend.stats()
        is_told = sum(stats[name] for name in _COUNTED_AS) == stats["failures"]
        return is_told and self._sampled == stats["sampled"]

    def totals(self, ended: str, command: dict[str, Any] | None = None) -> Summary:
        """Read the exact totals so far, of the run or its latest segment."""
        return self._totals(self._backend.tallies(), stretch.read(self._backend), ended, command)

    def _totals(
        self,
        table: Iterable[tuple[bytes, bytes]],
        counters: stretch.Counters,
        ended: str,
        command: dict[str, Any] | None = None,
    ) -> Summary:
        """Return what was told since the last segment, with what is in the table and counted by then."""
        since = counters.since(self._before)
        stats: dict[str, Any] = dict(since.stats)
        lost = stats.pop("deaths_lost")
        counted = self._ledger.totals(table)
        judge = Judge(self._backend, self._observer.at_start).judge
        totals, by_cause = self._composer.totals(counted, since.overflowed, judge)
        return Summary(
            time=clock.iso(self._clock.now_ns()),
            duration_s=round((time.monotonic_ns() - self._segment_ns) / 1e9, 3),
            failures=sum(by_cause.values()),
            causes=dict(sorted(by_cause.items())),
            totals=tuple(totals),
            missed=since.missed,
            overflowed=sum(total["count"] for total in totals if total["comm"] is None),
            **stats,
            ended=ended,
            command=command,
            oom_kills=_killed_since(self._oom_kills),
            deaths=self._coroner.counts(lost, ended == "rotation"),
        )

    def renew(self) -> tuple[list[Failure], Summary]:
        """End a segment of the run and begin the next; return its last failures and its totals.

        Every failure is in one of the two: what was counted by now in this one, and so are its samples,
        which are all in the buffer once the table was emptied. The ledger begins anew, so that commands
        of weeks ago take no room in it.
        """
        failures = self.poll(0.0)
        counters = stretch.read(self._backend)
        harvested = self._backend.harvest()
        for key in self._ledger.take(harvested):
            self._latest.forget(key)
        old = {events.generation_of(raw) for raw, _ in harvested}
        for _ in range(_MOST_LOOKS):
            raws = self._backend.poll(0.0)
            mine: list[bytes] = []
            for raw in raws:
                is_mine = events.generation_of(events.key_of(raw)) in old
                (mine if is_mine else self._held_back).append(raw)
            failures += self._take(mine)
            if not raws:
                break
        failures += self._owed.told(_SETTLE_S, drains=True)
        failures += self._unsampled((), counters.overflowed)
        self._coroner.take(self._backend.deaths(), self._clock.time_ns)
        summary = self._totals((), counters, "rotation")
        if self._oom_kills is not None:
            self._oom_kills += summary.oom_kills or 0
        self._before = counters
        self._ledger = Ledger(self._lean)
        self._segment_ns = time.monotonic_ns()
        return failures, summary

    def follow_clock(self) -> list[clock.Jump]:
        """Take the time of day anew; say by what it jumped: the clock was set, or the host suspended."""
        self._clock, jumps = clock.followed(self._clock)
        self._composer.clock = self._clock
        return jumps

    def finish(self, ended: str, command: dict[str, Any] | None = None) -> Summary:
        """Read the exact totals and free everything; `stop` comes first."""
        summary = self.totals(ended, command)
        self.close()
        return summary

    def close(self) -> None:
        """Detach; safe to call twice."""
        self._backend.close()
        self._cgroups.close()
        self._symbols.close()

    def elapsed_s(self) -> float:
        """Seconds since the programs were attached."""
        return self._clock.elapsed_s()

    def unseen(self) -> tuple[int, int | None]:
        """Samples lost and calls missed since the start; None: the kernel does not count these."""
        return self._backend.stats()["lost"], self._backend.missed()

    def filtered(self) -> int:
        """Failures so far that are outside of the filter."""
        return self._backend.stats()["filtered"]

    def failures(self) -> int:
        """Failures so far, exactly."""
        return self._backend.stats()["failures"]


def _killed_since(before: int | None) -> int | None:
    now = procfs.vmstat("oom_kill")
    return None if now is None or before is None else now - before
