"""What `live` shows: it fits, whatever the size; what is new is marked; no cause is cut in two."""

from __future__ import annotations

import itertools
import subprocess
from dataclasses import replace
from typing import Any

import pytest
from conftest import (
    HOSTILE,
    is_harmless,
    make_advice,
    make_evidence,
    make_failure,
    make_holder,
    table_of,
    widest,
)
from hypothesis import given
from hypothesis import strategies as some

from fork_trace.diagnosis import causes
from fork_trace.diagnosis.cause import Cause
from fork_trace.model import steps
from fork_trace.output import aggregate, columns, telling, times, wording
from fork_trace.output.live import screen
from fork_trace.output.live.line import Line
from fork_trace.output.live.views import Appended
from fork_trace.output.report_options import PLAIN, ReportOptions

MOMENT = screen.Moment("alpha", 200.4, 5.2, "q or Ctrl-C")
CAUSES = [cause.slug for cause in causes.CAUSES]
ADVICE = (
    make_advice(kind="verify", text="Look there."),
    make_advice(text="Raise it."),
    make_advice(kind="fix", text="Raise it permanently."),
)


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def frame(
    counted: aggregate.Table, size: tuple[int, int] = (80, 24), new: Any = (), **how: Any
) -> list[str]:
    return texts(screen.frame(counted, dict(new), MOMENT, size, **how))


def several(*counts: int) -> aggregate.Table:
    """As many commands as counts, each failing by a cause of its own."""
    counted = aggregate.Table()
    for number, (count, cause) in enumerate(zip(counts, itertools.cycle(CAUSES))):
        counted.add(make_failure(comm=f"c{number}", count=count, cause=cause, advice=ADVICE))
    return counted


def test_a_screen_says_where_it_is_how_long_it_watches_and_how_it_ends() -> None:
    bar, verdict, *_, foot = frame(table_of(make_failure()))
    low, *_ = frame(table_of(make_failure()), (80, 19))

    assert bar.startswith("fork-trace live on alpha, 3 min 20 s; last failure 5 s ago ")
    assert foot.rstrip().endswith("  h help  q stop")
    assert low.endswith(" q or Ctrl-C to stop")
    assert 79 == len(bar) == len(low)
    assert "1 cause, 1 failure in 200 s; worst: sh in /app.service at pids.max 7/7" == verdict


def test_a_screen_without_failures_says_so() -> None:
    assert "No fork failed in 200 s." == frame(table_of())[1]


@given(
    some.tuples(some.integers(1, 220), some.integers(1, 60)),
    some.lists(some.integers(1, 10**6), max_size=60),
    some.sampled_from([PLAIN, ReportOptions(times=True), ReportOptions(stacks=True, times=True)]),
    some.sampled_from(["alpha", "\u65e5\u672c\u8a9e" * 20]),
    some.sampled_from([(0, 0), (1, 0), (10**9, 10**9)]),
)
def test_no_screen_is_wider_or_longer_than_its_terminal(
    size: tuple[int, int], counts: list[int], more: ReportOptions, name: str, lost: tuple[int, int]
) -> None:
    counted = several(*counts)
    counted.add(widest(steps.STEPS[0], causes.CAUSES[0]))
    counted.add(make_failure(comm=name, caller=name, cgroup=name))
    moment = screen.Moment(name, 1e6, None, "q or Ctrl-C", *lost)

    lines = screen.frame(counted, screen.Changes().take(counted), moment, size, more)

    assert len(lines) <= size[1]
    assert max((wording.columns(line.text) for line in lines), default=0) <= max(1, size[0] - 1)


@pytest.mark.parametrize("width", [40, 60, 79, 80])
@pytest.mark.parametrize("cause", causes.CAUSES, ids=lambda cause: cause.slug)
def test_no_cause_is_cut_on_a_narrow_screen(cause: Cause, width: int) -> None:
    failure = widest(steps.STEPS[4], cause)
    counted = table_of(make_failure(), failure)
    new = {counted.rows()[0].key: 999}

    _, verdict, _, heading, *lines = frame(counted, (width, 24), new)
    appended = screen.appended(counted.rows(), counted.by, new, width - 1)

    assert verdict.endswith((" at pids.max 4194304/4194304", f"worst: {cause.slug}"))
    assert cause.slug in lines[0][heading.index("CAUSE") :].split("*")[0].split()
    assert cause.slug in appended[0].replace("*", " ").split()
    at = screen.heading(counted.by, width - 1).index("CAUSE")
    assert appended[0][at:].startswith(cause.slug)


