"""Which probes, by which attach mode and backend, and what will be missed. Pure: facts and a request in, a plan out.

Asking the host is `kernel`'s; carrying the plan out is `backends`'. Kernels are told apart by what
they offer, never by their version: distributions backport.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from enum import IntEnum

from fork_trace.errors import ForkTraceError
from fork_trace.model.dataclass import dataclass
from fork_trace.model.steps import (
    BY_NAME,
    COPIED_AGAIN,
    COPIED_AGAIN_ON_EXIT,
    COPIED_TWICE,
    EXECVE,
    EXECVES,
    MEMORY_CGROUP,
    SECOND_PROGRAMS,
    SEEN_IN_PART,
    STEPS,
    SYSCALL_PROGRAMS,
    UNSHARED,
    Step,
    Watch,
)
from fork_trace.probes.request import Request

# Kernel variables that the programs read by address; see struct ft_config in bpf/settings.h.
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
    # Functions, by which bpf/maker.h knows who makes a task.
    "kthread",
    "call_usermodehelper_exec_async",
    "ucounts_hashtable",
)

# Functions of the OOM killer: the first one chooses, the second one kills, each victim of a group too.
CHOOSER, KILLER = "oom_kill_process", "__oom_kill_process"
CGROUP_KILLER = "mem_cgroup_out_of_memory"
# Functions that copy a page that is shared, as somebody writes to it. Not do_huge_pmd_wp_page: since
# Linux commit 3917c80280c9 ("thp: change CoW semantics for anon-THP") (in v5.8) it splits what is shared,
# for do_wp_page, and fills in what is not there.
COPIERS: tuple[str, ...] = ("do_wp_page", "wp_page_copy")
# Where a function with a return probe of ours returns to: here a stack ends for a kernel before Linux
# commit 19138af1bd88 ("x86/unwind: Recover kretprobe trampoline entry").
TRAMPOLINES = ("kretprobe_trampoline", "__kretprobe_trampoline")
MARK_VICTIM = "mark_victim"  # the tracepoint
HUGE_FAULT = "hugetlb_fault"  # returns VM_FAULT_SIGBUS to who is killed for want of a huge page


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
    # Function -> its parameter count in BTF; None: BTF has no such function that returns something.
    params: Mapping[str, int | None] = field(default_factory=dict)
    last_params: Mapping[str, str] = field(default_factory=dict)  # function -> its last one's name
    voids: frozenset[str] = frozenset()  # functions that BTF has, and that return nothing
    # Symbol -> address, for the functions of `steps` and for VARIABLES.
    addresses: Mapping[str, int] = field(default_factory=dict)
    # Of VARIABLES, those found by their files below /proc/sys, where symbols have no variables.
    sysctls: Mapping[str, int] = field(default_factory=dict)
    copy_process_range: tuple[int, int] | None = None
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # of kernel.RANGED
    max_map_count: int | None = None
    ram_and_swap: int | None = None  # bytes
    preempts: Fact = Fact(None)  # a task in kernel code; inside a program on a tracepoint?
    preempts_tracepoints: Fact = Fact(None)
    # For what is compiled on this host.
    bcc: Fact = Fact(None, "not looked for")  # the Python module
    headers: Fact = Fact(None, "not looked for")
    headers_remedy: str = ""
    header_fields: Mapping[str, bool] = field(default_factory=dict)
    # Function -> its parameter count as a header declares it; None: it returns nothing.
    header_params: Mapping[str, int | None] = field(default_factory=dict)

    def feature(self, name: str) -> Fact:
        """Return the fact of a name in FEATURES."""
        fact: Fact = getattr(self, name)
        return fact

    def with_feature(self, name: str, fact: Fact) -> KernelFacts:
        """Return these facts with another word on one of FEATURES."""
        return KernelFacts(**{**self.__dict__, name: fact})


class Stage(IntEnum):
    """When a probe is attached."""

    START = 0
    FAILED = 1  # at the first failure
    UNEXPLAINED = 2  # at the first failure that no attached probe explains


@dataclass(frozen=True)
class Probe:
    """One program on one kernel function or tracepoint."""

    step: str | None  # None: it tells of no step by itself
    function: str
    program: str  # on its exit or return
    stage: Stage = Stage.START
    entry: str | None = None  # the program on its entry, which keeps arguments for the other


@dataclass(frozen=True)
class Missing:
    """A step whose refusal cannot be observed here, or else what cannot be read, and why."""

    step: str
    function: str | None
    reason: str


@dataclass(frozen=True)
class Fallback:
    """A better way of attaching that was not taken, and why."""

    attach: str
    backend: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """What will be attached, and what will be missed."""

    attach: str
    backend: str
    probes: tuple[Probe, ...]
    missing: tuple[Missing, ...]
    addresses: Mapping[str, int]
    copy_process_range: tuple[int, int] | None
    max_map_count: int | None = None  # vm.max_map_count at the start
    ram_and_swap: int | None = None  # in bytes, at the start
    fallbacks: tuple[Fallback, ...] = ()  # better ones, best first
    has_ringbuf: bool = True  # else samples come by a perf buffer
    # Which fields the installed headers have, for programs that are compiled against them.
    header_fields: Mapping[str, bool] = field(default_factory=dict)
    # The kernel can leave a program out: while a task that was preempted inside it waits on that
    # processor, or, of kprobes, one that was preempted in a look at a map (kernel/trace/bpf_trace.c,
    # trace_call_bpf). That a step was silent then proves nothing by itself.
    can_leave_out: bool = False
    # What the programs would read and this kernel does not have; known once they are loaded.
    unread: tuple[Missing, ...] = ()
    is_lean: bool = False  # as was asked for
    # What tells of the OOM killer's deaths; without them no failure is missed.
    late: tuple[Probe, ...] = ()
    notes_forks: bool = False  # that go through, of large parents
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # function -> its addresses
    blind: int = 0  # which of their readers are off for it: bit n for probes.libbpf.gaps.READERS[n]

    @property
    def is_copied_twice(self) -> bool:
        """Say whether two programs see to it that each failed fork is counted, where one can be left out."""
        return any(probe.program in COPIED_TWICE for probe in self.probes)

    @property
    def is_seen_twice(self) -> bool:
        """Say whether two programs see to what is counted: one that is alone can be left out unseen."""
        return any(probe.program in (*COPIED_TWICE, *SECOND_PROGRAMS) for probe in self.probes)

    @property
    def waits(self) -> bool:
        """Say whether none but copy_process is watched until a fork fails."""
        return any(probe.stage is Stage.FAILED for probe in self.probes)

    def watched(self, stage: Stage) -> int:
        """Return the steps watched from that stage on as the programs know them: bit n for step number n."""
        mask = 0
        for probe in self.probes:
            if probe.step and probe.stage <= stage:
                mask |= 1 << BY_NAME[probe.step].number
        return mask

    def counting_only(self, readers: int, reason: str) -> Plan:
        """Return this plan with nothing but counting: no reader of the kernel's state, of `readers`, is left."""
        why = f"this kernel refuses programs that read its state: {reason}"
        return replace(self, blind=readers, unread=(*self.unread, Missing("evidence", None, why)))

    def without_probe(self, program: str, reason: str) -> Plan:
        """Return this plan with one program given up, which the kernel refused."""
        gone = [probe for probe in (*self.probes, *self.late) if probe.program == program]
        left = [probe for probe in self.probes if probe.program != program]
        if program == COPIED_AGAIN:
            left += [replace(probe, program=COPIED_AGAIN_ON_EXIT) for probe in gone]
        return replace(
            self,
            probes=tuple(left),
            late=tuple(probe for probe in self.late if probe.program != program),
            missing=self.missing
            + tuple(
                Missing(probe.step or probe.function, probe.function, reason)
                for probe in gone
                # That copy_process is watched once more is for nobody to know.
                if probe.step or probe.program not in COPIED_TWICE
            ),
        )


