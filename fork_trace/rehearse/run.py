"""Real failures on purpose: start one child that makes fork fail a known number of times, wait, tidy up.

What was borrowed is given back on success, on error, on SIGTERM, SIGINT, SIGHUP and SIGQUIT, and
when the child crashes; if the parent is killed with SIGKILL the child does it. Nothing can be done
if both are killed so; before there is a child, only an empty cgroup can stay.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
from collections import Counter
from dataclasses import dataclass
from typing import Any, NoReturn

from fork_trace.errors import ForkTraceError, NotHereError
from fork_trace.rehearse.child import END_NOW, HELD, Stage, pid_outside
from fork_trace.rehearse.recipes.limits import Act
from fork_trace.rehearse.restore import Borrowed
from fork_trace.rehearse.scenarios import Scenario, find

# How soon the parent hands a signal on to the child.
_LISTEN_S = 0.01


@dataclass
class Outcome:
    """What happened: the forks of the process `pid`, and sentences with the numbers behind them.

    `ended_by` names the signal that ended it early, if one did; `pid` is the one that this
    process sees.
    """

    scenario: Scenario
    attempts: int
    failures: Counter[str]
    successes: int
    notes: list[str]
    pid: int
    comm: str
    count: int
    ended_by: str = ""
    times_ms: tuple[float, ...] = ()  # how long each fork took, where that is what it is about
    slow: int = 0  # of these, those that took as long as they were to

    @property
    def is_as_planned(self) -> bool:
        """Were exactly `count` forks refused, or processes killed, as the scenario has it? Or slow, where its cause is that?"""
        if not self.scenario.errno:
            wanted = self.count if self.scenario.cause else 0
            return not self.failures and self.successes > 0 and self.slow >= wanted
        return self.failures == {self.scenario.errno: self.count}


def run(name: str, count: int = 23, host_wide: bool = False) -> Outcome:
    """Make `count` forks fail as the scenario says and return what happened.

    ForkTraceError means that it cannot be done here, NotHereError that it never can, and either that
    nothing is left changed. A signal that ends the rehearsal is delivered to the caller after
    everything was given back.
    """
    scenario = find(name)
    if count < 1:
        raise ForkTraceError(f"cannot make {count} forks fail.", "Give --count 1 or more.")
    borrowed = Borrowed(host_wide)
    if scenario.host_wide:
        borrowed.demand_host_wide(scenario.name)
    if scenario.needs_root and os.geteuid() != 0:
        raise ForkTraceError(f"only root can rehearse {name}.", "Run it with sudo.")
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, HELD)
    try:
        try:
            act = scenario.prepare(borrowed)
            stage = Stage(scenario.comm, count, borrowed)
            return _in_child(scenario, act, stage)
        finally:
            borrowed.give_back()
    except OSError as error:
        raise ForkTraceError(
            f"cannot rehearse {name}: {_reason(error)}.",
            "`fork-trace rehearse --list` shows what each scenario needs.",
        ) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child(scenario: Scenario, act: Act, stage: Stage) -> Outcome:
    report_from, report_to = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            _play(scenario, act, stage, report_to)
    except BaseException:
        os.close(report_from)
        raise
    finally:
        os.close(report_to)
    try:
        told, ended_by = _listen(report_from, pid, stage)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    finally:
        os.close(report_from)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not told:
        raise ForkTraceError(
            f"the process that rehearsed {scenario.name} ended with status {status}"
            " before it reported.",
            "A status of -9 may be the OOM killer: see the kernel log.",
        )
    report: dict[str, Any] = json.loads(told)
    if report["error"]:
        raise (NotHereError if report["not_here"] else ForkTraceError)(*report["error"])
    failures: Counter[str] = Counter(report["failures"])
    return Outcome(
        scenario=scenario,
        attempts=sum(failures.values()) + report["successes"],
        failures=failures,
        successes=report["successes"],
        notes=report["notes"],
        times_ms=tuple(report["times_ms"]),
        slow=report["slow"],
        pid=report["pid"],
        comm=scenario.comm,
        count=stage.count,
        ended_by=ended_by or report["ended_by"],
    )


def _listen(report_from: int, pid: int, stage: Stage) -> tuple[bytes, str]:
    told, ended_by = b"", ""
    while True:
        if not ended_by:
            ended_by = stage.ended_by()
            if ended_by:
                os.kill(pid, END_NOW)
        if select.select([report_from], [], [], _LISTEN_S)[0]:
            piece = os.read(report_from, 65536)
            if not piece:
                return told, ended_by
            told += piece


def _play(scenario: Scenario, act: Act, stage: Stage, report_to: int) -> NoReturn:
    error = None
    not_here = False
    try:
        gc.disable()  # a collection in the midst would make the time of lowered limits longer
        stage.enter()
        act(stage)
    except ForkTraceError as refusal:
        error = [refusal.message, refusal.hint]
        not_here = isinstance(refusal, NotHereError)
    except BaseException as failure:
        error = [
            f"cannot rehearse {scenario.name}: {_reason(failure)}.",
            "Another limit may be in the way, or a capability missing.",
        ]
    try:
        stage.give_back_as_orphan()
        report = {
            "pid": pid_outside(),
            "failures": stage.failures,
            "successes": stage.successes,
            "notes": stage.notes,
            "times_ms": stage.times_ms,
            "slow": stage.slow,
            "ended_by": stage.ended_by(),
            "error": error,
            "not_here": not_here,
        }
        os.write(report_to, json.dumps(report).encode())
    finally:
        os._exit(0)


def _reason(error: BaseException) -> str:
    if not isinstance(error, OSError) or not error.strerror:
        return repr(error)
    return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
