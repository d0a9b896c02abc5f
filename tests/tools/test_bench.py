"""The bench's tables, from numbers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from bench import peers, reading, table
from bench.counting import FAILING, OPERATIONS

LOOPS = {name: 1000.0 * number for number, name in enumerate(OPERATIONS, 1)}
SPREAD = {"median": 1.5, "min": 1.25, "max": 1.75, "first": 1.75}
ARMED = {"kernel": "6.1.0", "seconds": SPREAD, "cpu_seconds": SPREAD, "peak_rss_mb": SPREAD}


def result() -> dict[str, Any]:
    """As much of a result as the book shows."""
    over = {name: 1.25 for name in OPERATIONS}
    over["getppid"], over["mmap-pair"] = 0.01, 85.4
    failing = {"made": 11000, "total": 31234, "own": 1, "reader": 2}
    return {
        "command": "scripts/bench",
        "kernel": "6.1.0",
        "date": "2026-11-21",
        "cpu": "A processor",
        "instructions": {"none": LOOPS, "floor": LOOPS, "fexit-default": LOOPS},
        "overhead_percent": {"floor": over, "fexit-default": over},
        "failing_fork": {
            "none": {**failing, "reported": None},
            "floor": {**failing, "reported": 0},
            "fexit-default": {**failing, "reported": 10999},
        },
        "instructions_to_arm": {"floor": 1e8, "fexit-default": 1.4e9},
        "rss_mb": {"fexit-default": {"armed": 22.9, "peak": 36.8}},
        "armed": {
            "native": {**ARMED, "explained_seconds": None, "armed_rss_mb": SPREAD},
            "vm-6.1-bcc": {**ARMED, "explained_cpu_seconds": SPREAD, "armed_rss_mb": None},
        },
    }


def compared(*rounds: float) -> dict[str, Any]:
    """A result with peers, of which a small fork took so much more in each round."""
    found = result()
    for name in ("floor five", "newest bpftrace kretfunc", "perf trace --failure", "fexit-default"):
        found["overhead_percent"][name] = {**found["overhead_percent"]["floor"], "fork": rounds[0]}
    for name in found["overhead_percent"]:
        found["instructions"][name] = LOOPS
        found["failing_fork"].setdefault(name, found["failing_fork"]["floor"])
    found["overhead_percent_by_round"] = {
        name: [{"fork": each} for each in rounds] for name in found["overhead_percent"]
    }
    found["versions"] = {"newest bpftrace kretfunc": "0.27.1", "perf trace --failure": "6.1.187"}
    return found


def rows(name: str, found: dict[str, Any] | None = None) -> list[list[str]]:
    """What stands behind this name, wherever a line begins with it."""
    lines = table.docs(found or result()).splitlines()
    return [
        re.split(r"  +", line[len(name) :].strip())
        for line in lines
        if line.startswith(f"{name}  ")
    ]


def test_the_book_shows_each_tracer_that_was_measured_and_no_other() -> None:
    added, failing = rows("fork-trace")

    assert ["+1.25 %", "+1.25 %", "+1.25 %", "+85 %", "0"] == added
    assert ["31.2 k", "10,999 of 11,000", "1.40 G", "23", "37"] == failing
    assert ["31.2 k", "-", "0.10 G", "-", "-"] == rows("floor: empty programs")[1]
    assert [] == rows("bpftrace kretfunc")


def test_arming_is_seconds_here_and_instructions_in_a_guest() -> None:
    assert [["6.1.0", "1.50 s", "1.25-1.75", "-", "2", "2"]] == rows("native")
    assert [["6.1.0", "1.50 G", "1.25-1.75", "1.50 G", "-", "2"]] == rows("kprobe, bcc")


def test_the_block_says_kernel_processor_date_and_command() -> None:
    text = " ".join(table.docs(result()).split())

    assert all(each in text for each in ("Linux 6.1.0", "A processor", "2026-11-21"))
    assert "Measured by `scripts/bench`" in text
    assert f"takes {LOOPS[FAILING] / 1000:.1f} k instructions" in text


def test_the_block_fits_a_terminal() -> None:
    assert max(map(len, table.docs(result()).splitlines())) < 80


def test_reading_is_measured_on_captures_that_are_gone_again() -> None:
    found = reading.measure(3, 5, 2)

    assert (3, 15, 2) == (found["files"], found["records"], found["hosts"])
    assert "15 failures" in found["first"]
    assert 0 < found["megabytes_per_second"]
    assert 10 < found["peak_rss_mb"] < 100


def test_peers_stand_side_by_side_with_what_each_round_took() -> None:
    found = compared(1.5, 1.25, 1.75)

    assert ["1.50 %", "1.25-1.75", "-", "-"] == [
        cell.lstrip("+") for cell in rows("bpftrace 0.27, newest", found)[0]
    ]
    assert ["-", "-", "+1.50 %", "1.25-1.75"] in rows("perf trace 6.1", found)
    assert ["+1.50 %", "-0.25 to 1.75"] == rows("fork-trace", compared(1.5, -0.25, 1.75))[1][2:]
    assert "SPREAD is between 3 rounds of one boot" in " ".join(table.docs(found).split())
    assert max(map(len, table.docs(found).splitlines())) < 80


def test_one_round_has_no_spread() -> None:
    assert ["+1.50 %", "-"] == rows("bpftrace 0.27, newest", compared(1.5))[0]
    assert "SPREAD" not in table.docs(compared(1.5))


def test_without_peers_nothing_stands_side_by_side() -> None:
    assert "FIVE" not in table.docs(result())


def test_a_peer_has_its_version_in_its_name() -> None:
    assert [] != rows("bpftrace 0.27 fexit", compared(1.5))
    assert "bpftrace kretfunc" == table.name(result(), "bpftrace kretfunc")


def program(directory: Path, name: str, text: str) -> None:
    """A program that prints this, whatever it is asked."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\necho '{text}'\n")
    (directory / name).chmod(0o755)


