"""What is run where: each lane is one pytest, natively or in one virtual machine.

Oldest and newest kernel by default, the two between in --all. The newest must show all that can depend
on the kernel (`is_strict`: nothing may be skipped). What is the tool's own, screens, formats, commands,
is seen natively, and so is the lowest attach mode, the only one that asks no more of a kernel than is there
natively. By default the newest kernel rehearses under the attach mode that it takes by itself, the oldest by
kprobes; with --all every kernel under each. What is the same thing again, or about one part of the tool, has
lanes that are run by name: before a release, and when that part changes.
`tests/tools/test_matrix.py` holds that every live file is in here, and every attach mode of every kernel.
"""

from __future__ import annotations

from typing import NamedTuple

from accuracy.watching import WITHOUT_SYMBOLS

# In the default run; in --all too; instead of both by --quick; only by --lane.
DEFAULT, ALL, QUICK, NAMED = "default", "all", "quick", "named"

# With both cores, and beside other lanes on one.
CHECK_BUDGET_S, CHECK_BESIDE_S = 120, 160


class Lane(NamedTuple):
    """One run; `budget_s` is what it takes on a core of its own, as qemu's processor time was measured.

    `kernel` None: natively. `files` stand in tests/live unless they have a path. `watchers`: those of
    tests/tools/accuracy/watching.py under which the rehearsals are made, and whose attach modes the callers
    are seen by; empty: all but bcc. `select` is pytest's -k. A lane may be a `command` instead, whose output
    must have all of `must_say`. `module` is a kernel module to build for the guest, `faults` how much of
    test_faults.py is made: "all" is everything.
    """

    name: str
    kernel: str | None
    budget_s: int
    files: tuple[str, ...] = ()
    when: str = DEFAULT
    cgroup: str = "v2"
    is_strict: bool = False
    watchers: tuple[str, ...] = ()
    deselect: tuple[str, ...] = ()
    select: str = ""
    memory: str = "1G"
    append: str = ""  # to the kernel's command line
    cpu: str = ""  # another processor of qemu's than usual
    storm_s: int | None = None  # how long each storm lasts, then one for each number of commands
    command: tuple[str, ...] = ()
    must_say: tuple[str, ...] = ()
    module: str = ""
    faults: str = ""
    init: str = ""  # "systemd": the guest's first process
    counts: bool = (
        False  # its one processor's clock counts instructions: whatever else runs takes no time
    )


# What a command runs in a virtual machine: scripts/suites builds its programs before it boots.
BY_COMMAND = ("test_suites.py",)

# Merged by others: run as soon as they are there.
EXPECTED = ("test_flood.py", "test_forged.py", "test_hostile.py", "test_strangers.py")

REHEARSALS = ("test_rehearsals.py", "test_evidence.py")
WITH_BCC = ("fexit", "fexit-all", "kprobe", "kprobe-all", "tracepoint", "bcc")
# All types natively, where each takes 0.4 s; all fields in lane btf; both by fexit and kprobe in 7.2-btf.
TYPES = (
    "test_stripped.py::test_without_a_type_every_failure_is_counted",
    "test_stripped.py::test_without_a_type_the_programs_of_the_steps_load",
)
FIELDS = (
    "test_stripped.py::test_without_a_field_every_failure_is_counted",
    "test_stripped.py::test_without_a_field_the_programs_of_the_steps_load",
    "test_stripped.py::test_whatever_is_unread_each_slow_fork_is_told",
)
BY_ITSELF = ("fexit", "fexit-all")
BY_KPROBES = ("kprobe", "kprobe-all")
BY_OTHERS = (*BY_KPROBES, "tracepoint")
# What is seen natively, or by another attach mode, and again in 7.2-again: how much of a stack the kernel
# gives changes as little with any length.
_NATIVELY = (
    "(test_stripped and by_the_types) or ((test_moved or test_nested) and tracepoint) or 127"
)
# How it dies takes bcc two starts more, ten minutes on 5.10.
BCC_DIES = "test_bcc.py::test_killed_outright_it_leaves_no_probe_that_is_on"

OTHER_PACKAGE = (
    "test_installed.py::test_a_package_for_another_architecture_leaves_the_checkouts_programs_alone"
)
NO_PAGE = (
    "test_conditions.py::test_not_a_page_is_left_for_a_while",
    "test_conditions.py::test_not_a_page_is_left_to_the_end",
)
FAIL_ALLOC = "tests/tools/fault/fail_alloc.c"

