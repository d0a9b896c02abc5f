"""Instructions per operation with and without tracers: `python -m bench.counting DIRECTORY ...`.

Runs in a guest whose clock counts instructions (scripts/vm --icount), where a nanosecond is one.
The configurations take turns within one boot, so that a ratio always comes from one run. One JSON
object on stdout; progress on stderr.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

from bench import peers
from bench.arming import ARMED
from bench.tracer import Config, Tracer
from fork_trace.collect.arm import read_facts
from fork_trace.probes.plan import Stage, make
from fork_trace.probes.request import Request

NONE = "none"
FAILING = "failing-fork"


class Operation(NamedTuple):
    """A loop of loops.c: how many rounds of it, and in how many processes one after the other."""

    times: int
    processes: int


# Within one process the values agree to 0.1 %; between two of them they differ by up to 1 %, so
# many short ones tell more than a long one.
OPERATIONS = {
    "fork": Operation(100, 16),
    "fork-2000-mappings": Operation(10, 6),
    "fork-2000-accountable": Operation(10, 6),
    "mmap-pair": Operation(8_000, 8),
    "getppid": Operation(200_000, 5),
    FAILING: Operation(2_000, 5),
}
# What is refused beside forks (execve, unshare, the stacks of musl), in calls that go through.
EDGES = {
    "exec": Operation(60, 12),
    "unshare": Operation(200, 8),
    "stack-pair": Operation(8_000, 8),
    "mmap-pair": OPERATIONS["mmap-pair"],
}


def _functions() -> list[str]:
    facts, _library = read_facts(Request())
    return [probe.function for probe in make(facts).probes if probe.stage is Stage.START]


def configs(wanted: Sequence[str], directory: Path) -> dict[str, Config | None]:
    """Return what the names stand for, `none` first."""
    hold = (sys.executable, "-m", "bench.hold")
    floor = (*hold, "floor", str(directory / "floor.bpf.o"))
    # JSON, so that what it reported can be counted; the rest is as by default.
    live = (sys.executable, "-m", "fork_trace", "live", "--json")
    chosen: dict[str, Config | None] = {
        NONE: None,
        "floor": Config(floor, r"^armed"),
        "fexit-default": Config(live, ARMED, "json"),
        "fexit-on-demand": Config((*live, "--on-demand"), ARMED, "json"),
        "fexit-all": Config((*live, "--all-steps"), ARMED, "json"),
        "fexit-refused": Config((*live, "--refused"), ARMED, "json"),
        "latency": Config(
            (sys.executable, "-m", "fork_trace", "latency", "--json"), r"^Watching for forks of"
        ),
        "kprobe": Config((*live, "--attach", "kprobe"), ARMED, "json"),
        "tracepoint": Config((*live, "--attach", "tracepoint"), ARMED, "json"),
    }
    functions = _functions()
    if "peers" in wanted:
        # What the peers are asked for; without a reader, so that no number of a failure says anything.
        five = [word for each in functions if each in peers.FUNCTIONS for word in ("--only", each)]
        chosen["floor five"] = Config((*floor, *five), r"^armed")
        chosen["fexit five"] = Config((*hold, "fexit", *five), r"^armed")
    if "each" in wanted:
        chosen["fexit-no-reader"] = Config((*hold, "fexit"), r"^armed")
        chosen["fexit-large-forks"] = Config((*hold, "fexit", "--large-forks"), r"^armed")
        for function in functions:
            chosen[f"floor {function}"] = Config((*floor, "--only", function), r"^armed")
            chosen[f"fexit {function}"] = Config((*hold, "fexit", "--only", function), r"^armed")
    return chosen


def _loop(loops: Path, name: str, config: Config | None) -> list[tuple[float, float, int]]:
    """Return for each process: instructions in all, its own ones, and how many calls failed."""
    operation = OPERATIONS.get(name) or EDGES[name]
    times = max(10, int(operation.times * (config.share if config else 1)))
    before = config.argv if config and config.starts_them else ()
    values = []
    for _ in range(operation.processes):
        argv = [*before, str(loops), name, str(times)]
        done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
        passed, own, failures = map(int, done.stdout.split())
        values.append((passed / times, own / times, failures))
    return values


def _reported(config: Config, output: Path) -> int | None:
    text = output.read_text(errors="replace")
    if config.report == "json":
        summaries = [json.loads(line) for line in text.splitlines() if '"summary"' in line]
        totals = [
            total for each in summaries if each["type"] == "summary" for total in each["totals"]
        ]
        return sum(int(total["count"]) for total in totals if total["comm"] == "loops")
    return len(re.findall(config.report, text, re.MULTILINE)) if config.report else None


class Gathered:
    """All values of one configuration."""

    def __init__(self) -> None:
        self.turns: list[dict[str, list[float]]] = []
        self.own: list[float] = []
        self.reader: list[float] = []
        self.idle: list[float] = []
        self.to_arm: list[float] = []
        self.rss_mb: list[float] = []
        self.peak_rss_mb: list[float] = []
        self.made = 0
        self.reported: int | None = 0

    @property
    def passed(self) -> dict[str, list[float]]:
        """What each operation took, of all turns."""
        return {
            name: [each for turn in self.turns for each in turn[name]] for name in self.turns[0]
        }

    def run(
        self, config: Config | None, loops: Path, output: Path, names: Sequence[str]
    ) -> str | None:
        """One turn: start the tracer, loop, stop the tracer. Returns why it did not start, or None."""
        tracer = None
        output.unlink(missing_ok=True)  # strace adds to what is there
        if config and not config.starts_them:
            tracer = Tracer(config.argv, config.armed, output, shows=config.shows)
        if config and tracer and tracer.armed_seconds is None:
            return f"did not start: {tracer.end and tracer.end.stderr.strip()}"
        # What arming leaves to do (freeing, by RCU) is not the loops' business. Here sleep is
        # free: the clock jumps while nobody runs.
        time.sleep(2)
        idle = 0.0
        if tracer:
            self.to_arm.append(tracer.armed_cpu_ns)
            self.rss_mb.append(tracer.armed_rss_kb / 1024)
            idle = self._reader_per_second(tracer)
            self.idle.append(idle)
        self.turns.append({})
        for name in names:
            before = tracer.cpu_ns() if tracer else 0
            started_s = time.monotonic()
            values = _loop(loops, name, config)
            self.turns[-1][name] = [passed for passed, _own, _failures in values]
            if name != FAILING:
                continue
            self.own += [own for _passed, own, _failures in values]
            made = sum(failures for _passed, _own, failures in values)
            self.made += made
            if tracer:
                # The reader may be behind: its work counts, whenever it gets to it.
                time.sleep(3)
                used = tracer.cpu_ns() - before - idle * (time.monotonic() - started_s)
                self.reader.append(max(0.0, used) / made)
        if config:
            if tracer:
                self.peak_rss_mb.append(tracer.stop(config.ends_by).peak_rss_kb / 1024)
            got = _reported(config, output)
            self.reported = None if got is None or self.reported is None else self.reported + got
            time.sleep(1)
        return None

    @staticmethod
    def _reader_per_second(tracer: Tracer) -> float:
        before, started_s = tracer.cpu_ns(), time.monotonic()
        time.sleep(5)
        return (tracer.cpu_ns() - before) / (time.monotonic() - started_s)


def _note(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.counting")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--also", action="append", default=[])
    parser.add_argument("--newest", type=Path, help="the root of Debian's newest peers")
    parser.add_argument("--only", action="append", help="just this one, and none, to try it")
    parser.add_argument("--edges", action="store_true", help="the loops of EDGES instead")
    options = parser.parse_args()
    loops_wanted = list(EDGES if options.edges else OPERATIONS)
    with tempfile.TemporaryDirectory() as name:
        # From memory, not from the host: no loop may wait for a file.
        work = Path(name)
        work.chmod(0o755)
        loops = Path(shutil.copy(options.directory / "loops", work / "loops"))
        chosen = configs(options.also, options.directory)
        versions = {}
        if "peers" in options.also:
            found = peers.find(_functions(), loops, work / "out", options.newest)
            chosen.update(found.configs)
            versions = found.versions
            if found.missing:
                _note(f"not here, so left out: {peers.told(found.missing)}")
        if options.only:
            chosen = {name: chosen[name] for name in (NONE, *options.only)}
        gathered = {name: Gathered() for name in chosen}
        for turn in range(options.rounds):
            # There and back, so that what drifts falls on all of them alike.
            for name in list(chosen)[:: 1 if turn % 2 == 0 else -1]:
                _note(f"round {turn + 1} of {options.rounds}: {name}")
                config = chosen[name]
                why = gathered[name].run(config, loops, work / "out", loops_wanted)
                if why is None:
                    continue
                if not config or not config.optional:
                    sys.exit(f"bench: {name} {why}")
                _note(f"{name} {why}; so it is left out")
                del chosen[name], gathered[name]
    print(json.dumps({**_result(gathered), "versions": versions}))


def _result(gathered: dict[str, Gathered]) -> dict[str, Any]:
    def middle(values: Sequence[float], digits: int = 0) -> float | None:
        return round(median(values), digits) if values else None

    base = {name: _typical(name, values) for name, values in gathered[NONE].passed.items()}

    def added(values: Mapping[str, Sequence[float]], to: Mapping[str, float]) -> dict[str, float]:
        return {
            name: round((_typical(name, each) / to[name] - 1) * 100, 2)
            for name, each in values.items()
        }

    bases = [
        {name: _typical(name, values) for name, values in turn.items()}
        for turn in gathered[NONE].turns
    ]
    return {
        "kernel": platform.release(),
        "functions": _functions(),
        "instructions": {
            config: {name: round(_typical(name, values)) for name, values in each.passed.items()}
            for config, each in gathered.items()
        },
        # Half of the distance between the quarter points, in percent of the middle.
        "spread_percent": {
            config: {
                name: round(_spread(values) / median(values) * 100, 3)
                for name, values in each.passed.items()
            }
            for config, each in gathered.items()
        },
        "overhead_percent": {
            config: added(each.passed, base) for config, each in gathered.items() if config != NONE
        },
        "overhead_percent_by_round": {
            config: [added(*both) for both in zip(each.turns, bases)]
            for config, each in gathered.items()
            if config != NONE
        },
        "failing_fork": {
            config: {
                "made": each.made,
                "reported": each.reported if config != NONE else None,
                "total": round(_typical(FAILING, each.passed[FAILING])),
                "own": round(mean(each.own)),
                "reader": round(mean(each.reader)) if each.reader else None,
            }
            for config, each in gathered.items()
            if FAILING in each.passed
        },
        "idle_instructions_per_second": {
            config: middle(each.idle) for config, each in gathered.items() if each.idle
        },
        "instructions_to_arm": {
            config: middle(each.to_arm) for config, each in gathered.items() if each.to_arm
        },
        "rss_mb": {
            config: {"armed": middle(each.rss_mb, 1), "peak": middle(each.peak_rss_mb, 1)}
            for config, each in gathered.items()
            if each.rss_mb
        },
    }


def _typical(name: str, values: Sequence[float]) -> float:
    """Return what one operation takes.

    While nothing fails, whatever else runs only adds, and in bursts: the lower quarter point shuts
    it out, and with it an idle reader, whose price is shown by itself. Among failures the reader is
    part of the price, and comes in bursts: there it is the mean.
    """
    if name == FAILING:
        return mean(values)
    ordered = sorted(values)
    return ordered[len(ordered) // 4]


def _spread(values: Sequence[float]) -> float:
    ordered = sorted(values)
    quarter = len(ordered) // 4
    return (ordered[-1 - quarter] - ordered[quarter]) / 2


if __name__ == "__main__":
    main()
