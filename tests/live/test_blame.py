"""No stale blame, whatever the tool is denied, and whenever it begins; filters; a storm that is sampled.

What needs no start of its own is in test_evidence.py.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from accuracy.watching import watching

from .conftest import FORK_TRACE, TIMEOUT_S, Captured, capture

pytestmark = pytest.mark.live


def test_without_kernel_symbols_the_blame_is_the_same(
    takes: tuple[str, ...], build: Any, tmp_path: Path
) -> None:
    program = build("refused_mmap_then_fork")
    captured = capture(
        tmp_path / "c.jsonl", program, "23", "fork", options=(*takes, "--without", "kallsyms")
    )

    assert captured.by("refused_mmap_th", "cause", "errno") == {("rlimit-nproc", "EAGAIN"): 23}


def test_arming_in_the_midst_of_a_storm_blames_every_fork_rightly(
    takes: tuple[str, ...], build: Any, tmp_path: Path
) -> None:
    storm = subprocess.Popen([build("fork_kinds"), "fork", "100000000"])
    try:
        captured = capture(
            tmp_path / "c.jsonl", "sleep", "0.1", options=(*takes, "--comm", "fork_kinds")
        )
    finally:
        storm.kill()
        storm.wait()

    assert captured.count("fork_kinds") == captured.exact("fork_kinds") > 0
    assert set(captured.by("fork_kinds", "cause")) == {("rlimit-nproc",)}


def write_when_free(sysctl: Path, text: str) -> None:
    """Write it once the programs that walk stacks are freed, a grace period after their end."""
    deadline = time.monotonic() + 60
    while True:
        try:
            sysctl.write_text(text)
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


@pytest.mark.parametrize("frames", ["2", "127"])
def test_a_kernel_that_cuts_stacks_short_changes_no_blame(
    frames: str, takes: tuple[str, ...], tmp_path: Path
) -> None:
    sysctl = Path("/proc/sys/kernel/perf_event_max_stack")
    before = sysctl.read_text()
    write_when_free(sysctl, frames)
    try:
        captured = capture(
            tmp_path / "c.jsonl",
            *FORK_TRACE,
            "rehearse",
            "--count",
            "7",
            "overcommit-heuristic",
            options=takes,
        )
    finally:
        write_when_free(sysctl, before)

    assert captured.by("ft-oc-heuristic", "cause", "certainty") == {
        ("overcommit-heuristic", "observed"): 7
    }


def test_a_storm_is_counted_exactly_though_it_is_sampled(
    takes: tuple[str, ...], build: Any, tmp_path: Path
) -> None:
    captured = capture(tmp_path / "c.jsonl", build("fork_kinds"), "fork", "20011", options=takes)

    assert captured.done.stdout.startswith("20011\n")
    assert captured.exact("fork_kinds") == 20011
    assert captured.count("fork_kinds") == 20011
    assert captured.summary["lost"] == 0
    assert captured.summary["rate_limited"] > 0
    assert len(captured.of("fork_kinds")) < 20011


FILTERS = {
    "nobody": (("--comm", "nobody"), 0),
    "uid-of-others": (("--uid", "61999", "--comm", "fork_kinds"), 0),
    "pid-of-others": (("--pid", "1"), 0),
    "all-that-fit": (("--uid", "61003", "--comm", "fork_kinds", "--cgroup", "/"), 7),
}


def test_a_filter_keeps_the_others_out(usable: dict[str, Any], build: Any, tmp_path: Path) -> None:
    # One way of attaching is enough: all ask the same function.
    watchers = {name: options for name, (options, _) in FILTERS.items()}
    with watching(tmp_path, watchers) as seen:
        subprocess.run([build("fork_kinds"), "fork", "7"], check=True, capture_output=True)
    found = {}
    for name, watched in seen.items():
        assert watched is not None and watched.refused is None, watched
        captured = Captured(watched.records, watched.done)
        found[name] = (
            captured.summary["failures"],
            captured.count("fork_kinds"),
            captured.summary["filtered"],
        )

    assert {
        name: (counted, counted, 7 - counted) for name, (_, counted) in FILTERS.items()
    } == found


# Lets no program see how mprotect ends, so that nobody takes the marks of those that it refuses; then
# 5,000 threads leave one each, and one fork fails for another reason.
LEAVE_MARKS = """
import sys
from fork_trace.collect import arm
from fork_trace.collect.session import Session
from fork_trace.model import records
from fork_trace.probes.request import Request
from fork_trace.rehearse.run import run
import subprocess
prepare = arm.prepare
def without_mprotect(request, counting):
    prepared = prepare(request, counting)
    (at,) = [each.program for each in prepared.plan.probes if each.step == "mprotect"]
    return prepared._replace(plan=prepared.plan.without_probe(at, "left out by the test"))
arm.prepare = without_mprotect
session = Session(Request(attach=sys.argv[1]))
subprocess.run(sys.argv[2:], check=True)
run("pids-cgroup", 23)
for failure in session.stop():
    print(records.to_json(failure))
print(session.finish("stopped").untracked)
"""


def test_marks_that_nobody_takes_leave_room_for_others(
    attach: str, takes: tuple[str, ...], build: Any
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEAVE_MARKS, attach, build("leave_marks"), "5000"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    *lines, untracked = done.stdout.splitlines()
    failures = [json.loads(line) for line in lines]
    ours = [each for each in failures if each["comm"] == "ft-pids-cgroup"]

    assert 23 == sum(each["count"] for each in ours)
    assert {("pids-cgroup", "observed")} == {(each["cause"], each["certainty"]) for each in ours}
    assert "0" == untracked
