"""The rungs of the running kernel, each with every rehearsal: `python -m accuracy.capturing KERNEL`.

One JSON object on stdout for each rung, as soon as it is done: its cells, or why this kernel has not
that rung. In a guest (FORK_TRACE_VM) host-wide rehearsals are made too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from accuracy.judging import NOT_HERE, WRONG, Verdict, judge
from fork_trace.rehearse import SCENARIOS, Scenario, find

# By libbpf, but for bcc, which has the kprobe rung only.
RUNGS = ("fexit", "kprobe", "bcc", "tracepoint")
TIMEOUT_S = 1500  # under emulation everything takes ten to thirty times as long

_HOST_WIDE = "would take a limit of the whole host away: only in a virtual machine"
# Thread stacks are seen without --refused.
_STACK_STEPS = ("mmap", "mprotect")


class RungRefusedError(Exception):
    """The capture could not begin; what it said."""


class Captured(NamedTuple):
    """What was recorded, what each rehearsal said of itself, and what went wrong with it all."""

    records: list[dict[str, Any]]
    told: dict[str, dict[str, Any]]
    trouble: str = ""


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    # A last line without an end is of a process that was killed.
    return [json.loads(line) for line in file.read_text().splitlines(True) if line.endswith("\n")]


def capture(rung: str, scenarios: Sequence[Scenario], refused: bool, host_wide: bool) -> Captured:
    """Make the rehearsals under one capture."""
    with tempfile.TemporaryDirectory(prefix="fork-trace-accuracy-") as name:
        records, told = Path(name, "capture.jsonl"), Path(name, "told.jsonl")
        command = [sys.executable, "-m", "fork_trace", "capture", "--output", str(records)]
        command += (
            ["--backend", "bcc"] if rung == "bcc" else ["--backend", "libbpf", "--rung", rung]
        )
        command += [*(["--refused"] if refused else []), "--"]
        command += [sys.executable, "-m", "accuracy.making", str(told)]
        command += [*(["--host-wide"] if host_wide else []), *(each.name for each in scenarios)]
        trouble = ""
        try:
            done = subprocess.run(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            trouble = f"the capture took more than {TIMEOUT_S} s"
        else:
            said = done.stderr.decode(errors="replace").strip()
            if done.returncode == 2 and not told.exists():
                raise RungRefusedError(said)
            if done.returncode not in (0, 1):
                trouble = f"the capture ended with {done.returncode}: {said[-300:]}"
        share = os.environ.get("FORK_TRACE_VM_SHARE")
        if share and records.exists():
            kind = "-refused" if refused else ""
            shutil.copy(records, Path(share, f"{platform.release()}-{rung}{kind}.jsonl"))
        outcomes = {each["scenario"]: each for each in _lines(told)}
        return Captured(_lines(records), outcomes, trouble)


def verdicts(rung: str, scenarios: Sequence[Scenario], is_native: bool) -> dict[str, Verdict]:
    """Judge each scenario on that rung; RungRefusedError if this kernel has it not."""
    found = {}
    if is_native:
        found = {each.name: Verdict(NOT_HERE, _HOST_WIDE) for each in scenarios if each.host_wide}
    here = [each for each in scenarios if each.name not in found]
    early = [each for each in here if each.is_early and each.step not in _STACK_STEPS]
    if rung == "tracepoint":
        # It sees the early ones by itself.
        early = []
    rest = [each for each in here if each not in early]
    for part, refused in ((rest, False), (early, True)):
        if not part:
            continue
        captured = capture(rung, part, refused, host_wide=not is_native)
        for each in part:
            found[each.name] = (
                Verdict(WRONG, captured.trouble)
                if captured.trouble
                else judge(each, captured.told.get(each.name), captured.records, is_native)
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="accuracy.capturing")
    parser.add_argument("kernel")
    parser.add_argument("scenarios", nargs="*")
    options = parser.parse_args()
    scenarios = [find(name) for name in options.scenarios] or list(SCENARIOS)
    for rung in RUNGS:
        told: dict[str, Any] = {"rung": rung, "release": platform.release()}
        try:
            found = verdicts(rung, scenarios, is_native=not os.environ.get("FORK_TRACE_VM"))
            told["cells"] = [
                [each.name, options.kernel, rung, *found[each.name]] for each in scenarios
            ]
        except RungRefusedError as error:
            told["refused"] = str(error)
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
