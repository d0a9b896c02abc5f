"""The report that people read: harmless, narrow, and complete."""

from __future__ import annotations

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
    make_holder,
    make_summary,
    table_of,
    threads_max,
    told_of,
    widest,
    widths,
)

from fork_trace.diagnosis.advice import advise
from fork_trace.diagnosis.causes import CAUSES
from fork_trace.model import steps
from fork_trace.model.records import Failure, Frame, Holder
from fork_trace.output import aggregate, columns, lacking, report, telling
from fork_trace.output.report_options import MOST_ROWS, ReportOptions

GOLDEN = """\
2 causes, 24 failures in 2 s; worst: sh in /app.service at pids.max 7/7
5 failures outside the filter: not shown

COUNT  COMMAND  CALLER  CAUSE          ERRNO   USED/LIMIT
   23  sh       _Fork   pids-cgroup    EAGAIN  7/7
    1  java     ?       threads-max *  EAGAIN  101/100
* inferred from kernel state, not observed

pids-cgroup: a cgroup has reached its pids.max; every thread counts
  23 x EAGAIN, rejected by cgroup_can_fork (observed); last: sh[42] clone,
    cgroup /app.service
  pids.max: 7 of 7 tasks, cgroup /app.service
  -> Mitigate: Raise the limit.

threads-max: the host has as many threads as kernel.threads-max allows
  1 x EAGAIN, inferred at threads_max from kernel state; last: java[43] clone3,
    cgroup ?
  kernel.threads-max: 101 of 100 tasks, the whole host
  -> Mitigate: Raise it.

6.1.0-test, fexit via libbpf, 2 s; lost samples: 0; missed calls: 0; counted
  but not sampled (rate limit): 3; filtered out: 5
not observable on this kernel: dup_fd (see `fork-trace doctor`)
"""


def details(failure: Failure, count: int) -> list[str]:
    return told_of(replace(failure, count=count)).lines()


def test_a_small_report_reads_like_this() -> None:
    gap = {
        "step": "dup_fd",
        "function": "dup_fd",
        "reason": "this kernel's BTF has no function dup_fd",
    }
    inline = {"step": "threads_max", "function": None, "reason": "tested inline"}
    text = report.text(
        table_of(make_failure(count=23), threads_max()),
        [make_summary(failures=24, rate_limited=3, filtered=5)],
        [make_header(missing=(gap, inline))],
    )

    assert GOLDEN == text


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["cred.user"], "cred.user;"),
        (["a.a", "b.b", "c.c", "d.d", "e.e", "f.f"], "a.a, b.b, c.c, d.d and 2 more;"),
        ([], None),
    ],
)
def test_what_could_not_be_read_is_named_and_that_it_was_counted(
    names: list[str], told: str | None
) -> None:
    gaps = [
        {"step": name, "function": None, "reason": f"this kernel's BTF has no {name}"}
        for name in names
    ]
    inline = {"step": "threads_max", "function": None, "reason": "tested inline"}
    text = report.text(
        table_of(threads_max()), [make_summary()], [make_header(missing=(*gaps, inline))]
    )

    words = " ".join(text.split())
    assert ("not readable on this kernel" in words) == (told is not None)
    if told:
        assert f"not readable on this kernel: {told} counts are exact" in words


@pytest.mark.parametrize(
    ("certainty", "step", "function", "words"),
    [
        ("observed", "dup_fd", "dup_fd", "rejected by dup_fd (observed);"),
        ("observed", "seccomp", None, "rejected by seccomp (observed);"),
        ("inferred", "threads_max", None, "inferred at threads_max from kernel state;"),
        ("inferred", "copy_process", None, "rejected somewhere in copy_process;"),
    ],
)
def test_a_report_says_how_its_cause_is_known(
    certainty: str, step: str, function: str | None, words: str
) -> None:
    failure = make_failure(certainty=certainty, step=step, function=function)

    assert words in " ".join(line.strip() for line in details(failure, 1))


