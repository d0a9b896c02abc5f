"""How long `fork-trace check` takes on a host with many tasks, natively: `measure(directory)`.

The crowd is ours and ends with us. Where this host has no room for it, the reason is told instead.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

TASKS = 20_000
TIMES = 5
CASES = {"quiet": 0, "processes": TASKS, "threads": TASKS}


def _room() -> int:
    """How many tasks this host takes, with 5,000 left for everybody else."""
    limits = [
        int(Path("/proc/sys/kernel", name).read_text()) for name in ("pid_max", "threads-max")
    ]
    in_use = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    return min(limits) - in_use - 5000


def measure(directory: Path) -> dict[str, Any]:
    """Run it some times beside no crowd, 20,000 processes and 20,000 threads of one."""
    if _room() < TASKS:
        return {"why": f"this host has room for {max(_room(), 0)} more tasks, not {TASKS}"}
    return {
        "tasks": TASKS,
        "times": TIMES,
        **{kind: _one(directory, kind, number) for kind, number in CASES.items()},
    }


def _one(directory: Path, kind: str, number: int) -> dict[str, Any]:
    crowd = None
    if number:
        crowd = subprocess.Popen(
            [directory / "crowd", kind, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert crowd.stdout is not None
        if crowd.stdout.readline() != "ready\n":
            crowd.communicate()
            return {"why": "the crowd was refused, see stderr"}
    try:
        seconds, inside, tasks = [], [], 0
        for _ in range(TIMES):
            begin_s = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "fork_trace", "check", "--json"],
                stdout=subprocess.PIPE,
                text=True,
            )
            seconds.append(time.monotonic() - begin_s)
            found = json.loads(done.stdout)
            inside.append(found["seconds"])
            tasks = found["tasks"]
    finally:
        if crowd:
            crowd.communicate()  # it ends with its stdin, after all of its crowd
    return {
        "tasks": tasks,
        "seconds": round(median(seconds), 3),
        "min": round(min(seconds), 3),
        "max": round(max(seconds), 3),
        "inside": round(median(inside), 3),
    }
