"""Headroom by the kernel's own rules: readings in, levels out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from conftest import INITIAL_PID, INITIAL_USER
from hypothesis import given
from hypothesis import strategies as some

from fork_trace.diagnosis.causes import BY_SLUG
from fork_trace.headroom import limits
from fork_trace.headroom.limits import (
    UNLIMITED,
    Big,
    CgroupLimit,
    Headroom,
    Memory,
    Most,
    Numbers,
    Process,
    Tally,
)

JAVA = Process(1000, "java")
# A user namespace that uid 1000 made, and one in it that its uid 5 made.
NESTED = {42: [(42, 1000), (INITIAL_USER, 0)], 43: [(43, 5), (42, 1000), (INITIAL_USER, 0)]}


def level(headroom: Headroom) -> str:
    return headroom.level(80, 100)


@pytest.mark.parametrize(
    ("used", "limit", "expected"),
    [
        (799, 1000, "fine"),
        (800, 1000, "near"),
        (999, 1000, "near"),
        (100, 100, "full"),
        (101, 100, "full"),
        (0, 0, "full"),
        (None, 100, "unknown"),
        (7, None, "unknown"),
    ],
)
def test_at_the_limit_the_next_one_fails(
    used: int | None, limit: int | None, expected: str
) -> None:
    assert expected == level(limits.threads(used, limit))


@pytest.mark.parametrize(
    ("used", "limit", "expected"),
    [
        (50, 100, "fine"),
        (51, 100, "near"),  # 49 are left
        (1, 50, "near"),
        (1, 10, "near"),
        (8, 9, "fine"),  # so small a limit is full or fine
        (9, 9, "full"),
    ],
)
def test_fewer_than_50_tasks_left_are_near_too(used: int, limit: int, expected: str) -> None:
    assert expected == level(limits.threads(used, limit))


def test_how_many_tasks_must_be_left_can_be_said() -> None:
    assert "fine" == limits.threads(51, 100).level(80, 100, 0)
    assert "near" == limits.threads(1, 1000).level(80, 100, 1000)


@pytest.mark.parametrize(
    ("used", "left", "expected"),
    [(900, 50, "near"), (902, 49, "near"), (700, 150, "fine"), (1000, 0, "full")],
)
def test_a_thread_takes_two_mappings(used: int, left: int, expected: str) -> None:
    (found,) = limits.mappings([Most(JAVA, used)], 1000)

    assert (left, expected) == (found.tasks_left, level(found))
    assert f"room for {left} more threads" == found.note


def test_what_is_not_counted_in_tasks_has_none_left() -> None:
    assert limits.open_files(1, 100).tasks_left is None
    assert "fine" == level(limits.open_files(60, 100))


def test_what_is_not_known_has_a_reason() -> None:
    assert limits.threads(None, 100).why
    assert limits.threads(7, 100).why is None


def test_a_lower_bound_below_the_limit_is_not_fine() -> None:
    headroom = Headroom("x", "x", 7, 100, "tasks", "x", is_at_least=True)

    assert "unknown" == level(headroom)
    assert "near" == level(replace(headroom, used=80))


def test_each_limited_cgroup_is_compared_and_an_ancestor_too() -> None:
    found = limits.cgroups([CgroupLimit("/a", 7, 7, 23), CgroupLimit("/a/b", 6, 70, 0)])

    assert ["full", "fine"] == [level(each) for each in found]
    assert ("/a", 23) == (found[0].where, found[0].hits)


def test_the_reserved_numbers_come_off_once_the_count_has_passed_them() -> None:
    used = Numbers(1, 301, last=5000)

    assert (1, "full") == (
        limits.host_numbers(used, limits.HOST).limit,
        level(limits.host_numbers(used, limits.HOST)),
    )
    assert 300 == limits.host_numbers(replace(used, last=120), limits.HOST).limit
    assert 1 == limits.host_numbers(replace(used, last=None), limits.HOST).limit


@pytest.mark.parametrize(("last", "first"), [(299, 1), (300, 300), (None, 300), (1, 1)])
def test_the_first_number_follows_the_kernel_s_cursor(last: int | None, first: int) -> None:
    assert first == limits.first_number(last)


def test_a_pid_namespace_holds_those_below_it_too() -> None:
    lineages = {42: [(42, None), (INITIAL_PID, None)], 43: [(43, None), (42, None)]}
    lineages[43].append((INITIAL_PID, None))

    found = limits.nested_numbers({42: 5, 43: 3}, lineages, INITIAL_PID, 32768, False)

    assert {
        "pid namespace 42 (level 1)": (8, 32468),
        "pid namespace 43 (level 2)": (3, 32468),
    } == {each.where: (each.used, each.limit) for each in found}


@pytest.mark.parametrize("is_by_namespace", [True, None])
def test_a_pid_max_of_a_namespace_s_own_is_not_guessed(is_by_namespace: bool | None) -> None:
    (found,) = limits.nested_numbers({42: 5}, {42: [(42, None)]}, 7, 32768, is_by_namespace)

    assert (5, None, "unknown") == (found.used, found.limit, level(found))
    assert found.why


def users(tallies: dict[tuple[int, int], Tally], **more: Any) -> dict[str, Headroom]:
    values: dict[str, Any] = {
        "lineages": NESTED,
        "own": INITIAL_USER,
        "is_by_namespace": True,
        "unseen": None,
    }
    values.update(more)
    return {each.where: each for each in limits.users(tallies, **values)}


def test_a_user_is_held_to_the_lowest_limit_of_its_processes() -> None:
    found = users({(INITIAL_USER, 1000): Tally(7, 7, JAVA, False)})["uid 1000"]

    assert ("full", 7, 7, JAVA) == (level(found), found.used, found.limit, found.process)


@pytest.mark.parametrize(
    ("key", "tally", "word"),
    [
        ((INITIAL_USER, 0), Tally(500, None, None, True), "root"),
        ((INITIAL_USER, 77), Tally(500, None, None, True), "CAP_SYS_ADMIN"),
        ((INITIAL_USER, 77), Tally(500, UNLIMITED, JAVA, False), "unlimited"),
        ((INITIAL_USER, 77), Tally(1, None, None, False), "RLIMIT_NPROC 0"),
    ],
)
def test_who_is_not_held_to_a_limit_is_said_so(
    key: tuple[int, int], tally: Tally, word: str
) -> None:
    (found,) = users({key: tally}).values()

    assert "fine" == level(found)
    assert word in (found.free or "")


def test_root_of_a_user_namespace_is_not_exempt() -> None:
    found = users({(42, 0): Tally(7, 7, JAVA, False)})

    assert "full" == level(found["uid 0 in user namespace 42"])


def test_root_of_a_container_is_not_taken_for_the_host_s() -> None:
    found = users({(42, 0): Tally(7, 7, JAVA, False)}, own=42, lineages={})

    assert "full" == level(found["uid 0"])


def test_a_user_is_charged_for_the_namespaces_that_it_made() -> None:
    found = users(
        {
            (INITIAL_USER, 1000): Tally(1, 100, JAVA, False),
            (42, 5): Tally(10, 1000, JAVA, False),
            (43, 6): Tally(100, 1000, JAVA, False),
        }
    )

    assert {
        "uid 1000": 111,
        "uid 5 in user namespace 42": 110,
        "uid 6 in user namespace 43": 100,
    } == {where: each.used for where, each in found.items()}


def test_a_maker_without_a_task_has_a_limit_that_shows_nowhere() -> None:
    found = users({(42, 5): Tally(10, 1000, JAVA, False)})["uid 1000"]

    assert ("unknown", 10) == (level(found), found.used)


def test_an_older_kernel_counts_a_user_once_for_the_host() -> None:
    found = users(
        {
            (INITIAL_USER, 1000): Tally(60, 100, JAVA, False),
            (42, 1000): Tally(40, 1000, JAVA, False),
        },
        is_by_namespace=False,
    )

    assert [("uid 1000", 100, 100)] == [
        (where, each.used, each.limit) for where, each in found.items()
    ]


def test_a_kernel_that_does_not_tell_how_it_counts_is_said_so() -> None:
    tallies = {(INITIAL_USER, 1000): Tally(6, 100, JAVA, False)}

    assert users(tallies, is_by_namespace=None)["uid 1000"].note is None
    tallies[(42, 1000)] = Tally(4, 100, JAVA, False)
    assert "does not say" in (users(tallies, is_by_namespace=None)["uid 1000"].note or "")


def test_a_user_namespace_that_may_not_be_read_is_said_so() -> None:
    tally = Tally(6, 100, JAVA, False, is_guess=True)

    assert "separately" in (users({(INITIAL_USER, 1000): tally})["uid 1000"].note or "")


@pytest.mark.parametrize(
    ("tally", "unseen"),
    [
        (Tally(7, 100, JAVA, False, unread=1), None),
        (Tally(7, None, None, False, unread=1), None),
        (Tally(7, UNLIMITED, JAVA, False, unread=1), None),
        (Tally(7, 100, JAVA, False), "hidden"),
    ],
)
def test_a_user_of_whom_not_all_was_read_is_not_fine(tally: Tally, unseen: str | None) -> None:
    found = users({(INITIAL_USER, 1000): tally}, unseen=unseen)["uid 1000"]

    assert "unknown" == level(found)
    assert found.why


MODE_0 = Memory(0, ram_and_swap=1000)
MODE_2 = Memory(2, committed=500, commit_limit=1000, admin_reserve=80, user_reserve=100)
BIG = Big(JAVA, total_kib=320, asks_kib=300, largest_kib=300, is_admin=False, is_estimate=False)


def test_mode_1_never_refuses() -> None:
    (found,) = limits.memory(Memory(1), [BIG])

    assert "fine" == level(found)
    assert "never" in (found.free or "")


def test_mode_0_asks_for_the_largest_mapping_alone() -> None:
    found = limits.memory(MODE_0, [BIG, replace(BIG, asks_kib=5000, largest_kib=1001)])

    assert ["fine", "full"] == [level(each) for each in found]
    assert {"overcommit-heuristic"} == {each.cause for each in found}


def test_mode_2_keeps_reserves_back_for_root_and_for_the_process() -> None:
    others, root, process = limits.memory(MODE_2, [BIG])

    assert (500, 920) == (others.used, others.limit)
    assert (500, 1000) == (root.used, root.limit)
    # 320 / 32 is the smaller reserve; the fork asks for 300 more.
    assert (800, 910, JAVA) == (process.used, process.limit, process.process)


def test_mode_2_lets_root_have_the_admin_reserve() -> None:
    process = limits.memory(MODE_2, [replace(BIG, is_admin=True)])[2]

    assert 990 == process.limit


def test_the_reserve_of_a_huge_process_is_bounded() -> None:
    process = limits.memory(MODE_2, [replace(BIG, total_kib=32_000)])[2]

    assert 820 == process.limit


def test_a_process_that_asks_for_more_than_is_left_is_full_while_the_host_is_not() -> None:
    found = limits.memory(MODE_2, [replace(BIG, asks_kib=410)])

    assert ["fine", "fine", "full"] == [level(each) for each in found]


@pytest.mark.parametrize("state", [Memory(None), Memory(2), Memory(0)])
def test_memory_that_is_not_told_is_not_fine(state: Memory) -> None:
    assert {"unknown"} == {level(each) for each in limits.memory(state, [BIG])}


@pytest.mark.parametrize(
    ("highest", "nr_open", "expected"),
    [
        (1023, 1024, "near"),  # the table has 1024 slots, and may have
        (1024, 1024, "full"),
        (1000, 1010, "full"),  # 1010 is no multiple of 64: the table may have 960
        (959, 1010, "near"),
        (None, 1024, "unknown"),
        (7, None, "unknown"),
    ],
)
def test_a_descriptor_table_grows_by_64_up_to_nr_open(
    highest: int | None, nr_open: int | None, expected: str
) -> None:
    (found,) = limits.descriptor_tables([Most(JAVA, highest)], nr_open)

    assert expected == level(found)


def test_the_worst_comes_first_and_the_unknown_before_the_fine() -> None:
    def one(used: int | None, where: str) -> Headroom:
        return Headroom("x", "x", used, 100, "tasks", where)

    found = limits.order(
        [one(3, "c"), one(None, "d"), one(85, "b"), one(100, "a"), one(9, "e")], 80, 100
    )

    assert "abdec" == "".join(each.where for each in found)


def test_thresholds_move_the_levels() -> None:
    half = limits.threads(50, 100)

    assert "near" == half.level(50, 100)
    assert "full" == half.level(20, 50)


@given(some.integers(0, 10**9), some.integers(0, 10**9))
def test_100_percent_is_exactly_when_the_next_one_fails(used: int, limit: int) -> None:
    assert (used >= limit) == (limits.threads(used, limit).level(80, 100) == "full")


def test_every_cause_is_a_known_one() -> None:
    found = [
        limits.threads(1, 2),
        *limits.cgroups([CgroupLimit("/a", 7, 7, 23)]),
        limits.host_numbers(Numbers(1, 2), limits.HOST),
        *users({(INITIAL_USER, 1000): Tally(7, 7, JAVA, False)}).values(),
        *(each for mode in (0, 1, 2, None) for each in limits.memory(Memory(mode), [BIG])),
        *limits.descriptor_tables([Most(JAVA, 7)], 64),
        limits.open_files(1, 2),
        *limits.mappings([Most(JAVA, 7)], 64),
    ]

    assert set() == {each.cause for each in found} - set(BY_SLUG)
