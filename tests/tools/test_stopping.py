"""scripts/test told to end while its lanes run: nothing of them is left, and it says what it did not run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
# Two at a time, each with somebody beside it; one takes no notice of Ctrl-C, the other takes something back.
RUN = """
import sys
from pathlib import Path
from live.matrix import Lane
from run.__main__ import run_and_tell
from run.stopping import Programs

here = Path(sys.argv[1])
beside = f"sleep 1000 & echo $! > {here}/NAME.beside; echo $$ > {here}/NAME.new; "
beside += f"mv {here}/NAME.new {here}/NAME.pid; "
ways = {
    "first": "true",
    "kind": f"trap 'echo tidy > {here}/tidied; exit 1' INT; BESIDE while :; do sleep 0.1; done",
    "deaf": "trap '' INT TERM; BESIDE while :; do sleep 0.1; done",
    "later": f"touch {here}/later",
}
lanes = [
    Lane(name, None, 1000 - at, command=("sh", "-c", way.replace("BESIDE", beside).replace("NAME", name)))
    for at, (name, way) in enumerate(ways.items())
]
sys.exit(run_and_tell(lanes, 0, 2, here, Programs(patience_s=0.6)))
"""


def pid_in(file: Path) -> int:
    deadline_s = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline_s, f"no {file.name}"
        time.sleep(0.05)
    return int(file.read_text())


def is_running(pid: int) -> bool:
    """Whether it is there; a zombie that nobody here is to reap is not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_what_runs_and_begins_nothing_more(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{TESTS / 'tools'}:{TESTS}"},
    )
    leaders = [pid_in(tmp_path / f"{name}.pid") for name in ("kind", "deaf")]
    beside = [pid_in(tmp_path / f"{name}.beside") for name in ("kind", "deaf")]
    assert all(is_running(pid) for pid in (*leaders, *beside))
    process.send_signal(number)
    out, err = process.communicate(timeout=60)

    assert 128 + number == process.returncode
    assert [] == [pid for pid in (*leaders, *beside) if is_running(pid)]
    assert (tmp_path / "tidied").exists()
    assert not (tmp_path / "later").exists()
    assert f"scripts/test: ended by {number.name}. Cut short: kind, deaf. Not run: later.\n" == err
    assert "not run" in out and "FAILED: cut short" in out


def test_a_run_that_nobody_ends_is_judged_as_ever(tmp_path: Path) -> None:
    text = RUN.replace("ways.items()", "list(ways.items())[::3]")
    done = subprocess.run(
        [sys.executable, "-c", text, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": f"{TESTS / 'tools'}:{TESTS}"},
    )

    assert (0, "") == (done.returncode, done.stderr)
    assert (tmp_path / "later").exists()