_NATIVE = (
    Lane(
        "native",
        None,
        220,
        (
            *REHEARSALS,
            *("test_callers.py", "test_callers_real.py", "test_commands.py", "test_check.py"),
            *("test_storms.py", "test_screen.py", "test_dying.py", "test_privileges.py"),
            *("test_record.py", "test_fleet.py"),
            *("test_arming.py", "test_flood.py", "test_forged.py"),
            *("test_hostile.py", "test_strangers.py", "test_stripped.py"),
            *("test_blame.py", "test_nested.py", "test_moved.py"),
        ),
        watchers=("tracepoint",),
        deselect=FIELDS,
    ),
    Lane("native-quick", None, 30, ("test_commands.py", "test_check.py"), when=QUICK),
    Lane("installed", None, 90, ("test_installed.py",), deselect=(OTHER_PACKAGE,)),
    Lane(
        "demo",
        None,
        80,
        command=("scripts/demo",),
        must_say=("pids-cgroup", "rlimit-nproc", "pid-namespace-dead", "lost samples: 0"),
    ),
)
_NEWEST = (
    Lane(
        "7.2",
        "7.2",
        180,
        (*REHEARSALS, "test_lockdown.py"),
        is_strict=True,
        watchers=BY_ITSELF,
        # Under the lockdown that forbids nothing it is the same as without: in 7.2-rest.
        select="not integrity",
    ),
    Lane(
        "7.2-more",
        "7.2",
        230,
        (
            *("test_blame.py", "test_nested.py", "test_storms.py", "test_arming.py"),
            *("test_privileges.py", "test_on_demand.py", "test_conditions.py"),
        ),
        is_strict=True,
        # The kprobe attach mode shows the most of it in the rehearsals; the rest is natively, in 7.2-kprobe,
        # 7.2-rest and, where nothing is left, in want.
        select="(test_arming.py and not tracepoint) or test_storms.py or for_a_while or (fexit and "
        "not (are_listed or two_capabilities or without_kernel_symbols or cuts_stacks or "
        "blames_every_fork))",
    ),
)
_OLDEST = (
    Lane("5.10", "5.10", 180, REHEARSALS, watchers=BY_KPROBES),
    Lane(
        "5.10-more",
        "5.10",
        200,
        ("test_kprobe.py", "test_holders.py", "test_dying.py"),
        # By tracepoints it is killed natively, by kprobes in test_kprobe.py; the rest is in 5.10-again and 6.1-more.
        select="test_kprobe or zombies or (test_dying and fexit and not (two_ or second_one))",
    ),
)
# Of the oldest and the newest, what another kernel or the native run shows by default.
_REST = (
    Lane("5.10-fexit", "5.10", 200, REHEARSALS, ALL, watchers=(*BY_ITSELF, "tracepoint")),
    Lane(
        "5.10-v1",
        "5.10",
        110,
        (*REHEARSALS, "test_check.py"),
        ALL,
        cgroup="v1",
        watchers=("fexit",),
    ),
    Lane(
        "5.10-bcc",
        "5.10",
        230,
        REHEARSALS,
        ALL,
        watchers=("bcc",),
    ),
    Lane("7.2-hybrid", "7.2", 120, REHEARSALS, ALL, cgroup="hybrid", watchers=("fexit",)),
    Lane("7.2-attach", "7.2", 250, REHEARSALS, ALL, is_strict=True, watchers=BY_OTHERS),
    Lane(
        "7.2-kprobe",
        "7.2",
        250,
        ("test_blame.py", "test_nested.py", "test_privileges.py", "test_on_demand.py"),
        ALL,
        is_strict=True,
        select="kprobe",
    ),
    Lane(
        "7.2-rest",
        "7.2",
        180,
        (
            *("test_blame.py", "test_lockdown.py", "test_moved.py", "test_privileges.py"),
            "test_stripped.py",
        ),
        ALL,
        is_strict=True,
        watchers=("fexit",),
        deselect=(*FIELDS, *TYPES),
        select="a_filter or integrity or (test_stripped and not by_the_types) or (fexit and (test_moved or "
        "two_capabilities or without_kernel_symbols or blames_every_fork or "
        "(cuts_stacks and not 127)))",
    ),
    Lane("7.2-faults", "7.2", 90, ("test_faults.py",), ALL, is_strict=True, module=FAIL_ALLOC),
)
_BETWEEN = (
    Lane("6.1", "6.1", 480, (*REHEARSALS, "test_lockdown.py"), ALL, watchers=WITH_BCC),
    Lane(
        "6.1-more",
        "6.1",
        320,
        (
            *("test_blame.py", "test_nested.py", "test_moved.py", "test_storms.py"),
            *("test_check.py", "test_arming.py", "test_kprobe.py", "test_holders.py"),
        ),
        ALL,
        # Of what is blamed by its programs, the newest kernel shows the rest.
        select="not test_blame.py or kprobe",
    ),
    Lane("6.12", "6.12", 350, (*REHEARSALS, "test_lockdown.py"), ALL),
)
# Where memory, tasks, descriptors or disk are short for the tool itself.
_WANT = (
    Lane("6.1-want", "6.1", 390, ("test_conditions.py", "test_privileges.py"), NAMED),
    Lane("6.12-want", "6.12", 200, ("test_conditions.py",), NAMED),
    Lane(
        "7.2-want",
        "7.2",
        300,
        ("test_conditions.py", "test_privileges.py"),
        NAMED,
        is_strict=True,
        select="test_conditions or are_listed or not (fexit or kprobe)",
    ),
)
# Their names and places, by every attach mode that sees them.
_CALLERS = (
    Lane("5.10-callers", "5.10", 130, ("test_callers.py",), NAMED),
    Lane("6.1-callers", "6.1", 150, ("test_callers.py",), NAMED),
    Lane(
        "7.2-callers",
        "7.2",
        250,
        ("test_callers.py", "test_callers_real.py"),
        NAMED,
        is_strict=True,
    ),
)
# What others can do to it: strangers' files, floods of names, forged records.
_STRANGERS = (
    Lane("5.10-strangers", "5.10", 120, ("test_strangers.py",), NAMED),
    Lane("6.1-strangers", "6.1", 120, ("test_strangers.py",), NAMED),
    Lane(
        "7.2-strangers",
        "7.2",
        330,
        ("test_strangers.py", "test_flood.py", "test_forged.py"),
        NAMED,
        is_strict=True,
    ),
)
# What another kernel, or the native run, shows by default.
_AGAIN = (
    Lane(
        "5.10-again",
        "5.10",
        200,
        (
            *("test_arming.py", "tests/unit/rehearse/test_rehearse.py"),
            *("test_lockdown.py", "test_asked.py", "test_dying.py", "test_holders.py"),
        ),
        NAMED,
        # test_holders.py as a whole in 6.1-more.
        select="not test_holders or rehears",
    ),
    Lane(
        "6.12-again",
        "6.12",
        220,
        ("test_on_demand.py", "test_nested.py", "test_storms.py", "test_check.py"),
        NAMED,
    ),
    Lane(
        "7.2-again",
        "7.2",
        400,
        (
            *("test_dying.py", "test_check.py", "test_asked.py"),
            *("test_blame.py", "test_nested.py", "test_moved.py", "test_stripped.py"),
        ),
        NAMED,
        is_strict=True,
        deselect=(*FIELDS, *TYPES),
        # By tracepoints it is killed natively.
        select=f"(test_dying and not tracepoint) or test_check or test_asked or {_NATIVELY}",
    ),
    # How bcc is taken, and ends, where nothing else is there: of its causes 5.10-bcc and 6.1 tell.
    Lane("5.10-fallback", "5.10", 160, ("test_bcc.py",), NAMED, deselect=(BCC_DIES,)),
    Lane("6.1-fallback", "6.1", 350, ("test_bcc.py",), NAMED),
)
_SUITES = tuple(
    Lane(
        f"{kernel}-suites",
        None,
        600,
        when=NAMED,
        command=("scripts/suites", "--kernel", kernel),
        must_say=("passed",),
    )
    for kernel in ("6.1", "7.2")
)
# Every allocation of every kind of fork, under several attach modes: half an hour for all of them.
_FAULT = tuple(
    Lane(
        f"{version}-fault",
        version,
        950,
        ("test_faults.py",),
        NAMED,
        is_strict=True,
        watchers=("fexit-all", "fexit", "tracepoint"),
        module=FAIL_ALLOC,
        faults="all",
    )
    for version in ("5.10", "6.1", "6.12", "7.2")
)

