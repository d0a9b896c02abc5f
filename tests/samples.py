"""What the tests of a run begin from: a plan, a key, a sample of this process, a host with cgroups."""

from __future__ import annotations

import os
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fork_trace.collect.observe import Cgroups, Observer
from fork_trace.host import cgroup
from fork_trace.model import events, steps
from fork_trace.probes.plan import Plan, Probe, Stage
from fork_trace.stacks.symbols import Symbols

PLAN = Plan(
    attach="fexit",
    backend="libbpf",
    probes=(
        Probe("copy_process", "copy_process", "fexit_copy_process"),
        Probe("rlimit_nproc", "capable", "fexit_capable"),
        Probe("dup_fd", "dup_fd", "fexit_dup_fd"),
        Probe("sched_fork", "sched_fork", "fexit_sched_fork", Stage.UNEXPLAINED),
        Probe(None, "mem_cgroup_out_of_memory", "fexit_mem_cgroup_out_of_memory"),
    ),
    missing=(),
    addresses={"nr_threads": 7, "_totalram_pages": 8},
    copy_process_range=(0x1000, 0x3000),
)


def twice(program: str) -> Plan:
    """Return that plan with a second program on copy_process."""
    mmap_probe = Probe("mmap", "vm_mmap_pgoff", "fexit_vm_mmap_pgoff")
    again = Probe(None, "copy_process", program)
    return replace(PLAN, probes=(*PLAN.probes, mmap_probe, again))


def loaded(plan: Plan = PLAN, **left_out: int) -> Any:
    """Return as much of a backend as it takes to judge: its plan, and what its programs did not see."""
    return SimpleNamespace(plan=plan, step_misses=lambda: left_out)


def raw_key(comm: str, mark: int, uid: int, error: int) -> bytes:
    """Return a struct ft_key of a clone() whose refusal was observed."""
    name = comm.encode().ljust(15, b"\0") + bytes([mark])
    step = steps.BY_NAME["rlimit_nproc"].number
    where = (name, 2**62, uid, -error)
    return struct.pack("=16sQIiBBBBIQ", *where, step, 0, 3, events.BIT_OBSERVED, 0, 0)


def failed(error: int, *fits: str, detail: str = "") -> events.Key:
    """Return the key of a failure that no watched step explains."""
    return events.Key(
        *("sh", 1, 0, error, steps.BY_NAME["copy_process"].number, detail, "clone", False, False),
        fits=frozenset(fits),
    )


def sample(key: events.Key, pid: int = os.getpid()) -> events.Event:
    """Return a sample of this process, which had less memory at its refusal than now."""
    return events.Event(
        time_ns=0,
        key=key,
        flags=0,
        pid=pid,
        tid=pid,
        ppid=1,
        parent_comm="init",
        numbers={"data_pages": 1},
    )


def a_host_with_v2(root: Path) -> cgroup.CgroupPaths:
    """Return the cgroups of a host that has v2 alone, by a /proc of its own."""
    (root / "self").mkdir()
    (root / "self/mountinfo").write_text("25 24 0:23 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    return cgroup.CgroupPaths(str(root))


def observer(root: Path, sees_all_pids: bool = True, mode: int | None = 2) -> Observer:
    """Return who looks at /proc, on a host that has v2 alone and had that overcommit mode at the start."""
    limits = {"vm.overcommit_memory": mode}
    return Observer(Cgroups(a_host_with_v2(root)), Symbols(), limits, sees_all_pids)