def test_lost_samples_are_told_as_soon_as_there_are_any_and_what_that_means() -> None:
    counted = table_of(make_failure())
    moment = replace(MOMENT, lost=12)

    assert not [text for text in frame(counted) if "lost" in text]
    assert (
        "12 samples lost (buffer full): counts are exact, some details are missing"
        == texts(screen.frame(counted, {}, moment, (80, 24)))[2]
    )
    assert (
        "12 samples lost; counts are exact" == texts(screen.frame(counted, {}, moment, (40, 24)))[2]
    )


def test_no_count_is_called_exact_if_calls_were_missed_too() -> None:
    assert "1 sample lost, at most 3 calls missed: counts are lower bounds" == screen.lost(1, 3, 79)


@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
@pytest.mark.parametrize("number", [1, 4, 9, 30])
def test_every_cause_on_a_screen_is_whole(size: tuple[int, int], number: int) -> None:
    counted = several(*range(90, 90 - number, -1))
    width = min(size[0] - 1, 110)
    lines = frame(counted, size)
    shown = "\n".join(lines[:-1]).rstrip()  # the keys are the last line

    blocks = [block.splitlines() for block in shown.split("\n\n")[2:]]
    for block in blocks[:-1] if number > 1 else blocks:
        cause = block[0].partition(":")[0]
        places = counted.by_cause()[cause]
        whole = telling.tell(places).lines(width)
        assert block in (whole, telling.tell_briefly(places).lines(width))
    assert blocks
    assert all(cause in shown for cause in CAUSES[: min(number, 4)])


def test_at_80_by_24_the_worst_of_four_causes_has_its_advice_and_each_is_named() -> None:
    counted = several(9, 8, 7, 6)
    others = list(counted.causes)[1:]

    lines = frame(counted)

    assert "  -> Mitigate: Raise it." in lines
    assert all(any(line.startswith(f"{cause}: ") for line in lines) for cause in others)


def test_rows_that_have_no_room_are_counted_and_the_newest_are_shown_all_the_same() -> None:
    counted = several(*range(100, 50, -1))
    last = counted.rows()[-1]

    lines = frame(counted, new={last.key: 1})

    assert any(line.split()[:3] == ["51", "+1", "c49"] for line in lines)
    (more,) = [line for line in lines if "more row" in line]
    shown = [int(line.split()[0]) for line in lines[4 : lines.index(more)]]
    assert (
        f"... {50 - len(shown)} more rows with {sum(range(51, 101)) - sum(shown)} failures" == more
    )


def test_what_is_new_stands_out_in_words_and_in_style() -> None:
    counted = several(5, 3)
    second = counted.rows()[1]

    lines = screen.frame(counted, {second.key: 2}, MOMENT, (80, 24))

    assert [("5", ""), ("3", "strong")] == [
        (line.text.split()[0], line.style) for line in lines[4:6]
    ]
    assert ["", "+2"] == [line.text[6:10].strip() for line in lines[4:6]]


def test_changes_are_what_came_since_they_were_last_taken() -> None:
    counted, changes = table_of(make_failure(count=7)), screen.Changes()
    key = counted.rows()[0].key

    first = changes.take(counted)
    quiet = changes.take(counted)
    counted.add(make_failure(count=2))
    counted.add(make_failure(comm="java"))

    assert ({key: 7}, {}) == (first, quiet)
    assert {key: 2, ("java", "_Fork", "pids-cgroup"): 1} == changes.take(counted)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3600, "1 h 0 min"), (90_061, "25 h 1 min")],
)
def test_a_span_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert text == times.span(seconds)


