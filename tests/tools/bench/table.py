"""What was measured as tables, for a terminal and for the README. Pure: numbers in, text out."""

from __future__ import annotations

from typing import Any

from readme import Place
from tabulate import tabulate

from bench import checking
from bench.counting import FAILING, NONE, OPERATIONS

PLACE = Place("<!-- bench: begin -->", "<!-- bench: end -->")


def _checked(check: dict[str, Any]) -> str:
    if "why" in check:
        return f"not measured: {check['why']}"
    rows = [
        [kind, each["why"]]
        if "why" in each
        else [kind, *(each[name] for name in ("tasks", "seconds", "min", "max", "inside"))]
        for kind, each in ((kind, check[kind]) for kind in checking.CASES)
    ]
    return tabulate(rows, ["beside", "tasks", "s", "min", "max", "reading alone"])


def _arming(armed: dict[str, Any]) -> list[list[Any]]:
    rows = []
    for key, each in armed.items():
        unit = " G" if key.startswith("vm-") else " s"
        # None: the kernel refused the load, and how much that took was not asked.
        times = each["cpu_seconds" if unit == " G" else "seconds"]
        names = ("median", "min", "max")
        rows.append(
            [
                key,
                each["kernel"],
                *(f"{times[name]:.2f}{unit}" if times else "-" for name in names),
                "-" if each["armed_rss_mb"] is None else each["armed_rss_mb"]["median"],
                each["peak_rss_mb"]["median"],
            ]
        )
    return rows


_ENDS = {
    "native": "until attached",
    "native-to-load": "until the end, as this kernel refuses fexit programs: measured up to the "
    "refused load, so not armed",
}


def unwound(found: dict[str, Any] | None) -> str:
    """What naming callers costs; None: it was not measured."""
    if found is None:
        return "Unwinding: left out, as it needs root"
    rows = [[name, f"{rate:,}"] for name, rate in found["stacks_per_second"].items()]
    memory = found["rss_mb"]
    return "\n".join(
        [
            f"Stacks of {found['frames_per_stack']} frames, of {found['programs']} programs, "
            "unwound and named in a second of one core",
            "",
            tabulate(rows, tablefmt="plain"),
            "",
            f"MB resident: {memory['before']} before, {memory['after']} after {found['samples']:,}",
        ]
    )


def text(result: dict[str, Any]) -> str:
    """Show everything on a terminal."""
    columns = list(OPERATIONS)
    rows = []
    for config, values in result["instructions"].items():
        over = result["overhead_percent"].get(config)
        rows.append(
            [config]
            + [
                f"{values[name]:,.0f}" + (f" {over[name]:+.2f} %" if over else "")
                for name in columns
            ]
        )
    lines = [
        f"Instructions per operation, Linux {result['kernel']} (QEMU, instruction clock), "
        f"{result['date']}",
        "",
        tabulate(rows, ["", *columns], disable_numparse=True, stralign="right"),
        "",
        f"Fexit programs on {', '.join(result['functions'])}.",
        "",
        "A failing fork, in instructions; the reader's own work counts whenever it is done",
        "",
        tabulate(
            [
                [
                    config,
                    f"{each['total']:,.0f}",
                    f"{each['own']:,.0f}",
                    "-" if each["reader"] is None else f"{each['reader']:,.0f}",
                    "-" if each["reported"] is None else f"{each['reported']} of {each['made']}",
                ]
                for config, each in result["failing_fork"].items()
            ],
            ["", "while looping", "in the process", "in the reader", "reported"],
            disable_numparse=True,
            stralign="right",
        ),
        "",
        "Each tracer by itself, Linux " + result["kernel"],
        "",
        tabulate(
            [
                [
                    config,
                    f"{to_arm / 1e9:.2f} G",
                    f"{result['idle_instructions_per_second'][config] / 1e6:.2f} M",
                    result["rss_mb"][config]["armed"],
                    result["rss_mb"][config]["peak"],
                ]
                for config, to_arm in result["instructions_to_arm"].items()
                # The others take their plan from ours: no tracers of their own.
                if result["failing_fork"][config]["reported"] is not None
            ],
            ["", "to arm", "idle, each second", "MB armed", "MB peak"],
            disable_numparse=True,
            stralign="right",
        ),
        "",
        f"From exec until armed, {result['cpu']}; in a guest (vm-*) its clock's instructions",
        "",
        tabulate(
            _arming(result["armed"]),
            ["", "kernel", "until armed", "min", "max", "MB armed", "MB peak"],
            disable_numparse=True,
            stralign="right",
        ),
        "",
        *(f"{key}: {_ENDS[key]}." for key in result["armed"] if key in _ENDS),
        "*-bcc: compiled on the host at each start.",
        unwound(result["unwinding"]),
        "",
        f"fork-trace check, natively, from exec to exit, {result['cpu']}",
        "",
        _checked(result["check"]),
    ]
    return "\n".join(lines)