def _denied(facts: KernelFacts, request: Request) -> KernelFacts:
    for name in request.without:
        facts = facts.with_feature(name, Fact(False, f"denied by --without {name}"))
    if "kallsyms" in request.without:
        facts = replace(facts, addresses={}, copy_process_range=None, ranges={})
    return facts


def _is_inlined(watch: Watch, facts: KernelFacts) -> str | None:
    if facts.kallsyms.value and facts.addresses and watch.function not in facts.addresses:
        # BTF can describe a function of which only a .part.0 copy was compiled.
        return f"this kernel's symbols have no {watch.function}: inlined or split by the compiler"
    return None


def _why_not(watch: Watch, facts: KernelFacts) -> str | None:
    params = facts.params.get(watch.function)
    if params is None:
        return f"this kernel's BTF has no function {watch.function} that returns something"
    if params != watch.params:
        return f"{watch.function} has {params} parameters on this kernel, which is not supported"
    if watch.takes_struct and facts.kprobes.value is False:
        return f"{watch.function} needs a kprobe: {facts.kprobes.why}"
    last = facts.last_params.get(watch.function)
    if watch.last_param and last and last != watch.last_param:
        return f"copy_process does not call {watch.function} on this kernel, only an inlined part of it"
    return _is_inlined(watch, facts)


