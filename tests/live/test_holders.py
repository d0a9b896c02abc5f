"""Who holds the pool that refused: named by the capture while they hold it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fork_trace.host.holders import FRESH_S

from .conftest import FORK_TRACE, Captured, capture

COUNT = 23
THREADS = 23
ZOMBIES = 5

pytestmark = pytest.mark.live


def holders_of(captured: Captured, comm: str) -> list[dict[str, Any]]:
    """The holders that the first failures of a command name; one reading stands for ten seconds."""
    failures = [failure for failure in captured.of(comm) if failure["holders"]]
    readings = list(
        dict.fromkeys(
            (json.dumps(failure["holders"]), failure["holders_total"]) for failure in failures
        )
    )
    span_s = (failures[-1]["time_ns"] - failures[0]["time_ns"]) / 1e9
    assert len(readings) <= 1 + span_s / FRESH_S, (span_s, readings)
    holders, total = readings[0]
    top: list[dict[str, Any]] = json.loads(holders)
    assert total >= sum(each["tasks"] + each["zombies"] for each in top)
    return top


def test_a_cgroup_full_of_threads_and_zombies_names_their_process(
    cgroup: Path, build: Any, tmp_path: Path
) -> None:
    argv = [build("crowd"), str(cgroup), str(THREADS), str(ZOMBIES), str(COUNT), "3"]
    captured = capture(tmp_path / "c.jsonl", *argv)
    failures = captured.of("crowd")

    assert captured.done.stdout.startswith(f"{COUNT}\n")
    assert captured.by("crowd", "cause") == {("pids-cgroup",): COUNT}
    # Of the first poll on: nothing held it longer than the whole run.
    assert [failure for failure in failures if not failure["holders"]] == []
    assert holders_of(captured, "crowd") == [
        {
            "comm": "crowd",
            "pid": failures[0]["pid"],
            "tasks": THREADS,
            "processes": 1,
            "zombies": ZOMBIES,
        }
    ]
    assert {failure["holders_total"] for failure in failures} == {THREADS + ZOMBIES}
    assert {failure["evidence"][0]["value"] for failure in failures} == {THREADS + ZOMBIES}
    assert (
        f"held by: crowd[{failures[0]['pid']}] {THREADS} tasks (1 process) and {ZOMBIES} zombies"
        in " ".join(captured.done.stdout.split())
    )


@pytest.mark.parametrize(
    ("scenario", "comm"),
    [("pids-cgroup", "ft-pids-cgroup"), ("pids-cgroup-ancestor", "ft-pids-cg-anc")],
)
def test_a_rehearsed_full_cgroup_is_held_by_who_rehearses(
    scenario: str, comm: str, host: dict[str, Any], tmp_path: Path
) -> None:
    captured = capture(tmp_path / "c.jsonl", *FORK_TRACE, "rehearse", "--count", "1009", scenario)
    (pid,) = {failure["pid"] for failure in captured.of(comm)}

    assert captured.count(comm) == 1009
    assert holders_of(captured, comm) == [
        {"comm": comm, "pid": pid, "tasks": 1, "processes": 1, "zombies": 0}
    ]


def test_a_user_at_the_limit_is_held_by_the_users_own(
    host: dict[str, Any], build: Any, tmp_path: Path
) -> None:
    captured = capture(tmp_path / "c.jsonl", build("fork_kinds"), "fork", "5003")
    (pid,) = {failure["pid"] for failure in captured.of("fork_kinds")}

    assert captured.by("fork_kinds", "cause") == {("rlimit-nproc",): 5003}
    assert holders_of(captured, "fork_kinds") == [
        {"comm": "fork_kinds", "pid": pid, "tasks": 1, "processes": 1, "zombies": 0}
    ]


def test_a_full_host_is_held_by_the_rehearsing_crowd(host: dict[str, Any], tmp_path: Path) -> None:
    captured = capture(
        tmp_path / "c.jsonl", *FORK_TRACE, "rehearse", "--host-wide", "--count", "1009", "pid-max"
    )
    failures = [failure for failure in captured.of("ft-pid-max") if failure["holders"]]
    found = {each["comm"]: each for each in holders_of(captured, "ft-pid-max")}
    evidence = failures[0]["evidence"][0]

    assert "ft-pid-max" in found, failures[0]
    assert 1 < found["ft-pid-max"]["tasks"] == found["ft-pid-max"]["processes"]
    # Groups and sessions hold numbers as well, without a task.
    assert failures[0]["holders_total"] <= evidence["value"] <= evidence["limit"]
