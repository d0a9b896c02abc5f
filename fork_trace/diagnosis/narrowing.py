"""Where an allocation can have failed that no program saw: what was asked for and silent leaves these steps. Pure."""

from __future__ import annotations

from collections.abc import Collection

from fork_trace.diagnosis.causes.memory import KERNEL_MEMORY
from fork_trace.model.events import Key
from fork_trace.model.steps import BY_NAME, STEPS

_NEW_USER = ("create_user_ns", "set_cred_ucounts")
# kernel/fork.c: copy_sighand and copy_signal return at once for a thread, as copy_mm does for who
# shares memory; only a thread in shared memory needs a futex hash.
_OF_PROCESS = ("copy_sighand", "copy_signal", "task_exec_state_copy")
_OF_THREAD = ("futex_hash_allocate_default",)


def possible_steps(key: Key, silent: Collection[str]) -> tuple[str, ...]:
    """Name the steps that the allocation can have been of, in the kernel's order.

    `silent` are the steps whose program ran, and saw nothing refused.
    """
    passed = set(silent)
    # Once an outer one has passed, so have those inside it.
    for outer in silent:
        passed.update(_inside(outer))
    if key.has_flags:
        passed.update(_not_asked(key))
    left = (step for step in KERNEL_MEMORY.steps if step not in passed)
    return tuple(sorted(left, key=lambda step: BY_NAME[step].number))


def _not_asked(key: Key) -> set[str]:
    found: set[str] = set()
    if "copies-mm" not in key.fits:
        found.update(("dup_mm", "mm_init", "dup_mmap", *_inside("dup_mmap")))
    if "asked-namespace" not in key.fits:
        found.update(("copy_namespaces", *_inside("copy_namespaces")))
    if "asked-newuser" not in key.fits:
        found.update(_NEW_USER)
    if "asked-pidfd" not in key.fits:
        found.add("pidfd_prepare")
    found.update(_OF_PROCESS if key.is_thread else _OF_THREAD)
    return found


def _inside(outer: str) -> list[str]:
    """Name the steps inside this one, whose refusals it hands on."""
    step = BY_NAME[outer]
    last = next((each.number for each in STEPS if each.ident == step.last_inner), step.number)
    return [each.name for each in STEPS if step.number < each.number <= last]
