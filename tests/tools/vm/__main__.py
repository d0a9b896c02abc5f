"""scripts/vm: the options, and what a person is told when it does not work."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from pathlib import Path
from types import FrameType

from . import machine
from .cache import VmError
from .kernels import FURTHER, KERNELS, NEWEST, named

CHECKOUT = Path(__file__).resolve().parents[3]


class _Ended(BaseException):
    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/vm",
        usage="scripts/vm [options] -- COMMAND...",
        description="Run COMMAND as root on a real kernel, with this checkout installed. "
        "Its output and exit status are passed through.",
        epilog="In the guest FORK_TRACE_VM names the kernel. A directory named in "
        "FORK_TRACE_VM_SHARE is writable there, at the path which that variable then has. "
        "Exit status 125: the guest died; 124: it took too long.",
        allow_abbrev=False,
    )
    names = [kernel.version for kernel in KERNELS + FURTHER]
    parser.add_argument(
        "--kernel",
        default=NEWEST.version,
        choices=[*names, "all"],
        help=f"one of {', '.join(names)}, or all: the first {len(KERNELS)}, one after the other (default: {NEWEST.version})",
        metavar="VERSION",
    )
    parser.add_argument("--memory", default="1G", metavar="SIZE", help="default: 1G")
    parser.add_argument(
        "--icount",
        action="store_true",
        help="one processor whose clock counts instructions: a nanosecond each",
    )
    parser.add_argument(
        "--cgroup",
        default="v2",
        choices=["v2", "hybrid", "v1"],
        help="which cgroup hierarchies are mounted, and where, as systemd does it; default: v2",
    )
    parser.add_argument(
        "--module",
        type=Path,
        metavar="FILE.c",
        help="build this kernel module for the guest, once; FORK_TRACE_VM_MODULE names it there",
    )
    parser.add_argument(
        "--init",
        default="",
        choices=["systemd"],
        help="make the host's systemd the guest's first process, with its journal, and COMMAND a service",
    )
    parser.add_argument(
        "--cpu",
        default="",
        metavar="MODEL",
        help="another processor of QEMU's, where it is emulated: max,pauth=off, say",
    )
    parser.add_argument("--append", default="", metavar="ARGS", help="more kernel parameters")
    parser.add_argument(
        "--timeout", type=float, default=1200, metavar="SECONDS", help="end it after; default: 1200"
    )
    return parser


def _share() -> Path | None:
    name = os.environ.get("FORK_TRACE_VM_SHARE")
    if not name:
        return None
    path = Path(name).resolve()
    if not path.is_dir():
        raise VmError(f"FORK_TRACE_VM_SHARE names {path}, which is no directory. Make it first.")
    return path


def _end(number: int, frame: FrameType | None) -> None:
    raise _Ended(number)


def main() -> int:
    parser = _parser()
    # Split by hand: what follows the first "--" is the command's own, further "--" included.
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    options, command = parser.parse_args(words[:cut]), words[cut + 1 :]
    if not command:
        parser.error("there is no command to run. Give it after --.")
    if not re.fullmatch(r"[1-9][0-9]*[MG]", options.memory):
        parser.error(f"--memory {options.memory} is not a size. Write it like 1G or 1536M.")
    if options.timeout <= 0:
        parser.error("--timeout must be more than 0 seconds.")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    first_failure = 0
    try:
        wishes = machine.Wishes(
            options.memory,
            options.icount,
            options.append,
            options.timeout,
            _share(),
            options.cgroup,
            options.module,
            options.init,
            options.cpu,
        )
        if options.kernel != "all":
            kernel = named(options.kernel)
            assert kernel is not None
            return machine.run(kernel, CHECKOUT, command, wishes)
        for kernel in KERNELS:
            print(f"vm: Linux {kernel.version}", file=sys.stderr, flush=True)
            try:
                status = machine.run(kernel, CHECKOUT, command, wishes)
            except VmError as error:
                # One kernel that dies must not hide how the others fare.
                print(f"scripts/vm: {error}", file=sys.stderr)
                status = error.status
            first_failure = first_failure or status
    except VmError as error:
        print(f"scripts/vm: {error}", file=sys.stderr)
        return error.status
    except _Ended as ended:
        return 128 + ended.number
    return first_failure


sys.exit(main())
