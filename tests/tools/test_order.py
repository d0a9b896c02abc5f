"""In which order scripts/test runs what it runs, with real programs in place of the lanes."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from live.matrix import Lane
from run import __main__ as run
from run import choosing, running
from run.running import Ended
from run.stopping import Programs


def noting(name: str, budget_s: int, for_s: float, *files: str) -> Lane:
    """A lane that leaves when it began."""
    text = f"date +%s.%N > {name}.began; sleep {for_s}; date +%s.%N > {name}.ended"
    return Lane(name, None, budget_s, files, command=("sh", "-c", text))


def check_that(monkeypatch: pytest.MonkeyPatch, passes: bool, for_s: float) -> None:
    """Put a program that takes so long in place of scripts/check."""

    def check(workers: int, results: Path, programs: Programs) -> Ended:
        return running.run(
            Lane("check", None, 60, command=("sh", "-c", f"sleep {for_s}; exit {int(not passes)}")),
            results,
            programs,
        )

    monkeypatch.setattr(running, "check", check)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(running, "CHECKOUT", tmp_path)
    return tmp_path


def moment(here: Path, name: str) -> float:
    return float((here / name).read_text())


def test_once_the_check_has_passed_no_core_waits_and_the_longest_is_first(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_that(monkeypatch, True, 0.5)
    monkeypatch.setattr(choosing, "is_quiet", lambda lane: lane.name == "native")
    lanes = [noting("short", 10, 0.1), noting("native", 60, 3), noting("long", 20, 0.1)]
    ended = run.run(lanes, 1, 2, here, Programs())

    assert ["native", "check", "long", "short"] == [each.name for each in ended]
    assert ["", "", "", ""] == [each.why for each in ended]
    assert moment(here, "long.ended") < moment(here, "short.began")
    assert moment(here, "short.ended") < moment(here, "native.ended")


def test_what_waits_is_not_run_if_the_check_fails(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check_that(monkeypatch, False, 1)
    monkeypatch.setattr(choosing, "is_quiet", lambda lane: lane.name == "native")
    began_s = time.time()
    ended = run.run([noting("native", 60, 0), noting("long", 20, 0)], 1, 2, here, Programs())

    assert began_s < moment(here, "native.ended") < began_s + 60
    assert ["native", "check"] == [each.name for each in ended]
    assert not (here / "long.began").exists()
    assert "scripts/check failed; the rest is not run" in capsys.readouterr().err