@pytest.mark.parametrize(
    ("possible", "words"),
    [
        (("copy_signal", "dup_mm"), "rejected in copy_signal or dup_mm;"),
        (("a", "b", "\x1b[2J"), "rejected in a, b or \\x1b[2J;"),
        (tuple("abcdefg"), "rejected in one of 7 steps of copy_process;"),
    ],
)
def test_a_report_says_which_steps_it_can_have_been(possible: tuple[str, ...], words: str) -> None:
    failure = make_failure(certainty="inferred", step="copy_process", possible_steps=possible)

    assert words in " ".join(line.strip() for line in details(failure, 1))


@pytest.mark.parametrize(
    ("alternatives", "line"),
    [
        (("pid-max",), "  Also possible: pid-max."),
        (
            ("memory-cgroup", "kernel-memory"),
            "  Also possible: memory-cgroup, kernel-memory.",
        ),
        (("\x1b[2J",), "  Also possible: \\x1b[2J."),
    ],
)
def test_what_fits_as_well_is_told_likeliest_first_and_before_the_numbers(
    alternatives: tuple[str, ...], line: str
) -> None:
    lines = details(make_failure(alternatives=alternatives), 1)

    assert line in lines
    assert lines.index(line) < lines.index("  pids.max: 7 of 7 tasks, cgroup /app.service")


def test_all_that_fits_as_well_fits_80_columns() -> None:
    every = tuple(cause.slug for cause in CAUSES)

    assert max(map(len, details(make_failure(alternatives=every), 1))) < 80


def test_a_cause_that_nothing_else_fits_has_no_others() -> None:
    assert "as well" not in " ".join(details(make_failure(), 1))


def held(total: int | None, *holders: Holder) -> str:
    failure = make_failure(holders=holders, holders_total=total, advice=())
    lines = details(failure, 1)
    assert max(map(len, lines)) < 80
    text = " ".join(line.strip() for line in lines)
    return text[text.index("held by: ") :].partition(" -> ")[0]


@pytest.mark.parametrize(
    ("text", "total", "holders"),
    [
        ("held by: java[4121] 7 tasks (1 process)", 7, [{"tasks": 7}]),
        (
            "held by: sh[9] 4 tasks (4 processes) and 2 zombies; java[4121] 1 task (1 process)",
            7,
            [{"comm": "sh", "pid": 9, "tasks": 4, "processes": 4, "zombies": 2}, {"tasks": 1}],
        ),
        (
            "held by: 6 zombies of cron[88]; others 1",
            7,
            [{"comm": "cron", "pid": 88, "tasks": 0, "processes": 0, "zombies": 6}],
        ),
        (
            "held by: 7 zombies of a parent not visible here",
            7,
            [{"comm": None, "pid": None, "tasks": 0, "processes": 0, "zombies": 7}],
        ),
        ("held by: java[4121] 5 tasks (1 process); 5 total when sampled", 5, [{"tasks": 5}]),
        (
            "held by: java[4121] 5 tasks (1 process); and more: /proc was too large to read completely",
            None,
            [{"tasks": 5}],
        ),
        (
            "held by: tasks that had ended when /proc was read; 1 of 7 were left: 1 zombie of bash[88]",
            1,
            [{"comm": "bash", "pid": 88, "tasks": 0, "processes": 0, "zombies": 1}],
        ),
        ("held by: no one by the time /proc was read", 0, []),
    ],
)
def test_who_holds_the_pool_is_a_sentence(
    text: str, total: int | None, holders: list[dict[str, Any]]
) -> None:
    assert text == held(total, *(make_holder(**changes) for changes in holders))


def test_a_pool_that_was_not_read_has_no_holders() -> None:
    assert "held by" not in " ".join(details(make_failure(), 1))


@pytest.mark.parametrize("comm", HOSTILE, ids=ascii)
def test_a_holder_of_a_hostile_name_is_escaped(comm: str) -> None:
    found = make_holder(comm=comm, tasks=7)
    lines = details(make_failure(holders=(found,), holders_total=7), 1)

    assert all(is_harmless(line) and "\n" not in line for line in lines)


def test_a_run_without_failures_says_so_and_still_tells_the_losses() -> None:
    text = report.text(table_of(), [make_summary(failures=0, lost=0)], [make_header()])

    assert text.startswith("No fork failed in 2 s.\n")
    assert "lost samples: 0; missed calls: 0" in text


