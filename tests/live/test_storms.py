"""Storms: what is counted is what the forking processes themselves saw, and a quiet one is not drowned.

Runs natively too, in the lowest rung. FORK_TRACE_STORM_S sets the length of each storm in seconds.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import FORK_TRACE, IS_GUEST, Captured, capture

pytestmark = pytest.mark.live

STORM_S = int(os.environ.get("FORK_TRACE_STORM_S", "6"))
WORKERS = 4
QUIET = "ft-rlimit-nproc"
# Under emulation each takes a minute, and the one with most commands asks most.
NAMES = (5000,) if IS_GUEST else (1, 10, 5000)


@pytest.fixture(params=NAMES)
def names(request: pytest.FixtureRequest) -> int:
    """How many commands take part."""
    return int(request.param)


def preempts(host: dict[str, Any]) -> bool:
    """Does this kernel preempt a task in a program on a function? Then two watch copy_process."""
    return [each["function"] for each in host["attached"]].count("copy_process") > 1


def storm(
    names: int, cgroup: Path, build: Any, place: Path, *options: str
) -> tuple[Captured, dict[str, int]]:
    """What was captured, and by command how many of its forks were refused, as it saw itself."""
    told = place / "told"
    storming = [build("storm"), str(cgroup), str(WORKERS), str(names), str(STORM_S)]
    quiet = [*FORK_TRACE, "rehearse", "rlimit-nproc", "--count", "1"]
    script = (
        f"{shlex.join(storming)} >{told} & sleep {STORM_S / 3}; "
        f"{shlex.join(quiet)} >/dev/null; wait"
    )
    captured = capture(
        place / "c.jsonl", "sh", "-c", script, options=options, timeout_s=300 + 4 * STORM_S
    )
    counts = dict(line.split() for line in told.read_text().splitlines())
    return captured, {comm: int(count) for comm, count in counts.items() if count != "0"}


def test_what_a_program_was_left_out_of_is_counted_as_missed(
    usable: dict[str, Any], cgroup: Path, build: Any, tmp_path: Path
) -> None:
    if not preempts(usable):
        pytest.skip("this kernel preempts no task in a program on a function: 7.0 does")
    captured, told = storm(1, cgroup, build, tmp_path)
    (command,) = told
    seen = captured.exact(command)

    # What a step's program was left out of may stay unknown; it must not get another cause.
    assert {total["cause"] for total in captured.totals(command)} <= {"pids-cgroup", "unknown"}
    assert 0 < seen <= told[command]
    assert told[command] - seen <= captured.summary["missed"]


def test_all_are_counted_and_a_quiet_command_is_sampled_whole(
    usable: dict[str, Any], names: int, cgroup: Path, build: Any, tmp_path: Path
) -> None:
    # Kprobes run with preemption off.
    options = ("--rung", "kprobe") if preempts(usable) else ()
    captured, told = storm(names, cgroup, build, tmp_path, *options)
    totals = {comm: captured.exact(comm) for comm in told}
    (quiet,) = captured.of(QUIET)

    assert len(told) >= min(names, 10)
    assert told == totals
    assert {"pids-cgroup"} == {total["cause"] for comm in told for total in captured.totals(comm)}
    assert (0, 0) == (captured.summary["folded"], captured.summary["lost"])
    assert ("rlimit-nproc", 1) == (quiet["cause"], quiet["count"])
    assert quiet["evidence"][0]["value"] is not None and quiet["stack"]
    print(
        f"{names} commands, {STORM_S} s: {sum(told.values())} refused and counted, "
        f"{len(captured.failures)} records",
        file=sys.stderr,
    )
