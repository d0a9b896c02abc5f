"""Where forks failed: each place with its own numbers and commands, whatever comes in whatever order."""

from __future__ import annotations

import io
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    TIME_NS,
    make_advice,
    make_evidence,
    make_failure,
    make_header,
    make_holder,
    make_summary,
    table_of,
    threads_max,
    told_of,
)
from hypothesis import given
from hypothesis import strategies as some

from fork_trace.diagnosis.advice import advise
from fork_trace.model import reading, records
from fork_trace.model.places import path_of
from fork_trace.model.records import Failure
from fork_trace.output import (
    aggregate,
    columns,
    completeness,
    formats,
    place,
    report,
    tables,
    telling,
    wording,
)
from fork_trace.output.report_options import PLAIN, ReportOptions

RECORDED = Path(__file__).resolve().parent.parent.parent / "data" / "places.jsonl"
DAY_NS = 86_400 * 10**9


def recorded(*hosts: str, by: Any = columns.DEFAULT_BY) -> tuple[aggregate.Table, Any, Any]:
    """The recorded capture, once for each host."""
    counted = aggregate.Table(by)
    headers, summaries = [], []
    for host in hosts:
        for record in reading.read("recorded", io.BytesIO(RECORDED.read_bytes())):
            if isinstance(record, records.Header):
                headers.append(replace(record, host=host))
            elif isinstance(record, Failure):
                counted.add(record, host)
            elif isinstance(record, records.Summary):
                summaries.append(record)
    return counted, summaries, headers


def lines_of(counted: aggregate.Table, summaries: Any, headers: Any) -> list[str]:
    return report.text(counted, summaries, headers, ReportOptions(width=200)).splitlines()


def after(lines: list[str], line: str) -> list[str]:
    """The command lines under a line."""
    found = []
    for each in lines[lines.index(line) + 1 :]:
        if not each.startswith("    "):
            break
        found.append(each.strip())
    return found


def test_two_full_cgroups_have_each_their_numbers_and_their_command() -> None:
    lines = lines_of(*recorded("alpha"))

    assert "  pids.max: 3 of 3 tasks, cgroup /web" in lines
    assert "     echo N > /sys/fs/cgroup/pids/web/pids.max" in lines
    db = "  + 2 x EAGAIN at pids.max 4/4, cgroup /db: bash"
    assert ["echo N > /sys/fs/cgroup/pids/db/pids.max"] == after(lines, db)
    big = "  + 1 x EAGAIN at pids.max 20/20, cgroup /big: cron"
    assert ["echo N > /sys/fs/cgroup/pids/big/pids.max"] == after(lines, big)


def test_two_users_seven_sysctls_and_two_stack_limits_have_each_theirs() -> None:
    counted, summaries, headers = recorded("alpha")
    lines = lines_of(counted, summaries, headers)
    found = {each.key.limit: each for each in counted.places() if each.key.cause != "pids-cgroup"}

    assert "  RLIMIT_NPROC: 6 of 6 tasks, uid 7002, the whole host" in lines
    user = "  + 3 x EAGAIN at RLIMIT_NPROC 4/4, uid 7001, the whole host: user7001"
    pid = next(each.latest.pid for each in counted.places() if each.latest.comm == "user7001")
    assert [f"prlimit --pid {pid} --nproc=N:N"] == after(lines, user)
    kinds = ("user", "uts", "ipc", "pid", "net", "mnt", "cgroup")
    assert {f"user.max_{kind}_namespaces" for kind in kinds} < found.keys()
    for kind in kinds[1:]:
        line = f"  + 1 x ENOSPC at user.max_{kind}_namespaces 0/0, uid 0, user namespace level 1: sandbox"
        assert [f"sysctl user.max_{kind}_namespaces=N"] == after(lines, line)
    (stack,) = [line for line in lines if "+ 2 x ENOMEM at vm.max_map_count 65530/65530" in line]
    assert ["sysctl vm.max_map_count=N"] == after(lines, stack)
    assert any(line.strip().startswith("RLIMIT_AS: 88.") for line in lines)