@pytest.mark.parametrize("attach", ["fexit", "kprobe", "tracepoint"])
def test_what_tracepoints_cannot_see_is_said(attach: str) -> None:
    text = report.text(table_of(), [make_summary(failures=0)], [make_header(attach=attach)])
    is_said = "tasks that the kernel makes by itself" in " ".join(text.split())

    assert is_said is (attach == "tracepoint")


@pytest.mark.parametrize(
    ("maker", "told"),
    [
        ({"kind": "io-uring-worker"}, "The program gets no error"),
        (
            {"kind": "kernel-thread", "asker": "mo\x1bunt", "asker_pid": 9},
            "mo\\x1bunt[9] was waiting for it.",
        ),
    ],
)
def test_who_gets_the_error_of_a_task_of_the_kernel_is_told(
    maker: dict[str, object], told: str
) -> None:
    found = told_of(make_failure(maker=maker))

    assert any(told in fact for fact in found.facts)


def test_a_maker_of_a_newer_version_is_passed_over() -> None:
    found = told_of(make_failure(maker={"kind": "what"}))

    assert found == told_of(make_failure())


def test_calls_that_the_kernel_does_not_count_are_no_zero() -> None:
    assert "missed calls: not reported by this kernel" in lacking.losses(make_summary(missed=None))


@pytest.mark.parametrize(
    ("counter", "words"),
    [
        ("rate_limited", "counted but not sampled (rate limit): 7"),
        ("overflowed", "counted without their command: 7"),
        ("restarted", "restarted after a signal, not failures: 7"),
        ("killed", "callers killed during fork: 7"),
        ("filtered", "filtered out: 7"),
    ],
)
def test_a_loss_is_shown_once_there_is_one(counter: str, words: str) -> None:
    assert words not in lacking.losses(make_summary())
    assert words in lacking.losses(make_summary(**{counter: 7}))


def test_what_found_no_room_among_the_keys_is_told_by_its_step_and_not_to_be_reported() -> None:
    folded = make_failure(
        comm=None,
        uid=None,
        errno=None,
        step="alloc_pid",
        cause="unknown",
        certainty="inferred",
        count=7,
        evidence=(),
    )

    told = told_of(folded)

    assert ("7 x rejected in alloc_pid",) == told.facts
    assert "more commands failed than can be tracked" in told.title
    assert () == told.advice


def test_of_a_cause_with_some_that_found_no_room_the_others_are_told_whole() -> None:
    folded = make_failure(
        comm=None, uid=None, errno=None, step="copy_process", evidence=(), count=221
    )

    told = told_of(folded, make_failure(count=5))

    assert told.title.startswith(make_failure().cause)
    assert told.advice
    assert "221 x rejected in copy_process; more commands failed" in told.facts[-1]


def test_the_commands_of_one_user_that_had_no_room_apart_are_told_with_their_cause() -> None:
    several = make_failure(comm=None, pid=None, syscall=None, uid=1000, cause="rlimit-nproc")

    told = told_of(several)

    assert "last: several commands of uid 1000, cgroup" in told.facts[0]
    assert told.title.startswith("rlimit-nproc: ")


def test_whose_the_failures_without_a_command_are_is_told_beside_a_cause_s_numbers() -> None:
    counted = table_of(make_failure(comm="victim", count=2))
    for uid, cgroup, number in ((1000, "/a", 5), (1000, "/b", 7), (1001, "/a", 3), (1002, "/a", 1)):
        counted.add(
            make_failure(comm=None, uid=uid, cgroup=cgroup, count=number, evidence=(), stack=())
        )

    (told,) = telling.tell_all(counted)

    assert "last: several commands of uid 1000, cgroup /b" in told.facts[0]
    assert [
        "5 x EAGAIN, uid 1000, cgroup /a: several commands of uid 1000 5",
        "3 x EAGAIN, uid 1001, cgroup /a: several commands of uid 1001 3",
        "2 x EAGAIN at pids.max 7/7, cgroup /app.service: victim",
        "1 x EAGAIN, uid 1002, cgroup /a: several commands of uid 1002 1",
    ] == [each.sentence for each in told.places]


STRINGS = [
    *("time", "comm", "exe", "parent_comm", "cgroup", "syscall", "creates", "errno", "step"),
    *("function", "cause", "certainty", "caller"),
]


