"""The recorder on the running kernel: killed outright 23 times, handed over, with a full disk, restarted."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import schema

from .conftest import FORK_TRACE, TIMEOUT_S, start

pytestmark = pytest.mark.live
KILLS = 23
MOST_RESIDENT_BYTES = 30_000_000
COMM = "ft-rlimit-nproc"
TAKES = ("--attach", "tracepoint")  # which every kernel has


def fail(count: int) -> None:
    subprocess.run(
        [*FORK_TRACE, "rehearse", "--count", str(count), "rlimit-nproc"],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=TIMEOUT_S,
    )


class Recording:
    """A recorder in a directory of its own."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        # Of the rehearsal alone: others fork on this host as well.
        chosen = ("--comm", COMM, "--keep-free", "0", *options)
        self.process = start("record", "--directory", str(directory), *chosen)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=TIMEOUT_S)
        return int(self.process.returncode)


def report(directory: Path, *options: str) -> dict[str, Any]:
    done = subprocess.run(
        [*FORK_TRACE, "report", str(directory), "--format", "json", *options],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = schema.validate(json.loads(done.stdout))
    return found


def text_of(file: Path) -> str:
    data = file.read_bytes()
    return (gzip.decompress(data) if file.suffix == ".gz" else data).decode()


def records(directory: Path) -> list[dict[str, Any]]:
    return [
        each for file in sorted(directory.glob("*.jsonl*")) for each in schema.read(text_of(file))
    ]


def test_what_was_recorded_is_what_failed_and_a_new_file_begins_on_request(
    tmp_path: Path, any_host: dict[str, Any]
) -> None:
    recording = Recording(tmp_path / "log", *TAKES)
    fail(23)
    recording.process.send_signal(signal.SIGHUP)
    time.sleep(3)
    fail(7)

    assert 0 == recording.end()
    found = report(tmp_path / "log")
    assert (30, False, []) == (found["failures"], found["lower_bound"], found["gaps"])
    assert Counter(COMM=30) == Counter(COMM=sum(row["count"] for row in found["rows"]))
    kinds = [each["type"] for each in records(tmp_path / "log")]
    assert (2, 2) == (kinds.count("header"), kinds.count("summary"))
    first, second = (
        each["failures"] for each in records(tmp_path / "log") if each["type"] == "summary"
    )
    assert 30 == first + second
    # A name has the second: two that begin in the same one are in any order.
    assert 23 <= max(first, second)


def test_killed_outright_it_has_told_no_more_than_happened(
    tmp_path: Path, any_host: dict[str, Any]
) -> None:
    failed = 0
    for number in range(KILLS):
        recording = Recording(tmp_path / "log", *TAKES)
        fail(number + 1)
        failed += number + 1
        # From in the middle of it to a while after.
        time.sleep(number * 0.05)
        assert -signal.SIGKILL == recording.end(signal.SIGKILL)
        assert report(tmp_path / "log")["failures"] <= failed
    recording = Recording(tmp_path / "log", *TAKES)
    recording.end()

    found = report(tmp_path / "log")
    assert found["lower_bound"]
    assert KILLS == found["unclosed"] == len(found["gaps"])
    # What was on disk a second after is not lost: the last of them waited as long.
    assert found["failures"] >= 23


def test_files_that_begin_in_a_storm_have_every_failure_once(
    tmp_path: Path, any_host: dict[str, Any]
) -> None:
    recording = Recording(tmp_path / "log", *TAKES)
    storm = subprocess.Popen(
        [*FORK_TRACE, "rehearse", "--count", "20000", "rlimit-nproc"], stdout=subprocess.DEVNULL
    )
    while storm.poll() is None:
        recording.process.send_signal(signal.SIGHUP)
        time.sleep(0.7)
    assert 0 == storm.returncode
    assert 0 == recording.end()

    told: Counter[str] = Counter()
    files = sorted((tmp_path / "log").glob("*.jsonl*"))
    for file in files:
        each = schema.read(text_of(file))
        records_of = sum(one["count"] for one in each if one["type"] == "failure")
        (summary,) = (one for one in each if one["type"] == "summary")
        assert summary["failures"] == records_of == sum(one["count"] for one in summary["totals"])
        told["all"] += records_of
    assert len(files) > 1
    assert 20000 == told["all"] == report(tmp_path / "log")["failures"]


def test_a_second_recorder_is_refused_and_the_first_goes_on(
    tmp_path: Path, any_host: dict[str, Any]
) -> None:
    recording = Recording(tmp_path / "log", *TAKES)
    done = subprocess.run(
        [*FORK_TRACE, "record", "--directory", str(tmp_path / "log"), *TAKES],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )

    assert 2 == done.returncode
    assert "another recorder writes to" in done.stderr
    fail(3)
    assert 0 == recording.end()
    assert 3 == report(tmp_path / "log")["failures"]


def test_little_is_resident_while_nothing_fails(tmp_path: Path, any_host: dict[str, Any]) -> None:
    recording = Recording(tmp_path / "log", *TAKES)
    time.sleep(3)
    status = Path(f"/proc/{recording.process.pid}/status").read_text()
    assert 0 == recording.end()

    assert int(status.partition("VmRSS:")[2].split()[0]) * 1024 <= MOST_RESIDENT_BYTES


def test_a_full_disk_costs_no_count(tmp_path: Path, any_host: dict[str, Any]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], check=True)
    try:
        recording = Recording(disk / "log", *TAKES)
        fail(5)
        time.sleep(2)
        with open(disk / "ballast", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
        fail(11)
        time.sleep(12)
        os.unlink(disk / "ballast")
        fail(3)
        assert 0 == recording.end()
        found = report(disk / "log")
        assert (19, False) == (found["failures"], found["lower_bound"])
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
