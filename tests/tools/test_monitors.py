"""What check offers to monitors, judged by the monitors' own tools: promtool, and a Prometheus that scrapes."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import monitors
import pytest
from conftest import MadeHost, make_header

from fork_trace import documents
from fork_trace.headroom import check
from fork_trace.output import exposition
from fork_trace.output.check_formats import prometheus
from fork_trace.serve.metrics import SLUGS, Metrics, Watch

CHECKOUT = Path(__file__).resolve().parents[2]
DEPLOY = CHECKOUT / "fork_trace" / "deploy"
RULES = DEPLOY / "prometheus" / "fork-trace-check.rules.yml"
DASHBOARD = json.loads((DEPLOY / "grafana" / "fork-trace-check.json").read_text())
RECORDER_RULES = DEPLOY / "prometheus" / "fork-trace.rules.yml"
RECORDER_DASHBOARD = json.loads((DEPLOY / "grafana" / "fork-trace.json").read_text())


def cases_of(rules: Path) -> Path:
    name = rules.name.replace(".rules.yml", ".test.yml")
    return CHECKOUT / "tests" / "data" / "prometheus" / name


each_rules = pytest.mark.parametrize("rules", [RULES, RECORDER_RULES], ids=lambda path: path.name)


@pytest.fixture(scope="module")
def tools() -> Path:
    found = monitors.prometheus()
    if found is None:
        pytest.skip("Prometheus cannot be fetched: no apt-get, or no archive that has it")
    return found


def promtool(tools: Path, *words: str, **how: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tools / "promtool", *words], capture_output=True, text=True, check=False, timeout=60, **how
    )


def bad_host(host: MadeHost) -> MadeHost:
    """A host on which every metric has something to say."""
    host.cgroup("app", 70, "70", hits=181)
    host.cgroup('a"b\\c\nd', 7, "max", hits=3)
    host.write("vmstat", "oom_kill 5\n")
    host.write("sys/vm/overcommit_memory", "2\n")
    host.add(1001, "db", uid=1000, kib=(320_000, 390_000))
    host.add(1002, "bash", children=42)
    (host.proc / "sys/fs/file-max").unlink()
    return host


def exposed(host: MadeHost) -> str:
    return prometheus.write(check.examine(80, 100, str(host.root)), False)


@pytest.mark.parametrize("make", [lambda host: host, bad_host], ids=["fine", "bad"])
def test_the_metrics_are_as_promtool_wants_them(
    tools: Path, make: Callable[[MadeHost], MadeHost], made_host: MadeHost
) -> None:
    done = promtool(tools, "check", "metrics", input=exposed(make(made_host)))

    assert (0, "") == (done.returncode, done.stdout + done.stderr)


@each_rules
def test_the_rules_are_rules(tools: Path, rules: Path) -> None:
    done = promtool(tools, "check", "rules", str(rules))

    assert 0 == done.returncode, done.stdout + done.stderr
    assert f"{rules.read_text().count('- alert: ')} rules found" in done.stdout


@each_rules
def test_each_alert_fires_on_what_it_is_for(tools: Path, tmp_path: Path, rules: Path) -> None:
    shutil.copy(rules, tmp_path)
    shutil.copy(cases_of(rules), tmp_path)

    done = promtool(tools, "test", "rules", cases_of(rules).name, cwd=tmp_path)

    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("rules", "old", "new"),
    [
        (RULES, "_ratio >= 1", "_ratio > 1"),
        (RULES, "> 900", "> 9000"),
        (RULES, 'level="near"} == 1\n        for: 15m', 'level="near"} == 1'),
        (
            RULES,
            "unless fork_trace_check_cgroup_events_total offset 10m",
            "unless vector(0) > 1",
        ),
        (RULES, ") and on (instance) (fork_trace_check_timestamp_seconds offset 10m)", ")"),
        (
            RULES,
            "and fork_trace_check_limit_used_ratio > 0.5",
            "or fork_trace_check_limit_used_ratio > 0.5",
        ),
        (RECORDER_RULES, "sum without (errno)", "sum without (cause)"),
        (RECORDER_RULES, 'cause!~"', 'cause=~"'),
        (RECORDER_RULES, "|invalid-flags|", "|"),
        (RECORDER_RULES, "for: 30m", "for: 1m"),
        (RECORDER_RULES, "max without (step)", "min without (step)"),
        (RECORDER_RULES, 'up{job="fork-trace"}', "up"),
        (
            RECORDER_RULES,
            "increase(fork_trace_missed_calls_total[10m])",
            "fork_trace_missed_calls_total",
        ),
    ],
)
def test_a_rule_that_is_wrong_fails_its_test(
    tools: Path, tmp_path: Path, rules: Path, old: str, new: str
) -> None:
    text = rules.read_text()
    assert old in text
    (tmp_path / rules.name).write_text(text.replace(old, new))
    shutil.copy(cases_of(rules), tmp_path)

    done = promtool(tools, "test", "rules", cases_of(rules).name, cwd=tmp_path)

    assert 0 != done.returncode


@each_rules
def test_every_alert_is_tested(rules: Path) -> None:
    alerts = set(re.findall(r"- alert: (\w+)", rules.read_text()))

    tested = re.findall(r"alertname: (\w+)\n +exp_alerts", cases_of(rules).read_text())
    assert alerts == set(tested)


def test_the_causes_that_a_policy_denies_are_the_same_in_both_rules_and_there_are_such() -> None:
    one, other = re.findall(r'cause[!=]~"([^"]+)"', RECORDER_RULES.read_text())

    assert one == other
    assert set(one.split("|")) < set(SLUGS)


def test_every_runbook_link_leads_to_a_heading_of_the_book() -> None:
    texts = [RULES.read_text(), json.dumps(DASHBOARD), RECORDER_RULES.read_text()]
    texts.append(json.dumps(RECORDER_DASHBOARD))
    links = {each for text in texts for each in re.findall(r"https://runbooks[^\s\"]+", text)}

    assert links
    for link in links:
        page, _, anchor = link.partition("/fork-trace/")[2].partition("#")
        headings = re.findall(r"^#+ (.*)$", documents.text(page.removesuffix(".md")), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}
        assert not anchor or anchor in anchors, link


def test_rules_and_dashboard_use_only_metrics_that_there_are(made_host: MadeHost) -> None:
    names = set(re.findall(r"^(fork_trace_\w+)", exposed(bad_host(made_host)), re.MULTILINE))
    used = set(re.findall(r"fork_trace_check_\w+", RULES.read_text() + json.dumps(DASHBOARD)))

    assert set() == used - names


def test_what_is_for_the_recorder_uses_only_its_metrics() -> None:
    found = exposition.write(Metrics().families(Watch(make_header(), 0, 0), 0.0))[0].decode()
    names = {name.removesuffix("_total") for name in re.findall(r"# TYPE (\w+)", found)}
    text = RECORDER_RULES.read_text() + json.dumps(RECORDER_DASHBOARD)
    used = {name.removesuffix("_total") for name in re.findall(r"fork_trace_\w+", text)}

    assert set() == used - names
    assert len(used) > 5


# ------------------------------------------------------------------ a real Prometheus


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves a directory as the node exporter would its textfiles."""

    def guess_type(self, path: Any) -> str:
        return "text/plain; version=0.0.4"

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def scraping(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[monitors.Ask]:
    """A Prometheus that scrapes a bad host each second; yield what answers queries."""
    place = tmp_path_factory.mktemp("prometheus")
    host = bad_host(MadeHost(tmp_path_factory.mktemp("host")))
    (place / "check.prom").write_text(exposed(host))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Files, directory=place))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    target = f"127.0.0.1:{server.server_port}"
    with monitors.scraping(tools, place, target, "/check.prom", RULES) as ask:
        # Three scrapes, the second with more: what counts up is asked for as well.
        monitors.wait_for(ask, "count_over_time(fork_trace_check_info[1m]) >= 2")
        host.cgroup("app", 70, "70", hits=281)
        host.write("vmstat", "oom_kill 7\n")
        (place / "check.prom").write_text(exposed(host))
        monitors.wait_for(ask, "increase(fork_trace_check_oom_kills_total[5m])>0")
        yield ask
    server.shutdown()