def test_what_is_appended_stands_under_its_heading_the_latest_last() -> None:
    counted = several(5, 3, 1)
    early, late = counted.rows()[:2]
    early.last_ns += 2 * 10**9
    new = {early.key: 5, late.key: 3}

    heading = screen.heading(counted.by)
    first, second = screen.appended(counted.rows(), counted.by, new, 79)

    assert first.startswith("05:06:07Z     +3 c1 ")
    assert second.startswith("05:06:09Z     +5 c0 ")
    for line in (first, second):
        assert line[heading.index("ERRNO") :].startswith("EAGAIN 7/7 ")
        assert "_Fork" == line[heading.index("CALLER") :]


def test_what_is_appended_is_cut_to_a_terminal_and_whole_elsewhere() -> None:
    counted = table_of(make_failure(caller="f" * 60))
    new = screen.Changes().take(counted)

    (line,) = screen.appended(counted.rows(), counted.by, new, 79)
    (whole,) = screen.appended(counted.rows(), counted.by, new)

    assert 79 == len(line)
    assert whole.endswith(" " + "f" * 60)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_name_reaches_a_screen_raw(text: str) -> None:
    failure = make_failure(
        comm=text,
        caller=text,
        cgroup=text,
        cause=text,
        evidence=(make_evidence(name=text, unit=text, where=text),),
        advice=(make_advice(text=text, commands=(text,)),),
        holders=(make_holder(comm=text),),
        holders_total=1,
    )
    counted = table_of(failure, by=columns.COLUMNS)
    new = screen.Changes().take(counted)
    moment = screen.Moment(text, 1, 1, "")
    more = ReportOptions(stacks=True, times=True)

    lines = texts(screen.frame(counted, new, moment, (200, 50), more))
    lines += screen.appended(counted.rows(), counted.by, new)
    lines += screen.introduced(telling.tell_briefly(counted.places()))

    assert all(is_harmless(line) and "\n" not in line for line in lines)


class _Wide:
    def width(self) -> int:
        return 99


def test_what_is_appended_tells_each_place_once_and_a_new_day(
    capsys: pytest.CaptureFixture[str],
) -> None:
    counted = aggregate.Table()
    view = Appended(_Wide(), counted)  # type: ignore[arg-type]
    advice = (make_advice(commands=("echo N > db",)),)
    db = make_failure(evidence=(make_evidence(where="/sys/fs/cgroup/db"),), advice=advice)

    counted.add(make_failure())
    view.show(1, 0, 0)
    first = capsys.readouterr().out
    counted.add(db)
    view.show(2, 0, 0)
    second = capsys.readouterr().out
    counted.add(replace(db, time_ns=db.time_ns + 86_400 * 10**9))
    view.show(3, 0, 0)
    third = capsys.readouterr().out

    assert "  pids-cgroup: a cgroup has reached its pids.max; every thread counts\n" in first
    assert "  + 1 x EAGAIN at pids.max 7/7, cgroup /db: sh\n    echo N > db\n" in second
    assert "---" not in second
    assert third.startswith("--- 2026-03-05 ---\n")
    assert "+ 1 x" not in third


def test_a_command_that_is_wider_than_the_screen_is_broken_where_a_shell_joins_it() -> None:
    command = "echo N /sys/fs/cgroup/" + "a" * 60 + "/" + "b" * 80
    quoted = f"echo '{'c' * 200}'"
    advice = (make_advice(text="Raise it.", commands=("true", command, quoted)),)
    counted = table_of(make_failure(advice=advice))

    lines = frame(counted)
    at = next(number for number, line in enumerate(lines) if "echo N" in line)
    said = subprocess.run(
        ["sh", "-c", "\n".join(lines[at : at + 3])], capture_output=True, text=True
    )

    assert "     true" in lines
    assert f"{command[5:]}\n" == said.stdout
    assert not [line for line in lines if "ccc" in line]
    assert [line for line in lines if "a command wider than this screen" in line]
    assert [line for line in frame(counted, (180, 24)) if command in line]


def test_a_screen_says_that_a_filter_hides_failures() -> None:
    moment = replace(MOMENT, filtered=3)

    bar, verdict, *_ = texts(screen.frame(table_of(), {}, moment, (80, 24)))

    assert "; 3 filtered out" in bar
    assert "No fork failed in 200 s; 3 failures outside the filter" == verdict
