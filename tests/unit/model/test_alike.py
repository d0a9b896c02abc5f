"""Failures that are read by what was read before are what they would be without: every field, and every refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from conftest import make_evidence, make_failure, make_header

from fork_trace.model.alike import Alike
from fork_trace.model.records import Failure, Frame, Record, from_json, to_json

FRAMES = (
    Frame(139640893338451, "_Fork", "/usr/lib/libc.so.6", 869203, "93ac61ec5a8e"),
    Frame(6766425, None, "/usr/bin/python3.11", 2572121, "571d98e01096"),
)
FAILURE = make_failure(
    comm='a "b\\',
    stack=FRAMES,
    evidence=(make_evidence(value=63, limit=64),),
    container={"unit": "app.service"},
)


def line_of(failure: Failure) -> bytes:
    return (to_json(failure) + "\n").encode()


def told(read: Callable[[bytes], Record], line: bytes) -> object:
    try:
        return read(line)
    except (ValueError, TypeError, RecursionError) as error:
        return repr(error)


def without_stack(line: bytes) -> Record:
    return from_json(line, keeps_stack=False)


def test_whatever_becomes_of_a_line_it_is_told_as_if_it_were_the_first() -> None:
    line = line_of(FAILURE)
    alike = Alike()
    first = alike.from_json(line)
    assert isinstance(first, Failure)
    assert without_stack(line) == first
    assert first.alike is not None  # it is remembered

    for at in range(len(line)):
        for other in (b"", b"0", b"7", b'"', b"\\", b"]", b"{", b",", b" ", b"\xc3", b'"stack": ['):
            changed = line[:at] + other + line[at + 1 :]
            assert told(without_stack, changed) == told(alike.from_json, changed), changed
        assert told(without_stack, line[:at]) == told(alike.from_json, line[:at])


@pytest.mark.parametrize(
    "changes",
    [
        {"time": "2026-11-29T00:00:00Z", "time_ns": 1 << 60, "count": 7, "pid": 9, "tid": None},
        {"stack": (replace(FRAMES[0], address=(1 << 64) - 1), FRAMES[1])},
        {"stack": (replace(FRAMES[0], address=0, offset=0),)},
        {"stack": ()},
        {"comm": None, "exe": None},
        {"container": {"unit": "app.service", "stack": [1, 2]}},
        {"container": {"unit": "app.service", "stack": [vars(FRAMES[0])]}},
        {"comm": '", "pid": 1, "tid": 1, "'},
        {"exe": "\u00e9\U0001f4a9"},
        {"evidence": (make_evidence(value=64, limit=64),)},
    ],
)
def test_one_that_differs_is_not_taken_for_the_one_before(changes: dict[str, object]) -> None:
    alike = Alike()
    alike.from_json(line_of(FAILURE))
    line = line_of(replace(FAILURE, **changes))  # type: ignore[arg-type]

    for _ in range(2):
        assert without_stack(line) == alike.from_json(line)


def test_what_is_said_twice_counts_as_json_has_it() -> None:
    alike = Alike()
    line = line_of(FAILURE)
    again = line.replace(b', "uid": ', b', "count": 5, "uid": ')
    assert again != line

    found = alike.from_json(again)
    assert isinstance(found, Failure)
    assert 5 == found.count
    assert without_stack(again) == found


def test_a_number_with_a_zero_before_it_is_none_in_a_stack_either() -> None:
    alike = Alike()
    line = line_of(FAILURE)
    alike.from_json(line)
    wrong = line.replace(b'"address": 6766425', b'"address": 0766425')
    assert wrong != line

    with pytest.raises(ValueError, match="Expecting ',' delimiter"):
        alike.from_json(wrong)


def test_those_that_are_alike_say_so_and_others_do_not() -> None:
    alike = Alike()
    first, second, third = (
        alike.from_json(line_of(each))
        for each in (FAILURE, replace(FAILURE, pid=3, count=2), replace(FAILURE, uid=3))
    )
    assert isinstance(first, Failure)
    assert isinstance(second, Failure)
    assert isinstance(third, Failure)

    assert first.alike is second.alike
    assert first.alike is not third.alike
    assert to_json(first) == to_json(replace(FAILURE, stack=()))


def test_other_records_are_read_as_ever() -> None:
    line = (to_json(make_header()) + "\n").encode()

    assert from_json(line) == Alike().from_json(line)


def test_of_ever_new_ones_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fork_trace.model.alike._MOST_LINES", 8)
    monkeypatch.setattr("fork_trace.model.alike._MOST_STACKS", 8)
    alike = Alike()
    for number in range(40):
        frame = Frame(5, "f" * number, None)
        line = line_of(replace(FAILURE, comm=f"n{number}", stack=(frame,)))
        assert without_stack(line) == alike.from_json(line)

    assert 8 >= len(alike._known)
    assert 8 >= len(alike._stacks)