@pytest.mark.parametrize("name", monitors.queries(DASHBOARD))
def test_each_query_of_the_dashboard_has_an_answer(scraping: monitors.Ask, name: str) -> None:
    query = monitors.queries(DASHBOARD)[name]

    assert "$" not in query
    assert scraping(query)


def test_what_prometheus_has_is_what_the_check_said(
    scraping: monitors.Ask,
) -> None:
    used = scraping('fork_trace_check_limit_used{cause="pids-cgroup"}')
    refused = scraping('sort_desc(fork_trace_check_cgroup_events_total{event="fork_refused"})')

    assert ["70"] == [each["value"][1] for each in used]
    assert ["281", "3"] == [each["value"][1] for each in refused]
    # safe() has made the newline visible, and the format has escaped the rest.
    assert refused[1]["metric"]["cgroup"].endswith('a"b\\c\\nd')


def test_the_alerts_of_a_bad_host_are_there(
    scraping: monitors.Ask,
) -> None:
    end_s = time.monotonic() + 20
    wanted = {"ForkLimitFull", "ForkRefused", "ForkOomKill"}
    found: set[str] = set()
    while time.monotonic() < end_s and not wanted <= found:
        firing = scraping('ALERTS{alertstate="firing"}')
        found = {each["metric"]["alertname"] for each in firing}
        time.sleep(0.2)

    assert wanted == found
    causes = {each["metric"]["cause"] for each in firing if "cause" in each["metric"]}
    assert {"pids-cgroup", "overcommit-never", "pid-namespace-dead"} == causes


