"""The queries of the book on the captures of 1,000 hosts: run as they stand there, and equal to `report`."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import capture_text, make_evidence, make_failure, make_header, make_summary

from fork_trace import documents
from fork_trace.commands import cli
from fork_trace.model.records import Failure, Mark, Record, to_json

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("duckdb") is None, reason="scripts/setup installs DuckDB"
)
# In a process of its own: it maps much memory, which other tests look at.
ASK = """
import duckdb, json, sys
views, *asked = json.load(sys.stdin)
base = duckdb.connect()
base.execute(views)
found = []
for query in asked:
    done = base.execute(query)
    names = [column[0] for column in done.description]
    found.append([dict(zip(names, row)) for row in done.fetchall()])
# Not on stdout, where it draws how far it is.
json.dump(found, open(sys.argv[1], "w"), default=str)
"""
HOSTS = 1000
BEGIN = datetime(2026, 11, 28, 2, 50, tzinfo=timezone.utc)
QUERIES = re.findall(r"^```sql\n(.*?)^```", documents.text("fleet"), re.MULTILINE | re.DOTALL)


def at(minutes: float) -> dict[str, Any]:
    when = BEGIN + timedelta(minutes=minutes)
    iso = when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {"time": iso, "time_ns": int(when.timestamp()) * 10**9}


def failures_of(number: int) -> Iterator[Failure]:
    """What one host recorded: storms on some, a few everywhere, hostile names on one."""
    pid_max = make_evidence(name="kernel.pid_max", where="the whole host")
    yield make_failure(count=1 + number % 7, **at(number % 60))
    yield make_failure(comm="java", caller=None, cause="pid-max", evidence=(pid_max,), **at(61))
    if number % 10 == 0:
        storm = make_evidence(where=f"/sys/fs/cgroup/{number}.service")
        yield make_failure(count=1000, comm="cron", caller="popen", evidence=(storm,), **at(31.5))
    if number == 23:
        yield make_failure(
            comm="'; DROP VIEW failures; --", caller='"\\\x1b', evidence=(), **at(40)
        )


def records_of(number: int) -> list[Record]:
    """A whole capture, as all are that are not cut."""
    host = f"host-{number:04}"
    failures = list(failures_of(number))
    causes: Counter[str] = Counter()
    for each in failures:
        causes[each.cause] += each.count
    start = at(0)["time"]
    gap = [Mark(start, host, "gap", at(-60)["time"], start)] if number % 100 == 7 else []
    summary = make_summary(failures=sum(causes.values()), causes=dict(causes), time=at(90)["time"])
    return [make_header(host=host, time=start), *gap, *failures, summary]


@pytest.fixture(scope="module")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("fleet") / "captures"
    place.mkdir()
    for number in range(HOSTS):
        (place / f"host-{number:04}").mkdir()
        path = place / f"host-{number:04}" / f"20261128T030000Z-{number:032x}.jsonl"
        text = capture_text(*records_of(number))
        if number % 100 == 50:
            # Without its power: no summary, and half of a line of what failed next.
            text = capture_text(*records_of(number)[:-1]) + to_json(make_failure(count=99))[:-9]
        if number % 3 == 0:
            path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text)
    return place


@pytest.fixture(scope="module")
def answers(captures: Path) -> list[list[dict[str, Any]]]:
    """What each query of the book answers, in their order."""
    views, *asked = QUERIES
    assert "/srv/captures/" in views
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(captures.parent / "answers.json")],
        input=json.dumps([views.replace("/srv/captures/", f"{captures}/"), *asked]),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert 0 == done.returncode, done.stderr
    found: list[list[dict[str, Any]]] = json.loads((captures.parent / "answers.json").read_text())
    return found


def report(captures: Path, *options: str) -> dict[str, Any]:
    done = CliRunner().invoke(cli.cli, ["report", str(captures), "--format", "json", *options])
    assert done.exit_code == 1, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def counts(rows: list[dict[str, Any]], count: str, *names: str) -> dict[tuple[Any, ...], int]:
    found = {tuple(row[name] for name in names): int(row[count]) for row in rows}
    assert len(found) == len(rows)
    return found


def test_there_are_as_many_queries_as_are_tried() -> None:
    assert 5 == len(QUERIES)


def test_which_hosts_fail_and_why(captures: Path, answers: list[list[dict[str, Any]]]) -> None:
    told = report(captures, "--by", "host,cause")

    asked = counts(answers[0], "failures", "host", "cause")
    assert asked == counts(told["rows"], "count", "host", "cause")
    assert sum(asked.values()) == told["failures"] > 100_000
    assert 2 * HOSTS == len(asked)


def test_who_asks_for_too_much_everywhere(
    captures: Path, answers: list[list[dict[str, Any]]]
) -> None:
    told = report(captures, "--by", "cause,command,caller")

    asked = counts(answers[1], "failures", "cause", "comm", "caller")
    rows = counts(told["rows"], "count", "cause", "command", "caller")
    assert asked == rows
    limits = {(row["comm"], row["limit"], row["hosts"]) for row in answers[1]}
    assert {("java", "kernel.pid_max", HOSTS), ("cron", "pids.max", HOSTS // 10)} <= limits


def test_when_it_began_and_how_it_spread(
    captures: Path, answers: list[list[dict[str, Any]]]
) -> None:
    window = ("--since", "2026-11-28 03:00 UTC", "--until", "2026-11-28 04:00 UTC")
    told = report(captures, "--by", "cause", *window)

    asked: Counter[str] = Counter()
    for row in answers[2]:
        asked[row["cause"]] += row["failures"]
    assert dict(asked) == {row["cause"]: row["count"] for row in told["rows"]}
    assert 6 == len({row["since"] for row in answers[2]})
    assert max(row["hosts"] for row in answers[2]) > HOSTS // 10


def test_where_a_silence_says_nothing(captures: Path, answers: list[list[dict[str, Any]]]) -> None:
    told = report(captures)

    torn = [row["host"] for row in answers[3] if row["is_lower_bound"]]
    assert (HOSTS // 100, True) == (told["unclosed"], told["lower_bound"])
    assert [f"host-{number:04}" for number in range(50, HOSTS, 100)] == torn
    assert sum(row["gaps"] for row in answers[3]) == len(told["gaps"]) == HOSTS // 100
