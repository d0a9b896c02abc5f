"""Capabilities: which are missing by /proc/self/status, and giving them up for good."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fork_trace.probes import privileges

ALL = privileges.CAPABILITIES
EVERY = (1 << 41) - 1
SYS_ADMIN, SETUID = 1 << 21, 1 << 7


def lacks(root: Path, effective: int) -> list[str] | None:
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/status").write_text(f"Name:\tx\nCapEff:\t{effective:016x}\n")
    found = privileges.missing(str(root))
    return None if found is None else [each.name for each in found]


def test_root_lacks_nothing(tmp_path: Path) -> None:
    assert [] == lacks(tmp_path, EVERY)


@pytest.mark.parametrize("taken", ALL, ids=lambda each: each.name)
def test_one_that_is_taken_away_is_named(taken: privileges.Capability, tmp_path: Path) -> None:
    assert [taken.name] == lacks(tmp_path, EVERY & ~(1 << taken.bit) & ~SYS_ADMIN)


def test_what_was_once_a_part_of_cap_sys_admin_is_in_it_still(tmp_path: Path) -> None:
    assert ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"] == lacks(tmp_path, SYS_ADMIN)


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    assert privileges.missing(str(tmp_path)) is None
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/status").write_text("Name:\tx\n")
    assert privileges.missing(str(tmp_path)) is None


def after(call: str) -> tuple[int, list[str]]:
    """Give up in a process of its own; return what it has left, and what another program then has."""
    program = (
        "import os, re\n"
        "from fork_trace.probes import privileges\n"
        f"assert {call} is None\n"
        "text = open('/proc/self/status').read()\n"
        "print(*re.findall(r'(?:CapPrm|CapEff|CapInh|NoNewPrivs):\\s*(\\w+)', text), flush=True)\n"
        "os.execvp('grep', ['grep', 'CapEff', '/proc/self/status'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    inherited, permitted, effective, new = first.split()
    assert (permitted, int(inherited, 16), new) == (effective, 0, "1")
    return int(permitted, 16), second.split()


@pytest.mark.skipif(os.geteuid() != 0, reason="has nothing to give up; run as root")
def test_what_is_held_back_is_in_effect_only_while_it_is_lent() -> None:
    program = (
        "import re\n"
        "from fork_trace.probes import privileges as p\n"
        "def told():\n"
        "    text = open('/proc/self/status').read()\n"
        "    return [int(each, 16) >> 21 & 1 for each in re.findall(r'Cap(?:Prm|Eff):\\s*(\\w+)', text)]\n"
        "assert p.give_up(lends=True) is None\n"
        "print(told())\n"
        "with p.lent():\n"
        "    print(told())\n"
        "print(told())\n"
        "p.give_back()\n"
        "with p.lent():\n"
        "    print(told())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert ["[1, 0]", "[1, 1]", "[1, 0]", "[0, 0]"] == done.stdout.splitlines()


@pytest.mark.skipif(os.geteuid() != 0, reason="has nothing to give up; run as root")
def test_what_is_given_up_does_not_come_back_with_another_program() -> None:
    own = int(Path("/proc/self/status").read_text().partition("CapPrm:\t")[2][:16], 16)
    kept = own & sum(1 << each.bit for each in ALL if each.is_kept)
    left, again = after("privileges.give_up()")

    assert kept == left
    assert kept & SETUID == 0 != own & SETUID
    assert ["CapEff:", f"{0:016x}"] == again


@pytest.mark.skipif(os.geteuid() != 0, reason="has nothing to give up; run as root")
def test_cap_kill_is_kept_for_who_has_a_command_to_end() -> None:
    assert 1 << 5 == after("privileges.give_up(may_signal=True)")[0] & 1 << 5
    assert 0 == after("privileges.give_up()")[0] & 1 << 5