def _why_not_kprobe(watch: Watch, facts: KernelFacts) -> str | None:
    # A BTF without copy_process has no static functions at all (Debian's arm64 5.10): there the
    # symbols decide. In any other, what is not there cannot be traced.
    has_statics = "copy_process" in facts.voids or facts.params.get("copy_process") is not None
    is_told = facts.params.get(watch.function) is not None or watch.function in facts.voids
    if not has_statics and not is_told and watch.function in facts.addresses:
        return None
    return _why_not(watch, facts)


def _why_not_compiled(watch: Watch, facts: KernelFacts) -> str | None:
    if facts.params:
        return _why_not_kprobe(watch, facts)
    # Without BTF the symbols say what is there, and a header which form of it where there are two.
    if watch.function in facts.header_params:
        params = facts.header_params[watch.function]
        if params is None:
            return f"{watch.function} returns nothing on this kernel"
        if params != watch.params:
            return (
                f"{watch.function} has {params} parameters on this kernel, which is not supported"
            )
    return _is_inlined(watch, facts)


_TOLD_BY_REFUSED = "runs before copy_process: needs --refused"
_EARLY = ("seccomp", "kernel_clone")  # before copy_process, and in no function of their own


def _choose(
    step: Step, facts: KernelFacts, why_not: Callable[[Watch, KernelFacts], str | None]
) -> Watch | Missing:
    """Take the first function that this kernel has, or say why there is none."""
    reasons = [(watch, why_not(watch, facts)) for watch in step.watches]
    for watch, reason in reasons:
        if reason is None:
            return watch
    if reasons and step.name not in SEEN_IN_PART:
        # Of several forms the one that is there, though not as expected, tells more.
        known = [pair for pair in reasons if facts.params.get(pair[0].function) is not None]
        watch, reason = (known or reasons)[0]
        return Missing(step.name, watch.function, reason or "")
    if step.name in _EARLY:
        return Missing(step.name, None, _TOLD_BY_REFUSED)
    if step.name == EXECVE:
        return Missing(step.name, None, "its system calls are not watched: needs --refused")
    return Missing(step.name, None, "tested inline in copy_process: inferred from kernel state")


def _why_not_any(facts: KernelFacts) -> tuple[str, str] | None:
    """Say why no program can be loaded, whatever it is made from."""
    if facts.unlocked.value is False:
        return facts.unlocked.why, (
            "Boot with lockdown=integrity or less; if Secure Boot sets it, change that in the firmware."
        )
    if facts.may_load.value is False:
        return facts.may_load.why, "Run it as root, or give it CAP_BPF and CAP_PERFMON."
    return None


def _why_not_libbpf(facts: KernelFacts) -> tuple[str, str] | None:
    """Say why the CO-RE object cannot be loaded, whichever way it would be attached."""
    if facts.libbpf.value is False:
        return facts.libbpf.why, (
            "Install libbpf 1.0 or newer (Debian, Ubuntu: libbpf1; Fedora, RHEL: libbpf)."
        )
    if facts.btf.value is False:
        return facts.btf.why, (
            "Run a kernel built with CONFIG_DEBUG_INFO_BTF=y; every current distribution's is."
        )
    refusal = _why_not_any(facts)
    if refusal is not None:
        return refusal
    if facts.ringbuf.value is False:
        return facts.ringbuf.why, "It needs the BPF ring buffer: Linux 5.8 or newer."
    return None


