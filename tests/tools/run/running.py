"""One lane: its command, its output as it ends, its time against its budget."""

from __future__ import annotations

import contextlib
import os
import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape, quoteattr

from live.matrix import CHECK_BESIDE_S, CHECK_BUDGET_S, EXPECTED, Lane

from run.stopping import Programs

CHECKOUT = Path(__file__).resolve().parents[3]
LIVE = "tests/live"
# Others use this machine too.
_SLACK = 1.5
_NEEDS_ROOT = "needs root"
_TOLD = threading.Lock()
CUT_SHORT, NOT_RUN = "cut short", "not run"


class Ended(NamedTuple):
    """What came of a lane. `why`: what is wrong with it, empty if nothing; `cpu_s`: None if unknown."""

    name: str
    status: int
    took_s: float
    budget_s: float
    cpu_s: float | None
    why: str
    note: str = ""


def factor() -> float | None:
    """By what every budget is multiplied; None: it is no number above 0."""
    with contextlib.suppress(ValueError):
        value = float(os.environ.get("FORK_TRACE_BUDGET_FACTOR") or _SLACK)
        if 0 < value < float("inf"):
            return value
    return None


def files(lane: Lane) -> list[str]:
    """The lane's test files, from the top of the checkout, but for those that are still to come."""
    paths = [file if "/" in file else f"{LIVE}/{file}" for file in lane.files]
    return [each for each in paths if _is_there(each)]


def _is_there(path: str) -> bool:
    return (CHECKOUT / path).exists() or path.rpartition("/")[2] not in EXPECTED


def command(lane: Lane, results: Path, budget_s: float) -> list[str]:
    """The whole command line of a lane."""
    if lane.command:
        return [*lane.command]
    tests = ["-q", "-p", "no:cacheprovider", "-m", "live or not live", *files(lane)]
    tests += [word for each in lane.deselect for word in ("--deselect", f"{LIVE}/{each}")]
    tests += ["-k", lane.select] if lane.select else []
    if lane.kernel is None:
        return [".venv/bin/pytest", *tests, f"--junitxml={results}/{lane.name}.xml"]
    # Not the script: a root of another architecture has a pytest of its own.
    inner = shlex.join([".venv/bin/python", "-m", "pytest", *tests])
    variables = [f"{name}={value}" for name, value in _variables(lane).items()]
    return [
        *("scripts/vm", "--kernel", lane.kernel, "--cgroup", lane.cgroup),
        *(("--append", lane.append) if lane.append else ()),
        *(("--cpu", lane.cpu) if lane.cpu else ()),
        *(("--init", lane.init) if lane.init else ()),
        *(("--icount",) if lane.counts else ()),
        *("--memory", lane.memory, "--timeout", f"{max(900, 3 * budget_s):.0f}"),
        *(("--module", lane.module) if lane.module else ()),
        *("--", "env", *variables, "sh", "-c"),
        f'exec {inner} --junitxml="$FORK_TRACE_VM_SHARE/{lane.name}.xml"',
    ]


def _variables(lane: Lane) -> Mapping[str, str]:
    return {
        "FORK_TRACE_NO_SKIPS": "1" if lane.is_strict else "",
        "FORK_TRACE_WATCHERS": ",".join(lane.watchers),
        "FORK_TRACE_LANE": lane.name,
        **({} if lane.storm_s is None else {"FORK_TRACE_STORM_S": str(lane.storm_s)}),
        "FORK_TRACE_FAULTS": lane.faults,
    }


def run(lane: Lane, results: Path, programs: Programs | None = None) -> Ended:
    """Run a lane to its end; what it printed is printed at once, and is kept in `results`."""
    programs = programs or Programs()
    budget_s = lane.budget_s * (factor() or _SLACK)
    if lane.kernel is None and os.geteuid() != 0 and not lane.command:
        return Ended(lane.name, 0, 0, budget_s, None, "", f"left out: {_NEEDS_ROOT}")
    done = _run(
        lane.name,
        command(lane, results, budget_s),
        {**os.environ, **_variables(lane), "FORK_TRACE_VM_SHARE": str(results)},
        results,
        programs,
    )
    if done is None:
        return Ended(lane.name, 1, 0, budget_s, None, NOT_RUN, NOT_RUN)
    status, took_s, cpu_s, out = done
    missing = [word for word in lane.must_say if word not in out]
    why = f"exit {status}" if status else ""
    if missing:
        why = f"did not say {', '.join(missing)}"
    elif not why and took_s > budget_s:
        why = f"over its budget of {budget_s:.0f} s"
    if programs.stopped_by is not None and why:
        why = CUT_SHORT
    if lane.command:
        _write_junit(results / f"{lane.name}.xml", lane.name, took_s, why)
    return Ended(lane.name, status, took_s, budget_s, cpu_s, why)


def check_budget_s(workers: int) -> int:
    """What scripts/check takes with so many processes for its tests; none: it is not run."""
    if not workers:
        return 0
    return CHECK_BUDGET_S if workers > 1 else CHECK_BESIDE_S


def check(workers: int, results: Path, programs: Programs | None = None) -> Ended:
    """Run scripts/check, whose tests may take so many processes."""
    programs = programs or Programs()
    budget_s = check_budget_s(workers) * (factor() or _SLACK)
    environment = {
        **os.environ,
        "FORK_TRACE_CHECK_JUNIT": str(results / "check.xml"),
        # 0: in pytest's own process.
        "FORK_TRACE_CHECK_WORKERS": str(workers if workers > 1 else 0),
    }
    done = _run("check", ["scripts/check"], environment, results, programs)
    if done is None:
        return Ended("check", 1, 0, budget_s, None, NOT_RUN, NOT_RUN)
    status, took_s, cpu_s, _ = done
    why = f"exit {status}" if status else ""
    if programs.stopped_by is not None and why:
        why = CUT_SHORT
    if not why and took_s > budget_s:
        why = f"over its budget of {budget_s:.0f} s"
    return Ended("check", status, took_s, budget_s, cpu_s, why)


def _run(
    name: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    results: Path,
    programs: Programs,
) -> tuple[int, float, float, str] | None:
    """Run one program; returns its status, both times in seconds, and its output. None: it was not begun."""
    kept = results / f"{name}.out"
    began_s = time.monotonic()
    with open(kept, "wb") as file:
        process = programs.start(argv, CHECKOUT, environment, file)
        if process is None:
            return None
        status, cpu_s = programs.wait(process)
    took_s = time.monotonic() - began_s
    out = kept.read_text(errors="replace")
    with _TOLD:
        print(f"\n== {name}: exit {status}, {took_s:.0f} s\n{out}", flush=True)
    return status, took_s, cpu_s, out


def _write_junit(file: Path, name: str, took_s: float, why: str) -> None:
    failure = f"<failure message={quoteattr(why)}>{escape(why)}</failure>" if why else ""
    file.write_text(
        f'<?xml version="1.0" encoding="utf-8"?><testsuites><testsuite name={quoteattr(name)} tests="1" '
        f'failures="{int(bool(why))}" time="{took_s:.3f}"><testcase classname="scripts" '
        f'name={quoteattr(name)} time="{took_s:.3f}">{failure}</testcase></testsuite></testsuites>\n'
    )
