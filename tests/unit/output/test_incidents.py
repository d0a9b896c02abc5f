"""What was seen beside refused forks: each type of record through readers, formats and selections."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import schema
from click.testing import CliRunner
from conftest import capture_text, make_death, make_failure, make_header, make_summary

from fork_trace.commands import cli
from fork_trace.model import reading, records
from fork_trace.model.records import INCIDENTS, Death, Level
from fork_trace.output import formats
from fork_trace.output.aggregate import Table
from fork_trace.output.incidents import KINDS
from fork_trace.output.live import screen
from fork_trace.output.live.terminal import Terminal
from fork_trace.output.live.views import Appended
from fork_trace.output.report_options import PLAIN
from fork_trace.record.account import Account
from fork_trace.record.selection import Selection

EVERYTHING = Selection()
MADE: dict[type[Any], Any] = {Death: make_death()}
HOSTILE = "\x1b[31m|`<b>$(x)\n"


def read(text: str, selection: Selection = EVERYTHING) -> Account:
    account = Account(("command", "cause"), selection)
    for _ in account.take(reading.read("f", text.encode().splitlines(keepends=True))):
        pass
    return account


def shown(text: str, format_: str = "table") -> str:
    account = read(text)
    found = account.captures
    write = formats.writer(format_)
    return write(account.counted, found.summaries, found.headers, PLAIN)


def of_deaths(*deaths: Death, failures: int = 0) -> str:
    causes: dict[str, int] = {}
    for each in deaths:
        causes[each.cause] = causes.get(each.cause, 0) + 1
    made = [make_failure()] * failures
    last = make_summary(
        failures=failures, causes={"pids-cgroup": failures} if failures else {}, deaths=causes
    )
    return capture_text(make_header(), *made, *deaths, last)


def test_each_type_has_a_kind_and_is_made_here() -> None:
    assert set(INCIDENTS) == set(KINDS) == set(MADE)


@pytest.mark.parametrize("made", MADE.values(), ids=lambda made: type(made).__name__)
def test_a_record_is_read_as_it_was_written(made: Any) -> None:
    assert made == records.from_json(records.to_json(made))


@pytest.mark.parametrize(
    "key, value",
    [
        ("levels", "x"),
        ("levels", [1]),
        ("levels", [{"where": 1, "used": 1, "limit": 1}]),
        ("fork", []),
        ("fork", {}),
        ("fork", "x"),
        ("allocator", {"comm": None, "pid": 1, "tid": 1}),
        ("pid", "1"),
        ("relatives", [{"comm": "a"}]),
    ],
)
def test_what_does_not_fit_is_no_record(key: str, value: object) -> None:
    line = json.loads(records.to_json(make_death()))
    line[key] = value

    with pytest.raises((ValueError, TypeError)):
        records.from_json(json.dumps(line))


@pytest.mark.parametrize("format_", formats.FORMATS)
@pytest.mark.parametrize("failures", [0, 1])
def test_every_format_takes_them(format_: str, failures: int) -> None:
    written = shown(of_deaths(make_death(), failures=failures), format_)

    assert "\x1b" not in written
    if format_ == "json":
        schema.validate(json.loads(written))
        assert {"copy-on-write": 1} == json.loads(written)["deaths"]
    if format_ == "jsonl":
        schema.validate(json.loads(written))


def test_the_fork_behind_it_is_told_with_its_numbers_and_what_helps() -> None:
    written = " ".join(shown(of_deaths(*[make_death()] * 23)).split())

    assert "No fork failed" in written
    assert "the OOM killer ended 23 processes (23 by copy-on-write)" in written
    assert "memory.max 110 MiB of 110 MiB of cgroup /redis" in written
    assert "redis-server[100] forked [120] 4.2 s before" in written
    assert "at most 44.0 MiB was copied since" in written
    assert "alive of the family: redis-server[100] (parent, 66.0 MiB)" in written
    assert "maxmemory well below the limit" in written
    assert "/sys/fs/cgroup/redis/memory.max" in written
    assert "meanwhile" not in written


def test_deaths_are_no_failures() -> None:
    account = read(of_deaths(make_death(), failures=1))

    assert 1 == account.counted.failures


@pytest.mark.parametrize(
    "cause, is_failure",
    [
        ("copy-on-write", True),
        ("huge-page-copy", True),
        ("memory-cgroup-oom", False),
        ("host-oom", False),
    ],
)
def test_a_failure_is_only_what_a_fork_is_behind(cause: str, is_failure: bool) -> None:
    account = read(of_deaths(make_death(cause=cause)))

    assert is_failure is account.counted.incidents.is_failure()


def test_a_huge_page_that_was_not_there_is_told_with_its_pool() -> None:
    pool = Level("/sys/kernel/mm/hugepages/hugepages-2048kB", 8 << 20, 8 << 20)
    made = make_death()
    assert made.fork is not None
    fork = replace(made.fork, parent_anon_bytes=None, child_anon_bytes=None)
    death = replace(made, cause="huge-page-copy", certainty="observed", levels=(pool,), fork=fork)
    text = " ".join(shown(of_deaths(death)).split())

    assert "SIGBUS ended 1 process (1 by huge-page-copy)" in text
    assert "at huge pages of 2048kB, 8192 KiB of 8192 KiB in use or reserved" in text
    assert "which has executed no program since" in text
    assert "observed: no huge page was free that was not reserved for another mapping" in text
    assert "sysctl vm.nr_overcommit_hugepages=PAGES" in text
    assert "the OOM killer" not in text.partition("huge-page-copy: ")[0]


@pytest.mark.parametrize("cause", ["memory-cgroup-oom", "host-oom"])
def test_others_are_one_line(cause: str) -> None:
    death = make_death(cause=cause, fork=None, certainty="observed")
    told = read(of_deaths(death)).counted.incidents.told()

    assert [((), ())] == [(each.facts, each.advice) for each in told]


def test_the_rest_of_the_oom_kills_is_told_apart() -> None:
    last = make_summary(failures=0, causes={}, deaths={"copy-on-write": 1}, oom_kills=3)
    written = shown(capture_text(make_header(), make_death(), last))

    assert "ended 2 more processes meanwhile" in written


@pytest.mark.parametrize("name", ["comm", "cgroup", "thp"])
@pytest.mark.parametrize("format_", formats.FORMATS)
def test_hostile_names_are_harmless(name: str, format_: str) -> None:
    death = make_death(**{name: HOSTILE})
    written = shown(of_deaths(death), format_)

    assert "\x1b" not in written
    if format_ == "markdown":
        assert "<b>" not in written.replace("\\<b\\>", "")


@pytest.mark.parametrize(
    "selection, count",
    [
        (Selection(comm="redis-server"), 1),
        (Selection(comm="other"), 0),
        (Selection(uid=1), 0),
        (Selection(cgroup="/redis"), 1),
        (Selection(causes=frozenset({"pids-cgroup"})), 0),
        (Selection(since_ns=1 << 62), 0),
    ],
)
def test_they_are_chosen_like_failures(selection: Selection, count: int) -> None:
    assert count == len(
        read(of_deaths(make_death()), selection).counted.incidents.as_json()["death_places"]
    )


def test_of_very_many_places_the_rest_are_counted_together() -> None:
    deaths = [make_death(comm=f"c{number}") for number in range(300)]
    found = read(of_deaths(*deaths)).counted.incidents.as_json()["death_places"]

    assert 300 == sum(each["count"] for each in found)
    assert len(found) < 300


def test_a_limit_of_v1_is_named_so() -> None:
    level = Level("/sys/fs/cgroup/memory/redis", 1 << 30, 1 << 30)
    written = shown(of_deaths(replace(make_death(), levels=(level,))))

    assert "memory.limit_in_bytes 1.0 GiB of 1.0 GiB of cgroup /redis" in written


def test_a_screen_tells_them_while_it_watches() -> None:
    counted = read(of_deaths(*[make_death()] * 23)).counted
    lines = screen.frame(counted, {}, screen.Moment("web-1", 5.0, None, "q"), (100, 40))
    text = "\n".join(line.text for line in lines)

    assert "the OOM killer ended 23 processes (23 by copy-on-write)" in text
    assert "redis-server[100] forked [120]" in text
    assert "Waiting for" not in text
    assert len(lines) <= 40
    assert all(len(line.text) < 100 for line in lines)


def test_lines_are_appended_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    counted = Table()
    view = Appended(Terminal(wants_lines=True), counted)
    for _ in range(2):
        view.show(1.0, 0, 0)
    counted.incidents.add(make_death())
    for _ in range(2):
        view.show(2.0, 0, 0)

    assert 1 == capsys.readouterr().out.count("the OOM killer ended 1 process")


@pytest.mark.parametrize(
    ("cause", "code"), [("copy-on-write", 1), ("memory-cgroup-oom", 0), ("host-oom", 0)]
)
def test_report_exits_by_whether_a_fork_is_behind_it(tmp_path: Path, cause: str, code: int) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text(of_deaths(make_death(cause=cause)))
    done = CliRunner().invoke(cli.cli, ["report", str(file)])

    assert code == done.exit_code
    assert cause in done.stdout


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_replay_shows_them(tmp_path: Path, more: tuple[str, ...]) -> None:
    file = tmp_path / "f.jsonl"
    file.write_text(of_deaths(make_death()))
    done = CliRunner().invoke(cli.cli, ["live", "--replay", str(file), *more])

    assert 0 == done.exit_code, done.output
    assert "copy-on-write" in done.stdout
    assert "redis-server" in done.stdout


def test_a_snapshot_keeps_them_and_counts_what_it_keeps(tmp_path: Path) -> None:
    file, out = tmp_path / "f.jsonl", tmp_path / "out.jsonl"
    file.write_text(of_deaths(make_death(), make_death(comm="other")))
    argv = ["snapshot", "--output", str(out), "--comm", "redis-server", str(file)]
    done = CliRunner().invoke(cli.cli, argv)

    assert 0 == done.exit_code, done.output
    written = [json.loads(line) for line in out.read_text().splitlines()]
    assert ["header", "death", "summary"] == [each["type"] for each in written]
    assert {"copy-on-write": 1} == written[-1]["deaths"]
