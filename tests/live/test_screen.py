"""`live` on a terminal as a person sees it: drawn in place, ended by a key or a signal, given back."""

from __future__ import annotations

import csv
import io
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import schema
from ttys import Tty

from .conftest import FORK_TRACE, TIMEOUT_S

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("usable")]

LIVE = [*FORK_TRACE, "live", "--comm", "fork_kinds"]
ALTERNATE = "1049"
HEADING = ["COUNT", "NEW", "COMMAND", "CALLER", "CAUSE", "ERRNO", "USED/LIMIT"]


def fail(build: Any, kind: str, count: int) -> None:
    subprocess.run(
        [build("fork_kinds"), kind, str(count)],
        check=True,
        capture_output=True,
        timeout=TIMEOUT_S,
    )


def news(text: str) -> list[int]:
    """How many failures each line that was appended told of."""
    return [int(new) for new in re.findall(r"^[0-9:]{8}Z +\+([0-9]+) fork_kinds ", text, re.M)]


def ends(tty: Tty, waits: bool = True) -> str:
    """Wait for the end of a run; the terminal is as it was, and shows the summary.

    No shell is above it here, so it `waits` for a key: what it says would go with the terminal.
    """
    if waits:
        tty.wait_for("Press any key", TIMEOUT_S)
        tty.type("x")
    assert tty.end(TIMEOUT_S) == 0
    assert tty.screen.modes[ALTERNATE] is False
    assert tty.modes() == tty.found
    return tty.raw.rpartition(f"\033[?{ALTERNATE}l")[2]


@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
def test_a_screen_marks_what_is_new_and_q_ends_it_with_the_summary(
    on_a_tty: Any, build: Any, size: tuple[int, int]
) -> None:
    tty = on_a_tty(LIVE, size=size)
    tty.wait_for("No fork failed", TIMEOUT_S)
    fail(build, "fork", 5)
    tty.wait_for("1 cause, 5 failures", TIMEOUT_S)
    fail(build, "fork", 3)
    lines = tty.wait_for("1 cause, 8 failures", TIMEOUT_S).splitlines()
    row = lines[4].split()

    # What moves is there if it has room.
    assert HEADING == [each for each in lines[3].split() if each in HEADING]
    assert {"SHARE", "RATE/S", "TREND", "WHERE"} >= set(lines[3].split()) - set(HEADING)
    assert (row[0], row[2]) == ("8", "fork_kinds")
    assert row[1] in ("+1", "+2", "+3")  # a slow machine sees them come one by one
    assert "rlimit-nproc" in row
    assert lines[-1].endswith("q stop")
    assert any(line.startswith("  -> Mitigate: ") for line in lines)
    assert max(map(len, lines)) < size[0]

    tty.type("q")
    summary = ends(tty)

    assert "1 cause, 8 failures" in summary
    assert "Fix: " in summary


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_gives_the_terminal_back_and_ends_with_the_summary(
    on_a_tty: Any, build: Any, number: signal.Signals
) -> None:
    tty = on_a_tty(LIVE)
    tty.wait_for("No fork failed", TIMEOUT_S)
    fail(build, "thread", 7)
    tty.wait_for("1 cause, 7 failures", TIMEOUT_S)

    tty.kill(number)

    assert "1 cause, 7 failures" in ends(tty, waits=number == signal.SIGINT)


def test_a_dumb_terminal_gets_a_line_for_each_change_and_each_cause_once(
    on_a_tty: Any, build: Any
) -> None:
    tty = on_a_tty(LIVE, TERM="dumb", size=(80, 200))
    tty.wait_for("Watching", TIMEOUT_S)
    fail(build, "fork", 5)
    tty.wait_for(" fork_kinds ", TIMEOUT_S)
    fail(build, "fork", 3)
    tty.kill(signal.SIGTERM)

    assert tty.end(TIMEOUT_S) == 0
    text = tty.raw
    before = text[: text.index("1 cause, 8 failures")]
    assert "\033" not in text
    assert len(news(before)) >= 2
    assert 8 == sum(news(before))
    assert 1 == before.count("TIME ")
    assert 1 == before.count("-> Mitigate: ")


def test_what_is_piped_is_appended(build: Any) -> None:
    process = subprocess.Popen(LIVE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None and process.stdout is not None
    assert "Watching" in process.stderr.readline()
    fail(build, "fork", 5)
    heading, line = process.stdout.readline(), process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=TIMEOUT_S)

    assert heading.split()[:3] == ["TIME", "NEW", "COMMAND"]
    assert 5 == sum(news(line + rest))
    assert line[heading.index("CAUSE") :].startswith("rlimit-nproc")
    assert "1 cause, 5 failures" in rest


@pytest.mark.parametrize("format_", ["json", "csv", "markdown"])
def test_a_capture_in_another_format_keeps_stdout_for_it(
    build: Any, format_: str, tmp_path: Path
) -> None:
    file = tmp_path / "it's.jsonl"
    done = subprocess.run(
        [
            *(*FORK_TRACE, "capture", "--comm", "fork_kinds", "--format", format_),
            *("--output", str(file), "--", build("fork_kinds"), "fork", "5"),
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )

    assert done.returncode == 1
    assert "\n5\n" in done.stderr
    if format_ == "json":
        (found,) = schema.read(done.stdout)
        assert [("rlimit-nproc", 5)] == [(each["cause"], each["count"]) for each in found["causes"]]
    elif format_ == "csv":
        (row,) = csv.DictReader(io.StringIO(done.stdout))
        assert ("fork_kinds", "5", "EAGAIN") == (row["command"], row["count"], row["errno"])
    else:
        assert done.stdout.startswith("**1 cause, 5 failures")
    # What it says is the way to see it again works as it stands.
    again = done.stderr.splitlines()[-1].replace("fork-trace", " ".join(FORK_TRACE)).split(" [")[0]
    shown = subprocess.run(again, shell=True, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert shown.stdout.startswith("1 cause, 5 failures")
