"""From what the host offers to programs that watch: facts, plan, the backend with its fallbacks, and what is attached later.

Deciding is `plan`'s, loading and attaching the backend's. On the libbpf path nothing here forks,
starts a thread or runs a program.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import NamedTuple

from fork_trace.errors import ForkTraceError
from fork_trace.host import cgroup, procfs
from fork_trace.model import sizes, steps
from fork_trace.probes import headers, kernel, privileges, reserve
from fork_trace.probes.backend import AttachRefusedError, Backend, Filter
from fork_trace.probes.libbpf.backend import LibbpfBackend
from fork_trace.probes.libbpf.bindings import Library
from fork_trace.probes.libbpf.btf import (
    SYMBOL_ITERATOR,
    function_params,
    listed_symbols,
    sysctl_addresses,
)
from fork_trace.probes.libbpf.counting import Counting
from fork_trace.probes.plan import (
    CHOOSER,
    HUGE_FAULT,
    KILLER,
    VARIABLES,
    Fact,
    KernelFacts,
    Plan,
    Stage,
    make,
)
from fork_trace.probes.request import Request

# Attach mode and backend -> the feature that no other needs, which only an attached program proves.
_NEEDED_BY = {
    ("fexit", "libbpf"): "trampolines",
    ("kprobe", "libbpf"): "kprobes",
    ("kprobe", "bcc"): "bcc",
}
_RINGBUF = "bpf_ringbuf_output"  # kernel/bpf/ringbuf.c: there if the map type is


def read_facts(
    request: Request, root: str = "/", library: Library | None = None
) -> tuple[KernelFacts, Library | None]:
    """Ask the host what it offers; the library is None where libbpf cannot be loaded."""
    functions = _functions()
    btf = kernel.btf(root)
    params: dict[str, int | None] = {}
    last_params: dict[str, str] = {}
    voids: frozenset[str] = frozenset()
    library, libbpf = _loaded(library)
    may_load = kernel.may_load(root)
    ringbuf = Fact(None, "not checked: requires permission to load BPF programs")
    if library and btf.value and "btf" not in request.without:
        try:
            params, voids, last_params = function_params(library, [*functions, SYMBOL_ITERATOR])
        except ForkTraceError as error:
            btf = Fact(False, error.message)
    if library and may_load.value:
        ringbuf = _ringbuf(library.has_ringbuf())
    names = ("copy_process", *functions, *VARIABLES, *kernel.TRACEPOINT_GUARDS)
    names += (_RINGBUF, *kernel.RANGED)
    has_iterator = params.pop(SYMBOL_ITERATOR, None) is not None
    # Programs ask the running kernel, whatever the root.
    asked = library if may_load.value and root == "/" else None
    listed = listed_symbols(asked, names) if asked and has_iterator else None
    kallsyms, addresses, ranges = kernel.symbols(names, root, listed)
    if not library and addresses:
        ringbuf = _ringbuf(_RINGBUF in addresses)
    found, remedy = headers.find(os.uname().release, root)
    preempts = kernel.preempts(root)
    return KernelFacts(
        release=os.uname().release,
        machine=os.uname().machine,
        may_load=may_load,
        unlocked=kernel.unlocked(root),
        libbpf=libbpf,
        btf=btf,
        trampolines=_trampolines(library if may_load.value else None),
        ringbuf=ringbuf,
        kprobes=kernel.kprobes(root),
        tracepoints=kernel.tracepoints(root),
        kallsyms=with_variables(kallsyms, addresses),
        params=params,
        voids=voids,
        last_params=last_params,
        addresses=addresses,
        sysctls=_sysctls(asked, addresses, request),
        copy_process_range=ranges.get("copy_process"),
        ranges=ranges,
        max_map_count=kernel.limits(root)["vm.max_map_count"],
        ram_and_swap=procfs.ram_and_swap(os.path.join(root, "proc")),
        preempts=preempts,
        preempts_tracepoints=kernel.preempts_tracepoints(addresses, preempts),
        bcc=headers.bcc_module(),
        headers=found,
        headers_remedy=remedy,
    ), library


def _loaded(library: Library | None) -> tuple[Library | None, Fact]:
    try:
        library = library or Library()
        return library, Fact(True, library.version())
    except ForkTraceError as error:
        return None, Fact(False, error.message)


def _trampolines(library: Library | None) -> Fact:
    if library and library.refuses_tracing():
        return Fact(False, "this kernel loads no BPF programs on the exits of functions")
    return Fact(None, "unknown until a program is attached")


def _functions() -> list[str]:
    """Name the functions that are watched where the kernel has them."""
    watched = [watch.function for step in steps.STEPS for watch in step.watches]
    watched += [watch.function for watch in (*steps.UNSHARED, *steps.EXECVES)]
    return [*watched, steps.MEMORY_CGROUP.function, CHOOSER, KILLER, HUGE_FAULT]


def _sysctls(
    library: Library | None, addresses: Mapping[str, int], request: Request
) -> dict[str, int]:
    """Find what sysctls show where the symbols have no variables: without CONFIG_KALLSYMS_ALL, as Debian's arm64 kernels before 6.12."""
    has_variables = "nr_threads" in addresses and "kallsyms" not in request.without
    return {} if library is None or has_variables else sysctl_addresses(library)


