"""What the fuzzer starts from and what it found: each input is tried again, without the fuzzer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.targets import TARGETS, Target

TOOLS = Path(__file__).resolve().parent
FOUND = sorted((TOOLS / "fuzz" / "findings").glob("*/*"))
BY_NAME = {target.name: target for target in TARGETS}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_seed_is_taken_whole_and_cut_short(target: Target) -> None:
    for seed in target.seeds():
        assert 0 < len(seed) <= target.most_bytes
        target.ask(seed)
        for size in range(0, len(seed), max(1, len(seed) // 50)):
            target.ask(seed[:size])


@pytest.mark.parametrize("path", FOUND, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_was_found_is_mended(path: Path) -> None:
    BY_NAME[path.parent.name].ask(path.read_bytes())


def test_what_was_found_is_of_a_target_that_is_still_there() -> None:
    assert FOUND
    assert {path.parent.name for path in FOUND} <= set(BY_NAME)


def test_a_target_that_fails_is_told_as_a_finding(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="needs atheris: scripts/fuzz installs it")
    (tmp_path / "fuzz").mkdir()
    for name in ("__init__.py", "__main__.py"):
        (tmp_path / "fuzz" / name).write_bytes((TOOLS / "fuzz" / name).read_bytes())
    (tmp_path / "fuzz" / "targets.py").write_text(
        "class Target: name, most_bytes, words = 'odd', 8, (b'!',)\n"
        "def ask(data): assert b'!' not in data\n"
        "Target.ask, Target.seeds = staticmethod(ask), staticmethod(lambda: [b'abc'])\n"
        "TARGETS = (Target,)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "fuzz", "--seconds", "20", "--json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    told = json.loads(done.stdout)

    assert 1 == done.returncode
    assert b"!" in Path(told["findings"][0]).read_bytes()