# As README names them, in its order; what was not measured has no row.
_NAMES = {
    "floor": "*floor: empty programs on the same functions*",
    "fexit-default": "**fork-trace**",
    "fexit-on-demand": "**`--on-demand`**, until a fork fails",
    "fexit-all": "`--all-steps`, or once a failure had no reason",
    "fexit-refused": "`--refused`",
    "kprobe": "`--attach kprobe`",
    "tracepoint": "`--attach tracepoint`",
    "bpftrace kretfunc": "bpftrace, `kretfunc` on five functions",
    "bpftrace kretprobe": "bpftrace, `kretprobe` on five functions",
    "bcc trace": "bcc's `trace` on five functions",
    "perf trace --failure": "`perf trace -a --failure`",
    "strace -f": "`strace -f` of the program itself",
}
_ARMED = {
    "native": "natively, the best rung there",
    "native-to-load": "natively, until fexit was refused",
    "native-bpftrace": "natively, bpftrace on the same system calls' exits",
    "vm-6.1": "fexit, libbpf",
    "vm-6.1-bcc": "kprobe, bcc",
    "vm-7.2": "fexit, libbpf",
    "vm-7.2-bcc": "kprobe, bcc",
}
_TITLES = {
    "fork": "small fork",
    "fork-2000-mappings": "of 2,000 mappings, half accountable",
    "fork-2000-accountable": "all accountable",
    "mmap-pair": "mmap and munmap",
    "getppid": "getppid",
}


def _thousands(value: float) -> str:
    return (
        f"{value / 1e6:.2f} M"
        if value >= 1e6
        else f"{value / 1e3:.1f} k"
        if value >= 1e3
        else f"{value:.0f}"
    )


def _percent(value: float) -> str:
    # Below that two runs differ by as much.
    return "0" if abs(value) < 0.05 else f"{value:+.2f} %" if abs(value) < 10 else f"{value:+.0f} %"


def markdown(result: dict[str, Any]) -> str:
    """Show for the README what watching costs, and what the peers' watching does."""
    base, over = result["instructions"][NONE], result["overhead_percent"]
    rows = []
    for config, name in _NAMES.items():
        if config not in over:
            continue
        failing, memory = result["failing_fork"][config], result["rss_mb"].get(config)
        arming = result["instructions_to_arm"].get(config)
        rows.append(
            [
                name,
                *(_percent(over[config][each]) for each in _TITLES),
                _thousands(failing["total"]),
                "-"
                if failing["reported"] is None or config == "floor"
                else f"{failing['reported']:,} of {failing['made']:,}",
                "-" if arming is None else f"{arming / 1e9:.2f} G",
                "-" if memory is None else f"{memory['armed']:.0f}, {memory['peak']:.0f}",
            ]
        )
    head = [
        "",
        *(f"{title} ({_thousands(base[each])})" for each, title in _TITLES.items()),
        f"a fork that fails ({_thousands(base[FAILING])}): in all",
        "of these reported",
        "to arm",
        "MB armed, at most",
    ]
    arming_rows = [[_ARMED.get(key, key), *rest] for key, *rest in _arming(result["armed"])]
    return "\n".join(
        [
            f"Measured by `scripts/bench --peers` on {result['date']}: Linux {result['kernel']} in QEMU, whose",
            f"clock counts instructions (`-icount shift=0`), on an {result['cpu']}. In one boot, added to",
            "each operation:",
            "",
            tabulate(rows, head, tablefmt="github", disable_numparse=True),
            "",
            "From exec until all is attached, in seconds on the machine itself and in instructions in guests:",
            "",
            tabulate(
                arming_rows,
                ["", "kernel", "until armed", "min", "max", "MB armed", "MB at most"],
                tablefmt="github",
                disable_numparse=True,
            ),
        ]
    )
