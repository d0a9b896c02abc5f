"""A storm of forks from files, names and perf maps that were made to be dear: nobody waits, nothing is lost.

Runs natively too, in the lowest attach mode. FORK_TRACE_HOSTILE_S is how long it storms: a minute is the whole of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import hostile
import pytest
from building import PROGRAMS

from .conftest import IS_GUEST, Captured, doctor, read_capture, start

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="its files hold code of x86-64"),
]

STORM_S = float(os.environ.get("FORK_TRACE_HOSTILE_S", "12"))
UID = 61007
LINES = 1_490_000
# push %rbp; mov %rsp, %rbp; call *%rdi; pop %rbp; ret
BRIDGE = b"\x55\x48\x89\xe5\xff\xd7\x5d\xc3"
COPIES = {"symbols": 3, "programs": 6, "relocations": 6}  # the others are small
MOST_GROWTH_MIB = 64
# Of the tool's own time: others may keep the CPU from it for longer.
MOST_CPU_S, MOST_WAIT_S = (10.0, 30.0) if IS_GUEST else (1.0, 5.0)
MOST_RECORD_BYTES, MOST_FILE_BYTES = 64 << 10, 50 << 20


@dataclass(frozen=True)
class Storm:
    """What was captured, what the program saw, and what the tool took meanwhile."""

    captured: Captured
    lines: list[str]
    refused: int
    quiet_mib: float
    peak_mib: float
    ended_s: float  # from Ctrl-C to the end
    ended_cpu_s: float  # the same, of the tool's own time


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


@pytest.fixture(scope="module")
def files() -> Iterator[tuple[Path, list[str]]]:
    """A program with long names, and hostile files that it can map and run."""
    with tempfile.TemporaryDirectory(prefix="ft-strange-") as directory:
        place = Path(directory)
        place.chmod(0o755)
        name = f"-DLONG={'long_' * 800}"
        argv = ["cc", "-O1", "-g0", "-rdynamic", name, "-o", str(place / "strange")]
        subprocess.run([*argv, str(PROGRAMS / "strange.c")], check=True)
        paths = []
        for kind, make in hostile.ELFS.items():
            whole = bytearray(make() if kind != "programs" else hostile.long_entries(30))
            whole[hostile.CODE_AT : hostile.CODE_AT + len(BRIDGE)] = BRIDGE
            for number in range(COPIES.get(kind, 20)):
                path = place / f"{kind}-{number}.so"
                path.write_bytes(whole)
                paths.append(str(path))
        yield place / "strange", paths


@pytest.fixture(scope="module")
def storm(files: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Storm:
    """One storm, and Ctrl-C at its end, while there is still to be told what it did."""
    doctor("--attach", "tracepoint")
    program, paths = files
    output = tmp_path_factory.mktemp("storm") / "c.jsonl"
    tool = start("capture", "--attach", "tracepoint", "--uid", str(UID), "--output", str(output))
    time.sleep(1)
    quiet_mib = peak_mib = rss_mib(tool.pid)
    argv = [str(program), str(STORM_S), str(LINES), *paths]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as strange:
        assert strange.stdout is not None
        assert "ready\n" == strange.stdout.readline()
        # Until it has said how many were refused, memory is looked at.
        until_s = time.monotonic() + STORM_S
        while time.monotonic() < until_s:
            peak_mib = max(peak_mib, rss_mib(tool.pid))
            time.sleep(0.05)
        refused = int(strange.stdout.readline())
        peak_mib = max(peak_mib, rss_mib(tool.pid))
        began_s, used_s = time.monotonic(), cpu_s(tool.pid)
        before_s = sum(os.times()[2:4])
        tool.send_signal(signal.SIGINT)
        told, complaints = tool.communicate(timeout=120)
        ended_s = time.monotonic() - began_s
        ended_cpu_s = sum(os.times()[2:4]) - before_s - used_s
        strange.communicate("\n")
    done = subprocess.CompletedProcess([], tool.returncode, told, complaints)
    captured = read_capture(output, done)
    print(
        f"{STORM_S:.0f} s: {refused} refused, {len(captured.failures)} records, "
        f"{output.stat().st_size >> 10} KiB; quiet {quiet_mib:.1f} MiB, peak {peak_mib:.1f} MiB; "
        f"ended in {ended_s:.2f} s, of its own {ended_cpu_s:.2f} s"
    )
    lines = output.read_text().splitlines()
    return Storm(captured, lines, refused, quiet_mib, peak_mib, ended_s, ended_cpu_s)


def test_no_failure_is_lost(storm: Storm) -> None:
    summary = storm.captured.summary

    assert storm.refused > 100
    assert storm.refused == summary["failures"]
    assert storm.refused == sum(failure["count"] for failure in storm.captured.failures)
    assert 0 == summary["lost"]


def test_ctrl_c_is_answered_within_a_second(storm: Storm) -> None:
    assert storm.captured.done.returncode == 1
    assert storm.ended_cpu_s < MOST_CPU_S
    assert storm.ended_s < MOST_WAIT_S


def test_memory_stays_near_that_of_a_quiet_run(storm: Storm) -> None:
    assert storm.peak_mib < storm.quiet_mib + MOST_GROWTH_MIB


def test_records_and_the_file_have_their_size(storm: Storm) -> None:
    assert max(map(len, storm.lines)) <= MOST_RECORD_BYTES
    assert sum(map(len, storm.lines)) <= MOST_FILE_BYTES


def test_what_is_honest_of_it_is_named_all_the_same(storm: Storm) -> None:
    symbols = {frame["symbol"] for failure in storm.captured.failures for frame in failure["stack"]}
    assert "own_job" in symbols
    assert any(symbol and symbol.startswith("long_long_") for symbol in symbols)
    assert max(len(symbol or "") for symbol in symbols) <= 512
