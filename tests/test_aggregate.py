"""Failures counted by columns."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import make_failure, make_holder

from fork_trace import aggregate
from fork_trace.errors import ForkTraceError


def counts(table: aggregate.Table) -> list[tuple[Any, ...]]:
    return [(*row.key, row.count) for row in table.rows()]


def test_failures_of_one_command_caller_and_cause_are_one_row() -> None:
    table = aggregate.Table()
    for _ in range(23):
        table.add(make_failure())

    assert [("sh", "_Fork", "pids-cgroup", 23)] == counts(table)
    assert 23 == table.failures
    assert {"pids-cgroup": 23} == table.causes


def test_a_folded_record_counts_as_many_as_it_stands_for() -> None:
    table = aggregate.Table()
    table.add(make_failure())
    table.add(make_failure(count=950))

    assert [("sh", "_Fork", "pids-cgroup", 951)] == counts(table)
    assert {"EAGAIN": 951} == table.rows()[0].errnos


@pytest.mark.parametrize(
    ("column", "change", "values"),
    [
        ("command", {"comm": "make"}, ("make", "sh")),
        ("caller", {"caller": None}, (None, "_Fork")),
        ("cause", {"cause": "pid-max"}, ("pid-max", "pids-cgroup")),
        ("step", {"step": "alloc_pid"}, ("alloc_pid", "cgroup_can_fork")),
        ("cgroup", {"cgroup": "/a"}, ("/a", "/app.service")),
        ("user", {"uid": None}, (None, "1000")),
        ("parent", {"parent_comm": "bash"}, ("bash", "cron")),
        ("container", {"container": {"id": "abc", "name": "web"}}, (None, "web")),
        ("container", {"container": {"pod": "p", "name": "web"}}, (None, "p")),
        ("container", {"container": {"id": "abc", "name": None}}, (None, "abc")),
        ("container", {"container": {}}, (None,)),
    ],
)
def test_each_column_tells_apart_what_it_names(
    column: str, change: dict[str, Any], values: tuple[str | None, ...]
) -> None:
    table = aggregate.Table((column,))
    table.add(make_failure())
    table.add(make_failure(**change))

    assert values == tuple(row.key[0] for row in table.rows())


def test_hosts_are_told_apart_only_where_asked_for() -> None:
    by_host, default = aggregate.Table(("host", "cause")), aggregate.Table()
    for table in (by_host, default):
        table.add(make_failure(count=2), "alpha")
        table.add(make_failure(count=3), "beta")

    assert [("beta", "pids-cgroup", 3), ("alpha", "pids-cgroup", 2)] == counts(by_host)
    assert [("sh", "_Fork", "pids-cgroup", 5)] == counts(default)


def test_every_column_that_can_be_asked_for_has_a_value() -> None:
    table = aggregate.Table(aggregate.COLUMNS)
    table.add(make_failure(), "alpha")

    assert len(aggregate.COLUMNS) == len(table.rows()[0].key)
    assert set(aggregate.DEFAULT_BY) <= set(aggregate.COLUMNS)


def test_the_most_failures_come_first_and_ties_by_name() -> None:
    table = aggregate.Table(("command",))
    for comm, count in [("b", 2), ("a", 2), ("z", 9), (None, 2)]:
        table.add(make_failure(comm=comm, count=count))

    assert [("z", 9), (None, 2), ("a", 2), ("b", 2)] == counts(table)


def test_a_row_knows_its_first_and_last_and_keeps_its_latest_failure() -> None:
    table = aggregate.Table(("cause",))
    for time_ns, pid in [(20, 2), (10, 1), (30, 3)]:
        table.add(make_failure(time_ns=time_ns, pid=pid))

    (row,) = table.rows()

    assert (10, 30, 3) == (row.first_ns, row.last_ns, row.latest.pid)


def test_a_row_of_an_unknown_errno_shows_it() -> None:
    table = aggregate.Table(("command",))
    table.add(make_failure(errno=None, cause="unknown"))
    table.add(make_failure())

    assert {"?": 1, "EAGAIN": 1} == table.rows()[0].errnos
    assert {"unknown": 1, "pids-cgroup": 1} == table.rows()[0].causes


def test_a_cause_is_told_by_its_latest_failure_that_has_evidence() -> None:
    table = aggregate.Table()
    table.add(make_failure(time_ns=10, pid=1))
    table.add(make_failure(time_ns=30, pid=3))
    table.add(make_failure(time_ns=20, pid=2))
    table.add(make_failure(time_ns=40, pid=4, evidence=()))

    assert 3 == table.latest["pids-cgroup"].pid


def test_a_cause_is_told_by_its_latest_failure_that_names_who_holds_the_pool() -> None:
    table = aggregate.Table()
    table.add(make_failure(time_ns=10, pid=1))
    table.add(make_failure(time_ns=20, pid=2, holders=(make_holder(),)))
    table.add(make_failure(time_ns=30, pid=3, holders=(make_holder(),)))
    table.add(make_failure(time_ns=40, pid=4))
    table.add(make_failure(time_ns=50, pid=5, holders=()))

    assert 3 == table.latest["pids-cgroup"].pid


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("command", ("command",)),
        ("cause, cgroup", ("cause", "cgroup")),
        ("cause,cause", ("cause",)),
        (",".join(aggregate.COLUMNS), aggregate.COLUMNS),
    ],
)
def test_columns_are_read_from_a_list(text: str, names: tuple[str, ...]) -> None:
    assert names == aggregate.parse_by(text)


@pytest.mark.parametrize("text", ["", "colour", "command,,cause", "command cause", "Command"])
def test_a_column_that_does_not_exist_is_named_with_those_that_do(text: str) -> None:
    with pytest.raises(ForkTraceError, match="--by knows no column") as refusal:
        aggregate.parse_by(text)

    assert all(name in refusal.value.hint for name in aggregate.COLUMNS)
