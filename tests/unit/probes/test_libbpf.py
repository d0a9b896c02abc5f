"""What of the libbpf backend needs no kernel: what its programs did not see, and what is left of it once detached."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import needs_libbpf
from samples import PLAN, twice

from fork_trace.errors import ForkTraceError
from fork_trace.model import steps
from fork_trace.probes.backend import Filter
from fork_trace.probes.libbpf import backend, gaps, loading
from fork_trace.probes.libbpf.backend import LibbpfBackend
from fork_trace.probes.libbpf.bindings import Library
from fork_trace.probes.libbpf.counters import missed, step_misses
from fork_trace.probes.libbpf.loading import Programs
from fork_trace.probes.plan import HUGE_FAULT, Missing, Probe, Stage
from fork_trace.probes.settings import Later


def following(unfollowed: int | None) -> Any:
    """Kprobe events by which the kernel did not follow so many returns, or does not say."""
    return SimpleNamespace(missed=lambda function=None: 0 if function == HUGE_FAULT else unfollowed)


@pytest.mark.parametrize(
    ("again", "unfollowed", "misses", "expected"),
    [
        (steps.COPIED_AGAIN, 0, (5, 0), 0),
        (steps.COPIED_AGAIN, 0, (0, 5), 0),
        (steps.COPIED_AGAIN, 3, (5, 0), 3),
        (steps.COPIED_AGAIN, 3, (5, 1), 4),
        (steps.COPIED_AGAIN, 0, (1, 5), 1),
        (steps.COPIED_AGAIN, None, (5, 0), 5),  # nobody knows what it was left out of
        (steps.COPIED_AGAIN_ON_EXIT, None, (5, 2), 2),
    ],
)
def test_of_copy_process_is_missed_what_both_programs_can_have_been_left_out_of(
    again: str, unfollowed: int | None, misses: tuple[int, int], expected: int
) -> None:
    told = {"fexit_copy_process": misses[0], again: misses[1], "fexit_dup_fd": 7}

    assert expected == missed(twice(again), told, following(unfollowed), 0)


def test_what_a_steps_program_was_left_out_of_is_counted_apart() -> None:
    told = {
        **{"fexit_copy_process": 0, steps.COPIED_AGAIN: 0, "fexit_vm_mmap_pgoff": 1},
        **{"fexit_dup_fd": 2, "fexit_sched_fork": 0, "fexit_mem_cgroup_out_of_memory": 3},
    }
    plan = twice(steps.COPIED_AGAIN)

    assert 1 == missed(plan, told, following(0), 0)
    assert {"dup_fd": 2, "mem_cgroup_out_of_memory": 3} == step_misses(plan, told)


def test_where_the_kernel_does_not_count_what_was_left_out_nothing_is_said_of_it() -> None:
    assert (None, {}) == (missed(PLAN, None, None, 0), step_misses(PLAN, None))


@pytest.mark.parametrize(
    ("misses", "kprobe_events", "expected"),
    [
        (None, None, 3),
        (None, following(2), 5),
        (None, following(None), 3),
        ({"kretprobe_copy_process": 1, "kretprobe_dup_fd": 4}, following(2), 10),
    ],
)
def test_kprobes_miss_what_found_no_room_and_what_did_not_return(
    misses: dict[str, int] | None, kprobe_events: Any, expected: int
) -> None:
    plan = replace(PLAN, attach="kprobe", probes=())

    assert expected == missed(plan, misses, kprobe_events, 3)


@needs_libbpf
def test_once_detached_no_waiting_program_is_attached() -> None:
    backend = LibbpfBackend.__new__(LibbpfBackend)  # as it is after its load
    backend._counting = None
    backend._programs, backend._later = Programs(Library()), Later(PLAN)
    backend._settles_at_s = None

    backend.detach()

    assert not backend.attach_more(Stage.UNEXPLAINED)


def test_a_missing_libbpf_is_told_with_the_package_to_install() -> None:
    with pytest.raises(ForkTraceError) as told:
        Library("libbpf.so.99")

    assert "cannot load libbpf" in told.value.message
    assert "libbpf1" in told.value.hint


def test_a_filter_by_what_cannot_be_read_is_refused_in_one_sentence() -> None:
    user, cgroups = (
        Missing(name, None, f"this kernel's BTF has no {name}")
        for name in ("cred.user", "task_struct.cgroups")
    )
    blind = replace(PLAN, blind=gaps.blind([user.step, cgroups.step]), unread=(user, cgroups))
    counting = PLAN.counting_only(gaps.ALL, "Invalid argument")

    with pytest.raises(ForkTraceError) as refused:
        backend._check(blind, Filter(cgroup_id=1))
    assert "cannot filter by --cgroup: this kernel's BTF has no task_struct.cgroups" == (
        refused.value.message
    )
    with pytest.raises(ForkTraceError, match="Invalid argument"):
        backend._check(counting, Filter(cgroup_id=1))
    for plan in (replace(PLAN, blind=gaps.blind([user.step]), unread=(user,)), PLAN):
        backend._check(plan, Filter(cgroup_id=1))
    backend._check(counting, Filter(comm="sh", uid=0, pid=1))


def test_a_step_whose_flag_cannot_be_read_is_given_up() -> None:
    execves = [Probe(steps.EXECVE, watch.function, watch.program) for watch in steps.EXECVES]
    made = loading.without_execve(replace(PLAN, probes=(*PLAN.probes, *execves)))

    assert PLAN.probes == made.probes
    assert [(steps.EXECVE, watch.function) for watch in steps.EXECVES] == [
        (gap.step, gap.function) for gap in made.missing if gap not in PLAN.missing
    ]