@pytest.mark.parametrize("name", STRINGS)
@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_field_of_a_record_reaches_the_report_raw(name: str, text: str) -> None:
    counted = table_of(make_failure(**{name: text}), by=columns.COLUMNS)

    assert is_harmless(report.text(counted, [make_summary()], [make_header()]))


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_nothing_nested_in_a_record_reaches_the_report_raw(text: str) -> None:
    failure = make_failure(
        evidence=(make_evidence(name=text, unit=text, where=text),),
        advice=(make_advice(kind=text, text=text, commands=(text,)),),
        container={"name": text},
    )
    header = make_header(
        host=text,
        kernel=text,
        attach=text,
        backend=text,
        missing=({"step": text, "function": text, "reason": text},),
    )
    counted = aggregate.Table(columns.COLUMNS)
    counted.add(failure, text)

    assert is_harmless(
        report.text(counted, [make_summary()] * 2, [header, replace(header, host=text + "2")])
    )


def test_the_whole_default_report_fits_80_columns() -> None:
    failures = [widest(step, cause) for step in steps.STEPS for cause in CAUSES]
    failures = [
        replace(failure, advice=advise(failure.cause, failure.evidence, 1000))
        for failure in failures
    ]

    text = report.text(table_of(*failures), [make_summary()], [make_header()])

    # Commands are never wrapped.
    commands = {
        command for each in failures for advice in each.advice for command in advice.commands
    }
    lines = [line for line in text.splitlines() if line.strip() not in commands]
    assert max(map(len, lines)) < 80


@pytest.mark.parametrize(
    ("name", "unit", "where", "line"),
    [
        ("flags", "rule", "CLONE_NEWNS with CLONE_FS", "  flags: CLONE_NEWNS with CLONE_FS"),
        (
            "struct ucounts",
            "not read",
            "its layout differs",
            "  struct ucounts: not read, its layout differs",
        ),
    ],
)
def test_what_has_no_number_is_told_without_one(
    name: str, unit: str, where: str, line: str
) -> None:
    item = make_evidence(name=name, value=None, limit=None, unit=unit, where=where)

    assert line in details(make_failure(evidence=(item,)), 1)


def test_a_long_path_stays_whole_for_copying() -> None:
    path = "/sys/fs/cgroup/" + "a-very-long.slice/" * 8
    failure = make_failure(
        evidence=(make_evidence(where=path),), advice=(make_advice(text=f"Look at {path}."),)
    )

    lines = "\n".join(details(failure, 1))

    assert 1 == lines.count(path)
    assert 2 == lines.count(path[len("/sys/fs/cgroup") :])


def test_the_stack_of_each_row_is_shown_innermost_first_and_harmless() -> None:
    counted = aggregate.Table()
    counted.add(make_failure(stack=STACK, stack_by="unwinding"))
    text = report.text(counted, [], [], ReportOptions(stacks=True))

    assert "  #0  fork\\x1b[31m in /usr/lib/libc.so.6+0x1234\n" in text
    assert f"  #1  0x20 in /opt/app+0x5678\n      build id {'cd' * 20}\n" in text
    assert "  #2  0x30\n" in text
    assert "frame pointers" not in text
    assert "#0" not in report.text(counted, [], [])


def test_a_function_that_was_read_later_says_so_and_how_sure_it_is() -> None:
    counted = aggregate.Table()
    counted.add(
        make_failure(
            stack=(
                Frame(0x10, "spawn\x1b[31m", "/srv/job.py", line=7, read_later="confirmed"),
                Frame(0x20, "main", "/srv/job.py", line=7, read_later="unconfirmed"),
            ),
            stack_by="unwinding",
        )
    )
    text = report.text(counted, [], [], ReportOptions(stacks=True))

    assert "  #0  spawn\\x1b[31m at /srv/job.py:7\n      read from the process later, conf" in text
    assert "  #1  main at /srv/job.py:7\n      read from the process later, unconfirmed" in text


