"""A kernel without a type or a field that the programs read: every failure is counted all the same, and what is unread is told.

The running kernel cannot be changed, so copies of its BTF are: in each, one name is another one. The
programs are opened, loaded and attached with it in this process, and five forks refused; those of all
steps are loaded as well. Types are stripped in the default run, fields and values in lane btf.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import building
import kernel_btf
import pytest

from fork_trace.collect.arm import read_facts
from fork_trace.collect.judge import Judge
from fork_trace.diagnosis.readings import ProcReadings
from fork_trace.errors import ForkTraceError
from fork_trace.model import events, sizes
from fork_trace.model.latency import decode
from fork_trace.model.steps import COPIED_TWICE
from fork_trace.probes import privileges
from fork_trace.probes.libbpf import backend, gaps, loading
from fork_trace.probes.libbpf.backend import LibbpfBackend
from fork_trace.probes.libbpf.bindings import Library
from fork_trace.probes.libbpf.latency import LatencyBackend, Settings
from fork_trace.probes.objects import program
from fork_trace.probes.plan import YES, KernelFacts, Plan, make
from fork_trace.probes.request import Request
from fork_trace.probes.settings import is_vital
from fork_trace.rehearse.run import run
from fork_trace.rehearse.scenarios import SCENARIOS, find

pytestmark = pytest.mark.live

COUNT = 5
ATTACH = ("fexit", "kprobe", "tracepoint")
_NR_CLONE = {"x86_64": 56, "aarch64": 220}
_CLONE_THREAD = 0x00010000  # without CLONE_SIGHAND: EINVAL, from copy_process itself
READ = kernel_btf.read_by_the_programs()
TYPES = list(READ)
# Whatever is watched, and however: what is unread is told.
ALWAYS_READ = {
    *("task_struct", "cred", "ucounts", "user_namespace", "signal_struct", "css_set", "cgroup"),
    *(
        "cgroup_subsys_state",
        "kernfs_node",
        "nsproxy",
        "pid_namespace",
        "pids_cgroup",
        "mem_cgroup",
    ),
    *("page_counter", "mm_struct", "fdtable", "files_struct", "fs_struct", "ucount_type"),
    *("task_struct.cred", "task_struct.signal", "task_struct.cgroups", "task_struct.mm"),
    *("cred.user", "cred.user_ns", "ucounts.ns", "rlimit.rlim_cur", "pid_namespace.level"),
    *("pids_cgroup.limit", "page_counter.max", "fdtable.open_fds", "mm_struct.total_vm"),
}
_WHY_NOT: dict[str, str | None] = {}
NPROC = [scenario.name for scenario in SCENARIOS if scenario.cause == "rlimit-nproc"]
FIELDS = [(*type_, member) for type_, members in READ.items() for member in members]


@pytest.fixture(scope="module")
def kernel() -> tuple[KernelFacts, Library]:
    facts, library = read_facts(Request())
    if not library or not facts.may_load.value or not facts.btf.value:
        pytest.skip("needs libbpf, BTF and the right to load programs: run as root")
    return facts, library


@pytest.fixture(scope="module")
def types() -> kernel_btf.KernelBtf:
    raw = Path(kernel_btf.SOURCE).read_bytes()
    # pids_cgroup stands far behind: it is in no header.
    names = {name for _, name in TYPES if b"\0" + name.encode() + b"\0" in raw}
    return kernel_btf.KernelBtf(kernel_btf.shortened(raw, names))


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The object for a kernel without some structures; scripts/test has built it natively."""
    share = os.environ.get("FORK_TRACE_VM_SHARE")
    return building.moved(Path(share) if share else tmp_path_factory.mktemp("moved"))