def find(tmp_path: Path) -> peers.Found:
    return peers.find(list(peers.FUNCTIONS), tmp_path / "loops", tmp_path / "out")


def test_peers_that_are_missing_are_left_out_and_what_to_install_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "strace", "strace -- version 6.1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    monkeypatch.setattr("shutil.which", lambda name: name if name == "strace" else None)
    found = find(tmp_path)

    assert {"strace calls", "strace -f"} == found.configs.keys()
    assert {"6.1"} == set(found.versions.values())
    assert ["bpftrace", "perf", "retsnoop", "trace-bpfcc"] == sorted(found.missing)
    assert "trace-bpfcc (apt install bpfcc-tools)" in peers.told(found.missing)


@pytest.mark.parametrize("state", ["on ", "OFF"])
def test_perf_counts_in_bpf_where_it_was_built_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    program(tmp_path / "bin", "perf", f"perf version 7.2.13 bpf_skeletons: [ {state} ]")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")
    found = find(tmp_path)

    assert ("perf trace --bpf-summary" in found.configs) == (state == "on ")
    assert ("perf trace --bpf-summary" in found.missing) == (state != "on ")
    assert "7.2.13" == found.versions["perf trace --failure"]


def test_the_newest_run_within_their_root_and_see_the_loops(tmp_path: Path) -> None:
    root = tmp_path / "root"
    program(root / "usr/bin", "bpftrace", "")
    place = peers.Place(root, tmp_path)

    assert place.has("bpftrace") and not place.has("perf")
    assert ("unshare", "bpftrace") == (place.command("bpftrace")[0], place.command("bpftrace")[-1])
    assert {str(root), str(tmp_path)} <= set(place.command("bpftrace"))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("bpftrace kretfunc", "fexit:vmlinux:copy_process 146 loops -11"),
        ("bpftrace calls", "tracepoint:syscalls:sys_exit_clone 179 loops -11"),
        ("bcc trace", "146     146     loops           copy_process     -11"),
        ("bcc trace calls", "146     146     loops           sys_exit_clone   -11"),
        ("retsnoop", "!   13us [-EAGAIN]  copy_process                         "),
        ("retsnoop -F", "    13us [-EAGAIN]  copy_process+0x5                     "),
        ("perf trace --failure", " 1.5 ( 0.09 ms): loops/157 clone(flags: SIGCHLD) = -1 EAGAIN (R"),
        (
            "perf trace calls",
            " 1.5 ( 0.09 ms): loops/157 clone() = -1 (unknown) (Resource temporarily unavailable)",
        ),
        (
            "strace -f",
            "172   clone(child_stack=NULL) = -1 EAGAIN (Resource temporarily unavailable)",
        ),
    ],
)
def test_what_a_peer_prints_of_a_failed_fork_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, line: str
) -> None:
    for each in peers.SOURCES:
        program(tmp_path / "bin", each, "1.2")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/bin:/usr/bin")

    report = find(tmp_path).configs[name].report
    assert 2 == len(re.findall(report, f"{line}\nanother line\n{line}\n", re.MULTILINE))