def test_of_a_storm_by_many_commands_the_worst_rows_are_shown_and_the_others_counted() -> None:
    counted = aggregate.Table(("command",))
    for number in reversed(range(MOST_ROWS + 3)):
        counted.add(make_failure(comm=f"w{number:03}", count=1000 - number, stack=STACK))
    rest = sum(1000 - number for number in range(MOST_ROWS, MOST_ROWS + 3))
    lines = report.text(counted, [], [], ReportOptions(stacks=True)).splitlines()

    assert f"... 3 more rows with {rest} failures; `--rows 0` shows all" in lines
    assert f" {1000 - MOST_ROWS + 1}  w{MOST_ROWS - 1:03} " in "\n".join(lines)
    assert not [line for line in lines if f"w{MOST_ROWS:03}" in line]
    everything = report.text(counted, [], [], ReportOptions(stacks=True, rows=0))
    assert [2] * 3 == [everything.count(f" w{MOST_ROWS + n:03}") for n in range(3)]
    assert "more row" not in everything


def test_as_many_rows_as_are_shown_leave_nothing_out() -> None:
    counted = aggregate.Table(("command",))
    for name in ("bash", "sh"):
        counted.add(make_failure(comm=name))

    assert "more row" not in report.text(counted, [], [], ReportOptions(rows=2))
    assert "... 1 more row with 1 failure; " in report.text(counted, [], [], ReportOptions(rows=1))


def test_a_stack_by_frame_pointers_says_so_and_none_is_said_as_well() -> None:
    counted = aggregate.Table(("command",))
    counted.add(make_failure(stack=STACK[:1], stack_by="frame-pointers"))
    counted.add(make_failure(comm="bash"))

    text = "\n".join(report.stacks(counted.rows()))

    assert "by frame pointers only" in text
    assert "no stack was sampled" in text


POD = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod42.slice/cri-1f.scope"


@pytest.mark.parametrize(
    ("changes", "evidence", "end"),
    [
        ({}, {}, " in 2 s; worst: sh in /app.service at pids.max 7/7"),
        ({"cgroup": "/"}, {}, " in 2 s; worst: sh in /app.service at pids.max 7/7"),
        (
            {"cgroup": "/a/b"},
            {"where": "/sys/fs/cgroup/pids/a"},
            " in 2 s; worst: sh in /a at pids.max 7/7",
        ),
        (
            {"cgroup": POD},
            {"where": f"/sys/fs/cgroup{POD}", "value": 512, "limit": 512},
            "; worst: sh in .../cri-1f.scope at pids.max 512/512",
        ),
        (
            {"cause": "rlimit-nproc"},
            {"name": "RLIMIT_NPROC", "where": "uid 1000, the whole host"},
            " in 2 s; worst: sh of uid 1000 at RLIMIT_NPROC 7/7",
        ),
        (
            {"cause": "pid-max"},
            {"name": "kernel.pid_max", "where": "pid namespace 402 (level 1), the fullest"},
            " in 2 s; worst: sh in pid namespace 402 at kernel.pid_max 7/7",
        ),
        (
            {"cause": "overcommit-never"},
            {
                "name": "commit charge",
                "value": 894_976,
                "limit": 685_056,
                "unit": "KiB",
                "where": "the whole host",
            },
            " in 2 s; worst: sh at commit charge 874M/669M",
        ),
        (
            {"cause": "pid-namespace-dead"},
            {"name": "pid namespace", "limit": None, "where": "pid namespace 402 (level 1)"},
            " in 2 s; worst: sh in pid namespace 402: pid-namespace-dead",
        ),
        (
            {"comm": None, "uid": None, "errno": None, "cause": "unknown", "evidence": ()},
            {},
            " in 2 s; worst: ?: unknown",
        ),
        (
            {"comm": None, "uid": 1000, "cause": "rlimit-nproc", "evidence": ()},
            {},
            " in 2 s; worst: several commands of uid 1000: rlimit-nproc",
        ),
    ],
)
def test_the_verdict_names_who_was_hit_where_at_what_limit(
    changes: dict[str, Any], evidence: dict[str, Any], end: str
) -> None:
    failure = make_failure(**{"evidence": (make_evidence(**evidence),), **changes})

    text = report.verdict(table_of(failure), 2)

    assert f"1 cause, 1 failure{end}" == text
    assert len(text) < 80


