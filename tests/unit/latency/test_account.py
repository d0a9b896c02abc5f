"""Slow forks by command and caller: exact sums, percentiles to a hundredth, bounded, and safe to print."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import schema
from click.testing import CliRunner
from conftest import make_header

from fork_trace.collect.slow import Seen
from fork_trace.commands import cli
from fork_trace.latency import report
from fork_trace.latency.account import Account
from fork_trace.latency.times import Times
from fork_trace.model import events, records
from fork_trace.model.latency import WAITS, SlowFork, Who
from fork_trace.model.records import Advice, Evidence, Forks, Frame

MS = 1_000_000
GIB = 1 << 18  # in pages


def seen(
    ms: float,
    comm: str = "redis-server",
    caller: str | None = "main",
    wait: str = "",
    when: int = 0,
) -> Seen:
    """One slow fork of a process of 8 GiB, or one that waited."""
    key = events.Key(comm, 1, 999, 0, 0, "", "clone", False, False)
    event = events.Event(time_ns=1, key=key, flags=0x11, pid=7, tid=7, ppid=1, parent_comm="x")
    ns = round(ms * MS)
    fork = SlowFork(
        event=event,
        total_ns=ns,
        phases={"task": ns // 10, "memory": ns - ns // 10},
        sizes={"anon": 8 * GIB, "swap": 0, "file": 1, "shmem": 2, "pgtables": 1 << 24},
        waits={**dict.fromkeys(WAITS, 0), wait: ns} if wait else {},
        waits_are_all=bool(wait),
        cpu_ns=None,
        other_flags=0,
        holder=Who("systemd\x1b[2J", 1, 1) if wait else None,
        held=wait or None,
    )
    frame = Frame(4096, "main", "/usr/bin/redis-server")
    return Seen(
        fork, f"2026-11-28T03:00:{when:02}Z", "/usr/bin/redis-server", "/", caller, (frame,)
    )


def account(*forks: Seen) -> Account:
    """Take them all in."""
    made = Account("web1", 10.0)
    for each in forks:
        made.add(each)
    return made


def forks(slow: int) -> Forks:
    """The run's last record."""
    command = {"comm": "redis-server", "count": 23, "total_ms": 1.0, "slow": slow, "slow_ms": 1.0}
    return Forks(
        *("2026-11-28T03:00:00Z", "web1", "6.1.0", "fork-trace 0.1.0", "fexit", 60.0, 10.0),
        ({**command, "buckets": [0] * 40},),
        *(slow, 0, 0, 0, 0, 0, "all"),
    )


def test_percentiles_are_those_of_the_values_to_a_hundredth() -> None:
    chosen = random.Random(23)
    values = [chosen.randrange(10 * MS, 97_000 * MS) for _ in range(997)]
    times = Times()
    for each in values:
        times.add(each)

    assert (997, sum(values), max(values)) == (times.count, times.total_ns, times.max_ns)
    for part, rank in ((0.5, 499), (0.99, 988), (1.0, 997)):
        assert times.percentile_ns(part) == pytest.approx(sorted(values)[rank - 1], rel=0.01)


def test_none_has_no_percentile_and_one_is_each_of_them() -> None:
    assert 0 == Times().percentile_ns(0.5)
    one = Times()
    one.add(5)
    assert 5 == one.percentile_ns(0.5) == one.percentile_ns(0.99)


def test_a_row_is_a_command_and_a_caller_and_the_longest_stall_comes_first() -> None:
    made = account(*(seen(20, when=each) for each in range(23)), seen(50, caller="other"))

    first, second = made.records({"redis-server": 1000})
    assert (23, "main", 460.0, 1000) == (first.count, first.caller, first.total_ms, first.forks)
    assert (20.0, 20.0, 20.0) == (first.p50_ms, first.p99_ms, first.max_ms)
    assert (1, "other") == (second.count, second.caller)
    assert first.time.endswith("03:00:22Z")


def test_the_reason_is_what_took_most_of_the_time() -> None:
    slow = account(*[seen(20)] * 3, seen(100, wait="cgroup-threadgroup-lock"))
    (record,) = slow.records({})

    assert ("cgroup-threadgroup-lock", "observed") == (record.reason, record.certainty)
    assert {"cgroup-threadgroup-lock": 1, "page-tables": 3} == record.reasons
    assert record.holder and "cgroup-threadgroup-lock" == record.holder["of"]
    assert None is record.forks


