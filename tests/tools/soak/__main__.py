"""scripts/soak: the options, the guest, and what a person or a program reads of it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tabulate import tabulate
from vm.kernels import KERNELS

from fork_trace.probes.request import ATTACH_MODES
from soak import judging, recording
from soak.judging import Measured
from soak.running import MIX, SoakError, soak

CHECKOUT = Path(__file__).resolve().parents[3]
DEFAULT_S = 600
# To boot, to arm and to end, under emulation.
GUEST_EXTRA_S = 600


def _note(text: str) -> None:
    print(f"soak: {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    names = [kernel.version for kernel in KERNELS]
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        description="Watch for long while forks and threads fail and succeed and, each minute, another "
        "fork-trace is armed and disarmed. Each count must be what the failing processes saw, nothing "
        "lost, and memory, descriptors and what the kernel holds must not grow. Exit status: 0 all of that "
        "is so, 1 it is not, one sentence each; 2 it could not be run.",
        epilog="Natively it needs root and touches nothing but its own processes and cgroups.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--seconds", type=float, default=DEFAULT_S, metavar="N", help="default: %(default)s"
    )
    parser.add_argument(
        "--kernel",
        choices=names,
        metavar="VERSION",
        help=f"in a virtual machine with one of {', '.join(names)} (default: natively)",
    )
    parser.add_argument(
        "--attach",
        dest="attach",
        choices=ATTACH_MODES,
        help="how to attach (default: as fork-trace does)",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="the recorder instead: ever new commands and cgroups, a full disk and, in a virtual "
        "machine, a clock that is set back and forth",
    )
    parser.add_argument(
        "--names",
        type=int,
        default=recording.NAMES,
        metavar="N",
        help="with --record: commands and cgroups (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    return parser


def _result(measured: Measured) -> dict[str, Any]:
    made: Counter[str] = Counter()
    last, all_made = measured.came[-1]
    for _, cause, number in all_made:
        made[cause] += number
    counted: Counter[str] = Counter()
    for (_, cause), number in judging.counted(last.summary).items():
        counted[cause] += number
    warm_s = judging.warm_up_s(measured)
    warm = [each for each in measured.samples if each.at_s <= warm_s]
    after = [each for each in measured.samples if each.at_s > warm_s]
    return {
        "kernel": measured.kernel,
        "attach": last.header.get("attach"),
        "seconds": measured.seconds,
        "armed_and_disarmed": len(measured.came) - 1,
        "armed_seconds": [told.armed_s for told, _ in measured.came[:-1]],
        "succeeded": measured.succeeded,
        "refused": sum(made.values()),
        "counted": last.summary.get("failures"),
        "causes": {cause: [counted[cause], made[cause]] for cause in sorted({*made, *counted})},
        "not_made": measured.not_made,
        "records": last.records,
        "lost": [told.summary.get("lost") for told, _ in measured.came],
        "missed": [told.summary.get("missed") for told, _ in measured.came],
        "without_stack": last.summary.get("without_stack"),
        "rss_kib": {"warm_up": _range(each.rss_kib for each in warm),
                    "after": _range(each.rss_kib for each in after)},
        "descriptors": {"warm_up": _range(each.files for each in warm),
                        "after": _range(each.files for each in after)},
        "growth_judged": judging.growth(measured) is not None and measured.through_s is not None,
        "samples": [list(each) for each in measured.samples[::10]],
        "kernel_objects": measured.held,
        "left": {name: left for name, left in measured.left.items() if left},
        "findings": judging.findings(measured),
    }  # fmt: skip


def _range(numbers: Any) -> list[int] | None:
    numbers = list(numbers)
    return [min(numbers), max(numbers)] if numbers else None


def _show(result: dict[str, Any]) -> str:
    done = result["succeeded"]
    rows = [[cause, *counts] for cause, counts in result["causes"].items()]
    lines = [
        f"Linux {result['kernel']}, {result['attach']} attach mode, {result['seconds']:g} s; "
        f"{result['armed_and_disarmed']} came and went beside it",
        f"succeeded: {done.get('forks', 0)} forks, {done.get('threads', 0)} threads",
        f"refused: {result['refused']}, counted: {result['counted']}, in {result['records']} records",
        "",
        tabulate(rows, ["CAUSE", "COUNTED", "MADE"], tablefmt="plain"),
        "",
    ]
    for name, text in (("rss_kib", "KiB resident"), ("descriptors", "descriptors")):
        spans = [_span(result[name][when]) for when in ("warm_up", "after")]
        lines.append(f"{text}: {spans[0]} in the warm-up, {spans[1]} after it")
    if not result["growth_judged"]:
        lines.append("whether these grow was not judged: the mix was not through before the end")
    lines.append(
        f"programs, maps and links of each that came: {_span(_range(result['kernel_objects']))}, "
        f"left: {sum(map(len, result['left'].values()))}"
    )
    for name in ("lost", "missed"):
        known = [each for each in result[name] if each is not None]
        lines.append(f"{name}: {sum(known) if known else 'not reported by this kernel'}")
    lines += [f"not made here: {name}: {why}" for name, why in result["not_made"].items()]
    lines += ["", *(f"FOUND: {each}" for each in result["findings"] or [])]
    return "\n".join(lines if result["findings"] else [*lines, "Nothing found."])


def _span(numbers: list[int] | None) -> str:
    return "?" if numbers is None else " to ".join(str(each) for each in dict.fromkeys(numbers))


def _in_guest(kernel: str, seconds: float, more: list[str]) -> dict[str, Any]:
    command = 'exec env PYTHONPATH=tests/tools:tests .venv/bin/python -m soak "$@"'
    options = ["--json", f"--seconds={seconds}", *more]
    timeout_s = seconds + GUEST_EXTRA_S
    done = subprocess.run(
        [
            *(str(CHECKOUT / "scripts" / "vm"), "--kernel", kernel, "--timeout", str(timeout_s)),
            *("--", "sh", "-c", command, "sh", *options),
        ],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode not in (0, 1) or not done.stdout.strip():
        raise SoakError(f"the guest with Linux {kernel} failed; it says why above.")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = _parser()
    options = parser.parse_args()
    if not options.seconds >= 10:
        parser.error("--seconds must be 10 or more.")
    attach = ["--attach", options.attach] if options.attach else []
    try:
        if options.kernel:
            more = ["--record", f"--names={options.names}"] if options.record else []
            result = _in_guest(options.kernel, options.seconds, [*attach, *more])
        elif os.geteuid() != 0:
            raise SoakError("it needs root. Run it with sudo, or give --kernel.")
        elif options.record:
            result = recording.recorded(options.seconds, options.names, attach, _note)
        else:
            _note(f"{len(MIX)} rehearsals, storms and successes for {options.seconds:g} s")
            result = _result(soak(options.seconds, attach, _note))
    except SoakError as error:
        print(f"scripts/soak: {error}", file=sys.stderr)
        return 2
    if options.json or options.record:
        print(json.dumps(result))
    else:
        print(_show(result))
    return int(bool(result["findings"]))


if __name__ == "__main__":
    sys.exit(main())