def with_variables(kallsyms: Fact, addresses: Mapping[str, int]) -> Fact:
    """Say of symbols without variables what that means."""
    if not kallsyms.value or "nr_threads" in addresses:
        return kallsyms
    return Fact(
        True,
        "functions only, no variables (no CONFIG_KALLSYMS_ALL): how many threads there are and how much "
        "memory is promised is read from /proc, after a failure",
    )


def _ringbuf(has: bool | None) -> Fact:
    return Fact(has, "" if has else "this kernel has no BPF ring buffer")


def find_filter(
    comm: str | None, pid: int | None, uid: int | None, cgroup_path: str | None
) -> Filter:
    """Turn what the user names into what the kernel compares."""
    number = None
    if cgroup_path is not None:
        paths = cgroup.CgroupPaths()
        try:
            number = paths.find(cgroup_path)
        finally:
            paths.close()
        if number is None:
            raise ForkTraceError(
                f"no cgroup {cgroup_path} in the pids hierarchy",
                "Give a path as shown in /proc/PID/cgroup, or a directory under /sys/fs/cgroup.",
            )
    if comm is not None:
        # The kernel keeps 15 bytes of a command's name; compare with what it keeps.
        comm = os.fsdecode(os.fsencode(comm)[: sizes.COMM_BYTES - 1])
    return Filter(comm=comm, pid=pid, uid=uid, cgroup_id=number)


def check_filter(filter_: Filter, sees_all_pids: bool) -> None:
    """Refuse what the kernel would compare with numbers that are not the user's; ForkTraceError."""
    if filter_.pid is not None and not sees_all_pids:
        raise ForkTraceError(
            "cannot filter by --pid inside a pid namespace: the kernel sees different pids",
            "Use --comm, --uid or --cgroup, or run fork-trace in the host's pid namespace.",
        )
    if filter_.pid is None:
        return
    process = procfs.process_of(filter_.pid)
    if process is None:
        raise ForkTraceError(
            f"no process has pid {filter_.pid}",
            "Give --pid the pid of a running process, or use --comm for those that come and go.",
        )
    if process != filter_.pid:
        raise ForkTraceError(
            f"{filter_.pid} is a thread of process {process}",
            f"Give --pid {process}: a process is watched with all its threads.",
        )


def demand_another_user(why_not: str | None) -> None:
    """Refuse to go on with all privileges; ForkTraceError. None: they can be given up, or were."""
    if why_not is not None:
        raise ForkTraceError(
            f"cannot give up privileges: {why_not}",
            "Give it CAP_SETUID and CAP_SETGID, which it gives up too, or --keep-privileges to go on with "
            "all that it has.",
        )