def test_a_verdict_without_bounds_has_the_whole_path() -> None:
    failure = make_failure(cgroup=POD, evidence=(make_evidence(where=f"/sys/fs/cgroup{POD}"),))

    assert f"sh in {POD} at" in report.verdict(table_of(failure), 2, width=None)


def test_the_verdict_is_one_line_under_80_columns_with_the_widest_values() -> None:
    failure = widest(steps.STEPS[4], CAUSES[0])

    text = report.verdict(table_of(failure), 86_400, ["a" * 64, "b"])

    assert len(text) < 80
    assert text.startswith("1 cause, 1428571 failures on 2 hosts; worst: ccc")
    assert text.endswith("~ at pids.max 4194304/4194304")


def test_a_verdict_that_is_too_long_says_rather_the_limit_than_how_long_it_watched() -> None:
    failure = make_failure(comm="c" * 15, count=1_428)

    text = report.verdict(table_of(failure), 86_400, ["alpha", "beta"])

    assert f"1 cause, 1428 failures on 2 hosts; worst: {'c' * 15} on ? at pids.max 7/7" == text


def merged(*counts: int) -> str:
    counted = aggregate.Table(("host", *columns.DEFAULT_BY))
    headers = [make_header(host=f"host{number}") for number in range(len(counts))]
    for header, count in zip(headers, counts):
        where = f"/sys/fs/cgroup/of-{header.host}"
        evidence = (make_evidence(where=where),)
        counted.add(make_failure(count=count, cgroup="/", evidence=evidence), header.host)
    return report.text(counted, [make_summary()] * len(headers), headers)


def test_of_several_hosts_each_has_its_row_its_numbers_and_its_last_line() -> None:
    text = merged(2, 3)

    assert text.startswith("1 cause, 5 failures on 2 hosts; worst: sh on host1 in /of-host1 at ")
    assert "    3  host1  sh" in text
    assert "\n  3 x EAGAIN on host1, rejected by" in text
    assert "\n  pids.max: 7 of 7 tasks, cgroup /of-host1\n" in text
    assert "\n  + 2 x EAGAIN on host0 at pids.max 7/7, cgroup /of-host0: sh\n" in text
    assert "\nhost0, 6.1.0-test, fexit via libbpf" in text
    assert max(widths(text)) < 80


def test_of_very_many_places_those_with_most_failures_are_told_and_the_others_counted() -> None:
    found = [
        make_failure(
            count=30 - number, evidence=(make_evidence(where=f"/sys/fs/cgroup/of-{number}"),)
        )
        for number in range(30)
    ]
    text = report.text(table_of(*found), [make_summary()], [make_header()])

    told = [number for number in range(30) if f"pids.max 7/7, cgroup /of-{number}:" in text]

    assert list(range(1, 1 + telling.MOST_LINES)) == told
    rest = 30 - 1 - telling.MOST_LINES
    assert f"\n  ... and {rest} more places with {sum(range(rest + 1))} failures\n" in text


@pytest.mark.parametrize(("hosts", "lines"), [(8, 7), (9, 3)])
def test_of_many_hosts_few_places_are_told_and_how_to_see_the_others(
    hosts: int, lines: int
) -> None:
    text = merged(*range(hosts, 0, -1))

    told = [number for number in range(hosts) if f"x EAGAIN on host{number} at pids.max" in text]

    assert list(range(1, 1 + lines)) == told
    assert ("`--by host,cause` shows the counts" in text) == (hosts > 8)


def test_in_brief_a_cause_has_its_number_its_holders_and_what_mitigates_it() -> None:
    advice = (
        make_advice(kind="verify", text="Look."),
        make_advice(text="Raise it.", commands=("echo 8 > pids.max", "true")),
        make_advice(kind="fix"),
    )
    failure = make_failure(
        advice=advice,
        evidence=(make_evidence(), make_evidence(where="/elsewhere")),
        holders=(make_holder(tasks=7),),
        holders_total=7,
    )

    assert [
        "pids-cgroup: a cgroup has reached its pids.max; every thread counts",
        "  pids.max: 7 of 7 tasks, cgroup /app.service",
        "  held by: java[4121] 7 tasks (1 process)",
        "  -> Mitigate: Raise it.",
        "     echo 8 > pids.max",
        "     true",
    ] == telling.tell_briefly(table_of(failure).places()).lines()
