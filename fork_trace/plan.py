"""Which probes, by which rung and backend, and what will be missed. Pure: facts and wishes in, a plan out.

Asking the host is `kernel`'s; carrying the plan out is `backends`'. Kernels are told apart by what
they offer, never by their version: distributions backport.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fork_trace.errors import ForkTraceError
from fork_trace.steps import (
    BY_NAME,
    MEMORY_CGROUP,
    SECOND_PROGRAMS,
    STEPS,
    SYSCALL_PROGRAMS,
    Step,
    Watch,
)

RUNGS: tuple[str, ...] = ("fexit", "kprobe", "tracepoint")
BACKENDS: tuple[str, ...] = ("libbpf", "bcc")
# What can be denied, so that a fallback is tried on a kernel that would not need it.
FEATURES: tuple[str, ...] = ("libbpf", "btf", "trampolines", "ringbuf", "kallsyms", "kprobes")

# Kernel variables that the programs read by address; see struct ft_config in bpf/fork_trace.h.
VARIABLES: tuple[str, ...] = (
    "nr_threads",
    "max_threads",
    "pid_max",
    "sysctl_nr_open",
    "sysctl_overcommit_memory",
    "sysctl_overcommit_ratio",
    "sysctl_overcommit_kbytes",
    "sysctl_admin_reserve_kbytes",
    "sysctl_user_reserve_kbytes",
    "_totalram_pages",
    "total_swap_pages",
    "vm_committed_as",
    "sysctl_max_map_count",
    "unprivileged_userns_clone",
)


@dataclass(frozen=True)
class Fact:
    """One thing about the host: yes, no, or None where it could not be told; and why."""

    value: bool | None
    why: str = ""


YES = Fact(True)


@dataclass(frozen=True)
class KernelFacts:
    """What the running kernel and this host offer."""

    release: str
    machine: str
    may_load: Fact  # BPF programs, by privileges
    unlocked: Fact
    libbpf: Fact
    btf: Fact
    trampolines: Fact  # None until a program has been attached
    ringbuf: Fact
    kprobes: Fact
    tracepoints: Fact
    kallsyms: Fact
    # Function -> its parameter count in BTF; None: BTF has no such function.
    params: Mapping[str, int | None] = field(default_factory=dict)
    last_params: Mapping[str, str] = field(default_factory=dict)  # function -> its last one's name
    # Symbol -> address, for the functions of `steps` and for VARIABLES.
    addresses: Mapping[str, int] = field(default_factory=dict)
    copy_process_range: tuple[int, int] | None = None
    max_map_count: int | None = None
    # Can a task be preempted inside a program on a tracepoint?
    preempts_tracepoints: Fact = Fact(None)

    def feature(self, name: str) -> Fact:
        """Return the fact of a name in FEATURES."""
        fact: Fact = getattr(self, name)
        return fact


@dataclass(frozen=True)
class Wishes:
    """What the user forces or denies."""

    rung: str | None = None
    backend: str | None = None
    without: frozenset[str] = frozenset()
    # Also what never reaches copy_process, at the price of a little at every system call.
    refused: bool = False
    # Attach the programs of every step from the start, not at the first failure unexplained.
    all_steps: bool = False


@dataclass(frozen=True)
class Probe:
    """One program on one kernel function or tracepoint."""

    step: str | None  # None: it tells of no step by itself
    function: str
    program: str
    in_detail: bool = False  # attached later; see steps.Step


@dataclass(frozen=True)
class Missing:
    """A step whose refusal cannot be observed here, and why."""

    step: str
    function: str | None
    reason: str


@dataclass(frozen=True)
class Plan:
    """What will be attached, and what will be missed."""

    rung: str
    backend: str
    probes: tuple[Probe, ...]
    missing: tuple[Missing, ...]
    addresses: Mapping[str, int]
    copy_process_range: tuple[int, int] | None
    max_map_count: int | None = None  # vm.max_map_count at the start

    def watched(self, in_detail: bool) -> int:
        """Return the watched steps as the programs know them: bit n for step number n.

        With `in_detail` those count too that are attached later.
        """
        mask = 0
        for probe in self.probes:
            if probe.step and (in_detail or not probe.in_detail):
                mask |= 1 << BY_NAME[probe.step].number
        return mask

    def without_probe(self, program: str, reason: str) -> Plan:
        """Return this plan with one program given up, which the kernel refused."""
        gone = [probe for probe in self.probes if probe.program == program]
        return replace(
            self,
            probes=tuple(probe for probe in self.probes if probe.program != program),
            missing=self.missing
            + tuple(Missing(probe.step, probe.function, reason) for probe in gone if probe.step),
        )


def _denied(facts: KernelFacts, wishes: Wishes) -> KernelFacts:
    changes = {name: Fact(False, f"denied by --without {name}") for name in wishes.without}
    values = {**facts.__dict__, **changes}
    if "kallsyms" in wishes.without:
        values.update(addresses={}, copy_process_range=None)
    return KernelFacts(**values)


def _why_not(watch: Watch, facts: KernelFacts) -> str | None:
    params = facts.params.get(watch.function)
    if params is None:
        return f"this kernel's BTF has no function {watch.function} that returns something"
    if params != watch.params:
        return f"{watch.function} has {params} parameters here, which no program is written for"
    last = facts.last_params.get(watch.function)
    if watch.last_param and last and last != watch.last_param:
        return f"copy_process does not call {watch.function} here, but a part of it that is inlined"
    if facts.kallsyms.value and facts.addresses and watch.function not in facts.addresses:
        # BTF can describe a function of which only a .part.0 copy was compiled.
        return f"this kernel's symbols have no {watch.function}: inlined or split by the compiler"
    return None


_TOLD_BY_REFUSED = "comes before copy_process: told by --refused only"
_EARLY = ("seccomp", "kernel_clone")  # before copy_process, and in no function of their own


def _choose(step: Step, facts: KernelFacts) -> Watch | Missing:
    """Take the first function that this kernel has, or say why there is none."""
    reasons = [(watch, _why_not(watch, facts)) for watch in step.watches]
    for watch, reason in reasons:
        if reason is None:
            return watch
    if reasons:
        # Of several forms the one that is there, though not as expected, tells more.
        known = [pair for pair in reasons if facts.params.get(pair[0].function) is not None]
        watch, reason = (known or reasons)[0]
        return Missing(step.name, watch.function, reason or "")
    if step.name in _EARLY:
        return Missing(step.name, None, _TOLD_BY_REFUSED)
    return Missing(
        step.name, None, "tested inline in copy_process: inferred from the state at that instant"
    )


def why_not_fexit(facts: KernelFacts) -> tuple[str, str] | None:
    """Say why the fexit rung cannot be taken, and what to do; None: it can be tried."""
    if facts.libbpf.value is False:
        return facts.libbpf.why, (
            "Install libbpf 1.0 or newer (Debian, Ubuntu: libbpf1; Fedora, RHEL: libbpf)."
        )
    if facts.btf.value is False:
        return facts.btf.why, (
            "Run a kernel built with CONFIG_DEBUG_INFO_BTF=y; every current distribution's is."
        )
    if facts.unlocked.value is False:
        return facts.unlocked.why, (
            "Boot with lockdown=integrity or less; where Secure Boot sets it, that is the firmware's."
        )
    if facts.may_load.value is False:
        return facts.may_load.why, "Run it as root, or give it CAP_BPF and CAP_PERFMON."
    if facts.trampolines.value is False:
        return facts.trampolines.why, (
            "The fexit rung needs BPF trampolines: x86-64 since Linux 5.5, arm64 since 6.0, "
            "with CONFIG_FUNCTION_TRACER=y."
        )
    if facts.ringbuf.value is False:
        return facts.ringbuf.why, "The fexit rung needs the BPF ring buffer: Linux 5.8 or newer."
    return None


def why_not_tracepoint(facts: KernelFacts) -> tuple[str, str] | None:
    """Say why the tracepoint rung cannot be taken, and what to do; None: it can be tried."""
    for fact in (facts.libbpf, facts.btf, facts.unlocked, facts.may_load, facts.ringbuf):
        if fact.value is False:
            return why_not_fexit(replace(facts, trampolines=YES))
    if facts.tracepoints.value is False:
        return facts.tracepoints.why, "The tracepoint rung needs CONFIG_FTRACE_SYSCALLS=y."
    return None


def make(facts: KernelFacts, wishes: Wishes = Wishes()) -> Plan:
    """Choose the best rung that the kernel offers and list its probes; ForkTraceError if there is none."""
    facts = _denied(facts, wishes)
    if wishes.backend == "bcc":
        raise ForkTraceError(
            "the bcc backend is not part of this version",
            "Leave --backend out: libbpf needs no compiler and no kernel headers.",
        )
    if wishes.rung == "kprobe":
        raise ForkTraceError(
            "the kprobe rung is not part of this version",
            "Leave --rung out, and see `fork-trace doctor` for what this kernel offers.",
        )
    refusal = why_not_fexit(facts)
    if wishes.rung == "tracepoint" or (refusal and wishes.rung is None):
        lower = why_not_tracepoint(facts)
        if lower is None:
            return _tracepoint(facts)
        refusal = refusal if wishes.rung is None else lower
    if refusal:
        why, remedy = refusal
        raise ForkTraceError(f"cannot watch forks on {facts.release}: {why}", remedy)
    return _fexit(facts, wishes)


def _plan(
    rung: str, facts: KernelFacts, probes: Sequence[Probe], missing: Sequence[Missing]
) -> Plan:
    return Plan(
        rung=rung,
        backend="libbpf",
        probes=tuple(probes),
        missing=tuple(missing),
        addresses={name: facts.addresses[name] for name in VARIABLES if name in facts.addresses},
        copy_process_range=facts.copy_process_range,
        max_map_count=facts.max_map_count,
    )


def _syscall_probes(facts: KernelFacts) -> list[Probe]:
    programs = SYSCALL_PROGRAMS + (SECOND_PROGRAMS if facts.preempts_tracepoints.value else ())
    return [
        Probe(None, program[len("raw_") :].removesuffix("_again"), program) for program in programs
    ]


def _fexit(facts: KernelFacts, wishes: Wishes) -> Plan:
    probes = []
    missing = []
    for step in STEPS:
        watch = _choose(step, facts)
        if isinstance(watch, Missing):
            missing.append(watch)
            continue
        if step.name == "clone_args" and not wishes.refused:
            # Nothing but the system call's exit would ever take up what this one notes.
            missing.append(Missing(step.name, watch.function, _TOLD_BY_REFUSED))
            continue
        is_late = step.in_detail and not wishes.all_steps
        probes.append(Probe(step.name, watch.function, watch.program, is_late))
    if not any(probe.step == "copy_process" for probe in probes):
        reason = next(gap.reason for gap in missing if gap.step == "copy_process")
        raise ForkTraceError(
            f"cannot watch forks on {facts.release}: {reason}",
            "Please report this kernel with the output of `fork-trace doctor --json`.",
        )
    if _why_not(MEMORY_CGROUP, facts) is None:
        probes.append(Probe(None, MEMORY_CGROUP.function, MEMORY_CGROUP.program))
    if wishes.refused:
        probes += _syscall_probes(facts)
        missing = [gap for gap in missing if gap.step not in _EARLY]
    return _plan("fexit", facts, probes, missing)


def _tracepoint(facts: KernelFacts) -> Plan:
    # The system call's exit sees every failure, and none of the steps.
    missing = [
        Missing(step.name, None, "inferred from the state at the system call's exit")
        for step in STEPS
        if step.name not in (*_EARLY, "copy_process", "mmap", "mprotect")
    ]
    return _plan("tracepoint", facts, _syscall_probes(facts), missing)