def why_not_fexit(facts: KernelFacts) -> tuple[str, str] | None:
    """Say why the fexit attach mode cannot be taken, and what to do; None: it can be tried."""
    refusal = _why_not_libbpf(facts)
    if refusal is None and facts.trampolines.value is False:
        return facts.trampolines.why, (
            "fexit needs BPF trampolines: x86-64 since Linux 5.5, arm64 since 6.0, "
            "with CONFIG_FUNCTION_TRACER=y."
        )
    return refusal


def why_not_kprobe(facts: KernelFacts) -> tuple[str, str] | None:
    """Say why the kprobe attach mode cannot be taken by libbpf, and what to do; None: it can be tried."""
    return _why_not_libbpf(facts) or _why_no_kprobes(facts)


def _why_no_kprobes(facts: KernelFacts) -> tuple[str, str] | None:
    if facts.kprobes.value is False:
        return facts.kprobes.why, (
            "kprobe needs CONFIG_KPROBES=y, CONFIG_KPROBE_EVENTS=y, "
            "/sys/kernel/debug/kprobes/enabled at 1, and root where kernel.perf_event_paranoid is over 2."
        )
    return None


_BCC_REMEDY = (
    "Install the distribution's bcc: python3-bpfcc (Debian, Ubuntu), python3-bcc (Fedora, RHEL, "
    "SUSE), py3-bcc (Alpine), python-bcc (Arch); pip uninstall bcc if that is PyPI's."
)


def why_not_bcc(facts: KernelFacts) -> tuple[str, str] | None:
    """Say why the kprobe attach mode cannot be taken by bcc, and what to do; None: it can be tried."""
    if facts.bcc.value is False:
        return facts.bcc.why, _BCC_REMEDY
    refusal = _why_not_any(facts)
    if refusal is not None:
        return refusal
    if facts.headers.value is False:
        return facts.headers.why, facts.headers_remedy
    return _why_no_kprobes(facts)


def why_not_tracepoint(facts: KernelFacts) -> tuple[str, str] | None:
    """Say why the tracepoint attach mode cannot be taken, and what to do; None: it can be tried."""
    refusal = _why_not_libbpf(facts)
    if refusal is None and facts.tracepoints.value is False:
        return facts.tracepoints.why, "tracepoint needs CONFIG_FTRACE_SYSCALLS=y."
    return refusal


# Best first: the attach mode, what loads it, why it cannot be taken.
_LADDER: tuple[tuple[str, str, Callable[[KernelFacts], tuple[str, str] | None]], ...] = (
    ("fexit", "libbpf", why_not_fexit),
    ("kprobe", "libbpf", why_not_kprobe),
    ("kprobe", "bcc", why_not_bcc),
    ("tracepoint", "libbpf", why_not_tracepoint),
)


def make(facts: KernelFacts, request: Request = Request()) -> Plan:
    """Choose the best attach mode that the kernel offers and list its probes; ForkTraceError if there is none."""
    facts = _denied(facts, request)
    wanted = [
        (attach, backend, why_not)
        for attach, backend, why_not in _LADDER
        if request.attach in (None, attach) and request.backend in (None, backend)
    ]
    if not wanted:
        raise ForkTraceError(
            f"the {request.backend} backend does not support --attach {request.attach}",
            "Leave out --attach or --backend: bcc supports kprobe only, libbpf supports all three.",
        )
    fallbacks: list[Fallback] = []
    remedies: dict[str, str] = {}
    for attach, backend, why_not in wanted:
        refusal = why_not(facts) or _why_no_copy_process(attach, backend, facts)
        if refusal is None:
            made = _built(attach, backend, facts, request)
            return replace(made, fallbacks=tuple(fallbacks))
        why, remedy = refusal
        fallbacks.append(Fallback(attach, backend, why))
        remedies.setdefault(backend, remedy)
    # Of several that fail the best one's reason is told, and bcc's, which can be another matter.
    best = fallbacks[0]
    by_bcc = next((each for each in fallbacks if each.backend == "bcc"), best)
    why, remedy = best.reason, remedies[best.backend]
    if _why_not_any(facts) is None and by_bcc.reason not in (best.reason, facts.kprobes.why):
        why += f"; bcc is not an option either: {by_bcc.reason}"
        remedy += f" Or: {remedies['bcc']}"
    raise ForkTraceError(f"cannot watch forks on {facts.release}: {why}", remedy)


