"""What check writes for Nagios, the Node Problem Detector and Prometheus, hostile names and all."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from conftest import HOSTILE, MadeHost, is_harmless
from prometheus_client.parser import text_string_to_metric_families

from fork_trace.diagnosis.causes import CAUSES
from fork_trace.headroom import check
from fork_trace.output import check_formats
from fork_trace.output.check_formats import json as json_format
from fork_trace.output.check_formats import nagios, npd, prometheus

NAMES = [*HOSTILE, "a|b;c=d", "$(reboot)`id`", "'quoted' \"twice\"", "é" * 90, "x" * 300]


def examine(host: MadeHost, near: float = 80, full: float = 100) -> dict[str, Any]:
    return check.examine(near, full, str(host.root))


def hostile(host: MadeHost, name: str) -> dict[str, Any]:
    """A host with a full cgroup and a full process of that name."""
    found = examine(host)
    (pool,) = [each for each in found["limits"] if each["cause"] == "pids-cgroup"]
    pool.update(level="full", used=70, percent=100.0, where=f"/sys/fs/cgroup/{name}")
    other = {**pool, "cause": "fd-table-limit", "process": {"pid": 7, "comm": name}}
    found["limits"] = [pool, other, *(each for each in found["limits"] if each is not pool)]
    found["refusals"] = [{"name": "pids.events max", "where": f"/{name}", "count": 3}]
    found["refusals_total"] = {"pids.events max": 3}
    found["level"] = "full"
    return found


# ------------------------------------------------------------------ Nagios

# Monitoring Plugins Development Guidelines: 'label'=value[UOM];[warn];[crit];[min];[max]
NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
DATUM = re.compile(
    rf"'[^'=]+'=(?:U|{NUMBER}(?:KB|c)?(?:;(?:{NUMBER})?){{0,4}})(?: |$)",
)


def performance(line: str) -> dict[str, str]:
    _, _, data = line.rstrip("\n").partition("|")
    assert "" == DATUM.sub("", data.strip()), data
    return dict(each.rsplit("=", 1) for each in shlex.split(data))


def test_a_plugin_says_one_line_with_performance_data(made_host: MadeHost) -> None:
    made_host.cgroup("app", 60, "70", hits=23)

    line = nagios.write(examine(made_host), False)

    assert 1 == line.count("\n")
    assert line.startswith("FORK WARNING: pids-cgroup, 60 of 70 tasks, ")
    assert "23 forks refused so far" in line
    data = performance(line)
    assert "60;56;70;0;70" == data["pids-cgroup"]
    assert "23c" == data["pids.events-max"]


def test_a_full_limit_of_one_is_written_as_the_guidelines_say(made_host: MadeHost) -> None:
    made_host.cgroup("app", 1, "1")

    line = nagios.write(examine(made_host), False)

    assert line.startswith("FORK CRITICAL: ")
    assert "'pids-cgroup'=1;0.8;1;0;1" in line


def test_of_a_cause_the_nearest_limit_is_the_datum(made_host: MadeHost) -> None:
    made_host.cgroup("app", 7, "700")
    made_host.cgroup("worse", 650, "700")

    assert (
        "650;560;700;0;700" == performance(nagios.write(examine(made_host), False))["pids-cgroup"]
    )


def test_what_is_not_known_is_u(made_host: MadeHost) -> None:
    (made_host.proc / "sys/kernel/threads-max").unlink()

    line = nagios.write(examine(made_host), False)

    assert line.startswith("FORK UNKNOWN: threads-max: ")
    assert "U" == performance(line)["threads-max"]


def test_a_limit_that_is_known_is_told_before_one_that_is_not(made_host: MadeHost) -> None:
    place = made_host.add(1001, "server", slots=1 << 20)
    for each in (place / "fd").iterdir():
        each.unlink()
    (place / "fd").rmdir()

    found = examine(made_host)

    assert "unknown" in {
        each["level"] for each in found["limits"] if each["cause"] == "fd-table-limit"
    }
    assert "2;" in performance(nagios.write(found, False))["fd-table-limit"]


def test_a_dead_namespace_is_one_of_one(made_host: MadeHost) -> None:
    made_host.add(1001, "bash", children=42)

    line = nagios.write(examine(made_host), False)

    assert "CRITICAL: pid-namespace-dead, its init has exited, bash[1001]" in line
    assert "1;0.8;1;0;1" == performance(line)["pid-namespace-dead"]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_can_forge_a_plugin_s_line(made_host: MadeHost, name: str) -> None:
    line = nagios.write(hostile(made_host, name), False)

    assert (1, 1) == (line.count("\n"), line.count("|"))
    assert is_harmless(line)
    assert not set('`~$&"<>') & set(line)
    performance(line)


# ------------------------------------------------------------------ Node Problem Detector


@pytest.mark.parametrize("name", [*NAMES, "kubepods.slice/kubepods-pod0a1b2c3d.slice/x.scope"])
def test_a_condition_has_80_bytes_at_most(made_host: MadeHost, name: str) -> None:
    line = npd.write(hostile(made_host, name), False)

    assert line.startswith("full: pids-cgroup 70 of 70 tasks ")
    assert line.endswith(" (+1)\n")
    assert len(line.encode()) <= 81
    assert line.isascii() and is_harmless(line)


def test_the_end_of_a_path_is_kept(made_host: MadeHost) -> None:
    line = npd.write(hostile(made_host, "a" * 80 + "/pod7.scope"), False)

    assert "/pod7.scope (+1)" in line


def test_what_is_fine_is_said_in_a_word(made_host: MadeHost) -> None:
    assert "ok\n" == npd.write(examine(made_host), False)

    made_host.cgroup("app", 7, "70", hits=181)
    assert "ok; 181 forks refused so far\n" == npd.write(examine(made_host), False)


def test_what_could_not_be_found_out_is_said_too() -> None:
    assert "unknown: /proc is not mounted.\n" == npd.failed("/proc is not mounted.")
    assert len(npd.failed("x" * 500)) == 81
    assert "FORK UNKNOWN: a\\x7cb.\n" == nagios.failed("a|b.")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("table", [0, 1, 2, 3, 3]), ("nagios", [0, 1, 2, 3, 3]), ("npd", [0, 1, 1, 2, 2])],
)
def test_the_exit_codes_are_those_of_each_monitor(name: str, expected: list[int]) -> None:
    codes = check_formats.codes(name)
    levels = ("fine", "near", "full", "unknown")

    assert expected == [*(codes.by_level[each] for each in levels), codes.cannot_run]


# ------------------------------------------------------------------ Prometheus


def metrics(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        for sample in family.samples:
            series = found.setdefault(sample.name, {})
            key = tuple(value for _, value in sorted(sample.labels.items()))
            assert key not in series, f"{sample.name} has {key} twice"
            series[key] = sample.value
    return found


def test_every_number_is_a_metric(made_host: MadeHost) -> None:
    made_host.cgroup("app", 60, "70", hits=23)
    made_host.write("vmstat", "oom_kill 5\n")

    found = metrics(prometheus.write(examine(made_host), False))

    assert {("near",): 1.0, ("full",): 0.0} == {
        key: value
        for key, value in found["fork_trace_check_level"].items()
        if key in (("near",), ("full",))
    }
    place = f"{made_host.cgroups}/app"
    assert {("pids-cgroup", "pids.max", place): 60.0} == found["fork_trace_check_limit_used"]
    assert [70.0] == list(found["fork_trace_check_limit_max"].values())
    assert 0.857 == found["fork_trace_check_limit_used_ratio"][("pids-cgroup",)]
    assert {(place, "fork_refused"): 23.0} == found["fork_trace_check_cgroup_events_total"]
    assert {(): 5.0} == found["fork_trace_check_oom_kills_total"]
    assert {(): 0.0} == found["fork_trace_check_limits_left_out"]


def test_memory_is_in_bytes(made_host: MadeHost) -> None:
    made_host.write("sys/vm/overcommit_memory", "2\n")
    made_host.add(1001, "db", uid=1000, kib=(320_000, 390_000))

    found = metrics(prometheus.write(examine(made_host), False))

    assert [(390_132 + 100_000) * 1024.0] == list(found["fork_trace_check_limit_used"].values())


def test_each_cause_with_a_limit_says_what_is_not_known_of_it(made_host: MadeHost) -> None:
    (made_host.proc / "sys/kernel/threads-max").unlink()

    unknown = metrics(prometheus.write(examine(made_host), False))[
        "fork_trace_check_limits_unknown"
    ]

    assert {(cause.slug,) for cause in CAUSES if cause.check} == set(unknown)
    assert {("threads-max",): 1.0} == {key: number for key, number in unknown.items() if number}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_stays_within_its_label(made_host: MadeHost, name: str) -> None:
    text = prometheus.write(hostile(made_host, name), False)

    found = metrics(text)
    assert is_harmless(text)
    assert all(line.startswith(("#", "fork_trace_check_")) for line in text.splitlines())
    assert 2 == len(found["fork_trace_check_limit_used"])


def test_100_000_cgroups_make_no_more_series_than_a_few_hundred(made_host: MadeHost) -> None:
    found = hostile(made_host, "x")
    (pool, *_) = found["limits"]
    found["limits"] = [
        {**pool, "where": f"/sys/fs/cgroup/job{number}"} for number in range(100_000)
    ]
    found["refusals"] = [
        {"name": "pids.events max", "where": f"/job{number}", "count": 1} for number in range(100)
    ]
    found["refusals_total"] = {"pids.events max": 100_000}

    series = metrics(prometheus.write(found, False))

    assert sum(map(len, series.values())) < 300
    assert {(): 99_950.0} == series["fork_trace_check_limits_left_out"]
    assert {(): 99_900.0} == series["fork_trace_check_cgroup_events_left_out"]


def test_processes_of_one_name_are_one_series(made_host: MadeHost) -> None:
    for pid in (1001, 1002):
        made_host.add(pid, "bash", children=42)

    text = prometheus.write(examine(made_host), False)

    assert "1001" not in text
    assert metrics(text)["fork_trace_check_level"][("full",)] == 1.0


def test_v1_and_v2_count_kills_by_the_same_name(made_host: MadeHost) -> None:
    found = examine(made_host)
    found["refusals"] = [
        {"name": "memory.oom_control oom_kill", "where": "/a", "count": 2},
        {"name": "memory.events oom_kill", "where": "/b", "count": 3},
    ]
    found["refusals_total"] = {each["name"]: each["count"] for each in found["refusals"]}

    assert {("/a", "oom_kill"): 2.0, ("/b", "oom_kill"): 3.0} == metrics(
        prometheus.write(found, False)
    )["fork_trace_check_cgroup_events_total"]


def test_json_is_one_line(made_host: MadeHost, tmp_path: Path) -> None:
    found = examine(made_host)

    text = json_format.write(found, False)

    assert (1, found) == (text.count("\n"), json.loads(text))
