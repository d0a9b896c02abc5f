"""scripts/test: the options, and what is run in which order."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import building
from live import matrix
from live.matrix import Lane
from pythons import __main__ as pythons
from vm import fetch, initramfs, module, roots
from vm.cache import VmError
from vm.kernels import KERNELS, named

from run import choosing, reading, running
from run.running import CHECKOUT, Ended
from run.stopping import Programs

_JOBS = 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/test",
        description="Run scripts/check, the live tests natively and on the oldest and the newest "
        "kernel, the demo, and the installed package. Exit code 1: something failed or took longer "
        "than its budget; 128 and more: a signal ended it, and with it the lanes that ran.",
        epilog="FORK_TRACE_BUDGET_FACTOR multiplies every budget, for a slow or busy machine "
        "(default: 1.5). FORK_TRACE_RESULTS is --results.",
        allow_abbrev=False,
    )
    kernels = [kernel.version for kernel in KERNELS]
    parser.add_argument("--list", action="store_true", help="show what would be run, and end")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--quick", action="store_true", help="no virtual machine: scripts/check and a native part"
    )
    which.add_argument("--all", action="store_true", help="also the kernels between")
    which.add_argument(
        "--kernel",
        action="append",
        choices=kernels,
        metavar="VERSION",
        help=f"every lane of this kernel, and no other: {', '.join(kernels)}; repeatable",
    )
    which.add_argument(
        "--lane",
        action="append",
        choices=choosing.names(matrix.LANES),
        metavar="NAME",
        help="this lane of --list --all, and no other; or, as fault, that of each kernel; repeatable",
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="of the lanes chosen, only this test file, as blame or test_blame.py; repeatable",
    )
    parser.add_argument("--live-only", action="store_true", help="without scripts/check")
    parser.add_argument(
        "--jobs", type=int, default=_JOBS, metavar="N", help=f"lanes at a time (default: {_JOBS})"
    )
    parser.add_argument(
        "--results",
        metavar="DIR",
        default=os.environ.get("FORK_TRACE_RESULTS"),
        help="keep JUnit files, outputs, captures of the rehearsals and the accuracy cells there",
    )
    return parser


def _chosen(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Lane]:
    lanes = choosing.lanes(
        matrix.LANES,
        is_quick=options.quick,
        is_all=options.all,
        kernels=options.kernel or (),
        names=options.lane or (),
    )
    if options.only:
        known = {choosing.short(file) for lane in matrix.LANES for file in lane.files}
        for name in options.only:
            if choosing.short(name) not in known:
                parser.error(f"there is no test file {name}. scripts/test --list --all shows them.")
        lanes = choosing.only(lanes, options.only)
        if not lanes:
            parser.error("none of the lanes chosen has that file. --all chooses from more of them.")
    return lanes


def _check_workers(options: argparse.Namespace) -> int:
    """How many processes scripts/check may take for its tests: 0 is no check at all."""
    if options.live_only or options.kernel or options.lane or options.only:
        return 0
    # What is watched natively beside it wants a core to itself.
    return 2 if options.quick else 1


def _prepare(lanes: Sequence[Lane]) -> None:
    """Install and download whatever is missing: no lane's time is spent on that."""
    wanted = {kernel for kernel in map(named, {lane.kernel or "" for lane in lanes}) if kernel}
    option = "--vm" if all(map(roots.is_own, wanted)) else "--arm64"
    setup = [str(CHECKOUT / "scripts" / "setup"), *([option] if lanes else [])]
    if subprocess.run(setup).returncode:
        sys.exit(2)
    try:
        for version in dict.fromkeys(lane.kernel for lane in lanes if lane.kernel):
            kernel = named(version)
            assert kernel is not None
            root = fetch.image(kernel)
            initramfs.base(kernel, root)
            for source in {lane.module for lane in lanes if lane.kernel == version and lane.module}:
                module.built(kernel, root, CHECKOUT / source)
        if os.geteuid() == 0 and any("pythons" in lane.command for lane in lanes):
            for python in pythons.PYTHONS:
                pythons.prepared(python)
    except VmError as error:
        print(f"scripts/test: {error}", file=sys.stderr)
        sys.exit(error.status)


def run(
    lanes: Sequence[Lane],
    check_workers: int,
    jobs: int,
    results: Path,
    programs: Programs,
) -> list[Ended]:
    """Run them: what watches this machine itself first, beside scripts/check; then the longest first.

    No core waits for the other: as soon as scripts/check has passed, the rest has its turn.
    """
    native = [lane for lane in lanes if choosing.is_quiet(lane)]
    rest = sorted((lane for lane in lanes if lane not in native), key=lambda lane: -lane.budget_s)

    def run_native() -> list[Ended]:
        return [running.run(lane, results, programs) for lane in native]

    with ThreadPoolExecutor(jobs) as pool:
        quiet = pool.submit(run_native)
        check = (
            pool.submit(running.check, check_workers, results, programs) if check_workers else None
        )

        def run_later(lane: Lane) -> Ended | None:
            if check and check.result().status and programs.stopped_by is None:
                return None
            return running.run(lane, results, programs)

        later = [pool.submit(run_later, lane) for lane in rest]
        ended = [*quiet.result(), *([check.result()] if check else [])]
        ended += [done for each in later if (done := each.result())]
    if len(ended) < len(lanes) + bool(check):
        print("scripts/test: scripts/check failed; the rest is not run.", file=sys.stderr)
    return ended


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error("--jobs must be 1 or more.")
    lanes = _chosen(parser, options)
    check_workers = _check_workers(options)
    if options.list:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as `| head` expects
        print(reading.listed(lanes, running.check_budget_s(check_workers)))
        return 0
    if not running.factor():
        parser.error("FORK_TRACE_BUDGET_FACTOR must be a number above 0.")
    _prepare(lanes)
    with tempfile.TemporaryDirectory(prefix="fork-trace-test-") as directory:
        results = Path(options.results or directory).resolve()
        results.mkdir(parents=True, exist_ok=True)
        reading.clear(results)
        if any("test_moved.py" in lane.files for lane in lanes):
            building.moved(results)
        return run_and_tell(lanes, check_workers, options.jobs, results)


def run_and_tell(
    lanes: Sequence[Lane],
    check_workers: int,
    jobs: int,
    results: Path,
    programs: Programs | None = None,
) -> int:
    """Run them and print how they ended; returns the exit status: 128 and more, a signal stopped them."""
    programs = programs or Programs()
    with programs.stopping_at_signals():
        ended = run(lanes, check_workers, jobs, results, programs)
    print(reading.told(ended, results))
    if programs.stopped_by is None:
        return int(any(each.why for each in ended))
    print(reading.stopped(ended, programs.stopped_by), file=sys.stderr)
    return 128 + programs.stopped_by


if __name__ == "__main__":
    sys.exit(main())