# ------------------------------------------------------------------ the others' files


@pytest.mark.parametrize("path", sorted((DEPLOY / "kubernetes").glob("node-*.json")), ids=str)
def test_a_configuration_of_the_node_problem_detector_is_consistent(path: Path) -> None:
    config = json.loads(path.read_text())

    assert config["plugin"] in ("custom", "kmsg")
    conditions = {each["type"] for each in config["conditions"]}
    for rule in config["rules"]:
        assert rule["type"] in ("permanent", "temporary")
        assert (rule["type"] == "permanent") == ("condition" in rule)
        assert rule.get("condition") in (None, *conditions)
        if "pattern" in rule:
            # kernel/cgroup/pids.c, pids_event()
            assert re.search(rule["pattern"], "cgroup: fork rejected by pids controller in /app")
        else:
            assert ["check", "--npd"] == rule["args"][:2]
            assert config["pluginConfig"]["max_output_length"] >= 80


def test_the_plugin_of_nagios_is_called_as_it_is() -> None:
    text = (DEPLOY / "nagios" / "fork-trace.cfg").read_text()

    assert "fork-trace check --nagios" in text
    assert text.count("{") == text.count("}") == 2


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_the_timer_and_its_service_are_what_systemd_takes(tmp_path: Path) -> None:
    for path in (DEPLOY / "systemd").glob("fork-trace-check.*"):
        # As on a host where it is installed.
        text = path.read_text().replace("/usr/bin/fork-trace ", "/bin/true ")
        (tmp_path / path.name).write_text(text.replace("Documentation=man:fork-trace(8)\n", ""))
    units = [str(each) for each in sorted(tmp_path.iterdir())]

    verified = subprocess.run(
        ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False
    )
    secured = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=30", units[0]],
        capture_output=True,
        text=True,
        check=False,
    )

    assert 2 == len(units)
    assert "fork-trace-check" not in verified.stdout + verified.stderr
    assert 0 == secured.returncode, secured.stdout[-300:] + secured.stderr


def test_with_the_capabilities_of_the_service_a_check_sees_as_much_as_root() -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv")
    text = (DEPLOY / "systemd" / "fork-trace-check.service").read_text()
    (names,) = re.findall(r"^CapabilityBoundingSet=(.*)$", text, re.MULTILINE)
    kept = ",".join(f"+{each[4:].lower()}" for each in names.split())
    command = [sys.executable, "-m", "fork_trace", "check", "--json"]
    bound = ["setpriv", f"--bounding-set=-all,{kept}", "--inh-caps=-all", "--no-new-privs"]

    whole, part = (
        json.loads(
            subprocess.run(
                [*prefix, *command], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, check=False
            ).stdout
        )
        for prefix in ([], bound)
    )

    def unknown(found: dict[str, Any]) -> set[tuple[str, str]]:
        return {
            (each["cause"], each["name"]) for each in found["limits"] if each["level"] == "unknown"
        }

    assert unknown(whole) == unknown(part)