@pytest.fixture
def stripped(
    types: kernel_btf.KernelBtf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[kernel_btf.KernelBtf]:
    """The copy, to be changed and written to KERNEL_BTF; libbpf takes it in place of the kernel's own."""
    monkeypatch.setattr(loading, "KERNEL_BTF", str(tmp_path / "vmlinux"))
    yield types
    types.restore()
    (tmp_path / "vmlinux").unlink(missing_ok=True)


def plan_for(kernel: tuple[KernelFacts, Library], attach: str, is_twice: bool = False) -> Plan:
    """Return a plan of what counts alone: what else cannot be loaded is given up one by one.

    Where the kernel can leave that one out, the second one beside it only if `is_twice`: each takes
    seconds to load under emulation.
    """
    plan = make(kernel[0], Request(attach=attach))
    probes = [each for each in plan.probes if is_vital(each)]
    probes += [each for each in plan.probes if each.program in COPIED_TWICE and is_twice]
    return replace(plan, probes=tuple(probes))


def refuse(count: int) -> None:
    """Let so many forks of this process be refused, with EINVAL."""
    libc = ctypes.CDLL(None, use_errno=True)
    for _ in range(count):
        number = ctypes.c_long(_NR_CLONE[os.uname().machine])
        failed = libc.syscall(number, ctypes.c_ulong(_CLONE_THREAD), 0, 0, 0, 0)
        assert (failed, ctypes.get_errno()) == (-1, errno.EINVAL)


def count(
    kernel: tuple[KernelFacts, Library], attach: str, is_twice: bool = False
) -> tuple[int, Plan]:
    """Watch COUNT refusals; return how many of them were counted, and the plan as it was carried out."""
    need(kernel, attach)
    watching = LibbpfBackend(
        kernel[1], plan_for(kernel, attach, is_twice), stack_bytes=sizes.STACK_BYTES
    )
    try:
        refuse(COUNT)
        watching.detach()
        comm = Path("/proc/self/comm").read_text().rstrip("\n")
        pairs = [
            (events.decode_key(key), events.decode_tally(value))
            for key, value in watching.tallies()
        ]
        ours = [
            (key, value) for key, value in pairs if key.comm == comm and key.error == errno.EINVAL
        ]
        return sum(value.count for _, value in ours), watching.plan
    finally:
        watching.close()


def need(kernel: tuple[KernelFacts, Library], attach: str) -> None:
    """Skip where the kernel does not take that attach mode as it is, with its own BTF."""
    if attach not in _WHY_NOT:
        path, loading.KERNEL_BTF = loading.KERNEL_BTF, kernel_btf.SOURCE
        _WHY_NOT[attach] = None
        try:
            LibbpfBackend(kernel[1], plan_for(kernel, attach)).close()
        except ForkTraceError as error:
            _WHY_NOT[attach] = error.message
        finally:
            loading.KERNEL_BTF = path
    if _WHY_NOT[attach] is not None:
        pytest.skip(str(_WHY_NOT[attach]))


def blind(plan: Plan) -> set[str]:
    return {name for bit, name in enumerate(gaps.READERS) if plan.blind & 1 << bit}


def check(counted: int, plan: Plan, name: str, is_told: bool) -> None:
    """All were counted; each reader that is off is accounted for; and the others still read."""
    assert counted == COUNT
    assert not is_told or plan.unread
    assert not plan.blind or plan.unread
    assert "evidence" not in {gap.step for gap in plan.unread}, plan.unread
    if not name.startswith("task_struct"):
        assert len(blind(plan)) <= 9
    assert {"nproc", "pid-namespace", "memory"} - blind(plan) or name.startswith("task_struct")


@pytest.mark.parametrize("attach", ATTACH)
@pytest.mark.parametrize(("kind", "name"), TYPES, ids=[name for _, name in TYPES])
def test_without_a_type_every_failure_is_counted(
    attach: str,
    kind: int,
    name: str,
    kernel: tuple[KernelFacts, Library],
    stripped: kernel_btf.KernelBtf,
) -> None:
    is_there = stripped.without_type(kind, name)
    stripped.write(Path(loading.KERNEL_BTF))

    is_twice = name in ("task_struct", "llist_head")  # which alone the second one reads more of
    check(*count(kernel, attach, is_twice), name, is_there and name in ALWAYS_READ)


class Loading(LibbpfBackend):
    """The programs of a plan, loaded and attached to nothing."""

    def _arm(self) -> None:
        self._counters.open(self._programs.map_fd)


def load(kernel: tuple[KernelFacts, Library], attach: str) -> None:
    """Load the programs of all steps; each reader that is off is accounted for, and most steps are left."""
    facts = kernel[0].with_feature("kprobes", YES)  # it takes none to load
    plan = make(facts, Request(attach=attach, all_steps=True, refused=True))
    loaded = Loading(kernel[1], plan, stack_bytes=sizes.STACK_BYTES)
    try:
        left = {probe.step for probe in loaded.plan.probes}
        lost = {probe.step for probe in plan.probes} - left
        assert "copy_process" in left
        assert len(lost) <= 9
        assert lost <= {gap.step for gap in loaded.plan.missing}
        assert not lost or loaded.plan.unread
        assert "evidence" not in {gap.step for gap in loaded.plan.unread}
    finally:
        loaded.close()


@pytest.mark.parametrize(("kind", "name"), TYPES, ids=[name for _, name in TYPES])
def test_without_a_type_the_programs_of_the_steps_load(
    kind: int, name: str, kernel: tuple[KernelFacts, Library], stripped: kernel_btf.KernelBtf
) -> None:
    stripped.without_type(kind, name)
    stripped.write(Path(loading.KERNEL_BTF))

    load(kernel, "kprobe")


@pytest.mark.parametrize(("kind", "name", "member"), FIELDS, ids=[f"{n}.{m}" for _, n, m in FIELDS])
def test_without_a_field_the_programs_of_the_steps_load(
    kind: int,
    name: str,
    member: str,
    kernel: tuple[KernelFacts, Library],
    stripped: kernel_btf.KernelBtf,
) -> None:
    stripped.without_member(kind, name, member)
    stripped.write(Path(loading.KERNEL_BTF))

    load(kernel, "kprobe")


# What bpf/latency.bpf.c names besides.
TIMED = [
    *((*type_, "") for type_ in READ),
    *(
        (kernel_btf.STRUCT, name, member)
        for name, member in (
            *(
                ("task_struct", each)
                for each in ("mm", "signal", "tgid", "comm", "se", "sched_info")
            ),
            *(("mm_struct", each) for each in ("mmap_lock", "rss_stat", "pgtables_bytes")),
            *(("rw_semaphore", "owner"), ("signal_struct", "cgroup_threadgroup_rwsem")),
            *(("sched_entity", "exec_start"), ("sched_info", "run_delay")),
        )
    ),
]


@pytest.mark.parametrize("attach", ATTACH)
@pytest.mark.parametrize(
    ("kind", "name", "member"), TIMED, ids=[".".join(filter(None, each[1:])) for each in TIMED]
)
def test_whatever_is_unread_each_slow_fork_is_told(
    attach: str,
    kind: int,
    name: str,
    member: str,
    kernel: tuple[KernelFacts, Library],
    stripped: kernel_btf.KernelBtf,
) -> None:
    need(kernel, attach)
    if member:
        stripped.without_member(kind, name, member)
    else:
        stripped.without_type(kind, name)
    stripped.write(Path(loading.KERNEL_BTF))

    settings = Settings(over_ns=1, stack_bytes=sizes.STACK_BYTES, locks=(0, 0), all_phases=True)
    backend = LatencyBackend(kernel[1], attach, settings)
    try:
        backend.attach_waits()
        for _ in range(COUNT):
            child = os.fork()
            if child == 0:
                os._exit(0)
            os.waitpid(child, 0)
        told = [decode(raw) for raw in backend.poll(0)]
        stats = backend.stats()
    finally:
        backend.close()
    comm = Path("/proc/self/comm").read_text().rstrip("\n")
    assert COUNT == len([each for each in told if each.event.key.comm == comm])
    assert all(each.total_ns for each in told)
    assert (0, 0) == (stats["unsent"], stats["untallied"])


# By default on an emulated kernel: what only these attach modes read, what most readers read, and all.
@pytest.mark.parametrize("attach", ["fexit", "kprobe"])
@pytest.mark.parametrize("name", ["kernel_clone_args", "cred", "task_struct"])
def test_what_counts_is_loaded_whatever_explains(
    attach: str,
    name: str,
    kernel: tuple[KernelFacts, Library],
    stripped: kernel_btf.KernelBtf,
) -> None:
    assert stripped.without_type(kernel_btf.STRUCT, name)
    stripped.write(Path(loading.KERNEL_BTF))

    check(*count(kernel, attach), name, is_told=True)


@pytest.mark.parametrize("attach", ATTACH)
@pytest.mark.parametrize(("kind", "name", "member"), FIELDS, ids=[f"{n}.{m}" for _, n, m in FIELDS])
def test_without_a_field_every_failure_is_counted(
    attach: str,
    kind: int,
    name: str,
    member: str,
    kernel: tuple[KernelFacts, Library],
    stripped: kernel_btf.KernelBtf,
) -> None:
    is_there = stripped.without_member(kind, name, member)
    stripped.write(Path(loading.KERNEL_BTF))

    field = f"{name}.{member}"
    is_twice = field in ("task_struct.nvcsw", "task_struct.rethooks", "llist_head.first")
    check(*count(kernel, attach, is_twice), field, is_there and field in ALWAYS_READ)


@pytest.mark.parametrize("is_told", [True, False])
def test_for_a_type_that_is_not_there_no_module_is_asked(
    is_told: bool,
    kernel: tuple[KernelFacts, Library],
    moved: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would take CAP_SYS_ADMIN to list them. The object looks for types that no kernel has."""
    if not is_told:
        monkeypatch.setattr(loading.Programs, "_options", lambda self: None)
    installed = program
    monkeypatch.setattr(
        backend, "program", lambda name: moved if name == "fork_trace.bpf.o" else installed(name)
    )
    read, write = os.pipe()
    child = os.fork()
    if not child:
        words = "it did not end"
        try:
            words = privileges.give_up() or ""
            words = words or str(count(kernel, "tracepoint")[0])
        except BaseException as error:
            words = f"{type(error).__name__}: {error}"
        finally:
            os.write(write, words.encode())
            os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as file:
        told = file.read()
    os.waitpid(child, 0)

    if is_told:
        assert told == str(COUNT)
    elif re.fullmatch(r"v1\.[0-2](\..*)?", kernel[1].version()):
        # As these libbpf do of themselves; what it stands beside can fail.
        assert "Operation not permitted" in told


@pytest.mark.parametrize("attach", ["fexit", "tracepoint"])
def test_by_the_types_of_linux_5_15_rlimit_nproc_is_named(
    attach: str, kernel: tuple[KernelFacts, Library], stripped: kernel_btf.KernelBtf
) -> None:
    """There the limit stands among the namespaces' in ucount[] and ucount_max[]."""
    need(kernel, attach)
    if not stripped.has(kernel_btf.ENUM, "rlimit_type"):
        pytest.skip("this kernel counts the tasks of a user in another place")
    like_v515(stripped)
    stripped.write(Path(loading.KERNEL_BTF))
    plan = make(kernel[0], Request(attach=attach))
    watching = LibbpfBackend(kernel[1], plan, stack_bytes=sizes.STACK_BYTES)
    try:
        assert not watching.plan.blind
        refused = {name: sum(run(name, COUNT).failures.values()) for name in NPROC}
        seen = [events.decode(raw) for raw in watching.poll(1)]
        watching.detach()
    finally:
        watching.close()

    assert refused == dict.fromkeys(NPROC, COUNT)
    for name in NPROC:
        ours = [event for event in seen if event.key.comm == find(name).comm]
        assert len(ours) == COUNT, name
        for event in ours:
            verdict = Judge(watching).judge(event.key, ProcReadings())
            assert verdict.cause == "rlimit-nproc"
            assert event.key.is_observed == (attach == "fexit")
            # As many as are allowed: one more was refused.
            assert event.numbers["nproc"] == event.numbers["nproc_limit"]


def like_v515(types: kernel_btf.KernelBtf) -> None:
    """Rename what stands at the place where Linux 5.15 has it under another name."""
    value = types.value("rlimit_type", "UCOUNT_RLIMIT_NPROC")
    for structure, latest, older in (
        ("ucounts", "rlimit", "ucount"),
        ("user_namespace", "rlimit_max", "ucount_max"),
    ):
        assert types.without_member(kernel_btf.STRUCT, structure, older)
        assert types.without_member(kernel_btf.STRUCT, structure, latest, older)
    types.without_member(kernel_btf.ENUM, "rlimit_type", "UCOUNT_RLIMIT_NPROC")
    types.without_type(kernel_btf.ENUM, "rlimit_type")
    enum = kernel_btf.ENUM, "ucount_type"
    assert types.without_member(*enum, "UCOUNT_COUNTS", "UCOUNT_RLIMIT_NPROC")
    types.with_value("ucount_type", "UCOUNT_RLIMIT_NPROC", value)
