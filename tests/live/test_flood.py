"""One user's flood of command names does not hide another's failures, and is counted to the last.

Runs natively too, in the lowest attach mode.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import own_cgroups
import pytest

from .conftest import FORK_TRACE, IS_GUEST, capture

pytestmark = pytest.mark.live

NAMES = 100_000  # bpf/wire.h: the table of keys takes 8192
VICTIM = "ft-rlimit-nproc"
FLOODER_UID = 61003  # tests/live/programs/fork_kinds.c


@pytest.fixture
def flooded() -> Iterator[Path]:
    """A cgroup of the flooder's own: others may flood on this host as well."""
    with own_cgroups.with_pids("ft-flood") as place:
        if place is None:
            pytest.skip("no mounted hierarchy has the pids controller")
        yield place


def inside(cgroup: Path, *argv: str) -> str:
    """What a shell does to run that in there."""
    return shlex.join(["sh", "-c", f"echo 0 >{cgroup}/cgroup.procs; exec {shlex.join(argv)}"])


@pytest.mark.parametrize("is_before", [True, False], ids=["before", "meanwhile"])
def test_five_failures_are_told_whole_in_spite_of_100000_names_of_another_user(
    usable: dict[str, Any],
    cgroup: Path,
    flooded: Path,
    build: Any,
    tmp_path: Path,
    is_before: bool,
) -> None:
    flood = inside(flooded, build("fork_kinds"), "fork", str(NAMES), str(NAMES))
    victim = inside(cgroup, *FORK_TRACE, "rehearse", "rlimit-nproc", "--count", "5")
    script = f"{flood}; {victim}" if is_before else f"{flood} & sleep 0.5; {victim}; wait"
    captured = capture(tmp_path / "c.jsonl", "sh", "-c", script, timeout_s=900)
    summary = captured.summary
    of_flood = (f"/{flooded.name}", FLOODER_UID)
    totals = [each for each in summary["totals"] if (each["cgroup"], each["uid"]) == of_flood]
    records = [each for each in captured.failures if (each["cgroup"], each["uid"]) == of_flood]
    theirs = [each for each in captured.of(VICTIM) if each["cgroup"] == f"/{cgroup.name}"]
    exact = [each for each in captured.totals(VICTIM) if each["cgroup"] == f"/{cgroup.name}"]

    # The victim: five, with cause, caller and cgroup.
    assert [5] == [each["count"] for each in exact]
    # On a CPU that is emulated the reader may not keep up: then one record stands for several.
    assert 5 == sum(each["count"] for each in theirs)
    assert IS_GUEST or len(theirs) == 5
    assert {"rlimit-nproc"} == {each["cause"] for each in theirs}
    whole = [each for each in theirs if each["caller"] and each["evidence"]]
    assert whole and (IS_GUEST or whole == theirs)
    assert {exact[0]["uid"]} == {each["uid"] for each in theirs} != {FLOODER_UID}
    # The flood: each counted, with its user, cgroup and cause; what has lost its command is told.
    assert f"{NAMES}\n" in captured.done.stdout
    assert NAMES == sum(each["count"] for each in totals) == sum(each["count"] for each in records)
    assert {"rlimit-nproc"} == {each["cause"] for each in (*totals, *records)}
    assert 1 < len({each["comm"] for each in totals}) <= 8192 + 2048
    assert (
        0 < sum(each["count"] for each in totals if each["comm"] is None) <= summary["overflowed"]
    )
    # Not `missed`: on a kernel that preempts it says what may be missing at most, and nothing is.
    assert 0 == summary["untracked"]
    told = " ".join(captured.done.stdout.split())
    assert f"counted without their command: {summary['overflowed']}" in told
    assert f"several commands of uid {FLOODER_UID}" in told
    # Records and rows do not grow with the names.
    assert len(captured.failures) < 10_000
