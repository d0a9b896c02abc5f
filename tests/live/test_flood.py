"""One user's flood of command names does not hide another's failures, and is counted to the last.

Runs natively too, in the lowest rung.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from .conftest import FORK_TRACE, capture

pytestmark = pytest.mark.live

NAMES = 100_000  # bpf/fork_trace.h: the table of keys takes 8192
VICTIM = "ft-rlimit-nproc"
FLOODER_UID = 61003  # tests/live/programs/fork_kinds.c


@pytest.mark.parametrize("is_before", [True, False], ids=["before", "meanwhile"])
def test_five_failures_are_told_whole_in_spite_of_100000_names_of_another_user(
    usable: dict[str, Any], cgroup: Path, build: Any, tmp_path: Path, is_before: bool
) -> None:
    flood = shlex.join([build("fork_kinds"), "fork", str(NAMES), str(NAMES)])
    victim = shlex.join([*FORK_TRACE, "rehearse", "rlimit-nproc", "--count", "5"])
    there = shlex.join(["sh", "-c", f"echo 0 >{cgroup}/cgroup.procs; exec {victim}"])
    script = f"{flood}; {there}" if is_before else f"{flood} & sleep 0.5; {there}; wait"
    captured = capture(tmp_path / "c.jsonl", "sh", "-c", script, timeout_s=900)
    summary = captured.summary
    flooded = [total for total in summary["totals"] if total["uid"] == FLOODER_UID]
    theirs = captured.of(VICTIM)

    # The victim: five, with cause, caller and cgroup.
    assert 5 == captured.exact(VICTIM) == captured.count(VICTIM)
    assert {("rlimit-nproc", f"/{cgroup.name}")} == {
        (each["cause"], each["cgroup"]) for each in theirs
    }
    assert [1] * 5 == [each["count"] for each in theirs]
    assert all(each["caller"] and each["evidence"] for each in theirs)
    assert {each["uid"] for each in theirs} == {captured.totals(VICTIM)[0]["uid"]} != {FLOODER_UID}
    # The flood: each counted, with its user and cause; what is not told by command is said.
    assert f"{NAMES}\n" in captured.done.stdout
    assert NAMES == sum(total["count"] for total in flooded)
    assert NAMES == sum(each["count"] for each in captured.failures if each["uid"] == FLOODER_UID)
    assert {"rlimit-nproc"} == {total["cause"] for total in flooded}
    assert 1 < len({total["comm"] for total in flooded}) <= 8192 + 2048
    others = sum(total["count"] for total in flooded if total["comm"] is None)
    assert others == summary["folded"] > 0
    assert (0, 0) == (summary["missed"], summary["unmarked"])
    told = " ".join(captured.done.stdout.split())
    assert f"counted without their command: {others}" in told
    # Records and rows do not grow with the names.
    assert len(captured.failures) < 10_000