# What says of a function why a way of attaching cannot have it.
_WHY_NOT: Mapping[tuple[str, str], Callable[[Watch, KernelFacts], str | None]] = {
    ("fexit", "libbpf"): _why_not,
    ("kprobe", "libbpf"): _why_not_kprobe,
    ("kprobe", "bcc"): _why_not_compiled,
}


def _why_no_copy_process(attach: str, backend: str, facts: KernelFacts) -> tuple[str, str] | None:
    """Say why that way cannot have the one function that it cannot do without, and what to do."""
    why_not = _WHY_NOT.get((attach, backend))
    found = _choose(BY_NAME["copy_process"], facts, why_not) if why_not else None
    if not isinstance(found, Missing):
        return None
    return found.reason, "Please report this kernel with the output of `fork-trace doctor --json`."


def _built(attach: str, backend: str, facts: KernelFacts, request: Request) -> Plan:
    why_not = _WHY_NOT.get((attach, backend))
    if why_not is None:
        found = _tracepoint(facts)
    else:
        probe_of = _on_exit if attach == "fexit" else _on_return
        found = _by_function(attach, backend, facts, request, why_not, probe_of)
    # Elsewhere each fork would pay more for it.
    notes_forks = request.large_forks and (attach, backend) == ("fexit", "libbpf")
    return replace(found, is_lean=request.is_lean, notes_forks=notes_forks)


def _plan(
    attach: str,
    backend: str,
    facts: KernelFacts,
    probes: Sequence[Probe],
    missing: Sequence[Missing],
) -> Plan:
    known = {**facts.sysctls, **facts.addresses}
    return Plan(
        attach=attach,
        backend=backend,
        probes=tuple(probes),
        missing=tuple(missing),
        addresses={name: known[name] for name in VARIABLES if name in known},
        copy_process_range=facts.copy_process_range,
        max_map_count=facts.max_map_count,
        ram_and_swap=facts.ram_and_swap,
        has_ringbuf=facts.ringbuf.value is not False,
        header_fields=facts.header_fields,
        late=_late(attach, facts) if backend == "libbpf" else (),
        ranges=facts.ranges,
        can_leave_out=(attach, backend) in (("fexit", "libbpf"), ("kprobe", "libbpf"))
        and facts.preempts.value is not False,
    )


def _late(attach: str, facts: KernelFacts) -> tuple[Probe, ...]:
    """Watch the OOM killer by its functions, or where they cannot be watched by its tracepoint."""
    way = {"fexit": "fentry", "kprobe": "kprobe"}.get(attach)
    has = [name for name in (CHOOSER, KILLER) if _has_void(name, attach, facts)]
    if way is not None and CHOOSER in has:
        # In the order in which the kernel calls them; who kills is attached first, as it tells.
        programs = {KILLER: f"{way}_oom_kill", CHOOSER: f"{way}_oom_kill_process"}
        kills = tuple(Probe(None, name, programs[name]) for name in programs if name in has)
        return kills + _huge_fault(attach, facts)
    if facts.tracepoints.value is not False:
        return (Probe(None, MARK_VICTIM, f"raw_{MARK_VICTIM}"),)
    return ()


