"""A failure's key and what was read about it -> a verdict, by what was watched as it happened. Reads nothing itself."""

from __future__ import annotations

from collections.abc import Collection

from fork_trace.diagnosis.readings import ProcReadings
from fork_trace.diagnosis.verdict import Verdict, diagnose
from fork_trace.model import events, steps
from fork_trace.probes.backend import Backend
from fork_trace.probes.plan import Plan, Stage

# By plan.Stage: what was watched as a failure was judged.
_WATCHED = ("fork", "default", "all")
_UNREAD = ProcReadings()


class Judge:
    """Judges failures that had all been read when it was made.

    `at_start` is what /proc showed at the start of the run, for those after which nobody looked.
    """

    def __init__(self, backend: Backend, at_start: ProcReadings = _UNREAD) -> None:
        self._backend, self._at_start = backend, at_start
        # Asked for once: it takes a system call for each program.
        self._missed_steps: Collection[str] | None = None
        self._let_pass_by: dict[Stage, frozenset[str]] = {}

    def judge(self, key: events.Key, readings: ProcReadings | None = None) -> Verdict:
        """Name the cause; `readings` help where the kernel side cannot tell."""
        return diagnose(key, self._let_pass(key), readings or self._at_start)

    def _let_pass(self, key: events.Key) -> frozenset[str]:
        """Say which steps would have been seen refusing this call, so that their silence tells that they did not."""
        plan = self._backend.plan
        if plan.blind:
            return frozenset()  # each program may have taken the call for another's
        if key.is_alone or (plan.can_leave_out and plan.attach == "kprobe"):
            # Before Linux 6.7 a kprobe's program that is left out is counted nowhere.
            return frozenset()
        stage = _stage_of(key)
        if stage not in self._let_pass_by:
            self._let_pass_by[stage] = self._watching(plan, stage)
        return self._let_pass_by[stage]

    def _watching(self, plan: Plan, stage: Stage) -> frozenset[str]:
        watching = {probe.step for probe in plan.probes if probe.step and probe.stage <= stage}
        if plan.can_leave_out:
            # The kernel counts it before the failure gets here.
            if self._missed_steps is None:
                self._missed_steps = self._backend.step_misses().keys()
            watching.difference_update(self._missed_steps)
        return frozenset(watching)


def watched(key: events.Key, plan: Plan) -> str | None:
    """Say what was watched as a call was judged by state; None: it was not."""
    if steps.name_of(key.step) != "copy_process" or key.is_observed:
        return None
    return _WATCHED[Stage.START if plan.attach == "tracepoint" else _stage_of(key)]


def calls_for_more(key: events.Key, verdict: Verdict, waits: bool) -> bool:
    """Say whether the probes that wait for a failure unexplained would tell more of the next one.

    `waits`: those that wait for the first failure of all come before them.
    """
    step = steps.BY_NAME.get(verdict.step)
    is_open = verdict.step == "copy_process" or verdict.alternatives or (step and step.in_detail)
    # Before a fork had failed nothing could be explained: of the next one more is known.
    return bool(is_open) and not key.is_observed and not (waits and key.is_alone)


def _stage_of(key: events.Key) -> Stage:
    """Say which probes had let a call pass that was judged by state."""
    if key.is_alone:
        return Stage.START
    # Once all of them are attached, a step is silent only if it let the call pass.
    return Stage.UNEXPLAINED if key.is_detailed else Stage.FAILED
