"""Lockdown, in earnest. It cannot be undone before the next boot: only in a VM, and last of all."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import FORK_TRACE, TIMEOUT_S, capture

LOCKDOWN = Path("/sys/kernel/security/lockdown")

pytestmark = [pytest.mark.live, pytest.mark.irreversible]


@pytest.fixture(autouse=True)
def in_a_vm(host: dict[str, Any]) -> None:
    if not os.environ.get("FORK_TRACE_VM"):
        pytest.skip("would lock this machine down until it reboots: run it by scripts/vm")


def test_integrity_forbids_nothing_that_is_needed(build: Any, tmp_path: Path) -> None:
    LOCKDOWN.write_text("integrity")
    captured = capture(tmp_path / "c.jsonl", build("fork_kinds"), "fork", "23")

    assert captured.by("fork_kinds", "cause") == {("rlimit-nproc",): 23}


def test_confidentiality_is_told_in_one_sentence() -> None:
    LOCKDOWN.write_text("confidentiality")
    for command in (["live"], ["capture"]):
        done = subprocess.run(
            [*FORK_TRACE, *command], capture_output=True, text=True, timeout=TIMEOUT_S
        )

        assert done.returncode == 2
        assert done.stdout == ""
        assert "kernel lockdown (confidentiality) forbids BPF" in done.stderr
        assert "Traceback" not in done.stderr
    doctor = subprocess.run(
        [*FORK_TRACE, "doctor", "--json"], capture_output=True, text=True, timeout=TIMEOUT_S
    )

    assert doctor.returncode == 1
    assert json.loads(doctor.stdout)["lockdown"] == "confidentiality"
