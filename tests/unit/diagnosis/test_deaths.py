"""Which deaths a fork is behind. Each test begins from one where it is, and takes one thing away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fork_trace.diagnosis.deaths import Judgement, Surroundings, family, judge
from fork_trace.model.deaths import Killed, Kin

PAGE = 4096
MIB = (1 << 20) // PAGE  # pages


def kin(pid: int, **changes: Any) -> Kin:
    whole = Kin("redis", pid, 10**9 * pid, 64 * MIB, True, True, False, False, False)
    return replace(whole, **changes)


PARENT, CHILD = kin(100, has_no_exec=False), kin(120)
# A child that copied what it shared with its parent.
KILLED = Killed(
    time_ns=10**9 * 130,
    total_pages=None,
    cgroup_id=1,
    uid=0,
    allocator_comm="redis",
    allocator_pid=120,
    allocator_tid=120,
    is_memcg=True,
    constraint="",
    hierarchy=0,
    over=0,
    victim=CHILD,
    victim_pid=120,
    parent=PARENT,
    kin=(),
    shares_with_parent=True,
    copied="anonymous",
    is_in_fault=True,
    kernel_frames=(),
    levels=(),
    cgroup_path="/redis",
)
AROUND = Surroundings(True, True, PAGE, 110 << 20, 110 << 20, 2 << 20)
OTHER = ("memory-cgroup-oom", "observed", None)


def judged(killed: Killed = KILLED, **around: Any) -> Judgement:
    return judge(killed, AROUND._replace(**around))


def test_the_kernel_was_copying_as_it_killed() -> None:
    found = judged()

    assert ("copy-on-write", "observed") == found[:2]
    assert found.fork is not None
    assert (100, 120, 10.0) == (found.fork.parent.pid, found.fork.child.pid, found.fork.age_s)
    assert 64 << 20 == found.fork.unshared_max


def test_no_more_can_be_copied_than_was_used() -> None:
    fork = judged(limit=16 << 20, used=16 << 20).fork

    assert fork is not None
    assert 16 << 20 == fork.unshared_max


def test_the_parent_can_be_the_victim() -> None:
    parent = kin(100, has_no_exec=False)
    child = kin(120, is_child=True)
    fork = judged(
        replace(KILLED, victim=parent, parent=None, shares_with_parent=False, kin=(child,))
    ).fork

    assert fork is not None
    assert (100, 120) == (fork.parent.pid, fork.child.pid)


def test_of_two_forks_it_is_the_one_by_which_most_is_shared() -> None:
    small = kin(90, anon_pages=10 * MIB)
    child = kin(125, is_child=True)
    fork = judged(replace(KILLED, parent=small, kin=(child,))).fork

    assert fork is not None
    assert (120, 125) == (fork.parent.pid, fork.child.pid)


@pytest.mark.parametrize(
    "changes",
    [
        {"victim": replace(CHILD, has_no_exec=False), "shares_with_parent": False},
        {"victim": None},
        {
            "parent": replace(PARENT, anon_pages=5 * MIB),
            "victim": replace(CHILD, anon_pages=99 * MIB),
        },
        {
            "parent": replace(PARENT, anon_pages=40 * MIB),
            "victim": replace(CHILD, anon_pages=99 * MIB),
        },
        {"parent": replace(PARENT, anon_pages=None)},
        {
            "parent": None,
            "shares_with_parent": False,
            "kin": (kin(121, has_same_memory=True, is_child=True),),
        },
        {"allocator_pid": 7},
    ],
    ids=[
        "executed",
        "unknown",
        "shares-little",
        "grew",
        "unread",
        "same-memory",
        "asked-by-another",
    ],
)
def test_without_it_the_copying_is_not_behind_it(changes: dict[str, Any]) -> None:
    assert OTHER == judged(replace(KILLED, **changes), others=None)


def test_without_a_stack_nobody_knows_that_nothing_was_copied() -> None:
    assert ("memory-cgroup-oom", "inferred", None) == judged(is_copying=None, others=None)
    alone = replace(KILLED, parent=None, shares_with_parent=False)
    assert OTHER == judged(alone, is_copying=None, others=None)


def test_where_the_host_was_full_it_is_the_hosts() -> None:
    assert ("copy-on-write", "observed") == judged(is_memcg=False, limit=200 << 20)[:2]
    assert ("host-oom", "observed", None) == judged(is_memcg=False, limit=20 << 30)
    assert ("host-oom", "inferred", None) == judged(is_copying=False, is_memcg=None)


def test_what_is_left_over_can_only_be_copies() -> None:
    assert ("copy-on-write", "inferred") == judged(is_copying=False)[:2]


@pytest.mark.parametrize(
    "around",
    [{"others": None}, {"others": 40 << 20}, {"used": None}, {"limit": None}, {"is_memcg": False}],
)
def test_nothing_is_inferred_where_something_else_can_be_it(around: dict[str, Any]) -> None:
    assert judged(is_copying=False, **around).cause != "copy-on-write"


@pytest.mark.parametrize(
    "changes",
    [
        {"victim": replace(CHILD, anon_pages=100 * MIB)},
        {"kin": (kin(119, anon_pages=100 * MIB),)},
        {"time_ns": 10**9 * (121 + 3600)},
    ],
    ids=["grew", "sibling-grew", "long-ago"],
)
def test_workers_are_no_copies(changes: dict[str, Any]) -> None:
    assert OTHER == judged(replace(KILLED, **changes), is_copying=False)


def test_the_family_is_who_shares_memory() -> None:
    killed = replace(
        KILLED,
        kin=(
            kin(121),
            kin(122, is_child=True),
            kin(123, has_same_memory=True),
            kin(124, is_of_same_exec=False),
        ),
    )

    assert [("parent", 100), ("sibling", 121), ("child", 122)] == [
        (kind, each.pid) for kind, each in family(killed)
    ]
