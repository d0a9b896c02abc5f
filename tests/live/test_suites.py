"""Programs that are not ours: the kernel's selftests, and stress-ng where there is little room.

`scripts/suites` builds them and runs this. Strace is the truth: how often each call of the fork family
failed, and with what.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import own_cgroups
import pytest
from accuracy.watching import Watched, refusal, watching

from .conftest import Captured

SELFTESTS = os.environ.get("FORK_TRACE_SELFTESTS")
STRESS_NG = os.environ.get("FORK_TRACE_STRESS_NG")
pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not (SELFTESTS and STRESS_NG), reason="scripts/suites runs this"),
]

WATCHERS = {
    "fexit": ("--attach", "fexit", "--refused", "--stack-bytes", "0"),
    "tracepoint": ("--attach", "tracepoint", "--stack-bytes", "0"),
}
ROOM = "40"
# Stressor -> what bounds it.
STRESSORS = {
    "fork": ("--fork-ops", "150", "--fork-max", "60"),
    "vfork": ("--vfork-ops", "150", "--vfork-max", "60"),
    "clone": ("--clone-ops", "20", "--clone-max", "60"),
    "pthread": ("--pthread-ops", "60", "--pthread-max", "60"),
    "zombie": ("--zombie-ops", "150", "--zombie-max", "60"),
    "resources": ("--resources-ops", "4", "--timeout", "10"),
}
TIMEOUT_S = 120
COMM_BYTES = 15
_FAILED = re.compile(r"(?:clone3?|v?fork)(?:\(| resumed).*= -1 (E\w+)")
_STRACE = ("strace", "-f", "-qq", "-e", "trace=clone,clone3,fork,vfork", "-e", "signal=none")


class Ran(NamedTuple):
    """What every watcher saw, and what strace saw of each program or stressor."""

    seen: dict[str, Watched | None]
    selftests: dict[str, Counter[str]]
    stressors: dict[str, Counter[str]]


def trace(file: Path, argv: list[str], before: str = "", **options: Any) -> Counter[str]:
    """Run a program under strace, after a line of shell, and count by errno what failed."""
    command = [*_STRACE, "-o", str(file), *argv]
    if before:
        command = ["sh", "-c", f'{before}; exec "$@"', "sh", *command]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        **options,
    )
    try:
        process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        # Not strace itself, which still has to write what it saw.
        for child in _below(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        process.wait(TIMEOUT_S)
    return Counter(_FAILED.findall(file.read_text(errors="replace")))


def _below(pid: int) -> list[int]:
    """The processes that this one has started, and theirs, innermost first."""
    told = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [each for child in map(int, told) for each in (*_below(child), child)]


def short(number: int, name: str) -> str:
    """A name that the kernel keeps whole, and nobody else has."""
    return f"s{number:02}-{name}"[:COMM_BYTES]


@pytest.fixture(scope="module")
def ran(usable: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """All of them, once."""
    assert SELFTESTS and STRESS_NG
    place = tmp_path_factory.mktemp("suites")
    selftests: dict[str, Counter[str]] = {}
    stressors: dict[str, Counter[str]] = {}
    libraries = sorted({str(path.parent) for path in Path(STRESS_NG).rglob("lib*.so*")})
    with watching(place, WATCHERS) as seen:
        for number, path in enumerate(sorted(Path(SELFTESTS).iterdir())):
            name = short(number, path.name)
            shutil.copy(path, place / name)
            selftests[name] = trace(place / f"{name}.trace", [f"./{name}"], cwd=place)
        for name, bounds in STRESSORS.items():
            with own_cgroups.with_pids(f"ft-stress-{name}") as cgroup:
                assert cgroup is not None
                (cgroup / "pids.max").write_text(ROOM)
                argv = [f"{STRESS_NG}/usr/bin/stress-ng", f"--{name}", "1", "--no-rand-seed"]
                argv += ["--temp-path", str(place), "--timeout", "60", *bounds]
                stressors[name] = trace(
                    place / f"{name}.trace",
                    argv,
                    f"echo $$ > {cgroup}/cgroup.procs",
                    env={**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)},
                )
                if (cgroup / "cgroup.kill").exists():
                    (cgroup / "cgroup.kill").write_text("1")
    print({**selftests, **stressors})
    return Ran(seen, selftests, stressors)


@pytest.fixture(scope="module", params=WATCHERS)
def captured(request: pytest.FixtureRequest, ran: Ran) -> Captured:
    """What one of the watchers saw."""
    watched = ran.seen[request.param]
    assert watched is not None
    why = refusal(str(request.param), watched)
    if why is not None:
        pytest.skip(why)
    # `missed` is an upper bound on a kernel that preempts, and strace keeps both processors busy:
    # what strace saw is the measure.
    return Captured(watched.records, watched.done)


def told(captured: Captured, key: str, is_meant: Any) -> Counter[str]:
    """Count by errno, exactly, what is meant."""
    counts: Counter[str] = Counter()
    for total in captured.summary["totals"]:
        # Of what the kernel makes by itself no program hears.
        if is_meant(total[key] or "") and total["syscall"] in ("fork", "vfork", "clone", "clone3"):
            counts[total["errno"]] += total["count"]
    return counts


def test_of_each_selftest_as_many_failures_are_told_as_it_had(ran: Ran, captured: Captured) -> None:
    found = {name: told(captured, "comm", name.__eq__) for name in ran.selftests}

    assert sum(map(len, ran.selftests.values())) > 3
    assert ran.selftests == found


def test_of_each_stressor_as_many_failures_are_told_as_it_had(ran: Ran, captured: Captured) -> None:
    found = {
        name: told(captured, "cgroup", re.compile(f"/ft-stress-{name}-").search)
        for name in ran.stressors
    }

    assert sum(map(len, ran.stressors.values())) > 2
    assert ran.stressors == found


def test_each_of_them_has_a_cause(captured: Captured) -> None:
    unknown = [each for each in captured.summary["totals"] if each["cause"] == "unknown"]

    assert unknown == []
