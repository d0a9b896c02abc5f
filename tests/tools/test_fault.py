"""How what a capture says is held against the truth of a failed allocation, without a kernel."""

from __future__ import annotations

import errno
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fault import judging, making
from fault.making import Attempt

CHECKOUT = Path(__file__).resolve().parents[2]

FORK = ("copy_process", "kernel_clone", "__do_sys_clone")
MAPPING = Attempt(
    *("plain", 7, "plain.7", errno.ENOMEM, True, "kmem_cache_alloc", "vm_area_struct"),
    ("on_allocation", "kmem_cache_alloc", "vm_area_dup", "dup_mmap", *FORK),
)
TASK = MAPPING._replace(cache="task_struct", stack=("kmem_cache_alloc_node", *FORK))
PASSED = MAPPING._replace(errno=0, is_hit=False, stack=())


def record(**changes: Any) -> dict[str, Any]:
    told = {
        **{"type": "failure", "comm": "plain.7", "count": 1, "errno": "ENOMEM"},
        **{"cause": "kernel-memory", "step": "vm_area_dup", "certainty": "observed"},
        "possible_steps": [],
    }
    return {**told, **changes}


def judged(attempt: Attempt, *records: dict[str, Any]) -> tuple[str, str]:
    (found,) = judging.judge([attempt], records)
    return found.result, found.why


INFERRED = {"step": "copy_process", "certainty": "inferred"}


@pytest.mark.parametrize(
    ("attempt", "steps"),
    [
        (MAPPING, ("vm_area_dup", "dup_mmap")),
        (TASK, ("dup_task_struct",)),
        (TASK._replace(cache=""), ()),
        # What lies above copy_process is of no step of it.
        (TASK._replace(cache="", stack=(*FORK, "alloc_pid")), ()),
        (TASK._replace(cache="", stack=("__vmalloc_node_range", *FORK)), ("dup_task_struct",)),
        (TASK._replace(cache="", errno=errno.EFAULT), ("copy_process",)),
        (
            TASK._replace(errno=errno.EAGAIN, stack=("alloc_ucounts", "copy_creds", *FORK)),
            ("set_cred_ucounts", "copy_creds"),
        ),
    ],
)
def test_the_steps_are_those_on_the_stack_or_known_by_the_cache(
    attempt: Attempt, steps: tuple[str, ...]
) -> None:
    assert steps == judging.truth(attempt)


@pytest.mark.parametrize("step", ["vm_area_dup", "dup_mmap"])
def test_a_step_on_the_stack_that_was_observed_is_right(step: str) -> None:
    assert ("right", "") == judged(MAPPING, record(step=step))


def test_what_was_inferred_names_the_step_that_no_program_saw() -> None:
    told = record(**INFERRED, possible_steps=["dup_task_struct", "copy_signal"])

    assert ("inferred", "dup_task_struct") == judged(TASK, told)
    assert ("inferred", "?") == judged(TASK._replace(cache=""), record(**INFERRED))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"errno": "EAGAIN"}, "errno EAGAIN in place of ENOMEM"),
        ({"cause": "unknown"}, "cause unknown"),
        ({"cause": "overcommit-never"}, "cause overcommit-never"),
        ({"cause": "memory-cgroup"}, "cause memory-cgroup"),
        ({"step": "alloc_pid"}, "step alloc_pid"),
        ({**INFERRED, "possible_steps": []}, "one of the steps -"),
        ({**INFERRED, "possible_steps": ["alloc_pid"]}, "one of the steps alloc_pid"),
        ({"count": 2}, "told 2 times"),
    ],
)
def test_everything_else_is_wrong(changes: dict[str, Any], why: str) -> None:
    assert ("wrong", why) == judged(MAPPING, record(**changes))


def test_a_failure_that_is_not_told_and_a_fork_that_is_though_it_passed_are_wrong() -> None:
    assert ("wrong", "told 0 times") == judged(MAPPING)
    assert ("wrong", "told 2 times") == judged(MAPPING, record(), record())
    assert ("wrong", "told 1 times") == judged(PASSED, record())
    assert [] == judging.judge([PASSED], [])
    name = "it failed with ENOMEM though no allocation was refused"
    assert ("wrong", name) == judged(MAPPING._replace(is_hit=False), record())


def test_a_memory_cgroup_may_be_blamed_where_it_is_nearly_full() -> None:
    full = MAPPING._replace(variant=judging.FULL_CGROUP[0])

    assert ("right", "") == judged(full, record(cause="memory-cgroup"))


def test_what_the_program_prints_is_read_without_what_compilers_add() -> None:
    line = {
        **{"variant": "plain", "number": 3, "comm": "plain.3", "errno": 12},
        "told": [
            "0 kmem_cache_alloc cred_jar",
            "copy_mm.constprop.0+0x1/0x2",
            "copy_process+0x9/0xa",
        ],
    }
    passed = {**line, "errno": 0, "told": ["5 - -"]}
    first, last = making.read([json.dumps(line), json.dumps(passed)])

    assert (True, "kmem_cache_alloc", "cred_jar") == (first.is_hit, first.allocator, first.cache)
    assert ("copy_mm", "copy_process") == first.stack
    assert (False, "", ()) == (last.is_hit, last.cache, last.stack)


def test_the_program_lists_its_variants_and_each_name_leaves_room_for_a_number(
    tmp_path: Path,
) -> None:
    variants = making.variants(making.build(tmp_path))

    assert {"plain", *judging.FULL_CGROUP} <= set(variants)
    assert len(variants) == len(set(variants)) > 40
    # A task's name has 15 bytes: a point and four digits of it are the number's.
    assert [] == [name for name in variants if len(name) > 10]


def test_a_module_without_its_file_is_told_in_one_line(tmp_path: Path) -> None:
    gone = tmp_path / "gone.c"
    done = subprocess.run(
        [CHECKOUT / "scripts" / "vm", "--module", str(gone), "--", "true"],
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert 2 == done.returncode
    assert f"cannot read {gone}" in done.stderr
    assert "Traceback" not in done.stderr
