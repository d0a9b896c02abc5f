"""One pass for a whole run: every rehearsal and a few programs, under every watcher of the lane at once.

FORK_TRACE_WATCHERS names the watchers; without it all but bcc, which takes minutes to compile. Natively
only what touches nothing but its own processes is made.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import schema
from accuracy import capturing, watching
from accuracy.capturing import is_seen_by_all
from accuracy.judging import COUNT, Cell
from building import PROGRAMS

from fork_trace.rehearse.scenarios import SCENARIOS, Scenario

from .conftest import IS_GUEST, PYTHON_PATH, TIMEOUT_S, Captured

ALL = tuple(watching.WATCHERS)
NAMED = tuple(filter(None, os.environ.get("FORK_TRACE_WATCHERS", "").split(",")))
CHOSEN = NAMED or tuple(each for each in ALL if each != "bcc")
# Those that see what never reaches copy_process.
SEES_EARLY = ("fexit-all", "kprobe-all", "tracepoint", "tracepoint-without-symbols", "bcc")
MADE = tuple(each for each in SCENARIOS if IS_GUEST or not each.host_wide)

# What newer kernels cannot be made to refuse, by design: (scenario, in the reason why not).
_OUTGROWN = (("vfork-after-unshare-time", "lets posix_spawn pass"),)

# What limits.py reaches -> what the evidence calls the number.
LIMITS = {
    "pids-cgroup": "pids.max",
    "rlimit-nproc": "RLIMIT_NPROC",
    "fd-table-limit": "fs.nr_open",
    "threads-max": "kernel.threads-max",
    "thread-stack": "RLIMIT_AS",
    "overcommit-never": "commit charge",
    "memory-cgroup": "memory.max",
}
KINDS = ("fork", "vfork", "clone", "clone3", "thread")


def sees(watcher: str, scenario: Scenario) -> bool:
    """Say whether that watcher can see it at all."""
    return watcher in SEES_EARLY or is_seen_by_all(scenario)


def lacks_variables(watcher: str) -> bool:
    """Say whether it knows no kernel variable by name: it is denied them, or the kernel lists functions only."""
    return watcher in watching.WITHOUT_SYMBOLS or not _lists_variables()


@functools.cache
def _lists_variables() -> bool:
    return " nr_threads\n" in Path("/proc/kallsyms").read_text()


def by(*watchers: str) -> pytest.MarkDecorator:
    """Run for those of these watchers that are chosen, or for all of them."""
    chosen = [each for each in CHOSEN if not watchers or each in watchers]
    return pytest.mark.parametrize("watcher", chosen, scope="session")


def each_of(
    *watchers: str,
    of: Sequence[Scenario] = MADE,
    keep: Callable[[str, Scenario], bool] = sees,
) -> pytest.MarkDecorator:
    """Run for those of these watchers, or all, with each scenario that they see."""
    pairs = [
        (watcher, scenario)
        for watcher in CHOSEN
        if not watchers or watcher in watchers
        for scenario in of
        if keep(watcher, scenario)
    ]
    ids = [f"{watcher}-{scenario.name}" for watcher, scenario in pairs]
    return pytest.mark.parametrize(("watcher", "scenario"), pairs, ids=ids, scope="session")


def named(*names: str) -> tuple[Scenario, ...]:
    """Those of these scenarios that are made here."""
    return tuple(each for each in MADE if each.name in names)


def is_v2() -> bool:
    """Say whether limits.py can run: it lowers limits of the whole host, and reads one hierarchy."""
    return IS_GUEST and Path("/sys/fs/cgroup/cgroup.controllers").exists()


@dataclass
class Pass:
    """What each watcher saw of it, what each rehearsal said of itself, and what each program printed.

    `captures` has those that were read already: to hold hundreds of records against the schema takes
    seconds under emulation.
    """

    seen: Mapping[str, watching.Watched | None]
    told: dict[str, dict[str, Any]]
    printed: dict[str, str]
    trouble: str
    captures: dict[str, Captured] = field(default_factory=dict)


@dataclass
class Rehearsed:
    """The pass as one watcher saw it."""

    captured: Captured
    told: dict[str, dict[str, Any]]
    printed: dict[str, str]

    def is_outgrown(self, scenario: Scenario) -> bool:
        """Say whether this kernel lets pass what is rehearsed, by design."""
        why = self.told[scenario.name].get("not_here", "")
        return any(scenario.name == name and part in why for name, part in _OUTGROWN)

    def of(self, scenario: Scenario) -> list[dict[str, Any]]:
        """The failures of one rehearsal, at least one; skips where it cannot be made."""
        told = self.told[scenario.name]
        failures = self.captured.of(scenario.comm)
        if "not_here" in told:
            assert failures == []
            if self.is_outgrown(scenario):
                return []
            pytest.skip(told["not_here"])
        if "error" in told and not IS_GUEST:
            pytest.skip(told["error"])
        assert told.get("failures") == {scenario.errno: COUNT}, told
        assert failures, f"no failure of {scenario.comm} was recorded"
        return failures


def _programs(place: Path, build: Callable[[str], str]) -> dict[str, list[str]]:
    """Other programs whose forks fail, each under a name of its own."""

    def called(comm: str, program: str) -> str:
        return str(shutil.copy(build(program), place / comm))

    mmap = "refused_mmap_then_fork"
    others = {
        "mmap-then-fork": [called("mmap-then-fork", mmap), str(COUNT), "fork"],
        "mmap-alone": [called("mmap-alone", mmap), str(COUNT)],
        "signalled_fork": [build("signalled_fork"), str(COUNT)],
        "half_exempt": [build("half_exempt"), str(COUNT)],
    }
    kinds = called("kinds", "fork_kinds")
    limits = [sys.executable, str(PROGRAMS / "limits.py")]
    if is_v2():
        others = {f"limits {cause}": [*limits, cause, str(COUNT)] for cause in LIMITS} | others
    # In turn: on arm64 three kinds are one call, of which only so many are sampled in a second.
    programs: dict[str, list[str]] = {}
    rest = list(others.items())
    for index, kind in enumerate(KINDS):
        programs[f"kinds {kind}"] = [kinds, kind, str(COUNT)]
        programs |= rest[index : index + 1]
    return programs | dict(rest)


def make_pass(place: Path, build: Callable[[str], str]) -> Pass:
    """Make it all once."""
    printed = {}
    environment = {**os.environ, "PYTHONPATH": PYTHON_PATH}
    programs = _programs(place, build)
    by_name = {**watching.WATCHERS, **watching.WITHOUT_SYMBOLS}
    with watching.watching(place, {name: by_name[name] for name in CHOSEN}) as seen:
        told, trouble = watching.rehearse(
            place / "told.jsonl", [each.name for each in MADE], host_wide=IS_GUEST
        )
        for name, argv in programs.items():
            done = subprocess.run(
                argv, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S, env=environment
            )
            printed[name] = done.stdout
    _leave(place, seen, told, trouble)
    return Pass(seen, told, printed, trouble)


def _leave(
    place: Path,
    seen: Mapping[str, watching.Watched | None],
    told: dict[str, dict[str, Any]],
    trouble: str,
) -> None:
    """Leave the captures, and this kernel's part of the accuracy table, where the run collects them."""
    share = os.environ.get("FORK_TRACE_VM_SHARE")
    if not share:
        return
    kernel, lane = os.environ.get("FORK_TRACE_VM", "native"), os.environ.get("FORK_TRACE_LANE", "")
    kept = Path(share, f"pass-{kernel}-{lane}")
    kept.mkdir(exist_ok=True)
    for file in place.glob("*.jsonl"):
        shutil.copy(file, kept)
    lines = list(capturing.lines(kernel, SCENARIOS, seen, told, trouble))
    cells = [Cell(*cell)._asdict() for line in lines for cell in line.get("cells", ())]
    releases = {kernel: os.uname().release}
    Path(share, f"cells-{kernel}-{lane}.json").write_text(
        json.dumps({"cells": cells, "releases": releases})
    )


def rehearsed_by(made: Pass, watcher: str) -> Rehearsed:
    """The pass as that watcher saw it; skips where this kernel has not its way of attaching."""
    watched = made.seen[watcher]
    assert watched is not None
    refusal = watching.refusal(watcher, watched)
    if refusal is not None:
        if IS_GUEST and "refuses the program" in refusal:
            # No kernel of ours does; a fallback that is not there any more is no reason to skip.
            pytest.fail(f"{watcher}: {refusal}")
        pytest.skip(f"{watcher}: {refusal.partition('. ')[0]}")
    assert made.trouble == ""
    assert watched.done.returncode == 1, watched.done.stderr
    if watcher not in made.captures:
        records = [schema.validate(record) for record in watched.records]
        made.captures[watcher] = Captured(records, watched.done)
    return Rehearsed(made.captures[watcher], made.told, made.printed)
