"""The running kernel, whichever it is: what it offers, captures, rehearsals, C programs.

FORK_TRACE_NO_SKIPS=1 turns every skip into a failure: the newest kernel must show all.
"""

from __future__ import annotations

import json
import os
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
from accuracy.judging import COUNT

from fork_trace.rehearse import Scenario

FORK_TRACE = [sys.executable, "-m", "fork_trace"]
TESTS = Path(__file__).resolve().parent.parent
TIMEOUT_S = 300  # under emulation everything takes ten to thirty times as long
REHEARSING_TIMEOUT_S = 900

# Nobody else's forks are at stake there.
IS_GUEST = bool(os.environ.get("FORK_TRACE_VM"))

# Thread stacks are seen without --refused, and by functions of their own.
STACK_STEPS = ("mmap", "mprotect")

# What newer kernels cannot be made to refuse, by design: (scenario, in the reason why not).
OUTGROWN = (("vfork-after-unshare-time", "lets posix_spawn pass"),)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run last what cannot be undone."""
    items.sort(key=lambda item: item.get_closest_marker("irreversible") is not None)


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


# What makes a kernel that has it all take the rung, by itself.
TAKES = {"fexit": (), "kprobe": ("--without", "trampolines")}


def host_by(rung: str) -> dict[str, Any]:
    """What doctor says of this kernel, where it has that rung."""
    found = doctor(*TAKES[rung])
    if found["rung"] != rung:
        pytest.skip(f"this kernel has the {found['rung']} rung only: see test_tracepoint.py")
    return found


@pytest.fixture(scope="session")
def usable() -> dict[str, Any]:
    """This kernel, on the rung that is chosen by itself."""
    return doctor()


@pytest.fixture(scope="session")
def host(usable: dict[str, Any]) -> dict[str, Any]:
    """This kernel, where it has the uppermost rung."""
    if usable["rung"] != "fexit":
        pytest.skip(f"this kernel has the {usable['rung']} rung only: see test_tracepoint.py")
    return usable


@pytest.fixture(scope="module", params=sorted(TAKES))
def rung(request: pytest.FixtureRequest) -> str:
    """Each way of attaching by which a step is seen to refuse."""
    return str(request.param)


@pytest.fixture(scope="module")
def takes(rung: str) -> tuple[str, ...]:
    """The options that make this kernel take that rung."""
    host_by(rung)
    return TAKES[rung]


@pytest.fixture(scope="module", params=[*sorted(TAKES), "tracepoint"])
def takes_each(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """The options that make this kernel take each of its rungs, the lowest included."""
    if request.param == "tracepoint":
        doctor("--rung", "tracepoint")
        return ("--rung", "tracepoint")
    host_by(request.param)
    return TAKES[request.param]


@pytest.fixture(scope="session")
def any_host() -> dict[str, Any]:
    """This kernel, where it has the lowest rung, whatever else it has."""
    return doctor("--rung", "tracepoint")


@dataclass
class Captured:
    """One capture: its records and what the command printed."""

    header: dict[str, Any]
    failures: list[dict[str, Any]]
    summary: dict[str, Any]
    done: subprocess.CompletedProcess[str]

    def of(self, comm: str | None) -> list[dict[str, Any]]:
        """The failures of one command."""
        return [failure for failure in self.failures if failure["comm"] == comm]

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
        # For accuracy.making and own_cgroups, which some of them run.
        env={**os.environ, "PYTHONPATH": f"{TESTS}/tools:{TESTS}"},
    )
    assert done.returncode in (0, 1), done.stderr
    return read_capture(file, done)


def read_capture(file: Path, done: subprocess.CompletedProcess[str]) -> Captured:
    """Read the file of a capture that has ended; each record must fit the published schema."""
    records = schema.read(file.read_text())
    return Captured(
        header=records[0],
        failures=[record for record in records if record["type"] == "failure"],
        summary=records[-1],
        done=done,
    )


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


@dataclass
class Rehearsed:
    """One capture around several rehearsals, and what each of these said of itself."""

    captured: Captured
    told: dict[str, dict[str, Any]]

    def of(self, scenario: Scenario) -> list[dict[str, Any]]:
        """The failures of one rehearsal; skips, or ends well, where it cannot be made."""
        told = self.told[scenario.name]
        failures = self.captured.of(scenario.comm)
        if "not_here" in told:
            assert failures == []
            if any(scenario.name == name and why in told["not_here"] for name, why in OUTGROWN):
                return []
            pytest.skip(told["not_here"])
        if "error" in told and not IS_GUEST:
            pytest.skip(told["error"])
        assert told.get("failures") == {scenario.errno: COUNT}, told
        return failures


def assert_counted(rehearsed: Rehearsed, scenario: Scenario) -> None:
    """Each failure of a rehearsal has the right cause, errno and call, and is counted once."""
    failures = rehearsed.of(scenario)
    if "not_here" in rehearsed.told[scenario.name]:
        return  # outgrown: `of` has seen that nothing failed
    captured = rehearsed.captured

    assert failures
    assert captured.by(scenario.comm, "cause", "errno", "syscall", "creates") == {
        (scenario.cause, scenario.errno, scenario.syscall, scenario.creates): COUNT
    }
    assert captured.exact(scenario.comm) == COUNT
    assert {total["cause"] for total in captured.totals(scenario.comm)} == {scenario.cause}


def rehearse(directory: Path, scenarios: Sequence[Scenario], *options: str) -> Rehearsed:
    """Capture some rehearsals, each COUNT times; one that cannot be made does not end it."""
    file = directory / "told.jsonl"
    captured = capture(
        directory / "capture.jsonl",
        *(sys.executable, "-m", "accuracy.making", *(["--host-wide"] if IS_GUEST else [])),
        *(str(file), *(scenario.name for scenario in scenarios)),
        options=options,
        timeout_s=REHEARSING_TIMEOUT_S,
    )
    told = [json.loads(line) for line in file.read_text().splitlines()]
    return Rehearsed(captured, {each["scenario"]: each for each in told})


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


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """An empty cgroup with a pids counter."""
    with own_cgroups.with_pids("ft-crowd") as place:
        if place is None:
            pytest.skip("no mounted hierarchy has the pids controller")
        yield place
