"""The running kernel, whichever it is: what it offers, captures, rehearsals, C programs.

FORK_TRACE_NO_SKIPS=1 turns every skip into a failure: the newest kernel must show all.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import building
import own_cgroups
import pytest
import schema

FORK_TRACE = [sys.executable, "-m", "fork_trace"]
TESTS = Path(__file__).resolve().parent.parent
# Of what tests run, for accuracy.making and own_cgroups; in a guest of another architecture than the
# machine's the tool itself is found by the last of it.
PYTHON_PATH = os.pathsep.join(
    filter(None, (f"{TESTS}/tools", str(TESTS), os.environ.get("PYTHONPATH")))
)
TIMEOUT_S = 300  # under emulation everything takes ten to thirty times as long

# Nobody else's forks are at stake there.
IS_GUEST = bool(os.environ.get("FORK_TRACE_VM"))


# Each start costs five to ten seconds under emulation: told at the end of a run, by command.
_STARTS: Counter[str] = Counter()


def _note_start(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "subprocess.Popen" or not isinstance(arguments[1], (list, tuple)):
        return
    argv = [str(word) for word in arguments[1]]
    for before, command in zip(argv, argv[1:]):
        if before == "fork_trace":
            _STARTS[command] += 1


sys.addaudithook(_note_start)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Tell how often the tool was started."""
    if not _STARTS:
        return
    told = ", ".join(f"{count} x {name}" for name, count in sorted(_STARTS.items()))
    terminalreporter.write_line(f"fork-trace was started {sum(_STARTS.values())} times: {told}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what no watcher of this lane is for, and run last what cannot be undone."""
    idle = [item for item in items if _is_for_nobody(item)]
    if idle:
        config.hook.pytest_deselected(items=idle)
        items[:] = [item for item in items if item not in idle]
    items.sort(key=lambda item: item.get_closest_marker("irreversible") is not None)


def _is_for_nobody(item: pytest.Item) -> bool:
    return any(
        str(mark.kwargs.get("reason", "")).startswith("got empty parameter set")
        for mark in item.iter_markers("skip")
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    """Fail a skipped test where nothing may be skipped."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("FORK_TRACE_NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be: {report.longrepr}"


def doctor(*options: str) -> dict[str, Any]:
    """What doctor says of this kernel; skips where it cannot be watched."""
    if os.geteuid() != 0:
        pytest.skip("needs root: run it by scripts/test, or with sudo")
    done = subprocess.run(
        [*FORK_TRACE, "doctor", "--json", *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    if not found["usable"]:
        pytest.skip(f"this kernel cannot be watched: {found['why']}")
    return found


@functools.cache
def known(*options: str) -> dict[str, Any]:
    """What doctor said of this kernel, asked once in a run."""
    return doctor(*options)


# What makes a kernel that has it all take the attach mode, by itself.
TAKES = {"fexit": (), "kprobe": ("--without", "trampolines")}


def host_by(attach: str) -> dict[str, Any]:
    """What doctor says of this kernel, where it has that attach mode."""
    found = known(*TAKES[attach])
    if found["attach"] != attach:
        pytest.skip(f"this kernel has the {found['attach']} attach mode only")
    return found


def preempts() -> bool:
    """Say whether this kernel preempts itself: of "none voluntary (full) lazy" one is chosen."""
    if "PREEMPT_RT" in os.uname().version:
        return True
    modes = Path("/sys/kernel/debug/sched/preempt")
    if modes.exists():
        return bool(re.search(r"\((full|lazy)\)", modes.read_text()))
    # Where it cannot be chosen: 5.10, which does not, and arm64's 7.2, which does.
    return bool(re.search(r"\bPREEMPT(_LAZY)?\b", os.uname().version))


@pytest.fixture(scope="session")
def usable() -> dict[str, Any]:
    """This kernel, on the attach mode that is chosen by itself."""
    return known()


@pytest.fixture(scope="session")
def host(usable: dict[str, Any]) -> dict[str, Any]:
    """This kernel, where it has the uppermost attach mode."""
    if usable["attach"] != "fexit":
        pytest.skip(f"this kernel has the {usable['attach']} attach mode only")
    return usable


@pytest.fixture(scope="module", params=sorted(TAKES))
def attach(request: pytest.FixtureRequest) -> str:
    """Each way of attaching by which a step is seen to refuse."""
    return str(request.param)


@pytest.fixture(scope="module")
def takes(attach: str) -> tuple[str, ...]:
    """The options that make this kernel take that attach mode."""
    host_by(attach)
    return TAKES[attach]


@pytest.fixture(scope="module", params=[*sorted(TAKES), "tracepoint"])
def takes_each(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The options that make this kernel take each of its attach modes, the lowest included."""
    if request.param == "tracepoint":
        known("--attach", "tracepoint")
        return ("--attach", "tracepoint")
    host_by(request.param)
    return TAKES[request.param]


@pytest.fixture(scope="session")
def any_host() -> dict[str, Any]:
    """This kernel, where it has the lowest attach mode, whatever else it has."""
    return known("--attach", "tracepoint")


@dataclass
class Captured:
    """One capture: its records and what the command printed."""

    records: list[dict[str, Any]]
    done: subprocess.CompletedProcess[str]

    @property
    def header(self) -> dict[str, Any]:
        """The first record."""
        return self.records[0]

    @functools.cached_property
    def failures(self) -> list[dict[str, Any]]:
        """Those of failures."""
        return [record for record in self.records if record["type"] == "failure"]

    @functools.cached_property
    def _by_comm(self) -> dict[str | None, list[dict[str, Any]]]:
        # Hundreds of tests ask one capture: under emulation that is half a minute.
        found: dict[str | None, list[dict[str, Any]]] = {}
        for failure in self.failures:
            found.setdefault(failure["comm"], []).append(failure)
        return found

    @property
    def summary(self) -> dict[str, Any]:
        """The last record."""
        return self.records[-1]

    def of(self, comm: str | None) -> list[dict[str, Any]]:
        """The failures of one command."""
        return self._by_comm.get(comm, [])

    def count(self, comm: str | None) -> int:
        """How many failures of one command the records stand for."""
        return sum(failure["count"] for failure in self.of(comm))

    def totals(self, comm: str) -> list[dict[str, Any]]:
        """The exact totals of one command."""
        return [total for total in self.summary["totals"] if total["comm"] == comm]

    def exact(self, comm: str) -> int:
        """How many the exact totals have."""
        return sum(total["count"] for total in self.totals(comm))

    def by(self, comm: str, *names: str) -> Counter[tuple[Any, ...]]:
        """Count the failures of one command by some fields."""
        counts: Counter[tuple[Any, ...]] = Counter()
        for failure in self.of(comm):
            counts[tuple(failure[name] for name in names)] += failure["count"]
        return counts


def capture(
    file: Path, *argv: str, options: tuple[str, ...] = (), timeout_s: float = TIMEOUT_S
) -> Captured:
    """Run a command under `fork-trace capture` and read the file that it wrote."""
    file.unlink(missing_ok=True)
    done = subprocess.run(
        [*FORK_TRACE, "capture", "--output", str(file), *options, "--", *argv],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, "PYTHONPATH": PYTHON_PATH},
    )
    assert done.returncode in (0, 1), done.stderr
    return read_capture(file, done)


def read_capture(file: Path, done: subprocess.CompletedProcess[str]) -> Captured:
    """Read the file of a capture that has ended; each record must fit the published schema."""
    return Captured(schema.read(file.read_text()), done)


def start(*argv: str) -> subprocess.Popen[str]:
    """Start the tool and wait until it watches."""
    process = subprocess.Popen(
        [*FORK_TRACE, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line.startswith("Watching"), line
    return process


def functions(failure: dict[str, Any]) -> list[str | None]:
    """The names of the frames of a stack, innermost first."""
    return [frame["symbol"] for frame in failure["stack"]]


def first_evidence(failures: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first evidence, which must be the same in all of them."""
    (evidence,) = {json.dumps(failure["evidence"][0]) for failure in failures}
    found: dict[str, Any] = json.loads(evidence)
    return found


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Compile one of the C programs beside this file; a function of its name."""
    place = tmp_path_factory.mktemp("programs")

    return lambda name: building.program(place, name)


@pytest.fixture(scope="session")
def made(build: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One pass of rehearsals under all watchers: a rehearsing.Pass."""
    from .rehearsing import make_pass

    return make_pass(tmp_path_factory.mktemp("pass"), build)


@pytest.fixture(scope="session")
def rehearsed(watcher: str, made: Any) -> Any:
    """That pass as one watcher saw it: a rehearsing.Rehearsed."""
    from .rehearsing import rehearsed_by

    return rehearsed_by(made, watcher)


@pytest.fixture(scope="session")
def captured(rehearsed: Any) -> Captured:
    """What that watcher recorded."""
    recorded: Captured = rehearsed.captured
    return recorded


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """An empty cgroup with a pids counter."""
    with own_cgroups.with_pids("ft-crowd") as place:
        if place is None:
            pytest.skip("no mounted hierarchy has the pids controller")
        yield place
