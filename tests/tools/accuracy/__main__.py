"""scripts/accuracy: the options, the guests, and what a person or a program reads of it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from docs.__main__ import ACCURACY
from docs.__main__ import main as build_docs
from vm.kernels import KERNELS

from accuracy import table
from accuracy.capturing import ATTACH_MODES
from accuracy.judging import WRONG, Cell
from fork_trace.rehearse.scenarios import SCENARIOS, find

CHECKOUT = Path(__file__).resolve().parents[3]
NATIVE = "native"
VM_TIMEOUT_S = 3600
# Of what a guest said before it died.
_LAST_WORDS = 300


class Told(NamedTuple):
    """What one kernel gave: its own name, if it came so far, and its cells."""

    release: str
    cells: list[Cell]


def _note(text: str) -> None:
    print(f"accuracy: {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    names = [kernel.version for kernel in KERNELS]
    parser = argparse.ArgumentParser(
        prog="scripts/accuracy",
        description="Make every rehearsal on every kernel and every attach mode, and compare the cause that "
        "was told with the one that was made. Exit code 1: one cell is wrong.",
        epilog="Natively only what touches nothing but its own processes is made.",
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object with all cells")
    parser.add_argument(
        "--kernel",
        action="append",
        choices=[NATIVE, *names],
        metavar="KERNEL",
        help=f"only this one of {NATIVE}, {', '.join(names)}; repeatable",
    )
    parser.add_argument(
        "--scenario",
        action="append",
        choices=[each.name for each in SCENARIOS],
        metavar="SCENARIO",
        help="only this one of `fork-trace rehearse --list`; repeatable",
    )
    parser.add_argument(
        "--jobs", type=int, default=2, metavar="N", help="virtual machines at a time (default: 2)"
    )
    parser.add_argument("--captures", metavar="DIR", help="leave the captures there")
    parser.add_argument(
        "--cells",
        metavar="FILE",
        help="run nothing: show what scripts/test --results DIR left in DIR/accuracy.json",
    )
    parser.add_argument(
        "--write-docs",
        action="store_true",
        help="keep the cells in place of these kernels' old ones, and put the table into the book",
    )
    return parser


def _run(kernel: str, scenarios: Sequence[str], share: str | None) -> Told:
    """Run one kernel's part; whatever becomes of it, each cell is there afterwards."""
    _note(f"{kernel} begins")
    module = ["-m", "accuracy.capturing", kernel, *scenarios]
    python = str(CHECKOUT / ".venv" / "bin" / "python")
    environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}/tests/tools:{CHECKOUT}/tests"}
    environment.pop("FORK_TRACE_VM_SHARE", None)
    if share:
        environment["FORK_TRACE_VM_SHARE"] = share
    command = [python, *module]
    if kernel != NATIVE:
        # The guest shows the checkout at the place that it has here.
        inner = 'exec env PYTHONPATH=tests/tools:tests .venv/bin/python "$@"'
        command = [str(CHECKOUT / "scripts" / "vm"), "--kernel", kernel]
        command += ["--timeout", str(VM_TIMEOUT_S), "--", "sh", "-c", inner, "sh", *module]
    with tempfile.TemporaryFile() as said:
        done = subprocess.run(
            command, env=environment, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=said
        )
        said.seek(0)
        last_words = said.read().decode(errors="replace").strip()[-_LAST_WORDS:]
    _note(f"{kernel} ended with {done.returncode}")
    lines = [json.loads(line) for line in done.stdout.splitlines(True) if line.endswith(b"\n")]
    told = {line["attach"]: line for line in lines}
    cells: list[Cell] = []
    for attach in ATTACH_MODES:
        line = told.get(attach)
        if line and "cells" in line:
            cells += [Cell(*each) for each in line["cells"]]
        elif line and kernel == NATIVE:
            _note(f"no {attach} attach mode on this kernel: {line['refused']}")
        else:
            why = line["refused"] if line else f"ended with {done.returncode}: {last_words}"
            cells += [Cell(name, kernel, attach, WRONG, why) for name in scenarios]
    return Told(lines[0]["release"] if lines else "?", cells)


def _read(parser: argparse.ArgumentParser, file: str) -> tuple[list[Cell], dict[str, str]]:
    """Read the cells that the tests left, and what each kernel calls itself."""
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
        return [Cell(**each) for each in found["cells"]], found["releases"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"--cells {file} is not what scripts/test leaves: {error}")


def _run_all(
    parser: argparse.ArgumentParser, options: argparse.Namespace, scenarios: Sequence[str]
) -> tuple[list[Cell], dict[str, str]]:
    """Run what the options ask for; the cells, and what each kernel calls itself."""
    kernels = [kernel.version for kernel in KERNELS]
    kernels = [name for name in (*kernels, NATIVE) if not options.kernel or name in options.kernel]
    if NATIVE in kernels and os.geteuid() != 0:
        if options.kernel:
            parser.error(f"{NATIVE} needs root.")
        _note("natively nothing: that needs root")
        kernels.remove(NATIVE)
    share = str(Path(options.captures).resolve()) if options.captures else None
    if share:
        Path(share).mkdir(exist_ok=True)
    results = {}
    if NATIVE in kernels:
        # By itself, while the machine is quiet.
        results[NATIVE] = _run(NATIVE, scenarios, share)
    guests = [name for name in kernels if name != NATIVE]
    with ThreadPoolExecutor(options.jobs) as pool:
        parts = pool.map(lambda name: _run(name, scenarios, share), guests)
        results.update(zip(guests, parts))
    cells = [cell for name in kernels for cell in results[name].cells]
    return cells, {name: results[name].release for name in kernels}


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error("--jobs must be 1 or more.")
    if options.cells and (options.kernel or options.scenario or options.captures):
        parser.error("--cells runs nothing: leave --kernel, --scenario and --captures out.")
    if options.write_docs and options.scenario:
        parser.error("--write-docs shows every scenario: leave --scenario out.")
    scenarios = [
        each.name for each in SCENARIOS if not options.scenario or each.name in options.scenario
    ]
    cells, releases = (
        _read(parser, options.cells) if options.cells else _run_all(parser, options, scenarios)
    )
    causes = {name: find(name).cause for name in scenarios}
    if options.write_docs:
        date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        kept = json.loads(ACCURACY.read_text())
        ACCURACY.write_text(table.data(cells, causes, releases, date, kept))
        build_docs([])
    print(
        json.dumps({"cells": [cell._asdict() for cell in cells]})
        if options.json
        else table.text(cells, causes)
    )
    return int(any(cell.result == WRONG for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