def test_two_hosts_have_each_their_places() -> None:
    counted, summaries, headers = recorded("alpha", "beta")
    lines = lines_of(counted, summaries, headers)

    assert any(line.startswith("  5 x EAGAIN on ") for line in lines)
    for host in ("alpha", "beta"):
        assert f"  + 2 x EAGAIN on {host} at pids.max 4/4, cgroup /db: bash" in lines
    assert 2 * 14 == len(counted.places())


@pytest.mark.parametrize("by", [columns.DEFAULT_BY, ("cause",), ("command",), ("user",)])
def test_the_verdict_the_table_and_the_blocks_name_the_same_worst_place(by: Any) -> None:
    counted, _, _ = recorded("alpha", by=by)
    worst = counted.places()[0]
    first = place.first_of(worst.sample)
    assert first is not None
    numbers = f"{first.value}/{first.limit}"

    verdict = report.verdict(counted, 2, width=None)
    blocks = telling.tell_all(counted)

    assert verdict.endswith(f" at {first.name} {numbers}")
    assert f"{len(counted.places())} places" in verdict
    assert blocks[0].title.startswith(worst.key.cause)
    assert blocks[0].facts[0].startswith(f"{worst.count} x ")
    assert any(numbers in tables.against(row) for row in counted.rows())


def test_every_way_of_grouping_shows_numbers() -> None:
    counted, _, _ = recorded("alpha", by=("command",))

    shown = {row.key[0]: tables.against(row) for row in counted.rows()}

    assert {"bash": "3/3+1", "cron": "20/20", "sandbox": "0/0+6"} == {
        name: shown[name] for name in ("bash", "cron", "sandbox")
    }


def test_json_has_each_place_whole_and_their_counts_add_up() -> None:
    text = formats.writer("json")(*recorded("alpha", "beta"), PLAIN)
    found = json.loads(text)

    assert found["failures"] == sum(each["count"] for each in found["places"])
    assert found["causes"][0]["count"] == sum(
        each["count"]
        for each in found["places"]
        if (each["cause"], each["host"])
        == (found["causes"][0]["cause"], found["causes"][0]["host"])
    )
    (db,) = [
        each for each in found["places"] if (each["where"], each["host"]) == ("cgroup /db", "beta")
    ]
    assert (4, 4, "pids.max", 2) == (db["used"], db["limit"], db["limit_name"], db["count"])
    assert [{"comm": "bash", "count": 2}] == db["commands"]
    assert "echo N > /sys/fs/cgroup/pids/db/pids.max" in db["advice"][1]["commands"]


def test_markdown_has_a_block_to_copy_for_each_place() -> None:
    text = formats.writer("markdown")(*recorded("alpha"), PLAIN)

    assert (
        "- 2 x EAGAIN at pids.max 4/4, cgroup /db: bash\n"
        "  ```\n  echo N > /sys/fs/cgroup/pids/db/pids.max\n  ```\n"
    ) in text


def test_errnos_are_counted_and_the_last_is_the_latest() -> None:
    failures = [
        make_failure(errno=errno, time_ns=TIME_NS + at, pid=at, evidence=(), cause="cgroup-refused")
        for at, errno in enumerate(("EBADF", "EACCES", "EBADF", "EBUSY", "EBADF"))
    ]

    told = told_of(*reversed(failures))

    assert told.facts[0].startswith("5 failures (3 x EBADF, 1 x ")
    assert "; last: sh[4] clone, cgroup /app.service" in told.facts[0]


def test_who_holds_a_pool_is_told_from_its_own_place() -> None:
    here = make_failure(holders=(make_holder(tasks=7),), holders_total=7)
    there = make_failure(evidence=(make_evidence(where="/sys/fs/cgroup/db"),), count=9)

    told = told_of(here, there)

    assert not [fact for fact in told.facts if fact.startswith("held by")]
    assert [
        "1 x EAGAIN at pids.max 7/7, cgroup /app.service: sh; held by java[4121] 7 tasks (1 process)"
    ] == [each.sentence for each in told.places]


