"""How long `fork-trace live [OPTIONS]` takes until it counts, until it explains, and its memory: `python -m bench.arming N [OPTIONS]`.

Natively or in a guest, one JSON object on stdout. Where the kernel refuses our programs the time
ends with the process, right after the refused load; the object says so.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.tracer import Tracer

# Where all is attached at once only the second line comes.
COUNTS, ARMED = r"^Counting fork failures", r"^Watching for fork failures"
REFUSED = "this kernel refuses the program"


def _spread(values: list[float], digits: int) -> dict[str, float]:
    return {
        "median": round(median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
        "first": round(values[0], digits),  # the files may not have been in memory yet
    }


def measure(times: int, options: Sequence[str] = (), peer: Sequence[str] = ()) -> dict[str, Any]:
    """Start it so many times; or a peer that says "armed" on stderr, or else `why` it does not start."""
    seconds: list[float] = []
    cpu_s: list[float] = []
    explained_s: list[float] = []
    explained_cpu_s: list[float] = []
    rss_mb: list[float] = []
    peak_mb: list[float] = []
    until = ""
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(times):
            tracer = Tracer(
                peer or [sys.executable, "-m", "fork_trace", "live", *options],
                r"^armed" if peer else ARMED,
                Path(directory, "out"),
                begins=None if peer else COUNTS,
            )
            if tracer.armed_seconds is not None:
                until = "armed"
                whole = tracer.armed_seconds, tracer.armed_cpu_ns
                begun_s, begun_ns = tracer.begun or whole
                seconds.append(begun_s)
                cpu_s.append(begun_ns / 1e9)
                explained_s.append(whole[0])
                explained_cpu_s.append(whole[1] / 1e9)
                rss_mb.append(tracer.armed_rss_kb / 1024)
                # The kernel's mark of this very program. ru_maxrss would do as well, but it
                # counts what the parent held before exec.
                peak_mb.append(tracer.armed_peak_rss_kb / 1024)
                tracer.stop()
            elif tracer.end and REFUSED in tracer.end.stderr:
                until = "load"
                seconds.append(tracer.end.seconds)
                peak_mb.append(tracer.end.peak_rss_kb / 1024)
            else:
                tracer.stop()
                why = tracer.end.stderr.strip() if tracer.end else "no start line"
                if peer:
                    return {"why": why.partition("\n")[0]}
                sys.exit(f"bench: fork-trace live did not start: {why}")
    return {
        "until": until,
        "kernel": platform.release(),
        "times": times,
        "seconds": _spread(seconds, 3),
        # In billions of instructions, on a clock that counts them.
        "cpu_seconds": _spread(cpu_s, 3) if cpu_s else None,
        # The same until it explains as well, which a peer does not.
        "explained_seconds": _spread(explained_s, 3) if explained_s and not peer else None,
        "explained_cpu_seconds": _spread(explained_cpu_s, 3) if explained_s and not peer else None,
        "peak_rss_mb": _spread(peak_mb, 1),
        "armed_rss_mb": _spread(rss_mb, 1) if rss_mb else None,
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), sys.argv[2:])))