# Forks that take long, by a clock that does not mind what else runs on the machine.
_LATENCY = tuple(
    Lane(
        f"{version}-latency",
        version,
        150,
        ("test_latency.py",),
        NAMED,
        is_strict=version == "7.2",
        memory="2G",
        counts=True,
    )
    for version in ("5.10", "6.1", "6.12", "7.2")
)

# What is refused beside forks: its functions, and the system calls, differ by kernel.
_EDGES = tuple(
    Lane(f"{version}-edges", version, 120, ("test_edges.py",), NAMED, is_strict=version == "7.2")
    for version in ("5.10", "6.1", "6.12", "7.2")
)

_ADVICE = tuple(
    Lane(f"{version}-advice", version, 200, ("test_advice.py",), NAMED, is_strict=False)
    for version in ("6.1",)
) + (
    Lane(
        "7.2-advice",
        "7.2",
        200,
        ("test_advice.py",),
        NAMED,
        is_strict=True,
        select="not vfork-after-unshare-time",  # it is no failure there
    ),
)

# Processes that the OOM killer ends, under each attach mode that the kernel has; natively, by its own.
_LATE = (
    Lane("late", None, 60, ("test_late.py",), NAMED),
    *(
        Lane(
            f"{version}-late",
            version,
            400,
            ("test_late.py",),
            NAMED,
            is_strict=version == "7.2",
        )
        for version in ("5.10", "6.1", "6.12", "7.2")
    ),
)

