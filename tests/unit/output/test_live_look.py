"""What the person at a screen sees move, and what keys do: colors, bars, sparklines, groups, filters, pages."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    HOSTILE,
    STACK,
    TIME_NS,
    is_harmless,
    make_evidence,
    make_failure,
    make_holder,
    table_of,
    threads_max,
)
from hypothesis import given
from hypothesis import strategies as some
from ttys import Tty

from fork_trace.model.records import Failure
from fork_trace.output import aggregate, bars, columns, wording
from fork_trace.output.live import screen, waiting
from fork_trace.output.live.line import Line, Span
from fork_trace.output.live.look import GROUPS, HELP, Look, pressed
from fork_trace.output.live.trends import MOST, Trends
from fork_trace.output.live.views import Redrawn
from fork_trace.output.live.waiting import Forks, Gauge
from fork_trace.output.report_options import PLAIN

MOMENT = screen.Moment("alpha", 23.0, 1.0, "q or Ctrl-C")
FULL = make_failure(count=7, stack=STACK, stack_by="unwinding", holders=(make_holder(),))
NEAR = make_failure(comm="near", evidence=(make_evidence(value=90, limit=100),))
GAUGES = (
    Gauge("pids-cgroup", 100.0, 23, 23, "tasks", "/sys/fs/cgroup/app"),
    Gauge("threads-max", 85.0, 85, 100, "threads", "the whole host"),
    Gauge("rlimit-nproc", 0.3, 3, 1000, "tasks", "uid 1000"),
)


def frame(counted: aggregate.Table, look: Look, size: tuple[int, int] = (120, 40)) -> list[Line]:
    return screen.frame(counted, {}, MOMENT, size, look=look)


def after(*keys: str, counted: aggregate.Table | None = None) -> Look:
    """What keys make of a screen; those that choose rows need these."""
    look = Look()
    for key in keys:
        rows = screen.rows_of(counted, look) if counted else []
        look = pressed(look, key, [row.key for row in rows])
    return look


def styled(line: Line) -> list[tuple[str, str]]:
    return [(line.text[begin:end].strip(), style) for begin, end, style in line.spans]


@given(some.floats(0, 1000), some.integers(1, 200), some.booleans())
def test_a_bar_is_as_wide_as_asked_and_empty_only_for_nothing(
    percent: float, width: int, is_ascii: bool
) -> None:
    drawn = bars.bar(percent, width, is_ascii)

    assert width == wording.columns(drawn)
    assert (percent == 0) == (not drawn.strip("\u2591."))
    assert (percent >= 100) <= (not drawn.strip("\u2588#"))
    assert drawn.isascii() == is_ascii


@given(some.lists(some.integers(0, 10**6), max_size=100), some.integers(0, 80), some.booleans())
def test_a_sparkline_has_the_newest_at_its_end_and_the_highest_is_full(
    values: list[int], width: int, is_ascii: bool
) -> None:
    drawn = bars.spark(values, width, is_ascii)
    shown = values[len(values) - width :] if width < len(values) else values

    assert width == len(drawn)
    assert [each > 0 for each in shown] == [char != " " for char in drawn][width - len(shown) :]
    if any(shown) and width:
        assert drawn[width - len(shown) + shown.index(max(shown))] == (
            "%" if is_ascii else "\u2588"
        )


def test_a_trend_counts_each_interval_and_forgets_what_is_over() -> None:
    trends, key = Trends(2.0), ("sh",)
    trends.add({key: 23}, 2.0)
    trends.add({key: 7}, 2.1)
    trends.add({}, 4.0)
    trends.add({key: 1}, 8.0)

    assert [30, 0, 0, 1] == trends.of(key) == trends.of()
    assert 31 / 8 == trends.rate(key)
    trends.add({}, 8.0 + 2 * MOST)
    assert ([], 0.0) == (trends.of(key), trends.rate())


def test_what_is_full_is_red_and_what_is_near_yellow_and_what_is_old_dim() -> None:
    counted = table_of(FULL, NEAR)
    moment = replace(MOMENT, now_ns=TIME_NS + 61 * 10**9)

    (first, second) = frame(counted, Look())[4:6]
    old = screen.frame(counted, {counted.rows()[0].key: 1}, moment, (120, 40))[4:6]

    assert [("7/7", "full"), ("\u2588" * 16, "full")] == styled(first)
    assert [("90/100", "near")] == styled(second)[:1]
    assert ["", ""] == [first.style, second.style]
    assert ["strong", "dim"] == [each.style for each in old]


def test_names_are_cut_only_after_all_that_moves_has_gone() -> None:
    counted = table_of(replace(FULL, caller="f" * 40))
    trends = Trends()
    trends.add(screen.Changes().take(counted), 1.0)
    seen = {}
    for width in range(60, 240):
        heading, row = (each.text for each in frame(counted, Look(trends=trends), (width, 30))[3:5])
        seen[width] = [each in heading for each in ("ERRNO", "SHARE", "RATE/S", "TREND")]
        assert ("f" * 40 in row) or not any(seen[width])
        assert seen[width][0] or not any(seen[width])

    assert [True] * 4 == seen[239]
    assert [False] * 4 == seen[60]


@given(
    some.tuples(some.integers(1, 220), some.integers(1, 60)),
    some.lists(some.sampled_from(["h", "esc", "enter", "down", "up", "s", "g", "f", "a", "p"])),
    some.booleans(),
    some.sampled_from(["alpha", "\u65e5\u672c\u8a9e" * 20]),
)
def test_no_page_is_wider_or_longer_than_its_terminal(
    size: tuple[int, int], keys: list[str], is_ascii: bool, name: str
) -> None:
    counted = table_of(FULL, NEAR, threads_max(), make_failure(comm=name, caller=name))
    look = after(*keys, counted=counted)
    look = replace(look, is_ascii=is_ascii, trends=Trends())
    look.trends.add(screen.Changes().take(counted), 1.0)
    moment = replace(MOMENT, host=name, forks=Forks(GAUGES, None, 2.5, (1.0, 0.0, 23.0), 99))

    for table in (counted, table_of()):
        lines = screen.frame(table, {}, moment, size, look=look)

        assert len(lines) <= size[1]
        assert max((wording.columns(line.text) for line in lines), default=0) <= max(1, size[0] - 1)
        assert not is_ascii or name != "alpha" or all(line.text.isascii() for line in lines)


def test_while_nothing_fails_the_limits_that_are_nearest_are_bars() -> None:
    moment = replace(MOMENT, forks=Forks(GAUGES, None, 2.5, (0.0, 5.0), 99))

    lines = screen.frame(table_of(), {}, moment, (80, 24))
    text = [line.text for line in lines]

    assert "Forks and new threads: 2.5 per second; tasks: 99   \u2588" == text[4]
    assert ["full", "near", "fine"] == [line.spans[0].style for line in lines[7:10]]
    # The place is whole before the bar is long.
    assert text[7].split() == ["pids-cgroup", "\u2588" * 31, "100%", "23/23", "/sys/fs/cgroup/app"]
    narrow = [line.text for line in screen.frame(table_of(), {}, moment, (60, 24))]
    assert text[7].split()[2:] == narrow[7].split()[2:]
    why = [
        line.text for line in waiting.lines(Forks((), "this host has 9 processes"), 79, 20, True)
    ]
    assert "Limits are not shown: this host has 9 processes; see `fork-trace check`" in why


def test_groups_have_the_same_failures_and_numbers() -> None:
    by = ("command", "caller", "cause", "cgroup", "user")
    counted = table_of(FULL, NEAR, threads_max(), replace(FULL, cgroup="/db"), by=by)

    for group in GROUPS[1:]:
        assert group is not None
        again = table_of(FULL, NEAR, threads_max(), replace(FULL, cgroup="/db"), by=group)
        found = counted.grouped(group)

        def told(table: aggregate.Table) -> list[Any]:
            return [
                (row.key, row.count, row.errnos, row.first_ns, row.last_ns, row.at()[1])
                for row in table.rows()
            ]

        assert told(again) == told(found)
        assert counted.failures == found.failures


def test_keys_sort_filter_choose_and_open_a_row() -> None:
    counted = table_of(FULL, NEAR, replace(threads_max(), time_ns=TIME_NS + 1))

    assert ["sh", "java", "near"] == [row.key[0] for row in screen.rows_of(counted, Look())]
    assert "java" == screen.rows_of(counted, after("s", "s"))[0].key[0]
    assert ["near"] == [row.key[0] for row in screen.rows_of(counted, after(*"/NEA"))]
    assert "filter: NEA_" == after(*"/NEA").told
    only_java = "\n".join(line.text for line in frame(counted, after(*"/java")))
    assert "\nthreads-max: " in only_java
    assert "\npids-cgroup: " not in only_java
    none = [line.text for line in frame(counted, after(*"/no such"))]
    assert "No row has these letters." in none
    assert "" == after(*"/NE", "esc").told
    assert "filter: N" == after(*"/NE", "backspace", "enter").told
    assert after(*"/pq").words == "pq"
    chosen = frame(counted, after("down", counted=counted))
    assert ["chosen", "", ""] == [line.style for line in chosen[4:7]]
    assert [True, False, False] == [line.text.startswith(">") for line in chosen[4:7]]
    detail = "\n".join(
        line.text for line in frame(counted, after("down", "enter", counted=counted))
    )
    assert "held by: java[4121] 498 tasks" in detail
    assert "#0  fork\\x1b[31m in /usr/lib/libc.so.6+0x1234" in detail
    assert "near" in "\n".join(
        line.text for line in frame(counted, after("down", "enter", "esc", counted=counted))
    )
    helped = "\n".join(line.text for line in frame(counted, after("h"), (80, 24)))
    assert all(what in helped for _, what in HELP)


def test_what_is_chosen_stays_so_wherever_it_stands_and_is_what_opens() -> None:
    counted = table_of(*(make_failure(comm=f"c{n}", count=99 - n) for n in range(40)))
    look = after(*["down"] * 31, counted=counted)
    new = {counted.rows()[-1].key: 1}

    def marked() -> list[str]:
        lines = [line.text for line in screen.frame(counted, new, MOMENT, (80, 24), look=look)]
        return [line.split()[2] for line in lines if line.startswith(">")]

    assert ["c30"] == marked()
    counted.add(make_failure(comm="c30", count=500))
    assert "c30" == screen.rows_of(counted, look)[0].key[0]
    assert ["c30"] == marked()
    opened = pressed(look, "enter", [row.key for row in screen.rows_of(counted, look)])
    assert "569 failures: command c30," in frame(counted, opened)[3].text


def test_a_row_that_has_no_room_can_be_moved_to_its_end() -> None:
    counted = table_of(FULL)
    look = after("enter", counted=counted)
    whole = [line.text.rstrip() for line in frame(counted, look, (80, 60))]
    seen = [line.text for line in frame(counted, look, (80, 20))]
    below = int(seen[-2].split()[1])

    moved = replace(look, scrolled=below)
    last = [line.text for line in frame(counted, moved, (80, 20))]

    assert seen[-2].endswith("more lines: down")
    assert [each for each in whole[:-1] if each][-1] == last[-2]
    assert "#0  fork" in "".join(last)
    assert "held by" in "".join(whole)


class _Drawn:
    """A terminal that keeps what was drawn last."""

    is_ascii = is_slow = is_busy = False
    keys_to_end = "q or Ctrl-C"

    def __init__(self, columns: int, lines: int) -> None:
        self._size = columns, lines
        self.lines: list[str] = []

    def size(self) -> tuple[int, int]:
        return self._size

    def draw(self, lines: list[Line]) -> None:
        self.lines = [line.text for line in lines]


def shown_live(size: tuple[int, int], *failures: Failure) -> tuple[Redrawn, _Drawn]:
    """A screen that a second of failures has come to."""
    terminal, counted = _Drawn(*size), aggregate.Table()
    view = Redrawn(terminal, counted, "alpha", PLAIN)  # type: ignore[arg-type]
    for each in failures:
        counted.add(each)
        view.add(each)
    view.show(1.0, 0, 0, now_ns=TIME_NS)
    return view, terminal


def test_another_group_has_the_same_trend_and_news() -> None:
    view, terminal = shown_live((160, 40), replace(FULL, count=23), replace(FULL, count=7, uid=7))

    before = terminal.lines
    view.press(["g"] * 3)

    assert terminal.lines[3].split() == [
        *("COUNT", "NEW", "CAUSE", "ERRNO", "USED/LIMIT", "SHARE", "RATE/S", "TREND", "WHERE")
    ]
    assert terminal.lines[4].split()[:3] == ["30", "+30", "pids-cgroup"]
    assert before[4].split()[-4:] == terminal.lines[4].split()[-4:]
    assert "30 failures per second, peak 30 in 1 s" in terminal.lines[2]


def test_the_newest_of_too_many_rows_have_a_trend() -> None:
    trends = Trends()
    trends.add({(f"c{n}",): 1 for n in range(5000)}, 1.0)
    trends.add({("(other)",): 23}, 2.0)

    assert [0, 23] == trends.of(("(other)",))
    assert [5000, 23] == trends.of()
    assert [] == trends.of(("c0",))


def test_the_keys_stand_below_and_a_pause_above() -> None:
    view, terminal = shown_live((80, 24), FULL)

    assert 24 == len(terminal.lines)
    assert terminal.lines[-1].startswith("Enter details  s sort  g group  f filter  p pause")
    view.press(["p"])
    assert terminal.lines[0].startswith("PAUSED: fork-trace live on alpha")
    view.press(["f", "x"])
    assert terminal.lines[-1].startswith("Enter keep these rows")
    final = [line.text for line in view.final(lines_less=3)]
    assert final[0].rstrip().endswith("last failure 0 s ago")
    assert not any("Enter" in line for line in final)
    assert len(final) <= 21


def test_a_row_moves_no_further_than_it_has_lines() -> None:
    view, terminal = shown_live((80, 20), FULL)

    view.press(["enter", *["down"] * 100])
    last = terminal.lines
    view.press(["up"])

    assert last != terminal.lines


def test_once_nothing_fails_the_limits_are_shown_again_and_old_rows_are_no_alarm() -> None:
    counted = table_of(FULL)
    moment = replace(MOMENT, forks=Forks(GAUGES), now_ns=TIME_NS + 61 * 10**9)

    busy = [line.text for line in screen.frame(counted, {}, moment, (120, 40))]
    lines = screen.frame(counted, {}, replace(moment, quiet_s=61.0), (120, 40))
    at = [line.text for line in lines].index("Nearest limits now:")

    assert "Nearest limits now:" not in busy
    assert ["full", "near", "fine"] == [line.spans[0].style for line in lines[at + 1 : at + 4]]
    assert ("dim", ()) == (lines[4].style, lines[4].spans)


@given(some.lists(some.integers(0, 10**6), min_size=1, max_size=80), some.booleans())
def test_a_chart_is_as_high_as_asked_where_most_was_and_shows_all_that_is(
    values: list[int], is_ascii: bool
) -> None:
    drawn = bars.chart(values, 60, 4, is_ascii)
    shown = values[-60:]

    assert [len(shown)] * 4 == [len(each) for each in drawn]
    assert [each > 0 for each in shown] == [char != " " for char in drawn[-1]]
    if any(shown):
        assert drawn[0][shown.index(max(shown))] == ("%" if is_ascii else "\u2588")


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_name_reaches_a_page_raw(text: str) -> None:
    failure = replace(FULL, comm=text, caller=text, cgroup=text, holders=(make_holder(comm=text),))
    counted = table_of(failure, by=columns.COLUMNS)
    gauge = Gauge(text, 90.0, 1, 2, text, text)
    moment = replace(MOMENT, host=text, forks=Forks((gauge,), text, 1.0, (1.0,), 2))

    lines = [line.text for line in frame(counted, after("enter", counted=counted), (200, 50))]
    lines += [line.text for line in screen.frame(table_of(), {}, moment, (200, 50))]

    assert all(is_harmless(line) and "\n" not in line for line in lines)


def test_a_line_that_is_cut_keeps_the_styles_of_what_is_left() -> None:
    line = Line("0123456789", "", (Span(2, 4, "full"), Span(6, 10, "near"), Span(9, 10, "dim")))

    assert Line("0123456~", "", (Span(2, 4, "full"), Span(6, 7, "near"))) == line.fitted(8)


# Draws ten seconds of a storm in as many steps; the speed of its line comes first.
PROGRAM = """
import sys, termios
sys.path[:0] = sys.argv[2:]
from conftest import make_failure
from fork_trace.output.aggregate import Table
from fork_trace.output.live.terminal import Terminal
from fork_trace.output.live.views import Redrawn
from fork_trace.output.report_options import PLAIN
from fork_trace.output.live import terminal as on
now_s = 0.0
on.monotonic = lambda: now_s
modes = termios.tcgetattr(1)
modes[4] = modes[5] = getattr(termios, "B" + sys.argv[1])
termios.tcsetattr(1, termios.TCSANOW, modes)
terminal, counted = Terminal(), Table()
terminal.enter()
view = Redrawn(terminal, counted, "alpha", PLAIN)
now = make_failure().time_ns
for second in range(10):
    for number in range(8):
        if (second + number) % 3 == 0:
            record = make_failure(comm=f"c{number}", count=23 + second, time_ns=now)
            counted.add(record)
            view.add(record)
    if second == 1:
        print("begin", end="", flush=True)
    view.show(float(second), 0, 0, now_ns=now)
    now += 10**9
    now_s += 1