def test_what_was_not_sampled_is_counted_where_its_caller_s_samples_were_refused() -> None:
    counted = table_of(
        make_failure(),
        make_failure(
            comm="java", cgroup="/db", evidence=(make_evidence(where="/sys/fs/cgroup/db"),)
        ),
        make_failure(count=900, evidence=()),
        make_failure(comm="other", cgroup="/x", count=5, evidence=()),
    )

    found = {each.key.where: each.count for each in counted.places()}

    assert {"cgroup /app.service": 901, "cgroup /db": 1, "cgroup /x": 5} == found


def test_a_row_of_what_was_only_counted_has_the_numbers_of_its_place() -> None:
    counted = table_of(
        *(make_failure(count=9), make_failure(comm=None, count=3, evidence=())),
        make_failure(comm=None, cgroup="/x", evidence=()),
        by=("command", "cgroup"),
    )

    shown = {row.key: tables.against(row) for row in counted.rows()}

    assert "7/7" == shown["sh", "/app.service"] == shown[None, "/app.service"]
    assert "?" == shown[None, "/x"]


def test_of_a_caller_at_two_places_what_was_not_sampled_is_at_neither() -> None:
    parent = (make_evidence(where="/sys/fs/cgroup/parent"),)
    counted = table_of(
        make_failure(), make_failure(evidence=parent), make_failure(count=900, evidence=())
    )

    assert [900, 1, 1] == [each.count for each in counted.places()]
    assert counted.places()[0].key.limit is None


def test_a_limit_that_was_changed_is_told() -> None:
    told = told_of(
        make_failure(time_ns=TIME_NS - 1, evidence=(make_evidence(value=5, limit=5),)),
        make_failure(),
    )

    assert "pids.max: 7 of 7 tasks, cgroup /app.service" == told.facts[1]
    assert told.facts[2].startswith("the limit was also 5: ")


def test_of_very_many_processes_of_one_program_the_others_are_one_place() -> None:
    evidence = (make_evidence(name="RLIMIT_AS", where="the calling process"),)
    counted = table_of(*(make_failure(pid=pid, evidence=evidence) for pid in range(100)))

    worst, *others = counted.places()

    assert ("sh, other processes", 68) == (worst.key.where, worst.count)
    assert [1] * 32 == [each.count for each in others]


def test_a_rule_that_many_processes_of_a_program_break_is_one_place() -> None:
    def broken(pid: int, name: str, text: str) -> Failure:
        evidence = (make_evidence(name=name, value=None, limit=None, unit="rule", where=text),)
        return make_failure(pid=pid, cause="invalid-flags", evidence=evidence)

    counted = table_of(
        *(broken(pid, "a chroot", f"its root is /tmp/{pid}") for pid in range(1, 9)),
        *(broken(pid, "flags", "CLONE_THREAD without CLONE_SIGHAND") for pid in range(1, 4)),
        broken(9, "flags", "CLONE_NEWNS with CLONE_FS"),
    )

    assert [
        (8, "sh", "a chroot"),
        (3, "sh", "flags: CLONE_THREAD without CLONE_SIGHAND"),
        (1, "sh", "flags: CLONE_NEWNS with CLONE_FS"),
    ] == [(each.count, each.key.where, each.key.limit) for each in counted.places()]


KINDS = [
    make_evidence(),
    make_evidence(where="/sys/fs/cgroup/db", value=4, limit=4),
    make_evidence(name="RLIMIT_NPROC", where="uid 1000, the whole host"),
    make_evidence(name="RLIMIT_AS", where="the calling process", unit="KiB"),
    make_evidence(name="kernel.pid_max", where="pid namespace 4 (level 0), the fullest"),
    make_evidence(name="flags", unit="rule", where="CLONE_NEWNS with CLONE_FS", limit=None),
    None,
]
FAILURES = some.lists(
    some.builds(
        lambda evidence, **changes: make_failure(
            evidence=() if evidence is None else (evidence,), **changes
        ),
        evidence=some.sampled_from(KINDS),
        comm=some.sampled_from(["sh", "java", None]),
        cgroup=some.sampled_from(["/a", "/b", None]),
        uid=some.sampled_from([0, 1000, None]),
        pid=some.integers(1, 60),
        cause=some.sampled_from(["pids-cgroup", "thread-stack", "unknown"]),
        errno=some.sampled_from(["EAGAIN", "ENOMEM", None]),
        certainty=some.sampled_from(["observed", "inferred"]),
        count=some.integers(1, 1000),
        time_ns=some.integers(TIME_NS, TIME_NS + 3 * DAY_NS),
    ),
    min_size=1,
    max_size=60,
)


