"""`check` on a terminal: a bar for each limit, worst first; text for pipes; and a screen that is kept fresh."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from conftest import MadeHost

from fork_trace.headroom import check
from fork_trace.output import check_bars
from fork_trace.output.check import check as written
from fork_trace.output.live.line import Line
from fork_trace.output.wording import columns

CHECK = [sys.executable, "-m", "fork_trace", "check"]


def examined(host: MadeHost) -> dict[str, Any]:
    return check.examine(80, 100, str(host.root))


def drawn(host: MadeHost, width: int = 79, is_all: bool = False) -> list[Line]:
    return check_bars.lines(examined(host), is_all, width, is_ascii=True)


def bars_of(lines: list[Line]) -> list[tuple[str, str]]:
    return [(line.text.split()[0], line.spans[0].style) for line in lines if line.spans]


@pytest.fixture
def busy(made_host: MadeHost) -> MadeHost:
    """A host with one cgroup that is full, and one that is near."""
    made_host.cgroup("full", 23, "23", hits=7)
    made_host.cgroup("near", 90, "100")
    return made_host


def test_what_is_full_comes_first_and_of_what_is_fine_the_nearest_of_each_cause(
    busy: MadeHost,
) -> None:
    found = bars_of(drawn(busy))

    assert [("pids-cgroup", "full"), ("pids-cgroup", "near")] == found[:2]
    rest = [cause for cause, _ in found[2:]]
    assert {"fine"} == {style for _, style in found[2:]}
    assert "threads-max" in rest
    assert len(set(rest)) == len(rest)
    assert len(bars_of(drawn(busy, is_all=True))) > len(found)


def test_a_bar_is_as_long_as_it_is_full(busy: MadeHost) -> None:
    full, near = (
        line.text.split() for line in drawn(busy) if line.spans[:1] and "pids" in line.text
    )

    assert (full[1].strip("#"), full[2:4]) == ("", ["100%", "23/23"])
    assert (near[2:4], round(len(near[1]) * 0.9)) == (["90%", "90/100"], near[1].count("#"))


@pytest.mark.parametrize("width", [60, 79, 119, 199])
def test_no_bar_is_wider_than_the_terminal_and_wide_ones_show_the_whole_place(
    busy: MadeHost, width: int
) -> None:
    lines = [line for line in drawn(busy, width) if line.spans]

    assert max(columns(line.text) for line in lines) <= width
    assert (width < 80) or lines[0].text.endswith("/cgroup/full")


def test_below_the_bars_are_the_same_words(busy: MadeHost) -> None:
    found = examined(busy)
    text = [line.text for line in check_bars.lines(found, False, 79, False)]
    plain = written(found, False).splitlines()

    assert plain[-1] == text[-1]
    assert [each for each in plain if each.startswith("  -> ")] == [
        each for each in text if each.startswith("  -> ")
    ]


def test_a_screen_cuts_no_command_and_counts_what_is_below(made_host: MadeHost) -> None:
    made_host.cgroup("full-" + "a" * 60, 23, "23", hits=7)
    lines = drawn(made_host)
    title, *_ = (line.text for line in lines if line.style == "strong")
    commands = [line.text.strip() for line in lines if line.style == "command"]

    whole = check_bars.screen(lines, 79, 200)
    shown = [line.text for line in whole]
    cut = [line.text for line in check_bars.screen(lines, 79, 15)]

    assert title.startswith("pids-cgroup, full:")
    assert max(map(len, commands)) > 79
    assert 79 >= max(len(line.text) for line in whole if line.style == "command")
    joined = "\n".join(shown).replace("\\\n", "")
    assert all(command in joined for command in commands)
    assert shown[:14] == cut[:14]
    assert f"... {len(shown) - 14} more lines: `fork-trace check` shows all" == cut[14]


def test_a_limit_with_room_for_few_tasks_says_so(made_host: MadeHost) -> None:
    made_host.cgroup("small", 5, "50")
    made_host.cgroup("near", 90, "100")
    lines = [line.text for line in drawn(made_host, 119)]

    (bar,) = (line for line in lines if line.startswith("pids-cgroup ") and "10%" in line)
    assert bar.endswith("/small (45 left)")
    assert "  pids.max: 5 of 50 tasks (45 left)" in lines
    assert not any("(10 left)" in line for line in lines)


def test_what_has_no_number_is_told_by_its_level(busy: MadeHost) -> None:
    found = examined(busy)
    pool = found["limits"][0]
    pool.update(percent=None, refuses="its init has exited", level="full")

    (line, *_) = (each for each in check_bars.lines(found, False, 79, True) if each.spans)

    assert " ###" in line.text
    assert "  full  -" in line.text


def test_a_pipe_and_plain_get_no_bars(on_a_tty: Any) -> None:
    piped = subprocess.run(CHECK, capture_output=True, text=True, timeout=60, check=False)
    tty = on_a_tty([*CHECK, "--plain"], size=(100, 60))
    tty.wait_for("Press any key")
    tty.type("x")
    tty.end()

    for text in (piped.stdout, tty.raw):
        assert "\033" not in text
        assert "\u2588" not in text
        assert "\u2591" not in text


@pytest.mark.parametrize(("environ", "has_color"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_bars(on_a_tty: Any, environ: dict[str, str], has_color: bool) -> None:
    tty = on_a_tty(CHECK, size=(100, 60), **environ)
    text = tty.wait_for("Press any key")
    tty.type("x")

    assert tty.end() in (0, 1, 2)
    assert "\u2591" in text
    assert has_color == ("32" in tty.screen.styles)


def test_a_watch_is_kept_fresh_until_q_and_leaves_what_was_found_last(on_a_tty: Any) -> None:
    tty = on_a_tty([*CHECK, "--watch", "0.2"], size=(100, 40))
    first = tty.wait_for("q or Ctrl-C to stop").splitlines()[0]
    deadline_s = time.monotonic() + 60
    while tty.screen.text().splitlines()[0] == first:  # which has the time
        assert time.monotonic() < deadline_s
        tty.read(0.1)
    tty.type("q")
    tty.wait_for("Press any key")
    tty.type("x")

    assert tty.end() in (0, 1, 2)
    assert tty.modes() == tty.found
    last = tty.raw.rpartition("\033[?1049l")[2]
    assert "\u2591" in last
    assert " tasks in " in last


@pytest.mark.parametrize("more", [["--json"], ["--nagios"]])
def test_what_a_monitor_reads_is_not_watched(more: list[str]) -> None:
    done = subprocess.run([*CHECK, "--watch", *more], capture_output=True, text=True, timeout=60)

    assert (3, "") == (done.returncode, done.stdout)
    assert "--watch is for people" in done.stderr
