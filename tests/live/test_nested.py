"""A cgroup that is gone before anybody looks at it is named by its path all the same, in each attach mode."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from accuracy.judging import COUNT

from fork_trace.rehearse.scenarios import find

from .conftest import FORK_TRACE, TIMEOUT_S, read_capture, start

THREE_UP = find("pids-cgroup-three-up")

pytestmark = pytest.mark.live


def test_cgroups_that_are_gone_before_the_reader_looks_are_named_by_their_paths(
    takes_each: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "c.jsonl"
    tracer = start("capture", "--output", str(file), *takes_each)
    tracer.send_signal(signal.SIGSTOP)
    subprocess.run(
        [*FORK_TRACE, "rehearse", "--count", str(COUNT), THREE_UP.name],
        check=True,
        timeout=TIMEOUT_S,
    )
    tracer.send_signal(signal.SIGCONT)
    tracer.send_signal(signal.SIGINT)
    out, err = tracer.communicate(timeout=TIMEOUT_S)
    captured = read_capture(file, subprocess.CompletedProcess([], tracer.returncode, out, err))
    failures = captured.of(THREE_UP.comm)
    (leaf,) = {failure["cgroup"] for failure in failures}
    (total,) = captured.totals(THREE_UP.comm)

    assert captured.by(THREE_UP.comm, "cause") == {("pids-cgroup",): COUNT}
    assert leaf.endswith("/upper/middle/leaf")
    assert total["cgroup"] == leaf
    for failure in failures:
        evidence = failure["evidence"][0]

        assert (evidence["name"], evidence["value"], evidence["limit"]) == ("pids.max", 1, 1)
        assert evidence["where"].endswith(leaf.removesuffix("/upper/middle/leaf"))
        # The levels below it have a counter each, and no limit.
        assert [each["limit"] for each in failure["evidence"][1:4]] == [None] * 3