@given(FAILURES, some.sampled_from([None, "alpha"]), some.sampled_from([2, 512]))
def test_places_add_up_to_all_failures_and_to_those_of_each_cause(
    failures: list[Failure], host: str | None, most: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, "MOST", most)
        counted = aggregate.Table()
        for failure in failures:
            counted.add(failure, host)
        found = counted.places()

    assert counted.failures == sum(each.count for each in found)
    by_cause: Counter[str] = Counter()
    for each in found:
        by_cause[each.key.cause] += each.count
        assert each.count == sum(each.errnos.values()) == sum(each.found.values())
        assert each.first_ns <= each.latest.time_ns == each.last_ns
    assert counted.causes == by_cause
    assert [each.count for each in found] == sorted((each.count for each in found), reverse=True)
    assert found == counted.places()  # looking changes nothing


@given(FAILURES, some.randoms(use_true_random=False))
def test_the_order_in_which_failures_come_changes_no_count(
    failures: list[Failure], random: Any
) -> None:
    shuffled = list(failures)
    random.shuffle(shuffled)

    one, other = table_of(*failures), table_of(*shuffled)

    assert {each.key: each.count for each in one.places()} == {
        each.key: each.count for each in other.places()
    }


@given(FAILURES, some.integers(40, 200))
def test_no_sentence_is_wider_than_the_terminal_and_every_command_is_whole(
    failures: list[Failure], width: int
) -> None:
    command = "echo N > /sys/fs/cgroup/" + "a" * 300
    failures = [
        replace(
            each,
            errno=each.errno or "EIO",  # else only its step is known, and there is no advice
            advice=(make_advice(text="Raise it.", commands=(command,)),),
        )
        for each in failures
    ]
    counted = table_of(*failures)

    text = report.text(
        counted, [make_summary()], [make_header()], ReportOptions(width=max(79, width))
    )

    for line in text.splitlines():
        assert line.strip() == command or wording.columns(line) <= max(79, width)
    assert command in text
    assert "`" not in text.replace("`--rows 0`", "")


def test_a_place_keeps_no_stack_and_places_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "MOST", 20)
    counted = aggregate.Table()
    for number in range(500):
        evidence = (make_evidence(where=f"/sys/fs/cgroup/c{number}"),)
        counted.add(make_failure(evidence=evidence, cgroup=f"/c{number}"))
    big = (make_evidence(where="/sys/fs/cgroup/big"),)
    counted.add(make_failure(evidence=big, cgroup="/big", count=1000))

    found = counted.places()

    assert ("cgroup /big", 1000) == (found[0].key.where, found[0].count)
    assert len(found) <= 22
    assert 1500 == sum(each.count for each in found)
    assert all(not each.latest.stack for each in found)


@pytest.mark.parametrize(
    ("where", "own", "path"),
    [
        ("/sys/fs/cgroup/app.service", "/app.service", "/app.service"),
        ("/sys/fs/cgroup/pids/web", "/web/inner", "/web"),
        ("/sys/fs/cgroup/pids/web", "/pids/web", "/pids/web"),
        ("/sys/fs/cgroup/memory/grp", "/web", "/grp"),
        ("/sys/fs/cgroup/pids", "/", "/"),
        ("/sys/fs/cgroup", None, "/"),
        ("/sys/fs/cgroups/x", None, "/sys/fs/cgroups/x"),
        ("/lxc/web", None, "/lxc/web"),
    ],
)
def test_a_cgroup_has_one_spelling(where: str, own: str | None, path: str) -> None:
    assert path == path_of(where, own)


