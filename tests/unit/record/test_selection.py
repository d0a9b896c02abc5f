"""What is asked for of recorded failures, and which boot."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import make_failure, make_header

from fork_trace.errors import ForkTraceError
from fork_trace.model.records import Mark
from fork_trace.record.selection import Selection, chosen_boot

ONE, TWO, THREE = ("11111111-" + "0" * 23, "22222222-" + "0" * 23, "2233" + "0" * 28)


@pytest.mark.parametrize(
    ("asked", "is_taken"),
    [
        ({}, True),
        ({"since_ns": 5}, True),
        ({"since_ns": 6}, False),
        ({"until_ns": 5}, True),
        ({"until_ns": 4}, False),
        ({"comm": "sh"}, True),
        ({"comm": "s"}, False),
        ({"uid": 0}, True),
        ({"uid": 1}, False),
        ({"causes": frozenset({"pid-max"})}, False),
        ({"causes": frozenset({"pid-max", "pids-cgroup"})}, True),
        ({"cgroup": "/a/app.service/x"}, True),
        ({"cgroup": "/a/app.service"}, True),
        ({"cgroup": "/a/app.service/"}, True),
        ({"cgroup": "/a/app"}, False),
        ({"cgroup": "/"}, True),
        ({"cgroup": "/sys/fs/cgroup/a"}, True),
        ({"cgroup": "app.service"}, True),
        ({"cgroup": "app"}, False),
    ],
)
def test_a_failure_is_taken_if_it_is_all_that_is_asked_for(
    asked: dict[str, Any], is_taken: bool
) -> None:
    failure = make_failure(
        comm="sh", uid=0, cause="pids-cgroup", cgroup="/a/app.service/x", time_ns=5
    )

    assert is_taken == Selection(**asked).takes(failure)


def test_what_is_not_known_is_not_what_is_asked_for() -> None:
    nobody = make_failure(comm=None, uid=None, cgroup=None)

    for asked in (Selection(comm="sh"), Selection(uid=0), Selection(cgroup="/")):
        assert not asked.takes(nobody)


def test_a_gap_is_of_every_time_that_it_reaches_into() -> None:
    gap = Mark("2026-11-28T09:00:00Z", "h", "gap", "2026-11-28T07:00:00Z", "2026-11-28T08:00:00Z")
    hour = 3600 * 10**9
    seven = 1795849200 * 10**9

    assert Selection(since_ns=seven + hour // 2).takes_mark(gap)
    assert not Selection(since_ns=seven + 2 * hour).takes_mark(gap)
    assert not Selection(until_ns=seven - 1).takes_mark(gap)


HEADERS = [
    make_header(boot_id=TWO, time="2026-11-02"),
    make_header(boot_id=ONE, time="2026-11-01"),
    make_header(boot_id=TWO, time="2026-11-03"),
    make_header(boot_id=THREE, time="2026-11-04"),
    make_header(boot_id=None),
]


@pytest.mark.parametrize(
    ("text", "running", "expected"),
    [
        ("0", THREE, THREE),
        ("-0", THREE, THREE),
        ("-1", THREE, TWO),
        ("-1", "f" * 32, THREE),
        ("0", "f" * 32, "f" * 32),
        ("0", None, THREE),
        ("1", THREE, ONE),
        ("+2", THREE, TWO),
        ("1111", None, ONE),
        (TWO, None, TWO),
        ("2222", None, TWO),
    ],
)
def test_a_boot_is_counted_as_journalctl_counts(
    text: str, running: str | None, expected: str
) -> None:
    assert expected.replace("-", "") == chosen_boot(text, HEADERS, running)


@pytest.mark.parametrize("text", ["-5", "9", "abcd", "22", "x", "", "223"])
def test_a_boot_that_is_not_there_is_refused(text: str) -> None:
    with pytest.raises(ForkTraceError) as raised:
        chosen_boot(text, HEADERS, THREE)

    assert raised.value.hint


def test_of_several_hosts_a_boot_has_only_its_id() -> None:
    headers = [*HEADERS, make_header(host="other", boot_id="4" * 32)]

    with pytest.raises(ForkTraceError, match="which host"):
        chosen_boot("0", headers, THREE)
    assert "4" * 32 == chosen_boot("4444", headers, THREE)
