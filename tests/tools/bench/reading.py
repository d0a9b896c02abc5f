"""How fast and in how much memory `report` reads many captures, beside json.loads on the same lines.

Seconds are of the processor, so that others on the machine count little; still, they are slower seconds then:
what is to be compared is the ratio.
"""

from __future__ import annotations

import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from conftest import make_evidence, make_failure, make_header, make_summary

from fork_trace.model.records import Failure, Frame, to_json

FILES, RECORDS, HOSTS = 50, 1000, 100
ROUNDS = 3
BYTES = 4096  # of a record with the stack of an ordinary program
JOBS, VALUES = 500, 4
_LIBRARY, _PAGE = 0x7F0012345678, 4096


def _stack() -> tuple[Frame, ...]:
    frame = Frame(_LIBRARY, "g_main_context_iterate", "/usr/lib/x86_64-linux-gnu/libglib.so", 4660)
    program = Frame(6766425, "main", "/usr/bin/job", 2572121, "571d98e01096d5c1c32420d2")
    stack: tuple[Frame, ...] = ()
    while len(to_json(make_failure(stack=stack))) < BYTES:
        stack += (frame, program)
    return stack


def _failures(number: int, records: int, stack: tuple[Frame, ...]) -> Iterator[Failure]:
    """Yield those of one capture: jobs of a name each, in processes that lie anywhere."""
    chance = random.Random(number)
    time_ns = (1_764_000_000 + 3600 * number) * 10**9
    for _ in range(records):
        job = f"job{chance.randrange(JOBS)}"
        cgroup = f"/system.slice/{job}.service"
        time_ns += chance.randrange(10**6, 10**9)
        moved = chance.randrange(1 << 24) * _PAGE
        yield make_failure(
            time_ns=time_ns,
            comm=job,
            pid=chance.randrange(2, 1 << 22),
            cgroup=cgroup,
            evidence=(
                make_evidence(
                    where=f"/sys/fs/cgroup{cgroup}", value=64 - chance.randrange(VALUES), limit=64
                ),
            ),
            stack=tuple(
                replace(each, address=each.address + moved) if each.address >= _LIBRARY else each
                for each in stack
            ),
        )


def write(place: Path, files: int, records: int, hosts: int) -> int:
    """Write the captures; return how many bytes they have."""
    stack, total = _stack(), 0
    for number in range(files):
        begun = f"2026-11-28T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z"
        header = make_header(host=f"web-{number % hosts}", time=begun)
        lines = [to_json(header), *map(to_json, _failures(number, records, stack))]
        lines.append(to_json(make_summary(failures=records, causes={"pids-cgroup": records})))
        text = "\n".join(lines) + "\n"
        (place / f"{number:05}.jsonl").write_text(text)
        total += len(text)
    return total


def _json_alone(place: Path) -> float:
    began_s = time.process_time()
    for path in place.iterdir():
        with open(path, "rb") as lines:
            for line in lines:
                json.loads(line)
    return time.process_time() - began_s


# What getrusage tells of a child begins with what its parent has.
_MEASURED = """
import atexit, runpy, sys
atexit.register(lambda: sys.stderr.write(open("/proc/self/status").read()))
runpy.run_module("fork_trace", run_name="__main__", alter_sys=True)
"""


def _report(place: Path) -> tuple[float, float, str]:
    """Return the seconds, the most megabytes resident, and what it says."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURED, "report", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 1, done.stderr
    took_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    most_kib = int(done.stderr.partition("VmHWM:")[2].split()[0])
    return took_s, most_kib * 1024 / 1e6, done.stdout


def measure(files: int = FILES, records: int = RECORDS, hosts: int = HOSTS) -> dict[str, Any]:
    """Write captures, read them in both ways by turns, and remove them."""
    with tempfile.TemporaryDirectory(prefix="fork-trace-bench-") as name:
        place = Path(name)
        megabytes = write(place, files, records, hosts) / 1e6
        alone, report, peak_mb, said = [], [], 0.0, ""
        for _ in range(ROUNDS if files * records <= FILES * RECORDS else 1):
            alone.append(_json_alone(place))
            took_s, most_mb, said = _report(place)
            report.append(took_s)
            peak_mb = max(peak_mb, most_mb)
    return {
        "files": files,
        "records": files * records,
        "hosts": min(hosts, files),
        "megabytes": round(megabytes),
        "megabytes_per_second": round(megabytes / min(report), 2),
        "json_alone": round(megabytes / min(alone), 2),
        "ratio": round(statistics.median(a / r for a, r in zip(alone, report)), 3),
        "peak_rss_mb": round(peak_mb, 1),
        "lines": len(said.splitlines()),
        "first": said.partition("\n")[0],
    }


def text(found: dict[str, Any]) -> str:
    """Say in two lines what was measured."""
    return (
        f"report: {found['megabytes_per_second']} MB in a second of the processor, json.loads alone "
        f"{found['json_alone']}: {found['ratio']} of it\n"
        f"{found['files']} captures of {found['hosts']} hosts, {found['megabytes']} MB: "
        f"{found['lines']} lines, {found['peak_rss_mb']} MB resident"
    )