def test_dates_are_told_where_a_capture_spans_days() -> None:
    late = make_failure(time_ns=TIME_NS + DAY_NS)
    one_day, two_days = table_of(make_failure()), table_of(make_failure(), late)
    summary = make_summary(time="2026-03-05T05:06:08.000008Z", duration_s=86_401.0)

    short = report.text(one_day, [make_summary()], [make_header()], ReportOptions(times=True))
    long = report.text(two_days, [summary], [make_header()], ReportOptions(times=True, width=160))

    assert "2026-03" not in short
    assert "cgroup /app.service, 2026-03-05 05:06:07Z" in long.replace("\n    ", " ")
    assert "2026-03-04 05:06:07Z  2026-03-05 05:06:07Z" in long
    assert "24 h 0 min from 2026-03-04 05:06:07Z to 2026-03-05 05:06:08Z; lost" in long


def test_a_wide_terminal_cuts_no_path_and_a_narrow_one_cuts_it_last() -> None:
    path = "/kubepods.slice/kubepods-pod1.slice/" + "a" * 90
    counted = aggregate.Table(("command", "caller", "cgroup", "cause"))
    counted.add(make_failure(cgroup=path, caller="pthread_create <- start_worker"))

    wide = tables.rows(counted.rows(), counted.by, width=220)
    narrow = tables.rows(counted.rows(), counted.by, width=180)

    assert path in wide
    assert path in narrow
    assert ("ERRNO" in wide, "ERRNO" in narrow) == (True, False)


@pytest.mark.parametrize(
    ("evidence", "words"),
    [
        (
            {"value": 16, "limit": 20},
            "16 of 20 tasks, cgroup /app.service, read just after the refusal",
        ),
        ({"value": 20, "limit": 20}, "20 of 20 tasks, cgroup /app.service"),
        (
            {"value": 9, "limit": 20, "read": "proc"},
            "9 of 20 tasks, cgroup /app.service, read afterwards",
        ),
        ({"value": 900, "limit": 1000, "unit": "KiB"}, "900 KiB of 1000 KiB, cgroup /app.service"),
    ],
)
def test_a_number_that_was_read_later_is_not_told_as_that_of_the_refusal(
    evidence: dict[str, Any], words: str
) -> None:
    told = told_of(make_failure(evidence=(make_evidence(**evidence),)))

    assert f"pids.max: {words}" == told.facts[1]


def test_the_number_that_was_compared_speaks_rather_than_a_later_reading() -> None:
    failures = [
        make_failure(pid=at, time_ns=TIME_NS + at, evidence=(make_evidence(value=value),))
        for at, value in enumerate((7, 7, 3))
    ]
    for each in (failures, failures[::-1]):
        counted = table_of(*each)

        (told,) = telling.tell_all(counted)

        assert "pids.max: 7 of 7 tasks, cgroup /app.service" == told.facts[1]
        assert "last: sh[2] " in told.facts[0]
        assert "7/7" == tables.against(counted.rows()[0])


def test_clone3_that_is_not_there_is_told_to_be_no_failure_by_itself() -> None:
    failure = make_failure(cause="seccomp", errno="ENOSYS", syscall="clone3", evidence=(), count=50)

    told = told_of(failure)

    assert told.facts[-1].startswith("50 x ENOSYS from clone3, and the program did not call ")
    assert not any("makes libc" in fact for fact in told_of(replace(failure, errno="EPERM")).facts)


def test_of_pid_max_what_can_be_given_out_is_the_limit() -> None:
    evidence = make_evidence(
        name="kernel.pid_max", value=183, limit=301, unit="pids in use", where="pid namespace 4"
    )
    counted = table_of(make_failure(evidence=(evidence,), cause="pid-max"))

    (told,) = telling.tell_all(counted)

    assert told.facts[1].startswith(
        "kernel.pid_max: 183 of 1 pids in use, pid namespace 4 (it is 301;"
    )
    assert "183/1" == tables.against(counted.rows()[0])
    assert report.verdict(counted, 2).endswith("at kernel.pid_max 183/1")


