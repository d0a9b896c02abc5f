"""scripts/bench: builds the loops, measures natively and in guests, and shows the numbers."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from docs.__main__ import OVERHEAD
from docs.__main__ import main as build_docs
from vm.cache import VmError
from vm.kernels import KERNELS, NEWEST

from bench import arming, checking, peers, reading, storm, table, unwinding

CHECKOUT = Path(__file__).resolve().parents[3]
DEFAULT_KERNEL = "6.1"
NATIVE_TIMES = 11
GUEST_TIMES = 3
BCC_TIMES = 1  # it compiles, which takes minutes under emulation
SMALL = "fork"


def _note(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measure what watching costs: instructions per operation in a virtual machine "
        "whose clock counts them, seconds and memory until the programs are attached.",
        epilog="Takes about six minutes, with --peers half an hour for each round. The instructions all come from one boot, where the tracers take "
        "turns; seconds under QEMU without KVM say little of a real machine.",
        allow_abbrev=False,
    )
    names = [kernel.version for kernel in KERNELS]
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--kernel",
        choices=names,
        metavar="VERSION",
        help=f"one of {', '.join(names)} for everything; by default instructions on "
        f"{DEFAULT_KERNEL}, arming on {DEFAULT_KERNEL} and {NEWEST.version}",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="turns of each tracer (default: 3)"
    )
    parser.add_argument(
        "--edges",
        action="store_true",
        help="only what execve, unshare and the stacks of musl cost while nothing is refused",
    )
    parser.add_argument(
        "--callers", action="store_true", help="only what naming callers costs, natively, as root"
    )
    parser.add_argument(
        "--storm",
        nargs="?",
        type=int,
        const=storm.SECONDS,
        metavar="SECONDS",
        help=f"only what a storm of failing forks costs the reader (default: {storm.SECONDS} s)",
    )
    parser.add_argument(
        "--reading",
        nargs="*",
        type=int,
        metavar="N",
        help=f"only how fast report reads: N captures (default: {reading.FILES}) "
        f"of N records ({reading.RECORDS}) of N hosts ({reading.HOSTS})",
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="also bpftrace, bcc's trace, perf, strace and retsnoop, as far as they are installed, and "
        "the newest bpftrace and perf of Debian, in a root that is made once (as root, 600 MB)",
    )
    parser.add_argument(
        "--write-docs", action="store_true", help="keep the numbers, and put them into the book"
    )
    parser.add_argument(
        "--of", type=Path, metavar="FILE", help="measure nothing: show what --json wrote there"
    )
    parser.add_argument("--each", action="store_true", help="also each of our programs by itself")
    return parser


def _build(directory: Path) -> None:
    arch = {"x86_64": "x86", "aarch64": "arm64"}[platform.machine()]
    here = Path(__file__).parent
    commands: list[list[str | Path]] = [
        ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static"],
        ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static", "-pthread"],
        # As scripts/build-bpf builds ours.
        ["clang", "-target", "bpf", f"-D__TARGET_ARCH_{arch}", "-mcpu=v2", "-O2", "-g", "-Wall"],
    ]
    commands[0] += ["-o", directory / "loops", here / "loops.c"]
    commands[1] += ["-o", directory / "crowd", here / "crowd.c"]
    commands[2] += ["-Werror", "-I", CHECKOUT / "bpf", "-o", directory / "floor.bpf.o", "-c"]
    commands[2] += [here / "floor.bpf.c"]
    for command in commands:
        subprocess.run(command, check=True)


def _in_guest(directory: Path, kernel: str, options: Sequence[str], module: Sequence[str]) -> Any:
    # The guest shows the share at a place of its own, and the checkout at ours.
    command = 'exec env PYTHONPATH=tests/tools:tests .venv/bin/python -m "$@"'
    done = subprocess.run(
        [
            *(str(CHECKOUT / "scripts" / "vm"), "--kernel", kernel, "--timeout", "21600"),
            *(*options, "--", "sh", "-c", command, "sh", *module),
        ],
        env={**os.environ, "FORK_TRACE_VM_SHARE": str(directory)},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        sys.exit(f"scripts/bench: the guest with Linux {kernel} failed; it says why above.")
    return json.loads(done.stdout.splitlines()[-1])


def _newest() -> Path | None:
    """Return the root with Debian's newest peers; None, and why, if it cannot be made."""
    _note(f"looking for Debian's newest {' and '.join(peers.PACKAGES)}")
    try:
        return peers.newest()
    except VmError as error:
        _note(f"without them: {error}")
        return None


def _arm_peers(directory: Path, root: Path | None) -> dict[str, Any]:
    """Start bpftrace on the exits of the same system calls; nothing of one that does not start."""
    armed = {}
    for key, place in {
        "native-bpftrace": peers.Place(None, directory),
        **({"native-bpftrace-newest": peers.Place(root, directory)} if root else {}),
    }.items():
        if not place.has("bpftrace"):
            continue
        _note(f"arming {key}, on the exits of the same system calls")
        command = place.command(*peers.by_calls(str(directory / "loops")))
        measured = arming.measure(NATIVE_TIMES, peer=command)
        if "why" in measured:
            _note(f"bpftrace does not start here, so it is left out: {measured['why']}")
        else:
            armed[key] = measured
    return armed