class Prepared(NamedTuple):
    """A plan, and what it was made from: nothing is loaded yet."""

    request: Request
    facts: KernelFacts
    library: Library | None
    plan: Plan
    counting: Counting | None = None  # what counts already


def prepare(request: Request, counting: Counting | None = None) -> Prepared:
    """Ask the host and make the plan; ForkTraceError if there is none."""
    facts, library = read_facts(request, library=counting.library if counting else None)
    return Prepared(request, facts, library, make(facts, request), counting)


class Armed:
    """Programs that watch, what the host was found to offer, and what is still to be attached."""

    def __init__(
        self, facts: KernelFacts, backend: Backend, keeps_privileges: bool = False
    ) -> None:
        self.facts = facts
        self.backend = backend
        self.is_attaching = False  # there is more to attach now
        self._keeps_privileges = keeps_privileges
        self._wanted = Stage.START  # which of the plan's probes are to be attached by now
        # What privileges hold back once the rest is given up: it takes more to attach than to watch.
        self._lends = (
            not keeps_privileges
            and any(
                probe.stage is not Stage.START and probe.program.startswith("kretprobe_")
                for probe in backend.plan.probes
            )
            and kernel.perf_paranoia() is not None
        )

    def want(self, stage: Stage) -> None:
        """Let `attach_more` attach the probes up to that stage."""
        self._wanted = max(self._wanted, stage)

    def attach_more(self) -> None:
        """Attach the next of the probes that are wanted: one at a time, as each takes the kernel a moment."""
        if self._wanted is Stage.START:
            return
        with privileges.lent() if self._lends else nullcontext():
            self.is_attaching = self.backend.attach_more(self._wanted)
        if self._lends and not self.is_attaching and self._wanted is Stage.UNEXPLAINED:
            privileges.give_back()
            self._lends = False

    def give_up_privileges(self, may_signal: bool = False) -> None:
        """Give up whatever watching does not need, unless told to keep it; ForkTraceError if that fails."""
        if not self._keeps_privileges:
            demand_another_user(privileges.give_up(may_signal, self._lends))


def arm(
    prepared: Prepared,
    filter_: Filter,
    samples_per_second: int,
    stack_bytes: int,
    keeps_privileges: bool = False,
) -> Armed:
    """Load and attach what was planned, or what comes next where the kernel refuses that."""
    request, facts, library, plan, counting = prepared
    backend: Backend
    while True:
        if plan.backend == "bcc" and not facts.header_fields:
            declared = headers.read(facts.release)
            facts = replace(facts, header_fields=declared.has, header_params=declared.params)
            plan = make(facts, request)
        try:
            if plan.backend == "bcc":
                backend = _compiled(plan, filter_, samples_per_second)
            else:
                assert library is not None  # the plan refuses a host without libbpf
                backend = LibbpfBackend(
                    library, plan, filter_, samples_per_second, stack_bytes, counting
                )
            break
        except AttachRefusedError as error:
            # What the files promise, the kernel may still refuse: then the next attach mode has its turn.
            feature = _NEEDED_BY.get((plan.attach, plan.backend))
            if request.attach is not None or request.backend == "bcc":
                raise
            if feature is None or not facts.may_load.value:
                raise
            facts = facts.with_feature(feature, Fact(False, error.message))
            plan = make(facts, request)
    reserve.memory()
    proven = _NEEDED_BY.get((plan.attach, plan.backend))
    if proven:
        facts = facts.with_feature(proven, Fact(True, "a program was attached"))
    return Armed(facts, backend, keeps_privileges)


def _compiled(plan: Plan, filter_: Filter, samples_per_second: int) -> Backend:
    from fork_trace.probes import bcc

    return bcc.BccBackend(plan, filter_, samples_per_second)
