"""It starts and works under the very conditions that it is for: each is made, and the tool run inside it.

`programs/starved.py` makes them: the tool is exec'ed last, when nothing is to be had any more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from building import PROGRAMS

from .conftest import IS_GUEST, PYTHON_PATH, TIMEOUT_S

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not IS_GUEST, reason="takes limits of the host away: run it by scripts/vm"),
]

COUNT = 23
PEAK_KIB = 60 << 10
Starve = Callable[..., dict[str, Any]]


@pytest.fixture
def starve(tmp_path: Path, usable: dict[str, Any]) -> Starve:
    """Run the tool under a condition; what came of it, and that it took nothing that it need not."""

    def run(condition: str, *options: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, PROGRAMS / "starved.py", condition, tmp_path, *options],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            cwd="/",
            env={**os.environ, "PYTHONPATH": PYTHON_PATH},
        )
        assert done.returncode == 0, done.stderr
        told: dict[str, Any] = json.loads(done.stdout)
        print(told)
        assert told["armed"], told["stderr"]
        assert "Traceback" not in told["stderr"], told["stderr"]
        assert sum(told["seen"].values()) == COUNT
        # No thread and no network.
        assert told["threads"] == 1
        assert "socket" not in told["links"]
        assert told["peak_kib"] < PEAK_KIB
        if "file" in told and told["code"] != 2:  # else it ends in the middle of a record
            told["records"] = [json.loads(line) for line in told["file"].splitlines()]
        elif told["stdout"].startswith("{"):
            told["records"] = [json.loads(line) for line in told["stdout"].splitlines()]
        return told

    return run


def assert_told(told: dict[str, Any], cause: str, errno: str) -> None:
    """All failures were counted and named, the tool's own among none of them."""
    failures = [each for each in told["records"] if each["type"] == "failure"]
    summary = told["records"][-1]

    assert told["seen"] == {errno: COUNT}
    assert summary["type"] == "summary"
    assert summary["failures"] == sum(each["count"] for each in failures) == COUNT
    assert summary["causes"] == {cause: COUNT}
    assert {each["errno"] for each in failures} == {errno}
    assert told["pid"] not in {each["pid"] for each in failures}
    assert (summary["lost"], summary["ended"], told["code"]) == (0, "signal", 1)


def test_its_own_pids_max_is_reached(starve: Starve) -> None:
    told = starve("own-pids")

    assert_told(told, "pids-cgroup", "EAGAIN")
    assert "23 x EAGAIN" in told["stdout"]
    # Had it tried to fork itself, it would have seen that fail too.
    assert told["records"][-1]["filtered"] == 0


def test_every_pid_is_taken(starve: Starve) -> None:
    assert_told(starve("pid-max"), "pid-max", "EAGAIN")


def test_its_own_user_is_at_rlimit_nproc(starve: Starve) -> None:
    told = starve("rlimit-nproc")

    assert_told(told, "rlimit-nproc", "EAGAIN")
    assert told["records"][-1]["filtered"] == 0


def test_64_mb_of_commit_are_left(starve: Starve) -> None:
    told = starve("commit-64")

    assert told["left"] < 64 << 20
    assert_told(told, "overcommit-never", "ENOMEM")


def test_a_memory_cgroup_has_64_mb(starve: Starve) -> None:
    told = starve("memory-64")

    assert_told(told, "rlimit-nproc", "EAGAIN")
    assert "oom_kill 0" in told["memory_events"].splitlines()


def test_64_descriptors_are_allowed_and_nr_open_is_as_low(starve: Starve) -> None:
    told = starve("descriptors")

    assert told["descriptors"] <= 64
    assert_told(told, "fd-table-limit", "EMFILE")


def test_64_descriptors_are_all_that_it_may_ever_have(
    starve: Starve, usable: dict[str, Any]
) -> None:
    told = starve("descriptors-hard")

    assert told["descriptors"] <= 64
    assert_told(told, "rlimit-nproc", "EAGAIN")
    # What it had to do without is said.
    fallbacks = told["records"][0]["fallbacks"]
    assert fallbacks[0]["attach"] == "fexit"
    # A kernel that has no fexit at all, not even for root, says why not before it counts files.
    always = [each["reason"] for each in usable["fallbacks"] if each["attach"] == "fexit"]
    assert "open files" in fallbacks[0]["reason"] or fallbacks[0]["reason"] in always


def test_not_a_page_is_left_for_a_while(starve: Starve) -> None:
    told = starve("commit-none")

    assert "cannot write" in told["stderr"]
    assert "No space left on device" in told["stderr"]
    assert_told(told, "overcommit-never", "ENOMEM")
    assert "23 x ENOMEM" in told["stdout"]


def test_not_a_page_is_left_to_the_end(starve: Starve) -> None:
    told = starve("commit-none-to-the-end")

    assert told["code"] == 2
    assert "is incomplete: No space left on device" in told["stderr"]
    assert told["stdout"].startswith("1 cause, 23 failures in ")
    assert "23 x ENOMEM" in told["stdout"]
    assert "overcommit-never" in told["stdout"]


def test_a_full_disk_is_said_at_once_and_the_report_is_whole(
    starve: Starve, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", tmp_path / "full"], check=True)
    try:
        told = starve("full-disk")
    finally:
        subprocess.run(["umount", "-l", tmp_path / "full"], check=True)

    assert told["code"] == 2
    assert told["stderr"].index("cannot write") < told["stderr"].index("is incomplete")
    assert told["stdout"].startswith("1 cause, 23 failures in ")
    assert "rlimit-nproc" in told["stdout"]
