"""The commands as a person runs them: signals, files, exit codes, JSON, cgroup v1."""

from __future__ import annotations

import json
import signal
import stat
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
import schema

from .conftest import FORK_TRACE, TIMEOUT_S, capture, start

pytestmark = pytest.mark.live


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_capture_with_its_report(
    number: signal.Signals, usable: dict[str, Any], build: Any, tmp_path: Path
) -> None:
    file = tmp_path / "c.jsonl"
    process = start("capture", "--output", str(file))
    subprocess.run([build("fork_kinds"), "fork", "5"], check=True, capture_output=True)
    process.send_signal(number)
    text, _ = process.communicate(timeout=TIMEOUT_S)

    assert process.returncode == 1
    assert "rlimit-nproc" in text
    assert json.loads(file.read_text().splitlines()[-1])["ended"] == "signal"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_capture_in_which_nothing_fails_says_so_and_exits_0(
    usable: dict[str, Any], tmp_path: Path
) -> None:
    done = subprocess.run(
        [*FORK_TRACE, "capture", "--comm", "nobody", "--", "true"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )

    assert done.returncode == 0
    assert done.stdout.startswith("No fork failed")


def test_capture_json_keeps_stdout_for_records(usable: dict[str, Any], build: Any) -> None:
    done = subprocess.run(
        [*FORK_TRACE, "capture", "--json", "--", build("fork_kinds"), "vfork", "3"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    types = [record["type"] for record in schema.read(done.stdout)]

    assert types[0] == "header"
    assert types[-1] == "summary"
    assert types.count("failure") >= 3
    assert "\n3\n" in done.stderr


def test_live_ends_by_itself_and_sums_up(usable: dict[str, Any], build: Any) -> None:
    process = start("live", "--duration", "4", "--interval", "1")
    subprocess.run([build("fork_kinds"), "clone3", "5"], check=True, capture_output=True)
    text, errors = process.communicate(timeout=TIMEOUT_S)

    assert process.returncode == 0, errors
    assert "fork_kinds" in text
    assert "rlimit-nproc" in text
    assert "\033" not in text


def test_live_json_is_one_record_a_line(usable: dict[str, Any], build: Any) -> None:
    process = start("live", "--json", "--duration", "4")
    subprocess.run([build("fork_kinds"), "thread", "5"], check=True, capture_output=True)
    text, _ = process.communicate(timeout=TIMEOUT_S)
    records = schema.read(text)
    ours = [r for r in records if r["type"] == "failure" and r["comm"] == "fork_kinds"]

    assert (records[0]["type"], records[-1]["type"]) == ("header", "summary")
    assert sum(record["count"] for record in ours) == 5
    assert {record["creates"] for record in ours} == {"thread"}


def end_after(first: subprocess.Popen[bytes], then: subprocess.Popen[str]) -> None:
    first.wait(timeout=TIMEOUT_S)
    then.send_signal(signal.SIGTERM)


def test_live_counts_a_storm_once_though_it_looks_in_the_midst_of_it(
    usable: dict[str, Any], build: Any
) -> None:
    process = start("live", "--json", "--interval", "0.05", "--comm", "fork_kinds")
    storm = subprocess.Popen([build("fork_kinds"), "fork", "20011"], stdout=subprocess.PIPE)
    # Read while it runs: a full pipe would make the tool wait for us.
    threading.Thread(target=end_after, args=(storm, process)).start()
    text, _ = process.communicate(timeout=TIMEOUT_S)
    records = schema.read(text)
    failures = [record for record in records if record["type"] == "failure"]

    assert sum(failure["count"] for failure in failures) == 20011
    assert records[-1]["failures"] == 20011
    assert sum(row["count"] for row in records[-1]["rows"]) == 20011


def test_two_at_once_count_the_same(usable: dict[str, Any], build: Any, tmp_path: Path) -> None:
    process = start("capture", "--json", "--comm", "fork_kinds")
    captured = capture(tmp_path / "c.jsonl", build("fork_kinds"), "fork", "23")
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=TIMEOUT_S)

    assert captured.exact("fork_kinds") == 23
    assert json.loads(text.splitlines()[-1])["failures"] == 23


def test_denied_btf_is_told_in_one_sentence(usable: dict[str, Any]) -> None:
    done = subprocess.run(
        # Left to itself it takes bcc, where that can be had: see test_bcc.py.
        [*FORK_TRACE, "live", "--backend", "libbpf", "--without", "btf"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )

    assert done.returncode == 2
    assert done.stdout == ""
    assert "denied by --without btf" in done.stderr
    assert "Traceback" not in done.stderr
