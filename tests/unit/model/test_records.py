"""Records as lines and back, and capture files that are not whole."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from conftest import (
    make_advice,
    make_evidence,
    make_failure,
    make_header,
    make_holder,
    make_summary,
)
from hypothesis import example, given
from hypothesis import strategies as some

from fork_trace.model import records
from fork_trace.model.records import Frame
from fork_trace.output import columns

ADVICE = {"kind": "fix", "text": "Raise the limit.", "commands": ["sysctl kernel.pid_max=N"]}
FULL = make_failure(
    advice=(make_advice(**{**ADVICE, "commands": ("sysctl kernel.pid_max=N",)}), make_advice()),
    evidence=(make_evidence(), make_evidence(limit=None)),
    stack=(Frame(4096, "_Fork", "/lib/libc.so.6"), Frame(1, None, None)),
    container={"id": "abc", "name": None},
    holders=(make_holder(), make_holder(comm=None, pid=None, tasks=0, processes=0, zombies=3)),
    holders_total=512,
    alternatives=("kernel-memory", "overcommit-never"),
    possible_steps=("dup_task_struct", "copy_signal"),
)
UNKNOWN = make_failure(
    **dict.fromkeys(
        ("comm", "exe", "pid", "tid", "uid", "ppid", "parent_comm", "cgroup", "syscall"),
    ),
    **dict.fromkeys(("creates", "errno", "function", "caller")),
    flags=(),
    evidence=(),
    advice=(),
)


def changed(record: records.Record, **changes: Any) -> str:
    return json.dumps({**json.loads(records.to_json(record)), **changes})


@pytest.mark.parametrize(
    "record",
    [
        FULL,
        UNKNOWN,
        replace(FULL, holders=(), holders_total=0),
        replace(FULL, comm="caf\u00e9 \\xe9 \x1b[31m \u202e\n"),
    ],
)
def test_a_failure_comes_back_as_it_was_written(record: records.Failure) -> None:
    assert record == records.from_json(records.to_json(record))


@pytest.mark.parametrize("record", [make_header(), make_summary(), make_summary(missed=None)])
def test_header_and_summary_come_back_as_they_were_written(record: records.Record) -> None:
    line = records.to_json(record)

    # Their nested lists come back as lists, which write the same line.
    assert line == records.to_json(records.from_json(line))


def test_a_capture_from_before_the_holders_still_reads() -> None:
    values = json.loads(records.to_json(FULL))
    del values["holders"], values["holders_total"]

    assert replace(FULL, holders=None, holders_total=None) == records.from_json(json.dumps(values))


def test_a_line_is_one_line_of_ascii_and_begins_with_its_type() -> None:
    line = records.to_json(make_failure(comm="caf\u00e9\n\u2028", caller="\udc80"))

    assert line.isascii()
    assert 1 == len(line.splitlines())
    assert "failure" == json.loads(line)["type"]


def test_unknown_values_keep_their_keys() -> None:
    values = json.loads(records.to_json(UNKNOWN))

    assert values["comm"] is None
    assert [] == values["evidence"]
    assert set(json.loads(records.to_json(FULL))) == set(values)


def test_a_key_of_a_later_version_does_no_harm() -> None:
    header = records.from_json(changed(make_header(), colour="red"))
    assert isinstance(header, records.Header)
    assert make_header() == replace(
        header,
        attached=make_header().attached,
        missing=(),
        fallbacks=(),
    )
    assert FULL == records.from_json(changed(FULL, colour="red"))


@pytest.mark.parametrize(
    ("record", "names", "value"),
    [
        (make_failure(), ["alternatives"], ()),
        (make_summary(), ["before_fork", "untracked", "mismatched"], 0),
    ],
)
def test_a_capture_from_before_a_field_was_added_is_read(
    record: records.Record, names: list[str], value: object
) -> None:
    values = json.loads(records.to_json(record))
    for name in names:
        del values[name]

    read_back = records.from_json(json.dumps(values))

    assert [value] * len(names) == [getattr(read_back, name) for name in names]


WRONG: list[Any] = [
    "text",
    1,
    1.5,
    True,
    None,
    [],
    ["text"],
    [1],
    {},
    {"a": 1},
    1 << 70,
    -1,
    "\udc80",
]
WRONG += [float("nan"), float("inf")]


@pytest.mark.parametrize("record", [FULL, make_header(), make_summary()], ids=["f", "h", "s"])
@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_a_value_of_a_wrong_type_is_refused_or_can_be_reported(
    record: records.Record, wrong: Any
) -> None:
    """Nothing that the reader takes may be what the report cannot compute with."""
    from fork_trace import escape
    from fork_trace.output import aggregate, report, summary

    by_type = {records.Header: 0, records.Failure: 1, records.Summary: 2}
    for name in record.__dataclass_fields__:
        whole: list[Any] = [make_header(), FULL, make_summary()]
        try:
            read_back = records.from_json(changed(record, **{name: wrong}))
        except (ValueError, TypeError):
            continue
        whole[by_type[type(record)]] = read_back
        counted = aggregate.Table(columns.COLUMNS)
        counted.add(whole[1], whole[0].host)

        assert report.text(counted, [whole[2]], [whole[0]])
        assert escape.json_line(summary.merged_summary(counted, [whole[2]]))


@pytest.mark.parametrize(
    ("record", "changes"),
    [
        (FULL, {"count": 0}),
        (FULL, {"count": True}),
        (FULL, {"count": 1.0}),
        (FULL, {"time_ns": "1"}),
        (FULL, {"cause": None}),
        (FULL, {"comm": 5}),
        (FULL, {"pid": "\x1b[31m"}),
        (FULL, {"evidence": [5]}),
        (FULL, {"advice": ["Raise the limit."]}),
        (FULL, {"advice": [{**ADVICE, "text": None}]}),
        (FULL, {"advice": [{**ADVICE, "commands": "reboot"}]}),
        (FULL, {"evidence": [{**make_evidence().__dict__, "value": "many"}]}),
        (FULL, {"evidence": [{**make_evidence().__dict__, "where": None}]}),
        (FULL, {"container": ["name"]}),
        (FULL, {"holders": "java"}),
        (FULL, {"holders": ["java"]}),
        (FULL, {"holders": [{"comm": "java"}]}),
        (FULL, {"holders": [{**make_holder().__dict__, "tasks": None}]}),
        (FULL, {"holders": [{**make_holder().__dict__, "zombies": "many"}]}),
        (FULL, {"holders": [{**make_holder().__dict__, "comm": 5}]}),
        (FULL, {"holders_total": "512"}),
        (make_header(), {"version": "1"}),
        (make_header(), {"host": None}),
        (make_header(), {"missing": ["dup_fd"]}),
        (make_summary(), {"duration_s": "long"}),
        (make_summary(), {"duration_s": float("nan")}),
        (make_summary(), {"lost": None}),
        (make_summary(), {"missed": "none"}),
    ],
)
def test_a_value_that_the_report_could_not_use_is_refused(
    record: records.Record, changes: dict[str, Any]
) -> None:
    records.from_json(changed(record))

    with pytest.raises((ValueError, TypeError)):
        records.from_json(changed(record, **changes))


JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | some.text(max_size=5),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(max_size=5), inner),
    max_leaves=5,
)
NAMES = sorted({name for type_ in records._TYPES.values() for name in type_.__dataclass_fields__})


@pytest.mark.parametrize("depth", [10, 900])
def test_a_record_that_is_nested_deep_is_refused(depth: int) -> None:
    line = changed(FULL, container={"name": "DEEP"})
    deep = line.replace('"DEEP"', "[" * depth + "]" * depth)

    with pytest.raises(ValueError, match="nested too deep"):
        records.from_json(deep)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_anywhere_else_is_refused(value: str) -> None:
    line = changed(FULL, container={"name": "DEEP"})

    with pytest.raises(ValueError, match="is no number"):
        records.from_json(line.replace('"DEEP"', value))


@given(some.text())
@example("NaN")
@example('"\ud800"')
@example("1" * 5000)
@example("[" * 100_000)
def test_any_text_is_read_or_refused_in_one_of_three_ways(text: str) -> None:
    try:
        records.from_json(text)
    except (ValueError, TypeError, RecursionError):
        return
    raise AssertionError("no such text is a record")


@given(
    some.sampled_from([FULL, make_header(), make_summary()]),
    some.dictionaries(some.sampled_from(NAMES), JSON, max_size=3),
)
def test_any_change_of_a_record_is_read_or_refused_in_one_of_two_ways(
    record: records.Record, changes: dict[str, Any]
) -> None:
    try:
        again = records.from_json(changed(record, **changes))
    except (ValueError, TypeError):
        return

    assert type(record) is type(again)