print("end", end="", flush=True)
terminal.leave()
"""


@pytest.fixture
def storm(tmp_path: Path) -> Any:
    path = tmp_path / "storm.py"
    path.write_text(PROGRAM)
    tests = str(Path(__file__).parents[2])

    def start(on_a_tty: Any, speed: int, **how: Any) -> Tty:
        tty: Tty = on_a_tty([sys.executable, str(path), str(speed), tests], **how)
        assert 0 == tty.end()
        return tty

    return start


@pytest.mark.parametrize(
    ("speed", "size", "most"),
    [(9600, (80, 24), 5000), (38400, (80, 24), 14_000), (38400, (200, 50), 30_000)],
)
def test_ten_seconds_of_a_storm_are_a_few_kilobytes(
    on_a_tty: Any, storm: Any, speed: int, size: tuple[int, int], most: int
) -> None:
    tty = storm(on_a_tty, speed, size=size, LANG="C.UTF-8", TERM="xterm")

    written = tty.raw[tty.raw.index("begin") : tty.raw.index("end")]
    print(f"{len(written.encode()) * 10 // 9} bytes in 10 s at {speed} baud, {size}")
    assert 500 < len(written.encode()) * 10 // 9 < most


@pytest.mark.parametrize(
    ("environ", "is_ascii", "styles"),
    [
        ({"LANG": "C.UTF-8", "TERM": "xterm"}, False, {"0", "1", "4", "7", "31", "36"}),
        ({"LANG": "C.UTF-8", "TERM": "xterm", "NO_COLOR": "1"}, False, {"0"}),
        ({"LANG": "", "TERM": "xterm"}, True, {"0", "1", "4", "7", "31", "36"}),
        ({"LANG": "C.UTF-8", "TERM": "linux"}, True, {"0", "1", "4", "7", "31", "36"}),
        ({"LANG": "C.UTF-8", "TERM": "vt220"}, True, {"0", "1", "4", "7"}),
    ],
)
def test_a_terminal_gets_what_it_has(
    on_a_tty: Any, storm: Any, environ: dict[str, str], is_ascii: bool, styles: set[str]
) -> None:
    tty = storm(on_a_tty, 38400, size=(140, 40), **environ)

    assert is_ascii == tty.raw.isascii()
    assert styles == tty.screen.styles
