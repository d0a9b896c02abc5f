"""Who waits for a key: what was exec'ed into a terminal, and nobody else."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import capture_text

from fork_trace.output.live import last

TOOL = [sys.executable, "-m", "fork_trace"]
ASKS = "Press any key to leave"


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "forks.jsonl"
    path.write_text(capture_text())
    return str(path)


@pytest.mark.parametrize("command", ["check", "report", "explain", "doctor"])
def test_an_answer_in_the_last_shell_s_place_waits_for_a_key(
    on_a_tty: Any, file: str, command: str
) -> None:
    words = {"report": [file], "explain": ["pids-cgroup"]}.get(command, [])
    tty = on_a_tty(["bash", "-c", 'exec "$@"', "bash", *TOOL, command, *words], size=(120, 60))

    tty.wait_for(ASKS)
    tty.type("x")

    assert tty.end() in ((0, 1, 2) if command == "check" else (0, 1))
    assert tty.is_echoing()


def test_an_error_waits_too_as_it_is_the_answer(on_a_tty: Any) -> None:
    tty = on_a_tty([*TOOL, "report", "/no/such/file"])

    assert "cannot read /no/such/file" in tty.wait_for(ASKS)
    tty.type(" ")

    assert 2 == tty.end()


@pytest.mark.parametrize("where", ["shell", "pipe"])
def test_nobody_else_waits(on_a_tty: Any, file: str, where: str) -> None:
    rest = "; echo after" if where == "shell" else " | cat; echo after"
    tty = on_a_tty(["bash", "-c", f'"$@"{rest}', "bash", *TOOL, "report", file])

    assert ASKS not in tty.wait_for("after")
    assert 0 == tty.end()


def test_ctrl_c_leaves_as_well(on_a_tty: Any, file: str) -> None:
    tty = on_a_tty([*TOOL, "report", file])

    tty.wait_for(ASKS)
    tty.type("\x03")

    assert 1 == tty.end()


class Processes:
    """A made /proc, and who leads which session."""

    def __init__(self, root: Path, above: list[tuple[int, str, int]], leaders: set[int]) -> None:
        self.root = str(root)
        self.leaders = leaders
        for pid, comm, parent in above:
            (root / str(pid)).mkdir()
            (root / str(pid) / "comm").write_text(f"{comm}\n")
            (root / str(pid) / "status").write_text(f"Name:\t{comm}\nPPid:\t{parent}\n")


@pytest.mark.parametrize(
    ("above", "leaders", "is_last"),
    [
        ([(9, "sshd", 1)], {10}, True),  # exec'ed
        ([(9, "bash", 8)], {9}, False),
        ([(9, "sudo", 8), (8, "sshd", 1)], {9}, True),  # exec sudo
        ([(9, "sudo", 8), (8, "bash", 7)], {8}, False),
        ([(9, "sudo", 8), (8, "sudo", 7), (7, "login", 1)], {8, 9}, True),  # use_pty
        ([(9, "sudo", 8), (8, "sudo", 7), (7, "bash", 6)], {7, 9}, False),
        ([(9, "sudo", 8)], {9}, False),  # /proc does not show who is above
    ],
)
def test_sudo_ends_with_what_it_runs_and_a_shell_does_not(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    above: list[tuple[int, str, int]],
    leaders: set[int],
    is_last: bool,
) -> None:
    made = Processes(tmp_path, above, leaders)
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    monkeypatch.setattr(os, "getpid", lambda: 10)
    monkeypatch.setattr(os, "getppid", lambda: 9)
    monkeypatch.setattr(os, "getsid", lambda pid: pid if pid in made.leaders else 1)

    assert is_last is last.is_last(made.root)


def test_the_first_process_of_a_container_does_not_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "isatty", lambda fd: True)
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(os, "getppid", lambda: 0)
    monkeypatch.setattr(os, "getsid", lambda pid: pid)

    assert not last.is_last(str(tmp_path))
