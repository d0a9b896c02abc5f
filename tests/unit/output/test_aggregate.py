"""Failures counted by columns."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import TIME_NS, make_evidence, make_failure, make_holder

from fork_trace.errors import ForkTraceError
from fork_trace.model.records import Frame
from fork_trace.output import aggregate, columns


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
        ("container", {"container": {"pod": "p", "name": "web"}}, (None, "p/web")),
        ("container", {"container": {"id": "abc", "name": None}}, (None, "abc")),
        ("container", {"container": {"id": "abc", "user": 7}}, (None, "abc of user 7")),
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
    table = aggregate.Table(columns.COLUMNS)
    table.add(make_failure(), "alpha")

    assert len(columns.COLUMNS) == len(table.rows()[0].key)
    assert set(columns.DEFAULT_BY) <= set(columns.COLUMNS)


def test_the_most_failures_come_first_and_ties_by_name() -> None:
    table = aggregate.Table(("command",))
    for comm, count in [("b", 2), ("a", 2), ("z", 9), (None, 2)]:
        table.add(make_failure(comm=comm, count=count))

    assert [("z", 9), (None, 2), ("a", 2), ("b", 2)] == counts(table)


def test_of_as_many_failures_those_whose_numbers_are_known_come_first() -> None:
    table = aggregate.Table(("command",))
    for comm in ("counted", "sampled"):
        table.add(make_failure(comm=comm, evidence=(make_evidence(),) if comm == "sampled" else ()))

    assert [("sampled", 1), ("counted", 1)] == counts(table)


def test_a_row_knows_its_first_and_last_and_keeps_its_latest_failure() -> None:
    table = aggregate.Table(("cause",))
    for time_ns, pid in [(20, 2), (10, 1), (30, 3)]:
        table.add(make_failure(time_ns=time_ns, pid=pid))

    (row,) = table.rows()

    assert row.latest is not None
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

    assert (3, 4) == (table.places()[0].told.pid, table.places()[0].latest.pid)


def test_who_holds_the_pool_is_told_by_the_latest_failure_that_names_them() -> None:
    table = aggregate.Table()
    table.add(make_failure(time_ns=10, pid=1))
    table.add(make_failure(time_ns=20, pid=2, holders=(make_holder(),)))
    table.add(make_failure(time_ns=30, pid=3, holders=(make_holder(),)))
    table.add(make_failure(time_ns=40, pid=4))
    table.add(make_failure(time_ns=50, pid=5, holders=()))

    (place,) = table.places()
    assert place.held is not None
    assert (3, 5, 5) == (place.held.pid, place.told.pid, place.latest.pid)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("command", ("command",)),
        ("cause, cgroup", ("cause", "cgroup")),
        ("cause,cause", ("cause",)),
        (",".join(columns.COLUMNS), columns.COLUMNS),
    ],
)
def test_columns_are_read_from_a_list(text: str, names: tuple[str, ...]) -> None:
    assert names == columns.parse_by(text)


@pytest.mark.parametrize("text", ["", "colour", "command,,cause", "command cause", "Command"])
def test_a_column_that_does_not_exist_is_named_with_those_that_do(text: str) -> None:
    with pytest.raises(ForkTraceError, match="--by has no column") as refusal:
        columns.parse_by(text)

    assert all(name in refusal.value.hint for name in columns.COLUMNS)


SECOND_NS = 10**9


def test_a_retry_loop_is_one_row_with_its_count_its_rate_and_its_times() -> None:
    table = aggregate.Table()
    for number in range(11):
        table.add(make_failure(time_ns=TIME_NS + number * SECOND_NS // 5))
    table.add(make_failure(time_ns=TIME_NS + 2 * SECOND_NS, count=10))

    (row,) = table.rows()

    assert (21, TIME_NS, TIME_NS + 2 * SECOND_NS) == (row.count, row.first_ns, row.last_ns)
    assert 10.0 == row.per_second()


@pytest.mark.parametrize("times", [[0], [0, 0]])
def test_a_rate_without_a_span_of_time_is_not_known(times: list[int]) -> None:
    table = aggregate.Table()
    for time in times:
        table.add(make_failure(time_ns=TIME_NS + time))

    assert table.rows()[0].per_second() is None


FRAMES = (Frame(0x10, "fork", "/libc.so.6"), Frame(0x20, "run_job", "/app"))


def test_the_stack_of_a_row_is_its_latest_an_unwound_one_rather_than_not() -> None:
    table = aggregate.Table()
    whole = make_failure(stack=FRAMES, stack_by="unwinding", time_ns=TIME_NS)
    for failure in (
        make_failure(stack=FRAMES[:1], stack_by="frame-pointers", time_ns=TIME_NS - 1),
        whole,
        make_failure(stack=FRAMES[:1], stack_by="frame-pointers", time_ns=TIME_NS + 1),
        make_failure(time_ns=TIME_NS + 2),
    ):
        table.add(failure)

    assert whole == table.rows()[0].sample


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ({"pod": "uid", "pod_name": "prod/shop", "name": "app", "id": "1"}, "prod/shop/app"),
        ({"pod": "uid", "pod_name": None, "name": None, "id": "1"}, "uid"),
        ({"pod": None, "name": "web", "id": "1"}, "web"),
        ({"pod": None, "name": None, "id": "1", "unit": "docker-1.scope"}, "1"),
        ({"unit": "app.service"}, "app.service"),
        (None, None),
    ],
)
def test_a_container_is_called_by_the_best_name_that_is_known(
    container: dict[str, str | None] | None, expected: str | None
) -> None:
    assert expected == aggregate.column(make_failure(container=container), "container", None)


def test_each_host_of_a_cause_is_told_by_its_own_failures_most_first() -> None:
    table = aggregate.Table()
    for host, count, pid in [("alpha", 2, 1), ("beta", 3, 2), ("alpha", 2, 3)]:
        table.add(make_failure(count=count, pid=pid, time_ns=TIME_NS + pid), host)

    found = [(each.key.host, each.count, each.latest.pid) for each in table.places()]

    assert [("alpha", 4, 3), ("beta", 3, 2)] == found


def test_the_worst_is_the_place_that_refused_most() -> None:
    table = aggregate.Table(("cause",))
    for comm, cgroup, cause, count in [
        ("cron", "/a", "pid-max", 5),
        ("sh", "/a", "pids-cgroup", 2),
        ("java", "/a", "pids-cgroup", 4),
        ("java", "/b", "pids-cgroup", 4),
        ("java", "/b", "pids-cgroup", 3),
    ]:
        where = "the whole host" if cause == "pid-max" else f"/sys/fs/cgroup{cgroup}"
        evidence = (make_evidence(where=where),)
        table.add(
            make_failure(comm=comm, cgroup=cgroup, cause=cause, count=count, evidence=evidence),
            "alpha",
        )

    worst, second, third = table.places()

    assert ("alpha", "cgroup /b", 7) == (worst.key.host, worst.key.where, worst.count)
    assert ("cgroup /a", {"java": 4, "sh": 2}) == (second.key.where, second.commands)
    assert ("the whole host", 5) == (third.key.where, third.count)
    assert ["pids-cgroup", "pid-max"] == list(table.by_cause())


def test_rows_are_bounded_and_count_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aggregate, "_MOST", 10)
    table = aggregate.Table(("command", "cgroup"))
    for number in range(100):
        table.add(make_failure(comm=f"x{number}", cgroup=f"/c{number % 30}"))

    rows = table.rows()

    assert 100 == sum(row.count for row in rows) == table.failures
    assert len(rows) <= 2 * 10 + 1
    assert {("x0", "/c0"), (None, "/c12"), (None, None)} <= {row.key for row in rows}
    assert 100 == sum(place.count for place in table.places())


def test_rows_of_several_hosts_that_are_added_up_keep_their_numbers_and_places() -> None:
    table = aggregate.Table(("host", "command"))
    for host, count in (("alpha", 2), ("beta", 3), ("gamma", 0)):
        table.add(make_failure(comm="sh", count=1, evidence=(), cgroup="/else"), host)
        if count:
            evidence = (make_evidence(where=f"/sys/fs/cgroup/{host}", value=count),)
            table.add(make_failure(comm="sh", count=count, evidence=evidence), host)

    table.drop_first_column()
    (row,) = table.rows()
    part, others = row.at()

    assert (("command",), ("sh",), 8) == (table.by, row.key, row.count)
    assert row.has_numbers
    assert part is not None and part.first is not None
    assert ("beta", 3, 3, 1) == (part.key.host, part.count, part.first.value, others)
    assert 8 == sum(each.count for each in row.parts.values()) + row.elsewhere


def test_rows_that_are_added_up_tell_no_more_places_apart_than_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(aggregate, "_MOST_PARTS", 4)
    table = aggregate.Table(("host", "command"))
    for number in range(10):
        table.add(make_failure(count=number + 1), f"host{number}")

    table.drop_first_column()
    (row,) = table.rows()

    assert 4 == len(row.parts)
    assert 55 == row.count == sum(each.count for each in row.parts.values()) + row.elsewhere
