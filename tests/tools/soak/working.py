"""The workload: forks and threads that succeed or are refused, each counted by who asked for it.

`python -m soak.working DIRECTORY beside` goes on by itself until its standard input ends; then one JSON
object tells what it did. `... mixed` does what each line of its standard input names, and answers each
with one JSON object: "storm SECONDS", or the name of a rehearsal. DIRECTORY has the C programs.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import own_cgroups
from accuracy.making import told

from fork_trace.rehearse.scenarios import find

KINDS = ("fork", "vfork", "clone", "clone3", "thread")  # of tests/live/programs/fork_kinds.c
COMM = "ft-soak"
REFUSED = 11  # of each kind in a turn
SUCCEED = 7
PAUSE_S = 0.5
WORKERS, NAMES = 2, 5  # of a storm: the reader must have its turn


def beside(directory: Path) -> dict[str, Any]:
    """Succeed and fail at an easy pace until standard input ends."""
    done: Counter[str] = Counter()
    number = 0
    while not select.select([0], [], [], PAUSE_S)[0]:
        for _ in range(SUCCEED):
            done["forks"] += _fork()
            thread = threading.Thread(target=time.sleep, args=(0.001,))
            thread.start()
            thread.join()
            done["threads"] += 1
        kind = KINDS[number % len(KINDS)]
        number += 1
        told = subprocess.run(
            [str(directory / "fork_kinds"), kind, str(REFUSED)], check=True, stdout=subprocess.PIPE
        )
        done["forks"] += 1
        done["refused"] += int(told.stdout)
    return {
        "succeeded": {"forks": done["forks"], "threads": done["threads"]},
        "refused": [["fork_kinds", "rlimit-nproc", done["refused"]]],
    }


def _fork() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return 1


def storm(directory: Path, cgroup: Path, seconds: float) -> dict[str, Any]:
    """As many forks as the machine can refuse, by processes of several names."""
    done = subprocess.run(
        [str(directory / "storm"), str(cgroup), str(WORKERS), str(NAMES), str(seconds)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    counts = (line.split() for line in done.stdout.splitlines())
    return {"refused": [[comm, "pids-cgroup", int(n)] for comm, n in counts if n != "0"]}


def rehearsed(name: str) -> dict[str, Any]:
    """One rehearsal, by what it saw itself; `why` if it cannot be made here."""
    said = json.loads(told(name, host_wide=False))
    why = said.get("not_here") or said.get("error")
    if why:
        return {"refused": [], "why": why}
    scenario = find(name)
    return {"refused": [[scenario.comm, scenario.cause, sum(said["failures"].values())]]}


def _answer(directory: Path, cgroup: Path | None, order: str) -> dict[str, Any]:
    what, _, seconds = order.partition(" ")
    if what != "storm":
        return rehearsed(what)
    if cgroup is None:
        return {"refused": [], "why": "no mounted hierarchy has the pids controller"}
    return storm(directory, cgroup, float(seconds))


def main() -> None:
    directory = Path(sys.argv[1])
    ctypes.CDLL(None).prctl(15, COMM.encode(), 0, 0, 0)
    print("ready", flush=True)
    if sys.argv[2] == "beside":
        print(json.dumps(beside(directory)), flush=True)
        return
    with own_cgroups.with_pids("ft-soak-storm") as cgroup:
        for line in sys.stdin:
            print(json.dumps(_answer(directory, cgroup, line.strip())), flush=True)


if __name__ == "__main__":
    main()