def test_what_is_told_of_one_fork_is_of_the_one_of_which_most_is_known() -> None:
    known, longer = seen(20, wait="reclaim"), seen(90, wait="reclaim")
    longer = longer._replace(fork=SlowFork(**{**vars(longer.fork), "holder": None}))
    (record,) = account(known, longer, seen(10, wait="reclaim")).records({})

    assert (20.0, 90.0) == (record.sample_ms, record.max_ms)


def test_names_that_anybody_can_choose_do_not_fill_the_memory() -> None:
    made = account(*(seen(10, comm=f"c{each}") for each in range(3000)))

    found = made.records({})
    assert len(found) <= 1025
    assert 3000 == sum(each.count for each in found)


def test_the_records_are_as_the_schema_says() -> None:
    slow = account(seen(20, comm="\x1b[2J\udcff"), seen(30, wait="lock")).records({"x": 1})

    written: list[records.Record] = [*slow, forks(2)]
    for record in written:
        line = records.to_json(record)
        assert line.isascii()
        assert schema.validate(json.loads(line))
        # As a file is read again.
        assert records.from_json(line)


def test_the_report_has_no_control_character_of_a_name() -> None:
    slow = account(seen(20, comm="\x1b[2Jevil\n", caller="a\x07b"), seen(9, wait="mmap-lock"))
    text = report.text(slow.records({}), forks(2))

    assert not {char for char in text if ord(char) < 32} - {"\n"}
    assert r"\x1b[2Jevil" in text
    assert r"Held by: systemd\x1b[2J (pid 1), mmap-lock" in text


def test_report_shows_what_was_kept_and_believes_nothing_of_it(tmp_path: Path) -> None:
    slow = account(seen(20)).records({})[0]
    bad = "\x1b[2Jbad"
    hostile = replace(
        slow,
        reason=bad,
        certainty=bad,
        phases={bad: 1.0},
        holder={"comm": bad, "pid": bad, "of": bad},
        evidence=(
            Evidence(f"wait_{bad}", 3, None, bad, bad, bad),
            Evidence("rss", 1, None, "", "", ""),
        ),
        advice=(Advice(bad, bad, (bad,)),),
    )
    last = Forks(**{**vars(forks(1)), "host": bad, "kernel": bad, "attach": bad, "commands": ({},)})
    kept: list[records.Record] = [make_header(), slow, hostile, last]
    file = tmp_path / "slow.jsonl"
    file.write_text("".join(records.to_json(each) + "\n" for each in kept))

    done = CliRunner().invoke(cli.cli, ["report", str(file)])
    assert 0 == done.exit_code, done.output
    assert not {char for char in done.output if ord(char) < 32} - {"\n"}
    assert "page-tables*" in done.output
    lines = CliRunner().invoke(cli.cli, ["report", "--format", "jsonl", str(file)]).output
    types = [json.loads(line)["type"] for line in lines.splitlines()]
    assert ["header", "slow", "slow", "forks", "summary"] == types


@pytest.mark.parametrize(
    "bad",
    [
        {"phases": {"memory": "long"}},
        {"reasons": {"swap": None}},
        {"evidence": [{"name": 3}]},
        {"stack": ["main"]},
        {"advice": [{"kind": "fix", "text": "x", "commands": [3]}]},
        {"flags": [3]},
        {"p50_ms": "slow"},
    ],
)
def test_a_record_that_is_none_is_refused(bad: dict[str, object]) -> None:
    (slow,) = account(seen(20)).records({})
    line = json.dumps({**json.loads(records.to_json(slow)), **bad})

    with pytest.raises((ValueError, TypeError)):
        records.from_json(line)


def test_the_speed_is_told_in_the_words_of_redis() -> None:
    (record,) = account(seen(1000)).records({})

    assert "8.9 GiB/s (terrible, as redis calls it)" in report.text([record], forks(1))
    words = [report.redis_word(each) for each in (9.99, 10, 24.9, 25, 99.9, 100)]
    assert ["terrible", "poor", "poor", "good", "good", "excellent"] == words


def test_what_was_not_seen_is_told() -> None:
    run = Forks(**{**vars(forks(0)), "lost": 3, "unpaired": 1, "missed": None, "unmeasured": 2})
    text = report.text([], run)

    assert text.startswith("No fork took 10 ms or longer (23 forks seen in 60.0 s).\n")
    for part in ("3 slow forks are not", "Of 1 fork", "does not count", "2 vforks not measured"):
        assert part in text
    assert 1 == report.text([], forks(0)).count("\n")
    lacks = ({"program": "kretprobe_dup_fd\x1b", "reason": "no\n"}, {"program": "kretprobe_dup_fd"})
    text = report.text([], replace(forks(1), missing=lacks))
    assert "Not every part of a fork is told apart: kretprobe_dup_fd: None." in text
