"""How fast and in how much memory `report` reads many captures: python tests/tools/reading.py DIRECTORY FILES RECORDS HOSTS.

Writes FILES captures of RECORDS failures of 4 KB each into DIRECTORY/captures, reads them as `report` does, removes
them, and prints one JSON object. Seconds are of the processor, so that others on the machine do not count.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from conftest import make_evidence, make_failure, make_header, make_summary

from fork_trace.model.records import Frame, to_json

BYTES = 4096


def made(place: Path, files: int, records: int, hosts: int) -> int:
    """Write the captures; return how many bytes they have."""
    place.mkdir(parents=True)
    frame = Frame(
        0x7F0012345678, "g_main_context_iterate", "/usr/lib/x86_64-linux-gnu/libglib-2.0.so", 4660
    )
    stack: tuple[Frame, ...] = ()
    while len(to_json(make_failure(stack=stack))) < BYTES:
        stack += (frame,)
    failure = to_json(
        make_failure(
            comm="COMM",
            stack=stack,
            cgroup="/CGROUP",
            evidence=(make_evidence(where="/sys/fs/cgroup/CGROUP"),),
        )
    )
    total = 0
    for number in range(files):
        header = make_header(
            host=f"web-{number % hosts}",
            time=f"2026-11-28T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}Z",
        )
        lines = [to_json(header)]
        for each in range(records):
            name = f"job{(number * records + each) % 500}"
            lines.append(
                failure.replace("COMM", name).replace("CGROUP", f"system.slice/{name}.service")
            )
        lines.append(to_json(make_summary(failures=records, causes={"pids-cgroup": records})))
        text = "\n".join(lines) + "\n"
        (place / f"{number:05}.jsonl").write_text(text)
        total += len(text)
    return total


def main() -> None:
    """Write, read, remove, tell."""
    directory, files, records, hosts = Path(sys.argv[1]), *map(int, sys.argv[2:])
    place = directory / "captures"
    try:
        size = made(place, files, records, hosts)
        done = subprocess.run(
            [sys.executable, "-m", "fork_trace", "report", str(place)],
            capture_output=True,
            text=True,
            check=False,
        )
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    assert done.returncode == 1, done.stderr
    cpu_s = used.ru_utime + used.ru_stime
    found = {
        "files": files,
        "records": files * records,
        "hosts": hosts,
        "megabytes": round(size / 1e6),
        "cpu_seconds": round(cpu_s, 1),
        "megabytes_per_second": round(size / 1e6 / cpu_s, 1),
        "peak_rss_mb": round(used.ru_maxrss * 1024 / 1e6, 1),
        "lines": len(done.stdout.splitlines()),
        "first": done.stdout.splitlines()[0],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
