"""Storms: what is counted is what the forking processes themselves saw, and a quiet one is not drowned.

Runs natively too, in the lowest attach mode. FORK_TRACE_STORM_S sets the length of each storm in seconds.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import FORK_TRACE, IS_GUEST, Captured, capture, preempts

pytestmark = pytest.mark.live

STORM_S = int(os.environ.get("FORK_TRACE_STORM_S", "6"))
WORKERS = 4
QUIET = "ft-rlimit-nproc"
MOST_RSS_MIB = 100
# Under emulation each takes a minute, and the one with most commands asks most: unless a length is
# given it stands for all.
MOST_NAMES = 4096  # of one user: half of bpf/fork_trace.bpf.c, tallies, at one time
NAMES = (3000,) if IS_GUEST and "FORK_TRACE_STORM_S" not in os.environ else (1, 10, 5000)


@pytest.fixture(params=NAMES)
def names(request: pytest.FixtureRequest) -> int:
    """How many commands take part."""
    return int(request.param)


@dataclass(frozen=True)
class Frontend:
    """What the frontend had used at one moment."""

    cpu_s: float
    rss_mib: float
    time_s: float

    @classmethod
    def read(cls, file: Path) -> Frontend:
        """Read /proc/uptime, /proc/PID/stat and /proc/PID/statm, as they stand after each other."""
        uptime, stat, statm = file.read_text().splitlines()
        ticks = [int(field) for field in stat.rpartition(")")[2].split()[11:13]]
        return cls(
            cpu_s=sum(ticks) / os.sysconf("SC_CLK_TCK"),
            rss_mib=int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20),
            time_s=float(uptime.split()[0]),
        )


@dataclass(frozen=True)
class Storm:
    """One storm: what was captured, what it saw itself, and what watching it cost."""

    captured: Captured
    told: dict[str, int]  # by command, how many of its forks were refused
    quiet: dict[str, Any]  # the one failure of another command meanwhile, as it told it
    before: Frontend  # as the storm begins
    midst: Frontend  # after half of it
    after: Frontend

    @property
    def cpu_percent(self) -> float:
        """The frontend's share of one CPU, while it stormed."""
        used_s = self.after.cpu_s - self.before.cpu_s
        return 100 * used_s / (self.after.time_s - self.before.time_s)


def storm(names: int, cgroup: Path, build: Any, place: Path, *options: str) -> Storm:
    """Let that many commands fork without room for a child, and a quiet one fail once meanwhile."""
    told, quiet_told = place / "told", place / "quiet"
    before, midst, after = place / "before", place / "midst", place / "after"
    storming = [build("storm"), str(cgroup), str(WORKERS), str(names), str(STORM_S)]
    quiet = [*FORK_TRACE, "rehearse", "rlimit-nproc", "--count", "1", "--json"]
    # The shell's parent is the frontend.
    look = "cat /proc/uptime /proc/$PPID/stat /proc/$PPID/statm"
    script = (
        f"{look} >{before}; {shlex.join(storming)} >{told} & sleep {STORM_S / 3}; "
        f"{shlex.join(quiet)} >{quiet_told}; sleep {STORM_S / 6}; {look} >{midst}; wait; {look} >{after}"
    )
    captured = capture(
        place / "c.jsonl", "sh", "-c", script, options=options, timeout_s=300 + 4 * STORM_S
    )
    counts = dict(line.split() for line in told.read_text().splitlines())
    return Storm(
        captured,
        {comm: int(count) for comm, count in counts.items() if count != "0"},
        json.loads(quiet_told.read_text()),
        Frontend.read(before),
        Frontend.read(midst),
        Frontend.read(after),
    )


def test_all_are_counted_and_a_quiet_command_is_sampled_whole(
    usable: dict[str, Any], names: int, cgroup: Path, build: Any, tmp_path: Path
) -> None:
    seen = storm(names, cgroup, build, tmp_path)
    captured, told = seen.captured, seen.told
    totals, certainties = Counter[str](), Counter[str]()
    # Others may storm on this host.
    for total in captured.summary["totals"]:
        if (total.get("cgroup") or "").endswith(cgroup.name):
            totals[total["comm"]] += total["count"]
            certainties[f"{total['cause']} {total['certainty']}"] += total["count"]
    print(
        f"{captured.header['kernel']} {captured.header['attach']}: {names} commands, {STORM_S} s: "
        f"{sum(told.values())} refused, {sum(totals.values())} counted ({dict(certainties)}), "
        f"{len(captured.failures)} records, missed {captured.summary['missed']}, steps not seen "
        f"{captured.summary['step_misses']}; frontend {seen.cpu_percent:.1f} % of a CPU, "
        f"{seen.before.rss_mib:.1f} MiB, then {seen.midst.rss_mib:.1f}, then {seen.after.rss_mib:.1f}; "
        f"lost samples {captured.summary['lost']}",
        file=sys.stderr,
    )

    # Others may rehearse here as well.
    (quiet,) = (each for each in captured.failures if each["pid"] == seen.quiet["pid"])

    assert len(told) >= min(names, 10)
    if names <= MOST_NAMES:
        assert told == totals
    assert sum(told.values()) == sum(totals.values())
    assert {"pids-cgroup"} == {each.split()[0] for each in certainties}
    # On a kernel that preempts it says how many may be missing at most; none is, by the counts above.
    assert preempts() or 0 == captured.summary["missed"]
    assert 0 == captured.summary["lost"]
    assert names > MOST_NAMES or 0 == captured.summary["overflowed"]
    assert (QUIET, "rlimit-nproc", 1) == (quiet["comm"], quiet["cause"], quiet["count"])
    assert quiet["evidence"][0]["value"] is not None and quiet["stack"]
    # What it knows of functions and processes grows at first.
    assert seen.after.rss_mib < seen.midst.rss_mib + 24
    assert seen.after.rss_mib < MOST_RSS_MIB
    # An emulated CPU is slow, and the first seconds are spent on reading symbols.
    assert IS_GUEST or STORM_S < 60 or seen.cpu_percent < 10