def test_no_failure_says_what_was_not_watched_and_how_to_see_it() -> None:
    gap = {
        "step": "seccomp",
        "function": None,
        "reason": "runs before copy_process: needs --refused",
    }
    plain = report.text(table_of(), [make_summary()], [make_header()])
    fexit = report.text(table_of(), [make_summary()], [make_header(missing=(gap,))])
    by_tracepoint = report.text(table_of(), [make_summary()], [make_header(attach="tracepoint")])

    assert "--refused" not in plain
    assert "\n    fork-trace capture --refused\n" in fexit
    assert by_tracepoint.count("io_uring") == 1 and "io_uring" not in plain
    assert "execve" not in plain
    for words in ("unshare", "pthread_create", "killed process"):
        assert words in plain
    assert "\n    fork-trace explain TEXT\n" in plain
    assert "not watched" not in report.text(
        table_of(threads_max()), [make_summary()], [make_header()]
    )


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (
            {"missing": ({"step": "execve", "function": None, "reason": "no function"},)},
            "could not be watched",
        ),
        ({"backend": "bcc"}, "that uses musl"),
        ({"backend": "bcc"}, "the bcc backend does not watch them"),
        ({"attached": ({"step": "copy_net_ns", "when": "first-failure"},)}, "with --on-demand"),
    ],
)
def test_no_failure_says_where_execve_was_not_watched(header: dict[str, Any], words: str) -> None:
    told = report.text(table_of(), [make_summary()], [make_header(**header)])

    assert "execve refused" in told and words in " ".join(told.split())
    assert "\n    fork-trace capture" in told


def test_a_filter_that_hides_failures_is_told_in_the_headline() -> None:
    header = make_header(filter={"comm": "nosuch"})
    summary = make_summary(filtered=5)

    none = report.text(table_of(), [summary], [header])
    some_ = report.text(table_of(make_failure()), [summary], [header])
    as_json = json.loads(formats.writer("json")(table_of(), [summary], [header], PLAIN))

    first = "No fork failed in 2 s; 5 failures outside the filter (--comm nosuch)"
    assert first == none.splitlines()[0] == as_json["verdict"]
    assert "5 failures outside the filter (--comm nosuch): not shown" == some_.splitlines()[1]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exited with status 0"),
        (7, "exited with status 7"),
        (-9, "was killed by SIGKILL"),
        (-200, "was killed by signal 200"),
        (None, "was still running when the capture ended"),
    ],
)
def test_a_report_tells_how_the_command_ended(status: int | None, words: str) -> None:
    summary = make_summary(command={"argv": ["sh", "-c", "exit 7"], "status": status})

    text = report.text(table_of(), [summary], [make_header()])

    assert f"\nthe command {words}: sh -c 'exit 7'\n" in text


def test_processes_that_were_killed_meanwhile_are_told_and_are_no_failure() -> None:
    text = report.text(table_of(), [make_summary(oom_kills=2)], [make_header()])

    assert text.startswith("No fork failed in 2 s.\n")
    assert "\nthe OOM killer ended 2 processes meanwhile, which is no failed fork" in text
    for quiet in (0, None):
        assert "OOM killer" not in report.text(
            table_of(), [make_summary(oom_kills=quiet)], [make_header()]
        )


