"""A recorder under a real Prometheus: its numbers are the report's, in few series, whatever fails."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import monitors
import own_cgroups
import pytest
import schema

from .conftest import FORK_TRACE, TESTS, TIMEOUT_S, start

pytestmark = pytest.mark.live
DEPLOY = TESTS.parent / "fork_trace" / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "fork-trace.json").read_text())
MANY, BUSY, COUNT = 3000, 3, 23
MOST_SERIES = 600
# A tenth of a second; of a machine that is told to be slow or busy, as much more.
MOST_SCRAPE_S = 0.1 * max(1.0, float(os.environ.get("FORK_TRACE_BUDGET_FACTOR") or 1))
MOST_GROWTH_KB = 48 << 10  # with what the recorder itself keeps of thousands of cgroups


class Seen(NamedTuple):
    """What Prometheus and the report have of the same failures."""

    ask: monitors.Ask
    report: dict[str, Any]
    by_unit: dict[str, Any]
    textfile: str
    grown_kb: int
    slow_client_s: float


def rss_kb(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


def report(directory: Path, *options: str) -> dict[str, Any]:
    argv = [*FORK_TRACE, "report", str(directory), "--format", "json", *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = schema.validate(json.loads(done.stdout))
    return found


def fail(place: Path) -> None:
    program = TESTS / "live" / "programs" / "many_cgroups.py"
    argv = [sys.executable, str(program), str(place), str(MANY), str(BUSY), str(COUNT)]
    subprocess.run(argv, check=True, timeout=TIMEOUT_S)


@pytest.fixture(scope="module")
def slice_() -> Iterator[Path]:
    """A slice of systemd's form, whose children have the pids controller."""
    for version, base in own_cgroups.pids_hierarchies()[:1]:
        place = Path(base) / "ftfleet.slice"
        if version == 2:
            (Path(base) / "cgroup.subtree_control").write_text("+pids")
        place.mkdir()
        try:
            if version == 2:
                (place / "cgroup.subtree_control").write_text("+pids")
            yield place
        finally:
            assert own_cgroups.remove(place)
        return
    pytest.skip("no mounted hierarchy has the pids controller")


@pytest.fixture(scope="module")
def seen(
    slice_: Path, tmp_path_factory: pytest.TempPathFactory, any_host: dict[str, Any]
) -> Iterator[Seen]:
    tools = monitors.prometheus()
    if tools is None:
        pytest.skip("Prometheus cannot be fetched")
    place = tmp_path_factory.mktemp("fleet")
    address = f"127.0.0.1:{monitors.free_port()}"
    options = ("--attach", "tracepoint", "--comm", "ft-fleet", "--keep-free", "0")
    served = ("--metrics", address, "--textfile", str(place / "forks.prom"))
    recorder = start("record", "--directory", str(place / "log"), *options, *served)
    rules = DEPLOY / "prometheus" / "fork-trace.rules.yml"
    try:
        with monitors.scraping(tools, place, address, "/metrics", rules) as ask:
            monitors.wait_for(ask, "count_over_time(fork_trace_build_info[1m]) >= 2")
            before_kb = rss_kb(recorder.pid)
            slow = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
            slow.settimeout(5)
            begun_s = time.monotonic()
            assert b"" == slow.recv(1)
            slow_client_s = time.monotonic() - begun_s
            fail(slice_)
            number = MANY + BUSY * COUNT
            monitors.wait_for(ask, f"sum(fork_trace_failures_total) >= {number}")
            grown_kb = rss_kb(recorder.pid) - before_kb
            recorder.send_signal(signal.SIGTERM)
            recorder.communicate(timeout=TIMEOUT_S)
            assert 0 == recorder.returncode
            found = report(place / "log"), report(place / "log", "--by", "container,cause")
            yield Seen(ask, *found, (place / "forks.prom").read_text(), grown_kb, slow_client_s)
    finally:
        recorder.kill()
        recorder.wait()


def values(found: list[dict[str, Any]], name: str) -> dict[str, int]:
    return {each["metric"].get(name, ""): int(float(each["value"][1])) for each in found}


# Prometheus forgets nothing of the last minutes, though the recorder has ended.
LAST = "last_over_time({}[10m])"


def test_what_prometheus_has_is_what_the_report_says(seen: Seen) -> None:
    query = f"sum by (cause) ({LAST.format('fork_trace_failures_total')}) > 0"
    causes: Counter[str] = Counter()
    for row in seen.report["rows"]:
        for cause, count in row["causes"].items():
            causes[cause] += count

    assert MANY + BUSY * COUNT == seen.report["failures"] == sum(causes.values())
    assert dict(causes) == values(seen.ask(query), "cause")
    assert {"pids-cgroup": MANY + BUSY * COUNT} == dict(causes)


def test_of_thousands_of_units_those_that_fail_most_have_series_of_their_own(seen: Seen) -> None:
    owners = LAST.format("fork_trace_failures_by_owner_total") + " > 0"
    found = values(seen.ask(owners), "unit")
    told = {row["container"]: row["count"] for row in seen.by_unit["rows"]}

    assert sum(found.values()) == MANY + BUSY * COUNT
    assert found.pop("(other)") > MANY - 100
    assert 50 == len(found)
    assert [COUNT] * BUSY == [found[f"busy-{each}.service"] for each in range(BUSY)]
    assert found == {unit: told[unit] for unit in found}


def test_the_series_are_bounded_and_so_are_a_scrape_and_the_memory(seen: Seen) -> None:
    (series,) = seen.ask("max_over_time(scrape_samples_scraped[10m])")
    (scrape,) = seen.ask("quantile_over_time(0.5, scrape_duration_seconds[10m])")
    print(f"{series['value'][1]} series, {scrape['value'][1]} s, {seen.grown_kb} kB more")

    assert int(series["value"][1]) <= MOST_SERIES
    assert float(scrape["value"][1]) < MOST_SCRAPE_S
    assert seen.grown_kb < MOST_GROWTH_KB


def test_who_connects_and_says_nothing_is_dropped_after_a_second(seen: Seen) -> None:
    assert 0.9 < seen.slow_client_s < 2.5


@pytest.mark.parametrize("name", monitors.queries(DASHBOARD))
def test_each_query_of_the_dashboard_has_an_answer(seen: Seen, name: str) -> None:
    (at,) = seen.ask("max_over_time(timestamp(fork_trace_build_info)[10m:1s])")
    query = monitors.queries(DASHBOARD)[name]

    assert "$" not in query
    assert seen.ask(f"last_over_time(({query})[10m:1s])"), at


def test_the_alert_of_a_refused_fork_was_firing(seen: Seen) -> None:
    found = seen.ask('last_over_time(ALERTS{alertstate="firing"}[10m])')

    assert {"ForkRefused"} == {each["metric"]["alertname"] for each in found}
    assert {"pids-cgroup"} == {each["metric"]["cause"] for each in found}


def test_the_textfile_tells_the_same_and_that_nobody_watches_any_more(seen: Seen) -> None:
    number = float(MANY + BUSY * COUNT)

    assert f'{{cause="pids-cgroup",errno="EAGAIN"}} {number}\n' in seen.textfile
    steps = re.findall(r"^fork_trace_probe_attached\{.*\} (.*)$", seen.textfile, re.MULTILINE)
    assert {"0.0"} == set(steps)