def _huge_fault(attach: str, facts: KernelFacts) -> tuple[Probe, ...]:
    """Watch the faults of huge pages, for which only those pay who use them."""
    if HUGE_FAULT not in facts.addresses:
        return ()
    if attach == "kprobe":
        entry = f"kprobe_{HUGE_FAULT}"
        return (Probe(None, HUGE_FAULT, f"kretprobe_{HUGE_FAULT}", Stage.START, entry),)
    if facts.params.get(HUGE_FAULT) == 4:
        return (Probe(None, HUGE_FAULT, f"fexit_{HUGE_FAULT}"),)
    return ()


def _has_void(name: str, attach: str, facts: KernelFacts) -> bool:
    """Say whether a function that returns nothing can be watched."""
    is_there = name in facts.addresses
    if facts.kallsyms.value and facts.addresses and not is_there:
        return False
    return name in facts.voids or (attach == "kprobe" and is_there)


def _syscall_probes(facts: KernelFacts, may_repeat: bool = True) -> list[Probe]:
    repeats = may_repeat and facts.preempts_tracepoints.value
    programs = SYSCALL_PROGRAMS + (SECOND_PROGRAMS if repeats else ())
    return [
        Probe(None, program[len("raw_") :].removesuffix("_again"), program) for program in programs
    ]


def _on_exit(step: str | None, watch: Watch, stage: Stage) -> Probe:
    return Probe(
        *(step, watch.function), watch.kretprobe if watch.takes_struct else watch.program, stage
    )


def _on_return(step: str | None, watch: Watch, stage: Stage) -> Probe:
    return Probe(step, watch.function, watch.kretprobe, stage, watch.kprobe)


def _stage(step: Step | None, request: Request) -> Stage:
    if step and step.in_detail and not request.all_steps:
        return Stage.UNEXPLAINED
    # What comes before copy_process is asked for by --refused, at its price.
    if not request.on_demand or (step and step.name in ("copy_process", "clone_args")):
        return Stage.START
    return Stage.FAILED


def _by_function(
    attach: str,
    backend: str,
    facts: KernelFacts,
    request: Request,
    why_not: Callable[[Watch, KernelFacts], str | None],
    probe_of: Callable[[str | None, Watch, Stage], Probe],
) -> Plan:
    """Watch each step by the kernel function that can refuse."""
    if backend == "bcc":
        # Its one program has no room for another phase: the verifier of 6.1 refuses it.
        request = request._replace(on_demand=False)
    probes = []
    missing = []
    for step in STEPS:
        watch = _choose(step, facts, why_not)
        if isinstance(watch, Missing):
            missing.append(watch)
            continue
        if step.name == "clone_args" and not request.refused:
            # Nothing but the system call's exit would ever take up what this one notes.
            missing.append(Missing(step.name, None, _TOLD_BY_REFUSED))
            continue
        probes.append(probe_of(step.name, watch, _stage(step, request)))
    if why_not(MEMORY_CGROUP, facts) is None:
        probes.append(probe_of(None, MEMORY_CGROUP, _stage(None, request)))
    if backend == "libbpf":
        for step_name, watches in ((None, UNSHARED), (EXECVE, EXECVES)):
            found = (watch for watch in watches if why_not(watch, facts) is None)
            probes += (probe_of(step_name, watch, _stage(None, request)) for watch in found)
    if attach == "fexit" and facts.preempts.value is not False:
        program = COPIED_AGAIN_ON_EXIT if facts.kprobes.value is False else COPIED_AGAIN
        probes.append(Probe(None, "copy_process", program))
    if any(probe.step == EXECVE for probe in probes) or request.refused:
        missing = [gap for gap in missing if gap.step != EXECVE]
    if request.refused:
        # The second ones are not written for bcc.
        probes += _syscall_probes(facts, may_repeat=backend == "libbpf")
        missing = [gap for gap in missing if gap.step not in _EARLY]
    return _plan(attach, backend, facts, probes, missing)


def _tracepoint(facts: KernelFacts) -> Plan:
    # The system call's exit sees every failure, and none of the steps.
    missing = [
        Missing(step.name, None, "inferred from kernel state when the system call returns")
        for step in STEPS
        if step.name not in (*_EARLY, "copy_process", "mmap", "mprotect", EXECVE)
    ]
    return _plan("tracepoint", "libbpf", facts, _syscall_probes(facts), missing)