def test_what_a_recorder_leaves_out_follows_from_the_rest() -> None:
    counted = aggregate.Table()
    for record in reading.read("recorded", io.BytesIO(RECORDED.read_bytes())):
        if isinstance(record, Failure):
            counted.add(replace(record, advice=()), "alpha")
    found = {told.title.partition(":")[0]: told for told in telling.tell_all(counted)}

    told = found["pids-cgroup"]
    assert ["Verify", "Mitigate", "Fix", "Careful"] == [
        each.sentence.partition(":")[0] for each in told.advice
    ]
    assert ("echo 32 > /sys/fs/cgroup/pids/web/pids.max",) == told.advice[1].commands
    assert ("echo 32 > /sys/fs/cgroup/pids/db/pids.max",) == told.places[0].commands
    whole = json.loads(formats.writer("json")(counted, [make_summary()], [make_header()], PLAIN))
    assert all(each["advice"] for each in whole["places"])
    assert all(each["latest"]["advice"] for each in (*whole["places"], *whole["causes"]))


def test_a_place_counts_apart_what_can_have_been_different_steps() -> None:
    inferred = {"step": "copy_process", "certainty": "inferred", "function": None}
    told = told_of(
        make_failure(count=3, possible_steps=("copy_signal", "dup_mm"), **inferred),
        make_failure(count=2, possible_steps=(), **inferred),
    )

    assert (
        "3 rejected in copy_signal or dup_mm, 2 rejected somewhere in copy_process"
        in (told.facts[0])
    )


@pytest.mark.parametrize("name", ["table", "markdown"])
def test_where_else_it_can_be_is_not_said_where_the_filter_left_failures_out(name: str) -> None:
    counted = table_of()
    counted.completeness.others = 3

    text = formats.writer(name)(counted, [make_summary()], [make_header()], PLAIN)

    assert "No failure matches; 3 others were recorded" in text
    assert report.NOTHING[:40] not in " ".join(text.split())


def test_an_incomplete_headline_has_at_least_so_many_failures_and_its_places() -> None:
    counted, summaries, headers = recorded("alpha")
    counted.completeness.is_lower_bound = True

    first = lines_of(counted, summaries, headers)[0]

    assert first.startswith("4 causes, at least 28 failures at 14 places in 2 s; worst: bash in")


@pytest.mark.parametrize(
    ("kills", "total"), [((2, 3), 5), ((0, 0), 0), ((1, None), None), ((None, None), None)]
)
def test_of_several_captures_the_killed_processes_add_up_or_are_unknown(
    kills: tuple[int | None, ...], total: int | None
) -> None:
    summaries = [make_summary(oom_kills=each) for each in kills]

    assert total == completeness.added(summaries).oom_kills


def test_of_many_captures_of_a_host_the_killed_processes_are_told_once() -> None:
    summaries, headers = [make_summary(oom_kills=2)] * 5, [make_header()] * 5

    text = report.text(table_of(), summaries, headers)

    assert 1 == text.count("the OOM killer ended 10 processes")


def test_how_a_command_ended_is_kept_of_few_captures_only() -> None:
    captures = completeness.Captures()
    for _ in range(completeness.MOST_TOLD + 2):
        captures.add(make_header(), make_summary(command={"argv": ["true"], "status": 0}))

    kept = [each for each in captures.summaries if each.command]

    assert completeness.MOST_TOLD == len(kept)


@pytest.mark.parametrize(
    ("ended", "command", "sentence"),
    [
        (False, "prlimit --pid 42 ", ""),
        (None, "prlimit --pid 42 ", "If process 42 has ended by now, put in its place"),
        (True, "prlimit --pid PID ", "Process 42 has ended: for PID, put"),
    ],
)
def test_a_process_that_ended_after_its_record_is_not_named_in_a_command(
    ended: bool | None, command: str, sentence: str
) -> None:
    evidence = (
        make_evidence(name="RLIMIT_NPROC", value=6, limit=6, where="uid 7, the whole host"),
    )
    told_then = advise("rlimit-nproc", evidence, 7, "/", 42)
    counted = aggregate.Table()
    counted.add(make_failure(cause="rlimit-nproc", evidence=evidence, cgroup="/", advice=told_then))
    counted.look_again(lambda _pid: ended)

    (told,) = telling.tell_all(counted)

    advice = " ".join(word for each in told.advice for word in (each.sentence, *each.commands))
    assert command in advice
    assert sentence in advice
    assert "of uid 7" in advice
    assert ("has ended" in advice) == (ended is not False)
