"""Rows as tables: they fit, and what is cut shows it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import make_failure, table_of, threads_max, widest, widths

from fork_trace.diagnosis.cause import Cause
from fork_trace.diagnosis.causes import CAUSES
from fork_trace.model import steps
from fork_trace.output import aggregate, columns, tables


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.slug)
def test_the_default_table_fits_80_columns_with_the_widest_values(cause: Cause) -> None:
    failure = widest(steps.STEPS[4], cause)
    counted = table_of(failure, replace(failure, count=8_571_428, errno="ENOMEM"))

    text = tables.rows(counted.rows(), counted.by)

    assert max(widths(text)) < 80
    assert cause.slug in text
    assert "9999999" in text
    assert "4194304/4194304" in text


def test_a_table_that_fits_cuts_nothing_that_it_need_not() -> None:
    failure = make_failure(comm="c" * 15, caller="pthread_create")

    text = tables.rows(table_of(failure).rows(), columns.DEFAULT_BY)

    assert "c" * 15 in text
    assert "pthread_create" in text


def test_a_row_of_several_places_shows_the_numbers_of_the_worst_and_that_there_are_others() -> None:
    counted = table_of(
        *(make_failure(), replace(threads_max(), count=2)),
        make_failure(cause="seccomp", evidence=()),
        by=("user",),
    )

    text = tables.rows(counted.rows(), counted.by)

    assert "  101/100+2" in text
    assert "7/7" not in text


def test_several_errnos_of_a_row_are_shown_as_such() -> None:
    counted = table_of(make_failure(), make_failure(errno="ENOMEM"))

    assert "EAGAIN+1" in tables.rows(counted.rows(), counted.by)


def test_rates_and_times_are_columns_if_asked_for() -> None:
    counted = aggregate.Table()
    counted.add(make_failure())
    counted.add(make_failure(time_ns=make_failure().time_ns + 2_000_000_000))
    first, second = tables.rows(counted.rows(), counted.by, times=True).splitlines()

    assert ["PER", "S", "FIRST", "LAST"] == first.split()[-4:]
    assert ["0.5", "05:06:07Z", "05:06:09Z"] == second.split()[-3:]
    assert "PER S" not in tables.rows(counted.rows(), counted.by)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("cgroup", "/kubepods/" + "a" * 80 + "/pod42", "/pod42"),
        ("caller", "run_" + "a" * 80, "run_a"),
        ("command", None, "(other)"),
        ("caller", None, "?"),
    ],
)
def test_of_a_path_the_end_is_kept_and_of_a_name_the_beginning(
    name: str, value: str | None, shown: str
) -> None:
    field = {"cgroup": "cgroup", "caller": "caller", "command": "comm"}[name]
    counted = table_of(make_failure(**{field: value}), by=(name,))

    text = tables.rows(counted.rows(), counted.by)

    assert shown in text
    assert max(widths(text)) < 80


@pytest.mark.parametrize("by", [columns.DEFAULT_BY, ("host", *columns.DEFAULT_BY)])
def test_a_cause_is_never_cut_and_names_share_what_is_left(by: tuple[str, ...]) -> None:
    counted = aggregate.Table(by)
    counted.add(widest(steps.STEPS[0], CAUSES[0]), "host" * 9)
    counted.add(make_failure(cause="user-namespace-denied", certainty="inferred"), "alpha")

    heading, *lines = tables.rows(counted.rows(), by).splitlines()

    assert ["user-namespace-denied*"] == [
        line[heading.index("CAUSE") :].split()[0] for line in lines if "user-" in line
    ]
    assert all("~" in line[: heading.index("CAUSE")] for line in lines if "host" in line)


@pytest.mark.parametrize("by", [columns.DEFAULT_BY, columns.COLUMNS, ("cause",)])
@pytest.mark.parametrize("times", [False, True])
@pytest.mark.parametrize("width", [39, 59, 78, 79])
def test_columns_are_dropped_before_any_cause_is_cut(
    width: int, times: bool, by: tuple[str, ...]
) -> None:
    failures = [widest(steps.STEPS[4], cause) for cause in CAUSES]
    counted = table_of(*failures, by=by)
    new = {row.key: 999 for row in counted.rows()}

    heading, *lines = tables.rows(
        counted.rows(), by, times, width, new=new, drops=True
    ).splitlines()

    assert max(map(len, [heading, *lines])) <= width
    assert ["COUNT", "CAUSE"] == [name for name in heading.split() if name in ("COUNT", "CAUSE")]
    at = heading.index("CAUSE")
    assert {cause.slug for cause in CAUSES} == {line[at:].split()[0].rstrip("*") for line in lines}


def test_of_what_is_dropped_the_errno_goes_first_and_the_command_last() -> None:
    counted = table_of(make_failure(comm="c" * 15, caller="f" * 20, count=1000))
    new = {counted.rows()[0].key: 999}

    shown = [
        tables.rows(counted.rows(), counted.by, False, width, new, drops=True)
        .split("\n")[0]
        .split()
        for width in (90, 72, 50, 42, 36, 26)
    ]

    assert [
        ["COUNT", "NEW", "COMMAND", "CALLER", "CAUSE", "ERRNO", "USED/LIMIT"],
        ["COUNT", "NEW", "COMMAND", "CALLER", "CAUSE", "USED/LIMIT"],
        ["COUNT", "NEW", "COMMAND", "CALLER", "CAUSE"],
        ["COUNT", "COMMAND", "CALLER", "CAUSE"],
        ["COUNT", "COMMAND", "CAUSE"],
        ["COUNT", "CAUSE"],
    ] == shown


def test_a_report_drops_no_column_that_was_asked_for() -> None:
    counted = table_of(make_failure(), by=columns.COLUMNS)
    heading = tables.rows(counted.rows(), counted.by).splitlines()[0]

    assert {name.upper() for name in columns.COLUMNS} <= set(heading.split())


def test_letters_of_two_columns_leave_the_columns_straight() -> None:
    counted = table_of(
        make_failure(comm="\u65e5\u672c\u8a9e", count=2), make_failure(comm="abcdef")
    )

    heading, wide, narrow = tables.rows(counted.rows(), counted.by).splitlines()

    assert narrow.index("_Fork") == heading.index("CALLER") == 3 + wide.index("_Fork")


def test_what_is_new_has_a_column_of_its_own() -> None:
    counted = table_of(make_failure(count=7), make_failure(comm="java"))
    new = {counted.rows()[0].key: 3}

    heading, first, second = tables.rows(counted.rows(), counted.by, new=new).splitlines()

    assert ["COUNT", "NEW", "COMMAND"] == heading.split()[:3]
    assert ["7", "+3", "sh"] == first.split()[:3]
    assert ["1", "java"] == second.split()[:2]
