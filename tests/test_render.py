"""What people read: harmless, narrow, and complete."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import Any

import pytest
from conftest import make_evidence, make_failure, make_header, make_holder, make_summary
from hypothesis import given
from hypothesis import strategies as some

from fork_trace import aggregate, catalogue, render, steps
from fork_trace.records import Failure, Frame, Holder

GOLDEN = """\
2 causes, 24 failed forks in 2 s; worst: pids-cgroup, 7 of 7,
  /sys/fs/cgroup/app.service

  COUNT  COMMAND    CALLER    CAUSE          ERRNO    USED/LIMIT
     23  sh         _Fork     pids-cgroup    EAGAIN   7/7
      1  java       ?         threads-max *  EAGAIN   101/100
* inferred from the numbers at that instant, not seen refusing

pids-cgroup: a cgroup has reached its pids.max; every thread counts
  23 x EAGAIN, seen refusing in cgroup_can_fork; last: sh[42] clone, cgroup
  /app.service
  pids.max: 7 of 7 tasks, /sys/fs/cgroup/app.service
  -> Raise the limit.

threads-max: the host has as many threads as kernel.threads-max allows
  1 x EAGAIN, inferred at threads_max, by the state at that instant; last:
  java[43] clone3, cgroup ?
  kernel.threads-max: 101 of 100 tasks, the whole host
  -> Raise it.

6.1.0-test, fexit by libbpf; lost samples: 0; missed calls: 0; counted without
  a sample: 3; outside the filter: 5