# Another architecture, whose older kernels tell less: no trampolines before 6.12, before that no addresses
# of variables, and in 5.10 no static functions in BTF.
_ARM64_WATCHERS = {
    "5.10": BY_OTHERS,
    "6.1": BY_OTHERS,
    "6.12": (*BY_ITSELF, *BY_OTHERS),
    "7.2": (*BY_ITSELF, *BY_OTHERS),
}
_ARM64 = (
    *(
        Lane(
            f"{version}-arm64",
            f"arm64-{version}",
            700 if "fexit" in watchers else 600,
            (*REHEARSALS, "test_callers.py"),
            NAMED,
            watchers=watchers,
        )
        for version, watchers in _ARM64_WATCHERS.items()
    ),
    # By themselves: a condition is made of commit charge, of which the captures of the rehearsals keep much.
    *(
        Lane(
            f"{version}-want-arm64",
            f"arm64-{version}",
            250,
            ("test_conditions.py",),
            NAMED,
            # There a capture still finds the page that it lacks on x86-64; all that it says is the same.
            deselect=NO_PAGE,
            memory="2G",
        )
        for version in _ARM64_WATCHERS
    ),
    Lane(
        "7.2-16k-arm64",
        "arm64-7.2-16k",
        400,
        (*REHEARSALS, "test_callers.py"),
        NAMED,
        watchers=BY_ITSELF,
    ),
    # Return addresses without a signature, as on processors before ARMv8.3.
    Lane(
        "6.12-nopauth-arm64",
        "arm64-6.12",
        200,
        ("test_callers.py",),
        NAMED,
        watchers=("fexit", "tracepoint"),
        cpu="max,pauth=off",
    ),
)

# Run before a release, and when what they are about changes.
_NAMED = (
    Lane("packages", None, 60, ("test_installed.py",), NAMED, select="another_architecture"),
    Lane("container", None, 300, ("test_container.py",), NAMED),
    Lane(
        "symbols",
        "6.1",
        300,
        ("test_rehearsals.py",),
        NAMED,
        watchers=tuple(WITHOUT_SYMBOLS),
        select="not without_refused",
    ),
    Lane("btf", None, 120, ("test_stripped.py",), NAMED),
    Lane("systemd", "7.2", 320, ("test_service.py",), NAMED, is_strict=True, init="systemd"),
    Lane(
        "7.2-btf",
        "7.2",
        3500,
        ("test_stripped.py",),
        NAMED,
        is_strict=True,
        select="not tracepoint",  # which is what lane btf shows natively
    ),
    Lane(
        "python",
        None,
        300,
        when=NAMED,
        command=("/usr/bin/python3", "-m", "pythons"),
        must_say=("== Python 3.9: passed",),
    ),
)

# Kernels that preempt their own code, and with it programs, where the others of their version do not.
_STORMS = ("test_storms.py",)
_PREEMPTING = (
    Lane("6.18-lazy", "6.18", 200, _STORMS, NAMED, storm_s=12),
    *(
        Lane(
            f"{kernel}-full",
            kernel,
            200,
            _STORMS,
            NAMED,
            is_strict=True,
            append="preempt=full",
            storm_s=12,
        )
        for kernel in ("6.1", "6.12", "7.2")
    ),
    *(
        Lane(f"{kernel}-rt", f"{kernel}-rt", 250, _STORMS, NAMED, storm_s=12)
        for kernel in ("6.1", "6.12", "7.2")
    ),
)

LANES: tuple[Lane, ...] = (
    *(*_NATIVE, *_NEWEST, *_OLDEST, *_REST, *_BETWEEN),
    *(*_WANT, *_CALLERS, *_STRANGERS, *_AGAIN),
    *(*_NAMED, *_SUITES, *_FAULT, *_LATE, *_LATENCY, *_EDGES, *_ADVICE, *_PREEMPTING, *_ARM64),
)
