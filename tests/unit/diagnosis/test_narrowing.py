"""Which steps an allocation can have failed in that no program saw."""

from __future__ import annotations

import errno
from collections.abc import Collection
from dataclasses import replace

import pytest

from fork_trace.diagnosis.causes.memory import KERNEL_MEMORY
from fork_trace.diagnosis.narrowing import possible_steps
from fork_trace.diagnosis.verdict import INFERRED, OBSERVED, Verdict, diagnose
from fork_trace.model import steps
from fork_trace.model.events import Key

PROCESS = Key(
    comm="sh",
    cgroup_id=1,
    uid=1000,
    error=errno.ENOMEM,
    step=steps.BY_NAME["copy_process"].number,
    detail="",
    syscall="clone",
    is_thread=False,
    is_observed=False,
    fits=frozenset({"copies-mm"}),
)
THREAD = replace(PROCESS, is_thread=True, fits=frozenset())
WATCHED = [
    step.name for step in steps.STEPS if step.watches and step.name not in steps.SEEN_IN_PART
]
# kernel/fork.c: what has no function of its own that a program could be attached to.
UNSEEN = ("dup_task_struct", "copy_sighand", "copy_signal", "dup_mm")


def asking(*words: str) -> Key:
    return replace(PROCESS, fits=PROCESS.fits | set(words))


def test_with_every_program_in_place_only_what_none_can_see_is_left() -> None:
    assert UNSEEN == possible_steps(PROCESS, WATCHED)


@pytest.mark.parametrize("key", [PROCESS, THREAD, asking("asked-newuser"), asking("asked-pidfd")])
def test_with_none_in_place_all_is_left_that_was_asked_for_in_the_kernel_s_order(key: Key) -> None:
    found = possible_steps(key, ())

    assert set(found) < set(KERNEL_MEMORY.steps)
    assert list(found) == sorted(found, key=lambda step: steps.BY_NAME[step].number)
    assert "dup_task_struct" == found[0]


def test_a_thread_copies_no_memory_and_no_signal_handlers() -> None:
    assert ("dup_task_struct",) == possible_steps(THREAD, WATCHED)
    assert set() == {"copy_signal", "mm_init", "copy_page_range"} & set(possible_steps(THREAD, ()))
    # vfork shares the memory alone.
    vfork = replace(PROCESS, fits=frozenset())
    assert UNSEEN[:3] == possible_steps(vfork, WATCHED)


@pytest.mark.parametrize(
    ("word", "step"),
    [
        ("asked-namespace", "copy_net_ns"),
        ("asked-newuser", "create_user_ns"),
        ("asked-pidfd", "pidfd_prepare"),
    ],
)
def test_what_was_not_asked_for_cannot_have_failed(word: str, step: str) -> None:
    assert step in possible_steps(asking(word), ())
    assert step not in possible_steps(PROCESS, ())


def test_where_the_flags_are_not_known_anything_can() -> None:
    unknown = replace(THREAD, has_flags=False)

    assert KERNEL_MEMORY.steps == possible_steps(unknown, ())


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("dup_mmap", ("vm_area_dup", "copy_page_range", "ldt_dup_context")),
        ("copy_namespaces", ("copy_mnt_ns", "copy_time_ns")),
        ("copy_creds", ("create_user_ns", "set_cred_ucounts")),
    ],
)
def test_what_lies_in_a_step_that_passed_has_passed(outer: str, inner: tuple[str, ...]) -> None:
    key = asking("asked-namespace", "asked-newuser")

    assert set(inner) <= set(possible_steps(key, ()))
    assert set() == {outer, *inner} & set(possible_steps(key, [outer]))


def told(key: Key, watched: Collection[str]) -> Verdict:
    return diagnose(key, watched)


def test_the_verdict_tells_them_and_names_the_only_one() -> None:
    assert Verdict("kernel-memory", INFERRED, "copy_process", (), UNSEEN) == told(PROCESS, WATCHED)
    assert Verdict("kernel-memory", INFERRED, "dup_task_struct") == told(THREAD, WATCHED)


def test_the_silence_of_a_function_that_can_be_inlined_leaves_its_step_possible() -> None:
    found = told(asking("asked-pidfd"), [*WATCHED, "copy_process"])

    assert (*UNSEEN, "pidfd_prepare") == found.possible_steps


def test_the_silence_of_a_function_that_sees_a_part_leaves_its_step_possible() -> None:
    found = told(PROCESS, [*WATCHED, "copy_process", *steps.SEEN_IN_PART])

    assert UNSEEN == found.possible_steps


def test_a_memory_cgroup_that_was_seen_refusing_stays_observed() -> None:
    found = told(replace(THREAD, is_memcg=True), WATCHED)

    assert ("memory-cgroup", OBSERVED) == (found.cause, found.certainty)
    assert ("dup_task_struct",) == found.possible_steps


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EFAULT, errno.ENOSPC])
def test_another_errno_is_not_narrowed_down(error: int) -> None:
    assert () == told(replace(PROCESS, error=error), ()).possible_steps
