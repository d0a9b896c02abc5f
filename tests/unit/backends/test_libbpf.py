"""What of the libbpf backend needs no kernel: what its programs did not see, and what is left of it once detached."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from samples import PLAN, twice

from fork_trace import steps
from fork_trace.backends.libbpf import LibbpfBackend, Library
from fork_trace.backends.settings import Later
from fork_trace.errors import ForkTraceError
from fork_trace.plan import Plan, Stage


class Unseeing(LibbpfBackend):
    """A loaded backend whose programs were left out of so many calls, or the kernel does not say."""

    def __init__(self, plan: Plan, misses: dict[str, int] | None, unfollowed: int | None) -> None:
        self.plan = plan
        self._missed, self._unreturned = None, 0
        self._kprobe_events: Any = SimpleNamespace(missed=lambda function: unfollowed)
        self._told = misses

    def _misses(self) -> dict[str, int] | None:
        return dict(self._told) if self._told is not None else None


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
    backend = Unseeing(twice(again), told, unfollowed)

    assert expected == backend.missed()


def test_what_a_steps_program_was_left_out_of_is_counted_apart() -> None:
    told = {
        **{"fexit_copy_process": 0, steps.COPIED_AGAIN: 0, "fexit_vm_mmap_pgoff": 1},
        **{"fexit_dup_fd": 2, "fexit_sched_fork": 0, "fexit_mem_cgroup_out_of_memory": 3},
    }
    backend = Unseeing(twice(steps.COPIED_AGAIN), told, 0)

    assert 1 == backend.missed()
    assert {"dup_fd": 2, "mem_cgroup_out_of_memory": 3} == backend.left_out()


def test_where_the_kernel_does_not_count_what_was_left_out_nothing_is_said_of_it() -> None:
    backend = Unseeing(PLAN, None, None)

    assert (None, {}) == (backend.missed(), backend.left_out())


def test_once_detached_no_waiting_program_is_attached() -> None:
    backend = LibbpfBackend.__new__(LibbpfBackend)  # as it is after its load
    backend._links, backend._later = [], Later(PLAN)
    backend._kprobe_events = None

    backend.detach()

    assert not backend.attach_more(Stage.UNEXPLAINED)


def test_a_missing_libbpf_is_told_with_the_package_to_install() -> None:
    with pytest.raises(ForkTraceError) as told:
        Library("libbpf.so.99")

    assert "cannot load libbpf" in told.value.message
    assert "libbpf1" in told.value.hint