no function to watch on this kernel for: dup_fd (`fork-trace doctor` says why)
"""

HOSTILE = [
    "\x1b[2J\x1b]0;title\x07",
    "a\nb",
    "a\rb",
    "\x9b31m",  # CSI as a C1 control
    "\x7f\x08",
    "\u202egnp.exe",
    "\u200f\u061c\u2066",
    "\u2028\u2029",
    "\u00ad\ufeff",
    "\ud800",
    "\U000e0041",
    "tab\there",
]


def threads_max() -> Failure:
    evidence = make_evidence(
        name="kernel.threads-max", value=101, limit=100, where="the whole host"
    )
    return make_failure(
        comm="java",
        pid=43,
        cgroup=None,
        syscall="clone3",
        step="threads_max",
        function=None,
        cause="threads-max",
        certainty="inferred",
        evidence=(evidence,),
        caller=None,
        advice=("Raise it.",),
    )


def table_of(*failures: Failure, by: Any = aggregate.DEFAULT_BY) -> aggregate.Table:
    counted = aggregate.Table(by)
    for failure in failures:
        counted.add(failure)
    return counted


def is_harmless(text: str) -> bool:
    return all(char == "\n" or char.isprintable() for char in text)


def test_a_small_report_reads_like_this() -> None:
    gap = {
        "step": "dup_fd",
        "function": "dup_fd",
        "reason": "this kernel's BTF has no function dup_fd",
    }
    inline = {"step": "threads_max", "function": None, "reason": "tested inline"}
    text = render.report(
        table_of(make_failure(count=23), threads_max()),
        [make_summary(failures=24, skipped=3, filtered=5)],
        [make_header(missing=(gap, inline))],
    )

    assert GOLDEN == text


@pytest.mark.parametrize(
    ("certainty", "step", "function", "words"),
    [
        ("observed", "dup_fd", "dup_fd", "seen refusing in dup_fd;"),
        ("observed", "seccomp", None, "seen refusing in seccomp;"),
        ("inferred", "threads_max", None, "inferred at threads_max, by the state at that instant;"),
        ("inferred", "copy_process", None, "refused somewhere in copy_process;"),
    ],
)
def test_a_report_says_how_its_cause_is_known(
    certainty: str, step: str, function: str | None, words: str
) -> None:
    failure = make_failure(certainty=certainty, step=step, function=function)

    assert words in " ".join(line.strip() for line in render.cause_details(failure, 1))


@pytest.mark.parametrize(
    ("also", "line"),
    [
        (("pid-max",), "  It can be as well: pid-max."),
        (
            ("memory-cgroup", "kernel-memory"),
            "  It can be as well: memory-cgroup, kernel-memory.",
        ),
        (("\x1b[2J",), "  It can be as well: \\x1b[2J."),
    ],
)
def test_what_fits_as_well_is_told_likeliest_first_and_before_the_numbers(
    also: tuple[str, ...], line: str
) -> None:
    lines = render.cause_details(make_failure(also=also), 1)

    assert line in lines
    assert lines.index(line) < lines.index("  pids.max: 7 of 7 tasks, /sys/fs/cgroup/app.service")


def test_all_that_fits_as_well_fits_80_columns() -> None:
    every = tuple(entry.cause for entry in catalogue.ENTRIES)

    assert max(map(len, render.cause_details(make_failure(also=every), 1))) < 80


def test_a_cause_that_nothing_else_fits_has_no_others() -> None:
    assert "as well" not in " ".join(render.cause_details(make_failure(), 1))


def held(total: int | None, *holders: Holder) -> str:
    failure = make_failure(holders=holders, holders_total=total, advice=())
    lines = render.cause_details(failure, 1)
    assert max(map(len, lines)) < 80
    text = " ".join(line.strip() for line in lines)
    return text[text.index("held by: ") :]


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
            "held by: 7 zombies of a parent unseen here",
            7,
            [{"comm": None, "pid": None, "tasks": 0, "processes": 0, "zombies": 7}],
        ),
        ("held by: java[4121] 5 tasks (1 process); 5 in all by then", 5, [{"tasks": 5}]),
        (
            "held by: java[4121] 5 tasks (1 process); and more, as /proc was too large to read it all",
            None,
            [{"tasks": 5}],
        ),
        ("held by: nobody any more when /proc was read", 0, []),
    ],
)
def test_who_holds_the_pool_is_a_sentence(
    text: str, total: int | None, holders: list[dict[str, Any]]
) -> None:
    assert text == held(total, *(make_holder(**changes) for changes in holders))


def test_a_pool_that_was_not_read_has_no_holders() -> None:
    assert "held by" not in " ".join(render.cause_details(make_failure(), 1))


@pytest.mark.parametrize("comm", HOSTILE, ids=ascii)
def test_a_holder_of_a_hostile_name_is_escaped(comm: str) -> None:
    found = make_holder(comm=comm, tasks=7)
    lines = render.cause_details(make_failure(holders=(found,), holders_total=7), 1)

    assert all(is_harmless(line) and "\n" not in line for line in lines)


def test_a_run_without_failures_says_so_and_still_tells_the_losses() -> None:
    text = render.report(table_of(), [make_summary(failures=0, lost=0)], [make_header()])

    assert text.startswith("No fork failed in 2 s.\n")
    assert "lost samples: 0; missed calls: 0" in text


def test_calls_that_the_kernel_does_not_count_are_no_zero() -> None:
    assert "missed calls: not counted by this kernel" in render.losses(make_summary(missed=None))


@pytest.mark.parametrize(
    ("counter", "words"),
    [
        ("skipped", "counted without a sample: 7"),
        ("folded", "counted by step only: 7"),
        ("retries", "restarted by a signal, not failed: 7"),
        ("dying", "callers killed in the middle: 7"),
        ("filtered", "outside the filter: 7"),
    ],
)
def test_a_loss_is_shown_once_there_is_one(counter: str, words: str) -> None:
    assert words not in render.losses(make_summary())
    assert words in render.losses(make_summary(**{counter: 7}))


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_hostile_name_is_escaped(text: str) -> None:
    shown = render.safe(text)

    assert is_harmless(shown)
    assert "\n" not in shown
    assert shown.encode("utf-8")


@given(some.text(some.characters()))
def test_no_name_can_reach_a_terminal_raw(text: str) -> None:
    shown = render.safe(text)

    assert {"Zl", "Zp"}.isdisjoint(unicodedata.category(char) for char in shown)
    assert not any(unicodedata.category(char).startswith("C") for char in shown)


@pytest.mark.parametrize("text", ["sh", "caf\u00e9", "\u65e5\u672c", "a b", "C:\\x", "\U0001f40d"])
def test_a_harmless_name_stays_as_it_is(text: str) -> None:
    assert text == render.safe(text)


STRINGS = [
    *("time", "comm", "exe", "parent_comm", "cgroup", "syscall", "creates", "errno", "step"),
    *("function", "cause", "certainty", "caller"),
]


@pytest.mark.parametrize("name", STRINGS)
@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_no_field_of_a_record_reaches_the_report_raw(name: str, text: str) -> None:
    counted = table_of(make_failure(**{name: text}), by=aggregate.COLUMNS)

    assert is_harmless(render.report(counted, [make_summary()], [make_header()]))


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_nothing_nested_in_a_record_reaches_the_report_raw(text: str) -> None:
    failure = make_failure(
        evidence=(make_evidence(name=text, unit=text, where=text),),
        advice=(text,),
        container={"name": text},
    )
    header = make_header(
        host=text,
        kernel=text,
        rung=text,
        backend=text,
        missing=({"step": text, "function": text, "reason": text},),
    )
    counted = aggregate.Table(aggregate.COLUMNS)
    counted.add(failure, text)

    assert is_harmless(
        render.report(counted, [make_summary()] * 2, [header, replace(header, host=text + "2")])
    )


def widest(step: steps.Step, entry: catalogue.Entry) -> Failure:
    return make_failure(
        count=1_428_571,
        comm="c" * 15,
        caller="std::__1::basic_" * 4,
        step=step.name,
        cause=entry.cause,
        certainty="inferred",
        evidence=(make_evidence(value=4_194_304, limit=4_194_304),),
    )


def widths(text: str) -> list[int]:
    return [len(line) for line in text.splitlines()]


@pytest.mark.parametrize("entry", catalogue.ENTRIES, ids=lambda entry: entry.cause)
def test_the_default_table_fits_80_columns_with_the_widest_values(entry: catalogue.Entry) -> None:
    failure = widest(steps.STEPS[4], entry)
    counted = table_of(failure, replace(failure, count=8_571_428, errno="ENOMEM"))

    text = render.table(counted.rows(), counted.by)

    assert max(widths(text)) < 80
    assert entry.cause in text
    assert "9999999" in text
    assert "4194304/4194304" in text


def test_the_whole_default_report_fits_80_columns() -> None:
    failures = [widest(step, entry) for step in steps.STEPS for entry in catalogue.ENTRIES]
    failures = [
        replace(failure, advice=catalogue.advice(failure.cause, failure.evidence, 1000))
        for failure in failures
    ]

    text = render.report(table_of(*failures), [make_summary()], [make_header()])

    assert max(widths(text)) < 80


def test_a_table_that_fits_cuts_nothing_that_it_need_not() -> None:
    failure = make_failure(comm="c" * 15, caller="pthread_create")

    text = render.table(table_of(failure).rows(), aggregate.DEFAULT_BY)

    assert "c" * 15 in text
    assert "pthread_create" in text


def test_a_cut_name_shows_that_it_is_cut_and_an_unknown_one_that_it_is_unknown() -> None:
    assert ("abc~", "abcd", "?") == tuple(render.cell(t, 4) for t in ("abcde", "abcd", None))


def test_a_long_path_stays_whole_for_copying() -> None:
    path = "/sys/fs/cgroup/" + "a-very-long.slice/" * 8
    failure = make_failure(evidence=(make_evidence(where=path),), advice=(f"Look at {path}.",))

    lines = "\n".join(render.cause_details(failure, 1))

    assert 2 == lines.count(path)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "KiB", "?"),
        (0, "KiB", "0 KiB"),
        (10_239, "KiB", "10239 KiB"),
        (10_240, "KiB", "10.0 MiB"),
        (102_400, "KiB", "100 MiB"),
        (1 << 20, "KiB", "1.0 GiB"),
        (3 << 29, "KiB", "1.5 TiB"),
        (-5, "KiB", "-5 KiB"),
        (4_194_304, "tasks", "4194304"),
    ],
)
def test_an_amount_is_short_and_right(value: int | None, unit: str, text: str) -> None:
    assert text == render.amount(value, unit)


def test_a_row_of_two_causes_shows_no_number_of_one_of_them() -> None:
    counted = table_of(make_failure(), threads_max(), by=("user",))

    text = render.table(counted.rows(), counted.by)

    assert "7/7" not in text
    assert "101/100" not in text
    assert "inferred" not in text


def test_several_errnos_of_a_row_are_shown_as_such() -> None:
    counted = table_of(make_failure(), make_failure(errno="ENOMEM"))

    assert "EAGAIN+1" in render.table(counted.rows(), counted.by)


def test_a_merged_summary_adds_up_and_one_unknown_makes_the_sum_unknown() -> None:
    counted = table_of(make_failure(count=5))
    summaries = [make_summary(lost=1, skipped=2), make_summary(lost=3, missed=4)]

    merged = render.merged_summary(counted, summaries)

    assert (2, 5, 4, 2, 4) == tuple(
        merged[name] for name in ("captures", "failures", "lost", "skipped", "missed")
    )
    assert render.merged_summary(counted, [make_summary(missed=None)] * 2)["missed"] is None


def test_rows_as_json_have_their_columns_by_name() -> None:
    (row,) = render.json_rows(table_of(make_failure(count=5), by=("host", "cause")))

    assert {
        "host": None,
        "cause": "pids-cgroup",
        "count": 5,
        "errnos": {"EAGAIN": 5},
        "causes": {"pids-cgroup": 5},
        "first_ns": make_failure().time_ns,
        "last_ns": make_failure().time_ns,
        "per_second": None,
    } == row


def found(**changes: Any) -> dict[str, Any]:
    return {
        "kernel": "6.1.0",
        "machine": "x86_64",
        "lockdown": None,
        "features": {
            "btf": {"value": True, "why": ""},
            "kprobes": {"value": None, "why": "x " * 90},
        },
        "usable": True,
        "rung": "fexit",
        "backend": "libbpf",
        "attached": [
            {"step": "dup_fd", "function": "dup_fd", "later": False},
            {"step": "mm_init", "function": "mm_init", "later": True},
            {"step": None, "function": "mem_cgroup_out_of_memory", "later": False},
        ],
        "missing": [{"step": "threads_max", "function": None, "reason": "inline " * 20}],
        "passed_over": [],
        "why": None,
        "remedy": None,
        "limits": {},
        **changes,
    }


def test_doctor_begins_with_the_verdict_and_fits_80_columns() -> None:
    text = render.doctor(found())

    assert text.startswith("fork-trace works here: fexit rung by libbpf.\n")
    assert "lockdown: not built in" in text
    assert max(widths(text)) < 80


def test_doctor_says_of_every_step_how_it_is_known() -> None:
    lines = [line.split(None, 1) for line in render.doctor(found()).splitlines()]
    told = {line[0]: " ".join(line[1].split()) for line in lines if len(line) > 1}

    assert "HOW BY" == told["STEP"]
    assert "observed dup_fd" == told["dup_fd"]
    assert "on demand mm_init" == told["mm_init"]
    assert "observed mem_cgroup_out_of_memory" == told["-"]
    assert told["threads_max"].startswith("inferred inline")


def test_doctor_says_why_no_better_rung_was_taken() -> None:
    reason = {"rung": "fexit", "backend": "libbpf", "reason": "no trampolines " * 9}

    text = render.doctor(found(rung="kprobe", passed_over=[reason]))

    assert any(
        line.split()[:4] == ["fexit", "libbpf", "no", "trampolines"] for line in text.splitlines()
    )
    assert max(widths(text)) < 80
    assert "NOT TAKEN" not in render.doctor(found())


def test_doctor_says_what_is_wrong_and_what_to_do() -> None:
    text = render.doctor(found(usable=False, why="no BTF", remedy="Get one.", attached=[]))

    assert text.startswith("fork-trace cannot watch forks here: no BTF.\n  -> Get one.\n")


STACK = (
    Frame(0x10, "fork\x1b[31m", "/usr/lib/libc.so.6", 0x1234, "ab" * 20),
    Frame(0x20, None, "/opt/app", 0x5678, "cd" * 20),
    Frame(0x30, None, None),
)


def test_the_stack_of_each_row_is_shown_innermost_first_and_harmless() -> None:
    counted = aggregate.Table()
    counted.add(make_failure(stack=STACK, stack_by="unwinding"))
    text = render.report(counted, [], [], more=render.More(stacks=True))

    assert "  #0  fork\\x1b[31m in /usr/lib/libc.so.6+0x1234\n" in text
    assert f"  #1  0x20 in /opt/app+0x5678\n      build id {'cd' * 20}\n" in text
    assert "  #2  0x30\n" in text
    assert "frame pointers" not in text
    assert "#0" not in render.report(counted, [], [])


def test_a_stack_by_frame_pointers_says_so_and_none_is_said_as_well() -> None:
    counted = aggregate.Table(("command",))
    counted.add(make_failure(stack=STACK[:1], stack_by="frame-pointers"))
    counted.add(make_failure(comm="bash"))

    text = "\n".join(render.stacks(counted.rows(), counted.by))

    assert "by frame pointers only" in text
    assert "no stack was sampled" in text


def test_rates_and_times_are_columns_if_asked_for() -> None:
    counted = aggregate.Table()
    counted.add(make_failure())
    counted.add(make_failure(time_ns=make_failure().time_ns + 2_000_000_000))
    first, second = render.table(counted.rows(), counted.by, render.More(times=True)).splitlines()

    assert ["PER", "S", "FIRST", "LAST"] == first.split()[-4:]
    assert ["0.5", "05:06:07Z", "05:06:09Z"] == second.split()[-3:]
    assert "PER S" not in render.table(counted.rows(), counted.by)


def test_machines_get_rates_always_and_stacks_if_asked_for() -> None:
    counted = aggregate.Table()
    counted.add(make_failure(stack=STACK, stack_by="unwinding"))

    (row,) = render.json_rows(counted)
    (more,) = render.json_rows(counted, render.More(stacks=True))

    assert row["per_second"] is None
    assert "stack" not in row
    assert [0x10, 0x20, 0x30] == [frame["address"] for frame in more["stack"]]