def _cpu() -> str:
    match = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return match[1] if match else platform.machine()


def main() -> None:
    options = _parser().parse_args()
    if options.rounds < 1:
        sys.exit("scripts/bench: --rounds must be at least 1.")
    if options.of:
        _tell(json.loads(options.of.read_text()), options)
        return
    if options.callers:
        if os.geteuid() != 0:
            sys.exit("scripts/bench: --callers needs root, to see real failures.")
        measured = unwinding.measure()
        print(json.dumps(measured) if options.json else table.unwound(measured))
        return
    if options.reading is not None:
        read = reading.measure(*options.reading[:3])
        print(json.dumps(read) if options.json else reading.text(read))
        return
    counted_on = options.kernel or DEFAULT_KERNEL
    if options.edges:
        _edges(counted_on, options.rounds)
        return
    if options.storm is not None:
        stormed = _storm(counted_on, options.storm)
        print(json.dumps(stormed) if options.json else storm.text(stormed))
        return
    _tell(_whole(options, counted_on), options)


def _whole(options: argparse.Namespace, counted_on: str) -> dict[str, Any]:
    """Measure all that the book shows."""
    with tempfile.TemporaryDirectory(prefix="fork-trace-bench-") as name:
        directory = Path(name)
        _build(directory)
        _note("unwinding natively")
        unwound = unwinding.measure() if os.geteuid() == 0 else None
        root = _newest() if options.peers else None
        armed = _arm(options, directory, root)
        _note(f"checking natively beside {checking.TASKS} tasks")
        checked = checking.measure(directory)
        _note("reading captures natively")
        read = reading.measure()
        _note(f"counting instructions on Linux {counted_on}")
        also = [f"--also={each}" for each in ("each", "peers") if getattr(options, each)]
        also += [f"--newest={root}"] if root else []
        counting = ["bench.counting", "/run/share", f"--rounds={options.rounds}", *also]
        counted = _in_guest(directory, counted_on, ["--icount"], counting)
    return {
        "command": " ".join(("scripts/bench", *sys.argv[1:])),
        "kernel": counted["kernel"],
        "native_kernel": platform.release(),
        "cpu": _cpu(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "fork_overhead_percent": {
            config: values[SMALL] for config, values in counted["overhead_percent"].items()
        },
        "armed_seconds": {key: each["seconds"]["median"] for key, each in armed.items()},
        "peak_rss_mb": {key: each["peak_rss_mb"]["median"] for key, each in armed.items()},
        "armed": armed,
        "unwinding": unwound,
        "check": checked,
        "reading": read,
        **{key: value for key, value in counted.items() if key != "kernel"},
    }


def _arm(options: argparse.Namespace, directory: Path, root: Path | None) -> dict[str, Any]:
    """Measure how long it takes until failures are counted: natively, then in guests."""
    _note("arming natively")
    native = arming.measure(NATIVE_TIMES)
    armed = {"native-to-load" if native["until"] == "load" else "native": native}
    if options.peers:
        armed.update(_arm_peers(directory, root))
    for kernel in [options.kernel] if options.kernel else [DEFAULT_KERNEL, NEWEST.version]:
        _note(f"arming on Linux {kernel}, by libbpf and by bcc")
        by_bcc = ["bench.arming", str(BCC_TIMES), "--backend", "bcc"]
        for key, module in (
            (f"vm-{kernel}", ["bench.arming", str(GUEST_TIMES)]),
            (f"vm-{kernel}-bcc", by_bcc),
        ):
            armed[key] = _in_guest(directory, kernel, ["--icount"], module)
    return armed


def _edges(kernel: str, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="fork-trace-bench-") as name:
        directory = Path(name)
        _build(directory)
        only = [f"--only={each}" for each in ("floor", "fexit-default", "fexit-refused")]
        counting = ["bench.counting", "/run/share", "--edges", f"--rounds={rounds}", *only]
        print(json.dumps(_in_guest(directory, kernel, ["--icount"], counting)))


def _storm(kernel: str, seconds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="fork-trace-bench-") as name:
        directory = Path(name)
        _build(directory)
        module = ["bench.storm", "/run/share", str(seconds)]
        measured: dict[str, Any] = _in_guest(directory, kernel, ["--icount"], module)
    return measured


def _tell(result: dict[str, Any], options: argparse.Namespace) -> None:
    print(json.dumps(result) if options.json else table.text(result), flush=True)
    if options.write_docs:
        OVERHEAD.write_text(json.dumps(result, indent=1) + "\n")
        build_docs([])


if __name__ == "__main__":
    main()
