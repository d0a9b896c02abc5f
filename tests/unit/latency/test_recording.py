"""What a recorder keeps of slow forks, and what `report` makes of it: nothing twice, nothing lost, exact sums."""

from __future__ import annotations

import csv
import json
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import schema
from click.testing import CliRunner
from conftest import make_failure, make_header, make_summary
from test_account import MS, account, forks, seen

from fork_trace.commands import cli
from fork_trace.latency import report
from fork_trace.latency.adding import Runs
from fork_trace.latency.recording import Recording
from fork_trace.latency.times import Times
from fork_trace.model.records import Forks, Slow, to_json
from fork_trace.probes.libbpf.latency import STATS, Tally

MINUTE_S = 61.0


class Watch:
    """A SlowWatch whose forks are given: all of them are of one command."""

    host, release = "web1", "6.1.0"

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slow: list[Any] = []
        self.times: list[int] = []
        self.unsent = 0
        self.backend = SimpleNamespace(
            attach="fexit", waits="all", missing={}, stats=self._stats, missed=lambda: self.unsent
        )

    def fork(self, ms: float, is_slow: bool) -> None:
        self.times.append(round(ms * MS))
        self.slow += [seen(ms)] if is_slow else []

    def _stats(self) -> dict[str, int]:
        return {**dict.fromkeys(STATS, 0), "unsent": self.unsent, "slow": len(self._over())}

    def _over(self) -> list[int]:
        return [each for each in self.times if each >= 10 * MS]

    def poll(self, _timeout_s: float) -> list[Any]:
        taken, self.slow = self.slow, []
        return taken

    def stop(self) -> list[Any]:
        return self.poll(0)

    def tallies(self) -> list[Tally]:
        buckets = [0] * 40
        for each in self.times:
            buckets[each.bit_length() - 1] += 1
        return [
            Tally(
                "redis-server",
                sum(self.times),
                len(self._over()),
                sum(self._over()),
                tuple(buckets),
            )
        ]

    def elapsed_s(self) -> float:
        return self.now_s

    def now(self) -> str:
        return f"2026-11-28T03:{int(self.now_s / 60):02}:00Z"

    def header(self) -> Any:
        return make_header()


def recorded(
    *minutes: Sequence[float],
) -> tuple[list[Slow | Forks], list[tuple[str, float]], Watch]:
    """Record forks that take so many ms, minute by minute."""
    watch = Watch()
    written: list[Slow | Forks] = []
    told: list[tuple[str, float]] = []
    recording = Recording(
        watch,  # type: ignore[arg-type]
        10.0,
        written.append,
        told.extend,
        lambda: watch.now_s,
    )
    for minute in minutes:
        for ms in minute:
            watch.fork(ms, is_slow=ms >= 10)
        watch.now_s += MINUTE_S
        recording.turn()
    watch.fork(3, is_slow=False)
    recording.end()
    return written, told, watch


def test_each_fork_is_in_one_record_and_a_minute_without_a_slow_one_has_none() -> None:
    written, told, _ = recorded([20, 30, 1], [2, 2], [40])

    totals = [each for each in written if isinstance(each, Forks)]
    slow = [each for each in written if isinstance(each, Slow)]
    assert [(3, 2, "running"), (3, 1, "running"), (1, 0, "signal")] == [
        (each.commands[0]["count"], each.slow, each.ended) for each in totals
    ]
    assert [MINUTE_S, 2 * MINUTE_S, 0.0] == [each.duration_s for each in totals]
    assert [2, 1] == [each.count for each in slow]
    assert [("page-tables", 0.02), ("page-tables", 0.03), ("page-tables", 0.04)] == told


def test_minutes_added_up_are_one_run_with_the_percentiles_of_all() -> None:
    chosen = random.Random(23)
    minutes = [[chosen.uniform(10, 5000) for _ in range(chosen.randrange(9))] for _ in range(99)]
    written, _, watch = recorded(*minutes)
    runs = Runs()
    for each in written:
        runs.take(each)

    ((slow, totals),) = runs.records()
    (row,) = slow
    values, whole = sorted(ms for minute in minutes for ms in minute), Times()
    for value in values:
        whole.add(round(value * MS))
    assert len(values) == row.count
    assert max(values) == pytest.approx(row.max_ms, abs=1e-3)
    assert sum(values) == pytest.approx(row.total_ms, abs=0.5)
    # Each of two steps is a hundredth.
    assert whole.percentile_ns(0.5) / MS == pytest.approx(row.p50_ms, rel=0.021)
    assert whole.percentile_ns(0.99) / MS == pytest.approx(row.p99_ms, rel=0.021)
    assert len(watch.times) == totals.commands[0]["count"]
    assert {"page-tables": len(values)} == row.reasons
    assert 1 == report.recorded(report.tell_all(runs)).count("redis-server (pid")


