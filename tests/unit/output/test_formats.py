"""A report for programs and for pages."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from typing import Any

import pytest
from conftest import (
    HOSTILE,
    STACK,
    is_harmless,
    make_advice,
    make_evidence,
    make_failure,
    make_header,
    make_summary,
    table_of,
    threads_max,
)
from hypothesis import given
from hypothesis import strategies as some

from fork_trace.output import aggregate, formats, summary
from fork_trace.output.report_options import PLAIN, ReportOptions


def test_a_merged_summary_adds_up_and_one_unknown_makes_the_sum_unknown() -> None:
    counted = table_of(make_failure(count=5))
    summaries = [make_summary(lost=1, rate_limited=2), make_summary(lost=3, missed=4)]

    merged = summary.merged_summary(counted, summaries)

    assert (2, 5, 4, 2, 4) == tuple(
        merged[name] for name in ("captures", "failures", "lost", "rate_limited", "missed")
    )
    assert summary.merged_summary(counted, [make_summary(missed=None)] * 2)["missed"] is None


def test_rows_as_json_have_their_columns_by_name() -> None:
    (row,) = summary.json_rows(table_of(make_failure(count=5), by=("host", "cause")))

    assert {
        "host": None,
        "cause": "pids-cgroup",
        "count": 5,
        "errnos": {"EAGAIN": 5},
        "causes": {"pids-cgroup": 5},
        "first_ns": make_failure().time_ns,
        "last_ns": make_failure().time_ns,
        "per_second": None,
        "certainty": "observed",
        "limit_name": "pids.max",
        "used": 7,
        "limit": 7,
        "unit": "tasks",
        "where": "/sys/fs/cgroup/app.service",
        "places": 1,
    } == row


def test_machines_get_rates_always_and_stacks_if_asked_for() -> None:
    counted = aggregate.Table()
    counted.add(make_failure(stack=STACK, stack_by="unwinding"))

    (row,) = summary.json_rows(counted)
    (more,) = summary.json_rows(counted, ReportOptions(stacks=True))

    assert row["per_second"] is None
    assert "stack" not in row
    assert [0x10, 0x20, 0x30] == [frame["address"] for frame in more["stack"]]


MARKUP = [
    "a|b",
    "a`b",
    "`` ` ``",
    "[x](y)",
    "<img src=x>",
    "*b*",
    "a\\|b",
    "@all",
    "-",
    "a\\",
    "&lt;",
]


def whole(*failures: Any, format_: str, more: ReportOptions = PLAIN) -> str:
    return formats.writer(format_)(table_of(*failures), [make_summary()], [make_header()], more)


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def cells(line: str) -> list[str]:
    """Split a row of a table as renderers do: a backslash takes the next sign away from them."""
    return [cell.strip() for cell in re.findall(r"((?:\\[!-/:-@\[-`{-~]|[^|])*)\|", line)[1:]]


def test_csv_has_one_line_for_each_row_and_says_what_is_not_known() -> None:
    text = whole(make_failure(count=23), threads_max(), format_="csv")

    first, second = read_csv(text)

    assert {
        "command": "sh",
        "caller": "_Fork",
        "cause": "pids-cgroup",
        "count": "23",
        "errno": "EAGAIN",
        "certainty": "observed",
        "limit_name": "pids.max",
        "used": "7",
        "limit": "7",
        "unit": "tasks",
        "where": "/sys/fs/cgroup/app.service",
        "per_second": "-",
        "first": "2026-03-04T05:06:07.000Z",
        "last": "2026-03-04T05:06:07.000Z",
        "places": "1",
    } == first
    assert ("?", "inferred") == (second["caller"], second["certainty"])


def test_a_row_of_several_places_has_the_numbers_of_the_worst_and_says_how_many_there_are() -> None:
    counted = table_of(make_failure(), replace(threads_max(), count=2), by=("user",))

    (row,) = read_csv(formats.writer("csv")(counted, [], [], PLAIN))
    (as_json,) = summary.json_rows(counted)

    assert ("inferred", "kernel.threads-max", "101", "100", "2") == tuple(
        row[name] for name in ("certainty", "limit_name", "used", "limit", "places")
    )
    assert ("kernel.threads-max", 101, 2) == tuple(
        as_json[name] for name in ("limit_name", "used", "places")
    )


def test_csv_of_a_failure_without_evidence_shows_its_numbers_as_unknown() -> None:
    (row,) = read_csv(whole(make_failure(evidence=()), format_="csv"))

    assert {"?"} == {row[name] for name in ("limit_name", "used", "limit", "unit", "where")}


@pytest.mark.parametrize("text", ["a,b", 'a"b', "a;b", "a|b", " a "])
def test_csv_brings_a_name_back_as_it_was(text: str) -> None:
    (row,) = read_csv(whole(make_failure(comm=text), format_="csv"))

    assert text == row["command"]


@pytest.mark.parametrize(
    "text",
    [
        *("=1+1", "+1", "-1", "@x", " =1", "\u3000=1"),
        *("\uff1d1", "\uff0b1", "\uff0d1", "\uff20x", "\ufe661", "\ufe621", "\ufe631", "\ufe6bx"),
        "\u22121",
    ],
)
def test_a_name_is_no_formula_in_a_spreadsheet(text: str) -> None:
    evidence = make_evidence(name=text, unit=text, where=text)

    (row,) = read_csv(whole(make_failure(comm=text, evidence=(evidence,)), format_="csv"))

    assert {f"'{text}"} == {row[name] for name in ("command", "limit_name", "unit", "where")}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a;=1", "a;'=1"),  # many spreadsheets split at semicolons, whatever quotes are around
        ("a; -1;@x", "a;' -1;'@x"),
        ("\t=1", r"\t=1"),
        ("\r=1", r"\r=1"),
        ("\n=1", r"\n=1"),
        ("\ufeff=1", r"\ufeff=1"),
        ("a=1-2@b", "a=1-2@b"),
    ],
)
def test_what_begins_a_cell_elsewhere_is_no_formula_either(text: str, shown: str) -> None:
    (row,) = read_csv(whole(make_failure(comm=text), format_="csv"))

    assert shown == row["command"]


@pytest.mark.parametrize("format_", ["csv", "markdown", "json", "html"])
@pytest.mark.parametrize("text", [*HOSTILE, *MARKUP], ids=ascii)
def test_no_name_reaches_any_format_raw(format_: str, text: str) -> None:
    failure = make_failure(
        comm=text,
        caller=text,
        cgroup=text,
        errno=text,
        cause=text,
        step=text,
        function=text,
        evidence=(make_evidence(name=text, unit=text, where=text),),
        advice=(make_advice(text=text, commands=(text,)),),
        alternatives=(text,),
    )

    written = whole(failure, format_=format_, more=ReportOptions(times=True, stacks=True))

    assert is_harmless(written)


@pytest.mark.parametrize("text", MARKUP, ids=ascii)
def test_a_name_keeps_its_cell_in_markdown(text: str) -> None:
    lines = whole(make_failure(comm=text), format_="markdown").splitlines()
    table = [line for line in lines if line.startswith("|")]

    assert [6] * 3 == [len(cells(line)) for line in table]
    assert ["1", "_Fork", "pids-cgroup"] == [cells(table[2])[n] for n in (0, 2, 3)]


@given(some.text(some.sampled_from("ab|`\\*[]<>_ "), min_size=1, max_size=12))
def test_any_name_keeps_its_cell_in_markdown(text: str) -> None:
    row = next(
        line
        for line in whole(make_failure(comm=text), format_="markdown").splitlines()
        if line.startswith("|") and "_Fork" in line
    )

    assert ["_Fork", "pids-cgroup", "EAGAIN", "7/7"] == cells(row)[2:]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("kernel.pid_max is 7 of 7", "kernel.pid_max is 7 of 7"),
        ("run `echo 1 > /x_y` now", "run `echo 1 > /x_y` now"),
        ("a ` alone <b>", r"a \` alone \<b\>"),
        ("two `` `x` <b>", r"two \`\` \`x\` \<b\>"),
        ("*bold* _it_", r"\*bold\* \_it\_"),
    ],
)
def test_of_a_sentence_only_commands_are_markup(text: str, written: str) -> None:
    failure = make_failure(advice=(make_advice(text=text),))

    assert f"\n- Mitigate: {written}\n" in whole(failure, format_="markdown")


@pytest.mark.parametrize(("name", "written"), [("- x", r"\- x"), ("1. x", r"1\. x")])
def test_a_name_that_begins_a_line_begins_no_list(name: str, written: str) -> None:
    failure = make_failure(evidence=(make_evidence(name=name),))

    assert f"\n- {written}: 7 of 7 tasks" in whole(failure, format_="markdown")


def test_markdown_begins_with_the_verdict_and_has_each_cause() -> None:
    text = whole(make_failure(count=23), threads_max(), format_="markdown")

    assert text.startswith("**2 causes, 24 failures in 2 s; worst: sh in /app.service at pids.max")
    assert "\n| 1 | java | ? | threads-max * | EAGAIN | 101/100 |\n" in re.sub(" +", " ", text)
    assert "\n\\* inferred from" in text
    assert "\n### pids-cgroup: a cgroup has reached its pids.max" in text
    assert "\n- pids.max: 7 of 7 tasks, cgroup /app.service\n" in text
    assert "lost samples: 0" in text.splitlines()[-1]


def test_only_what_people_read_leaves_rows_out() -> None:
    counted = aggregate.Table(("command",))
    for number, name in enumerate(("zsh", "ksh", "bash"), start=1):
        counted.add(make_failure(comm=name, count=number))
    more = ReportOptions(rows=2)
    written = {each: formats.writer(each)(counted, [], [], more) for each in formats.FORMATS}

    assert "\n\n... 1 more row with 1 failure; `--rows 0` shows all\n" in written["markdown"]
    rows = {each: re.search(r"\b1[ |]+zsh\b", written[each]) for each in ("table", "markdown")}
    assert {"table": None, "markdown": None} == rows
    assert all("zsh" in written[each] for each in ("csv", "json", "jsonl"))


def test_stacks_in_markdown_are_fenced_by_more_than_they_hold() -> None:
    failure = make_failure(comm="```", stack=STACK, stack_by="unwinding")

    lines = whole(failure, format_="markdown", more=ReportOptions(stacks=True)).splitlines()

    assert 2 == lines.count("````")


def test_json_is_one_object_with_the_verdict_the_rows_and_each_cause_of_each_host() -> None:
    counted = aggregate.Table(("host", "cause"))
    for host, count in [("alpha", 2), ("beta", 3)]:
        counted.add(make_failure(count=count), host)
    headers = [make_header(host="alpha"), make_header(host="beta")]

    (line,) = formats.writer("json")(counted, [make_summary()] * 2, headers, PLAIN).splitlines()
    found = json.loads(line)

    assert ("report", 5) == (found["type"], found["failures"])
    assert found["verdict"].endswith("worst: sh on beta in /app.service at pids.max 7/7")
    assert [("beta", 3), ("alpha", 2)] == [(row["host"], row["count"]) for row in found["rows"]]
    assert [("pids-cgroup", "beta", 3), ("pids-cgroup", "alpha", 2)] == [
        (each["cause"], each["host"], each["count"]) for each in found["causes"]
    ]
    assert "failure" == found["causes"][0]["latest"]["type"]
    assert ["alpha", "beta"] == [each["host"] for each in found["captures"]]
