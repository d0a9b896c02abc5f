"""What the kernel's BTF lacks, by libbpf's words, and who goes without it."""

from __future__ import annotations

import kernel_btf
import pytest

from fork_trace.probes.libbpf import gaps

# What these kernels do not have of what the programs ask for, as libbpf 1.1 said it.
V510 = (
    "libbpf: prog 'x': relo #1: <field_exists> [47] struct ucounts.rlimit (0:2 @ offset 16)",
    "libbpf: prog 'x': relo #2: <byte_off> [47] struct ucounts.rlimit (0:2 @ offset 16)",
    "libbpf: prog 'x': relo #3: <enumval_exists> [51] enum ucount_type___v60::UCOUNT_RLIMIT_NPROC___v60 = 0",
    "libbpf: prog 'x': relo #4: <enumval_value> [50] enum rlimit_type::UCOUNT_RLIMIT_NPROC = 0",
    "libbpf: prog 'x': relo #5: <byte_off> [48] struct user_namespace.rlimit_max (0:2 @ offset 16)",
    "libbpf: prog 'x': relo #6: <field_exists> [52] struct cred.ucounts (0:3 @ offset 24)",
    "libbpf: prog 'x': relo #7: <enumval_exists> [9] enum bpf_func_id::BPF_FUNC_task_pt_regs = 175",
    "libbpf: prog 'x': relo #8: <field_exists> [70] struct pid_namespace.pid_max (0:4 @ offset 20)",
)
LATEST = (
    "libbpf: prog 'x': relo #3: <enumval_exists> [51] enum ucount_type___v60::UCOUNT_RLIMIT_NPROC___v60 = 0",
    "libbpf: prog 'x': relo #9: <field_exists> [60] struct user_struct___v513.processes (0:0 @ offset 0)",
    "libbpf: prog 'x': relo #2: <byte_off> [61] struct task_struct.stack (0:1 @ offset 16)",
)


def byte_off(name: str) -> str:
    return f"libbpf: prog 'x': relo #0: <byte_off> [7] struct {name} (0:1 @ offset 8)"


def readers(*names: str) -> set[str]:
    mask = gaps.blind(names)
    return {name for bit, name in enumerate(gaps.READERS) if mask & 1 << bit}


@pytest.mark.parametrize("specs", [V510, LATEST, (), ("in other words",)])
def test_what_came_or_went_is_no_gap(specs: tuple[str, ...]) -> None:
    assert () == gaps.lacking(specs)


@pytest.mark.parametrize("name", ["cred.user", "task_struct.pending.signal.sig[0]", "upid.ns"])
def test_any_other_field_is_one_by_its_name(name: str) -> None:
    assert (name,) == gaps.lacking((*LATEST, byte_off(name)))
    assert readers(name)


@pytest.mark.parametrize("name", ["ucounts.rlimit", "user_namespace.rlimit_max", "cred.ucounts"])
def test_a_form_is_a_gap_if_no_other_form_is_there(name: str) -> None:
    assert (name,) == gaps.lacking((*LATEST, byte_off(name)))
    assert () == gaps.lacking(V510)


def test_where_the_stack_is_matters_if_the_kernel_does_not_tell_the_registers() -> None:
    stack = byte_off("task_struct.stack")

    assert () == gaps.lacking((*LATEST, stack))
    assert ("task_struct.stack",) == gaps.lacking((*V510, stack))


def test_what_a_program_was_refused_for_is_at_the_end_of_the_log() -> None:
    log = """libbpf: prog 'kretprobe_copy_process': -- BEGIN PROG LOAD LOG --
1047: <invalid CO-RE relocation>
failed to resolve CO-RE relocation <byte_off> [95] struct nsproxy.time_ns (0:1 @ offset 8)
processed 900 insns (limit 1000000)
-- END PROG LOAD LOG --"""

    assert ("nsproxy.time_ns",) == gaps.reached(log)
    assert () == gaps.lacking((*LATEST, byte_off("nsproxy.time_ns")))
    assert () == gaps.reached("libbpf: prog 'x': BPF program load failed: Permission denied")


def test_a_field_within_one_that_is_missing_is_not_told_again() -> None:
    specs = [byte_off(name) for name in ("mem_cgroup.memory.usage.counter", "mem_cgroup.memory")]

    assert ("mem_cgroup.memory",) == gaps.lacking(specs)


def test_a_structure_takes_its_own_readers_away_and_leaves_the_others() -> None:
    assert {"pids-cgroup"} == readers("pids_cgroup.limit")
    assert {"nproc"} == readers("user_struct.uid.val")
    assert {"sched"} == readers("task_struct.normal_prio")
    assert {"namespaces"} == readers("ucount_type::UCOUNT_PID_NAMESPACES")
    assert {"nproc"} == readers("ucount_type___v60::UCOUNT_RLIMIT_NPROC___v60")
    assert {"dying", "flags", "late"} == readers("signal_struct.flags")
    assert set() == readers()


def test_of_a_field_of_a_task_that_nobody_knows_everybody_may_be_the_reader() -> None:
    assert gaps.ALL == gaps.blind(["task_struct.new_field"])


NESTED = {
    "oom_constraint",
    "mm_rss_stat",
    "pt_regs",
    "rlimit",
    "sigset",
    "sigpending",
    "qstr",
    "path",
    "ns_common",
}


def test_every_type_that_the_programs_read_has_a_reader() -> None:
    names = {name for _, name in kernel_btf.read_by_the_programs()} - NESTED - {"llist_head"}

    assert "task_struct" in names
    for name in names - {"task_struct"}:
        assert readers(f"{name}.x"), name


def test_every_field_of_a_task_has_its_own_readers() -> None:
    fields = kernel_btf.read_by_the_programs()[kernel_btf.STRUCT, "task_struct"]

    for field in set(fields) - {"real_cred"}:
        assert 0 < gaps.blind([f"task_struct.{field}"]) < gaps.ALL, field