def test_hosts_are_told_apart_and_what_was_not_seen_is_added() -> None:
    (slow,) = account(seen(20)).records({})
    runs = Runs()
    for host, lost, missed in (("a", 1, 2), ("b", 0, 0), ("a", 2, None)):
        runs.take(replace(slow, host=host))
        runs.take(replace(forks(1), host=host, lost=lost, missed=missed))

    first, second = runs.records()
    assert ("a", 3, None, 2) == (first[1].host, first[1].lost, first[1].missed, first[1].slow)
    assert ("b", 0, 0, 1) == (second[1].host, second[1].lost, second[1].missed, second[1].slow)


def test_what_a_killed_recorder_left_half_is_told_with_the_rest() -> None:
    (slow,) = account(seen(20)).records({})
    runs = Runs()
    for record in (slow, forks(1), slow):
        runs.take(record)

    (((row,), _),) = runs.records()
    assert 2 == row.count


@pytest.mark.parametrize("times", [{"x": 1}, {"nan": 1}, {"1e400": 1}, {"-5": 1}, {}])
def test_times_that_are_none_are_passed_over(times: dict[str, int]) -> None:
    (slow,) = account(seen(20)).records({})
    runs = Runs()
    runs.take(replace(slow, times_ms=times))
    runs.take(forks(1))

    (((row,), _),) = runs.records()
    assert 1 == row.count
    assert row.p99_ms <= 20.0


def test_rows_of_anybodys_names_are_bounded() -> None:
    (slow,) = account(seen(20)).records({})
    runs = Runs()
    for number in range(3000):
        runs.take(replace(slow, comm=f"c{number}"))
    runs.take(replace(forks(1), commands=tuple({"comm": f"c{n}", "count": 1} for n in range(3000))))

    ((slows, totals),) = runs.records()
    assert len(slows) <= 1025 and len(totals.commands) <= 1025
    assert 3000 == sum(each.count for each in slows)
    assert 3000 == sum(each["count"] for each in totals.commands)


def test_the_json_of_a_report_has_them_as_the_schema_says(tmp_path: Path) -> None:
    written, _, _ = recorded([20, 30, 1], [40])
    file = tmp_path / "slow.jsonl"
    file.write_text("".join(to_json(each) + "\n" for each in (make_header(), *written)))

    done = CliRunner().invoke(cli.cli, ["report", "--format", "json", str(file)])
    assert 0 == done.exit_code, done.output
    report_ = json.loads(done.output)
    assert schema.validate(report_)
    ((row,), (totals,)) = report_["slow"], report_["forks"]
    assert (3, 90.0, "page-tables") == (row["count"], row["total_ms"], row["reason"])
    (command,) = totals["commands"]
    # What minute by minute is in several records is one number of each again.
    assert (5, 5, 3) == (command["count"], sum(command["buckets"]), command["slow"])
    assert 94.0 == command["total_ms"]


def test_a_page_and_csv_have_slow_forks_beside_failures_and_alone(tmp_path: Path) -> None:
    written, _, _ = recorded([20, 30, 1], [40])
    hostile = [
        replace(each, comm="<b>x", caller="=1+1") if isinstance(each, Slow) else each
        for each in written
    ]
    alone = [make_header(), *hostile]
    both = [make_header(), make_failure(), *hostile, make_summary(failures=1)]

    page = shown(tmp_path, both, "html")
    assert "3 forks took 10 ms or longer, 0.09 s in all" in page
    assert "&lt;b&gt;x (pid" in page and "<b>x" not in page
    assert "Also recorded" not in page and "Who failed" in page
    page = shown(tmp_path, alone, "html")
    assert re.search("<h1>3 forks took 10 ms or longer", page)
    assert "Nothing failed here" not in page

    failures, slow = (
        list(csv.DictReader(each.splitlines()))
        for each in shown(tmp_path, both, "csv").split("\n\n")
    )
    assert ["pids-cgroup"] == [each["cause"] for each in failures]
    assert slow == list(csv.DictReader(shown(tmp_path, alone, "csv").splitlines()))
    (row,) = slow
    assert ("<b>x", "'=1+1", "3", "90", "40", "page-tables") == tuple(
        row[name] for name in ("command", "caller", "count", "total_ms", "max_ms", "reason")
    )


def shown(tmp_path: Path, lines: Sequence[Any], format_: str) -> str:
    file = tmp_path / "shown.jsonl"
    file.write_text("".join(to_json(each) + "\n" for each in lines))
    return CliRunner().invoke(cli.cli, ["report", "--format", format_, str(file)]).output
