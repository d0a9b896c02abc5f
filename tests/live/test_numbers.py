"""The numbers in the evidence against the kernel's own, to the last unit, on a host that is quiet."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from building import PROGRAMS

from fork_trace.plan import RUNGS

from .conftest import IS_GUEST, TAKES, Captured, capture, host_by

COUNT = 23
COMM = "ft-limits"
CAUSES = {
    "pids-cgroup": "pids.max",
    "rlimit-nproc": "RLIMIT_NPROC",
    "fd-table-limit": "fs.nr_open",
    "threads-max": "kernel.threads-max",
    "thread-stack": "RLIMIT_AS",
    "overcommit-never": "commit charge",
    "memory-cgroup": "memory.max",
}

pytestmark = pytest.mark.live


def captured_at(cause: str, rung: str, file: Path) -> tuple[Captured, dict[str, Any]]:
    argv = [sys.executable, str(PROGRAMS / "limits.py"), cause, str(COUNT)]
    captured = capture(file, *argv, options=("--attach", rung))
    line = next(each for each in captured.done.stdout.splitlines() if each.startswith("{"))
    own: dict[str, Any] = json.loads(line)
    assert own["refused"] == COUNT
    return captured, own


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("cause", CAUSES)
def test_the_deciding_number_and_its_limit_are_the_kernels_own(
    cause: str,
    rung: str,
    any_host: dict[str, Any],
    tmp_path: Path,
) -> None:
    if not IS_GUEST:
        pytest.skip("needs a host without others, and lowers its limits: run it by scripts/vm")
    if rung in TAKES:
        host_by(rung)
    captured, own = captured_at(cause, rung, tmp_path / "c.jsonl")
    failures = captured.of(COMM)

    assert captured.by(COMM, "cause") == {(cause,): COUNT}
    for failure in failures:
        evidence = failure["evidence"][0]

        assert evidence["name"] == CAUSES[cause]
        assert evidence["limit"] == own["limit"]
        if own["value"] is not None:
            assert evidence["value"] == own["value"]
        else:
            # It moves on between a refusal and the look at it.
            assert evidence["value"] >= evidence["limit"] or cause == "memory-cgroup"
