"""What a storm of failing forks costs the reader, and whether any is lost: `python -m bench.storm DIRECTORY SECONDS`.

Runs in a guest whose clock counts instructions (scripts/vm --icount), where a nanosecond is one. One JSON object
on stdout.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.arming import ARMED
from bench.counting import FAILING
from bench.tracer import Tracer

SECONDS = 60
_AT_ONCE = 20_000  # in one process, one process after the other


def measure(directory: Path, seconds: int) -> dict[str, Any]:
    """Let forks fail for so long, as fast as they can, beside `live --json` as it is by default."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        work.chmod(0o755)
        loops = Path(shutil.copy(directory / "loops", work / "loops"))
        argv = [sys.executable, "-m", "fork_trace", "live", "--json"]
        tracer = Tracer(argv, ARMED, work / "out")
        if tracer.armed_seconds is None:
            sys.exit(f"bench: live did not start: {tracer.end and tracer.end.stderr}")
        time.sleep(2)
        made, before_ns, began_s = 0, tracer.cpu_ns(), time.monotonic()
        while time.monotonic() < began_s + seconds:
            done = subprocess.run(
                [str(loops), FAILING, str(_AT_ONCE)], check=True, stdout=subprocess.PIPE, text=True
            )
            made += int(done.stdout.split()[2])
        passed_s = time.monotonic() - began_s
        # What it is behind with is its work as well.
        time.sleep(3)
        used_s = (tracer.cpu_ns() - before_ns) / 1e9
        peak_kb = tracer.stop().peak_rss_kb
        records = [json.loads(line) for line in (work / "out").read_text().splitlines()]
    summary = records[-1]
    totals = [each for each in summary["totals"] if each["comm"] == "loops"]
    return {
        "kernel": platform.release(),
        "seconds": round(passed_s, 1),
        "made": made,
        "difference": made - sum(each["count"] for each in totals),
        "causes": sorted({each["cause"] for each in totals}),
        "records": sum(each["type"] == "failure" for each in records),
        "lost": summary["lost"],
        "reader_percent": round(100 * used_s / passed_s, 2),
        "peak_rss_mb": round(peak_kb / 1024, 1),
    }


def text(found: dict[str, Any]) -> str:
    """Say in one line what was measured."""
    return (
        f"storm of {found['seconds']} s on {found['kernel']}: {found['made']} failed forks, "
        f"{found['difference']} not counted, {found['lost']} samples lost; {found['records']} "
        f"records, by {found['reader_percent']} % of a CPU in {found['peak_rss_mb']} MB at the most"
    )


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
