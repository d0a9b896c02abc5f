"""The bench's tables, from numbers."""

from __future__ import annotations

import re
from typing import Any

from bench import reading, table
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


def rows(name: str) -> list[list[str]]:
    """What stands behind this name, wherever a line begins with it."""
    lines = table.docs(result()).splitlines()
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
