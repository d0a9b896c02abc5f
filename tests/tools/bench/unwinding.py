"""What naming a caller costs: stacks a second on one core, and memory after many of many programs.

Real stacks of real programs: each of 200 C programs with functions of its own is refused once under
`fork-trace capture`'s own session, and what the kernel sent of it is unwound again and again.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fork_trace.collect.arm import read_facts
from fork_trace.model import events, sizes
from fork_trace.probes.backend import Filter
from fork_trace.probes.libbpf.backend import LibbpfBackend
from fork_trace.probes.plan import make
from fork_trace.probes.request import Request
from fork_trace.stacks.layouts import Caller
from fork_trace.stacks.symbols import Symbols

PROGRAMS = 200
SAMPLES = 10_000
DEPTH = 12

_FUNCTION = """
__attribute__((noinline, noclone)) int job_{n}_{m}(int x)
{{ int y = {inner}; calls++; return y + 1; }}
"""


def _source(number: int) -> str:
    functions = [
        _FUNCTION.format(n=number, m=0, inner='popen("true", "r") != 0'),
        *(
            _FUNCTION.format(n=number, m=level, inner=f"job_{number}_{level - 1}(x)")
            for level in range(1, DEPTH)
        ),
    ]
    return f"""
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
volatile int calls;
{"".join(functions)}
int main(void)
{{
	struct rlimit one = {{ 1, 1 }};
	if (setrlimit(RLIMIT_NPROC, &one) || setresuid(61003, 61003, 61003))
		return 2;
	job_{number}_{DEPTH - 1}(1);
	pause();
	return 0;
}}
"""


def _build(directory: Path) -> list[Path]:
    built = []
    for number in range(PROGRAMS):
        source = directory / f"p{number}.c"
        source.write_text(_source(number))
        built.append(directory / f"p{number}")
        subprocess.run(
            [
                "cc",
                "-O2",
                "-fomit-frame-pointer",
                "-D_GNU_SOURCE",
                "-w",
                "-o",
                str(built[-1]),
                str(source),
            ],
            check=True,
        )
    return built


def _sampled(programs: list[Path]) -> tuple[list[tuple[events.Event, events.Stack]], list[Any]]:
    """Have each program refused once; it goes on living, so that its files can be read."""
    wishes = Request("tracepoint")
    facts, library = read_facts(wishes)
    assert library is not None
    backend = LibbpfBackend(library, make(facts, wishes), Filter(uid=61003), 50, sizes.STACK_BYTES)
    found: dict[tuple[int, int], events.Event] = {}
    stacks: dict[tuple[int, int], events.Stack] = {}
    running = []
    try:
        for program in programs:
            running.append(subprocess.Popen([str(program)]))
            if len(running) % 20 == 0:
                time.sleep(0.2)
                _drain(backend, found, stacks)
        time.sleep(0.5)
        _drain(backend, found, stacks)
    finally:
        backend.close()
    return [(found[key], stacks[key]) for key in found if key in stacks], running


def _drain(
    backend: LibbpfBackend,
    found: dict[tuple[int, int], events.Event],
    stacks: dict[tuple[int, int], events.Stack],
) -> None:
    for raw in backend.poll(0.1):
        event = events.decode(raw)
        found[event.time_ns, event.tid] = event
    for raw in backend.stacks():
        stack = events.decode_stack(raw)
        stacks[stack.time_ns, stack.tid] = stack


def _rss_mb() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _turn(
    symbols: Symbols, samples: list[tuple[events.Event, events.Stack]], count: int
) -> tuple[float, int]:
    """Unwind and name so many stacks, the programs in turn; return the CPU seconds and frames."""
    frames = 0
    began_s = time.process_time()
    for number in range(count):
        event, stack = samples[number % len(samples)]
        caller = Caller(event.pid, event.key.uid)
        symbols.note(caller, event.user_frames, stack)
        frames += len(symbols.frames(caller, event.user_frames, stack)[0])
    return time.process_time() - began_s, frames


def measure() -> dict[str, Any]:
    """Build, sample and unwind; the numbers of the README."""
    with tempfile.TemporaryDirectory(prefix="fork-trace-bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        samples, running = _sampled(_build(directory))
        try:
            symbols = Symbols()
            before_mb = _rss_mb()
            first_s, _ = _turn(symbols, samples, len(samples))
            one_s, _ = _turn(symbols, samples[:1], SAMPLES // 10)
            many_s, frames = _turn(symbols, samples, SAMPLES)
            after_mb = _rss_mb()
            symbols.close()
        finally:
            for process in running:
                process.kill()
                process.wait()
    return {
        "programs": len(samples),
        "frames_per_stack": round(frames / SAMPLES, 1),
        "stacks_per_second": {
            "first-of-each-program": round(len(samples) / first_s),
            "of-one-program": round(SAMPLES / 10 / one_s),
            "of-all-in-turn": round(SAMPLES / many_s),
        },
        "samples": SAMPLES,
        "rss_mb": {
            "before": round(before_mb, 1),
            "after": round(after_mb, 1),
            "peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3, 1),
        },
    }


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("bench.unwinding: needs root, to see real failures.")
    print(json.dumps(measure()))
