"""What was measured as tables, for a terminal and for the book. Pure: numbers in, text out."""

from __future__ import annotations

import textwrap
from typing import Any

from tabulate import tabulate

from bench import checking
from bench.counting import FAILING, NONE, OPERATIONS
from bench.peers import FUNCTIONS
from fork_trace.output.tables import draw


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
        explained = each.get("explained_cpu_seconds" if unit == " G" else "explained_seconds")
        names = ("median", "min", "max")
        rows.append(
            [
                key,
                each["kernel"],
                *(f"{times[name]:.2f}{unit}" if times else "-" for name in names),
                f"{explained['median']:.2f}{unit}" if explained else "-",
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
        f"From exec until it counts, {result['cpu']}; in a guest (vm-*) its clock's instructions",
        "",
        tabulate(
            _arming(result["armed"]),
            [
                "",
                "kernel",
                "until it counts",
                "min",
                "max",
                "until it explains",
                "MB armed",
                "MB peak",
            ],
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


# As the book names them, in its order; what was not measured has no row.
NAMES = {
    "floor": "floor: empty programs",
    "fexit-default": "fork-trace",
    "fexit-on-demand": "--on-demand, waiting",
    "fexit-all": "--all-steps",
    "fexit-refused": "--refused",
    "latency": "fork-trace latency",
    "kprobe": "--attach kprobe",
    "tracepoint": "--attach tracepoint",
    "bpftrace kretfunc": "bpftrace {} kretfunc",
    "bpftrace kretprobe": "bpftrace {} kretprobe",
    "bpftrace calls": "bpftrace {} calls",
    "newest bpftrace kretfunc": "bpftrace {} fexit",
    "newest bpftrace kretprobe": "bpftrace {} kretprobe",
    "newest bpftrace calls": "bpftrace {} calls",
    "bcc trace": "bcc trace {}",
    "bcc trace calls": "bcc trace {} calls",
    "retsnoop -F": "retsnoop {} -F",
    "retsnoop": "retsnoop {}",
    "perf trace calls": "perf trace {} calls",
    "perf trace --failure": "perf trace {}",
    "perf trace --bpf-summary": "perf trace {} in BPF",
    "newest perf trace calls": "perf trace {} calls",
    "newest perf trace --failure": "perf trace {}",
    "newest perf trace --bpf-summary": "perf trace {} in BPF",
    "strace calls": "strace {} calls",
    "strace -f": "strace {}",
}
# Who is held against whom: on the five functions, and as each is by itself.
_AGAINST = {
    "floor: empty programs": ("floor five", "floor"),
    "fork-trace": ("fexit five", "fexit-default"),
    "--on-demand, waiting": (None, "fexit-on-demand"),
    "bpftrace {}": ("bpftrace kretfunc", "bpftrace calls"),
    "bpftrace {} kretprobe": ("bpftrace kretprobe", None),
    "bpftrace {}, newest": ("newest bpftrace kretfunc", "newest bpftrace calls"),
    "bpftrace {} kretprobe, newest": ("newest bpftrace kretprobe", None),
    "bcc trace {}": ("bcc trace", "bcc trace calls"),
    "retsnoop {}": ("retsnoop -F", "retsnoop"),
    "perf trace {}": ("perf trace calls", "perf trace --failure"),
    "perf trace {} in BPF": (None, "perf trace --bpf-summary"),
    "perf trace {}, newest": ("newest perf trace calls", "newest perf trace --failure"),
    "perf trace {} in BPF, newest": (None, "newest perf trace --bpf-summary"),
    "strace {}, one program": ("strace calls", "strace -f"),
}
_ARMED = {
    "native": "native",
    "native-to-load": "native, fexit refused",
    "native-bpftrace": "native, bpftrace",
    "native-bpftrace-newest": "native, bpftrace in its root",
    "vm-6.1": "fexit, libbpf",
    "vm-6.1-bcc": "kprobe, bcc",
    "vm-7.2": "fexit, libbpf",
    "vm-7.2-bcc": "kprobe, bcc",
}
TITLES = {
    "fork": ("small fork", "FORK"),
    "fork-2000-mappings": ("fork of 2,000 mappings, half of them accountable", "HALF"),
    "fork-2000-accountable": ("fork of 2,000 mappings, all accountable", "ALL"),
    "mmap-pair": ("mmap and munmap", "MMAP"),
    "getppid": ("getppid", "GETPPID"),
}
_UNWOUND = {
    "of-one-program": "whose program was seen before",
    "of-all-in-turn": "of {programs} programs in turn",
    "first-of-each-program": "each of a program seen for the first time",
}


def _thousands(value: float) -> str:
    return (
        f"{value / 1e6:.2f} M"
        if value >= 1e6
        else f"{value / 1e3:.1f} k"
        if value >= 1e3
        else f"{value:.0f}"
    )


def percent(value: float) -> str:
    """Write what was added; below 0.05 % two runs differ by as much."""
    return "0" if abs(value) < 0.05 else f"{value:+.2f} %" if abs(value) < 10 else f"{value:+.0f} %"


def _block(rows: list[list[str]], head: list[str]) -> list[str]:
    alignment = ["left"] + ["right"] * (len(head) - 1)
    return ["```", *(line.rstrip() for line in draw(rows, head, alignment).splitlines()), "```"]


def _wrapped(*sentences: str) -> list[str]:
    return textwrap.wrap(" ".join(sentences), 79, break_on_hyphens=False)


def name(result: dict[str, Any], config: str) -> str:
    """Return how the book names a configuration, with the version of a peer."""
    return _named(NAMES[config], result, config)


def _named(words: str, result: dict[str, Any], config: str | None) -> str:
    version = result.get("versions", {}).get(config, "")
    # To the second number: the third tells nothing about what it costs.
    return " ".join(words.format(".".join(version.split(".")[:2])).split()).replace(" ,", ",")


def docs(result: dict[str, Any]) -> str:
    """Show for the book what watching costs, and what the peers' watching does."""
    base, over = result["instructions"][NONE], result["overhead_percent"]
    known = [config for config in NAMES if config in over]
    titles = [
        f"{short}: {title} ({_thousands(base[each])} instructions)"
        for each, (title, short) in TITLES.items()
    ]
    added = [
        [name(result, config), *(percent(over[config][each]) for each in TITLES)]
        for config in known
    ]
    lines = [
        *_wrapped(
            f"Measured by `{result['command']}` on {result['date']}: Linux {result['kernel']} in",
            f"QEMU, whose clock counts instructions (`-icount shift=0`), on {result['cpu']}; all",
            "in one boot. Instructions added to each operation; `waiting` is until a fork fails. The",
            "others watch five functions; `calls` are the calls that fork alone; `perf trace -a",
            "--failure` watches every call of the host, `strace -f` every call of one program.",
            f"{'; '.join(titles)}.",
        ),
        "",
        *_block(added, ["", *(short for _, short in TITLES.values())]),
        *_compared(result),
        "",
        *_wrapped(
            f"A fork that fails takes {_thousands(base[FAILING])} instructions. Below: how many it",
            "takes while watched, with the reader's work; how many of those made without a pause were",
            "reported; instructions until all is attached; MB resident once attached, and at most.",
        ),
        "",
        *_block(
            [_one(result, config) for config in known],
            ["", "FAILING", "REPORTED", "TO ATTACH", "MB", "AT MOST"],
        ),
        "",
        *_wrapped(
            "From exec until failed forks are counted, and until they are explained as well; in a guest "
            "in instructions of its one CPU."
        ),
        "",
        *_block(
            [
                [_ARMED.get(key, key), kernel, counts, _between(*most), explains]
                + [_whole(each) for each in memory]
                for key, kernel, counts, *most, explains, memory in (
                    (*row[:-2], row[-2:]) for row in _arming(result["armed"])
                )
            ],
            ["", "KERNEL", "COUNTS", "MIN-MAX", "EXPLAINS", "MB", "PEAK"],
        ),
    ]
    for told in (_naming(result.get("unwinding")), _checking(result.get("check"))):
        lines += ["", *told] if told else []
    return "\n".join(lines)


def _compared(result: dict[str, Any]) -> list[str]:
    """Hold all tracers against each other; nothing, if none of the others was measured."""
    if "floor five" not in result["overhead_percent"]:
        return []
    rounds = len(result["overhead_percent_by_round"]["floor five"])
    rows = []
    for words, both in _AGAINST.items():
        is_there = [config for config in both if config in result["overhead_percent"]]
        if is_there:
            cells = [each for config in both for each in _small_fork(result, config, rounds)]
            rows.append([_named(words, result, is_there[0]), *cells])
    spread = ["SPREAD"] if rounds > 1 else []
    return [
        "",
        *_wrapped(
            "The same for a small fork, side by side. FIVE: each watches the same five functions,",
            f"{', '.join(FUNCTIONS)}; of fork-trace its programs alone. perf and strace know system",
            "calls only: the calls that fork. OWN: what each watches by itself; where it has to be",
            "told, the calls that fork (bpftrace, bcc trace), or the five by its own kind of probe",
            "(retsnoop: kprobes; FIVE: -F).",
            f"SPREAD is between {rounds} rounds of one boot." if spread else "One round.",
        ),
        "",
        *_block(rows, ["", "FIVE", *spread, "OWN", *spread]),
    ]


def _small_fork(result: dict[str, Any], config: str | None, rounds: int) -> list[str]:
    """Return what a configuration adds, and between what if there is more than one round."""
    if config is None or config not in result["overhead_percent"]:
        return ["-"] * (1 + (rounds > 1))
    small = next(iter(TITLES))
    added = percent(result["overhead_percent"][config][small])
    values = [each[small] for each in result["overhead_percent_by_round"][config]]
    digits = 2 if max(map(abs, values)) < 10 else 0
    dash = "-" if min(values) >= 0 else " to "
    between = f"{min(values):.{digits}f}{dash}{max(values):.{digits}f}"
    return [added, between] if rounds > 1 else [added]


def _one(result: dict[str, Any], config: str) -> list[str]:
    failing, memory = result["failing_fork"][config], result["rss_mb"].get(config)
    arming = result["instructions_to_arm"].get(config)
    is_told = failing["reported"] is not None and config != "floor"
    return [
        name(result, config),
        _thousands(failing["total"]),
        f"{failing['reported']:,} of {failing['made']:,}" if is_told else "-",
        "-" if arming is None else f"{arming / 1e9:.2f} G",
        *(["-", "-"] if memory is None else [f"{memory[each]:.0f}" for each in ("armed", "peak")]),
    ]


def _between(least: str, most: str) -> str:
    return f"{least.partition(' ')[0]}-{most.partition(' ')[0]}" if most != "-" else "-"


def _whole(megabytes: float | str) -> str:
    return megabytes if isinstance(megabytes, str) else f"{megabytes:.0f}"


def _naming(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    rates = "; ".join(
        f"{found['stacks_per_second'][each]:,} {what.format(programs=found['programs'])}"
        for each, what in _UNWOUND.items()
    )
    memory = found["rss_mb"]
    return _wrapped(
        f"Stacks of {found['frames_per_stack']:.0f} frames unwound and named, in a second of one",
        f"core, natively: {rates}. After {found['samples']:,} of them {memory['after']:.0f} MB are",
        f"resident, {memory['after'] - memory['before']:.0f} more than before.",
    )


def _checking(found: dict[str, Any] | None) -> list[str]:
    if found is None or "why" in found:
        return []
    times = "; ".join(
        f"{found[kind]['seconds']:.1f} s beside {what}"
        for kind, what in (
            ("quiet", "what runs anyway"),
            ("processes", f"{found['tasks']:,} processes"),
            ("threads", f"{found['tasks']:,} threads of one process"),
        )
        if "seconds" in found[kind]
    )
    return _wrapped(f"`fork-trace check`, from exec to exit, natively: {times}.")
