"""Captures that are whole, torn or not closed: never more than happened, never less than was proved."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any

import pytest
from conftest import capture_text, make_failure, make_header, make_summary

from fork_trace.errors import ForkTraceError
from fork_trace.model import reading, records
from fork_trace.model.reading import Ending
from fork_trace.model.records import Checkpoint, Failure, Header, Record

TOTAL: dict[str, Any] = {
    **dict.fromkeys(("uid", "cgroup", "syscall", "creates")),
    **{"errno": "EAGAIN", "step": "cgroup_can_fork", "certainty": "observed"},
}


def make_checkpoint(**changes: Any) -> Checkpoint:
    return Checkpoint(**{**vars(make_summary(ended="running")), **changes})


def items(text: str | bytes, seen: set[int] | None = None) -> list[Record | Ending]:
    raw = text.encode() if isinstance(text, str) else text
    return list(reading.read("forks.jsonl", io.BytesIO(raw), seen))


def endings(text: str | bytes) -> list[Ending]:
    return [each for each in items(text) if isinstance(each, Ending)]


def refusal(text: str | bytes) -> ForkTraceError:
    with pytest.raises(ForkTraceError) as raised:
        items(text)
    assert raised.value.hint
    return raised.value


FORKS = records.Forks(
    *("2026-11-28T03:00:00Z", "web1", "6.1.0", "fork-trace 0.1.0", "fexit", 60.0, 10.0),
    (),
    *(0, 0, 0, 0, 0, 0, "all"),
)


def counted(text: str | bytes) -> Counter[str | None]:
    """Count the failures by command, those that only totals tell of included."""
    found: Counter[str | None] = Counter()
    for each in items(text):
        for failure in each.uncounted if isinstance(each, Ending) else (each,):
            if isinstance(failure, Failure):
                found[failure.comm] += failure.count
    return found


def test_a_whole_file_is_read_in_its_order() -> None:
    kinds = [type(each).__name__ for each in items(capture_text())]

    assert ["Header", "Failure", "Summary", "Ending"] == kinds
    (ending,) = endings(capture_text())
    assert (True, 0, ()) == (ending.is_closed, ending.unreadable, ending.uncounted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "forks.jsonl is empty: no capture was written to it"),
        ("hello\n", "forks.jsonl: line 1 is not a record of a capture"),
        ("\n", "forks.jsonl: line 1 is not a record of a capture"),
        ("[]\n", "line 1 is not a record of a capture: not an object"),
        ("{}\n", "line 1 is not a record of a capture: unknown record type None"),
        ('{"type": ["header"]}\n', "unknown record type ['header']"),
        ('{"type": "header"}\n', "line 1 is not a record of a capture"),
        ("[" * 200_000 + "\n", "line 1 is not a record of a capture"),
        (bytes(range(128, 256)), "is not text"),
        (capture_text(make_failure()), "the first record is no header"),
        (capture_text(make_summary()), "the first record is no header"),
        (
            capture_text(make_header(version=2)),
            "a newer fork-trace (format 2, this one reads up to 1)",
        ),
        (capture_text()[:30], "is cut off within its first record"),
    ],
)
def test_what_is_no_capture_is_refused_with_what_is_wrong(text: str | bytes, message: str) -> None:
    assert message in refusal(text).message


def test_a_long_reason_is_cut() -> None:
    assert len(refusal('{"type": "' + "x" * 10_000 + '"}\n').message) < 250


@pytest.mark.parametrize(
    ("text", "unreadable"),
    [
        (capture_text(make_header()), 0),
        (capture_text(make_header(), make_failure()), 0),
        (capture_text()[:-1][:-20], 1),
        (capture_text(make_header(), make_failure()) + "\0" * 4096, 1),
    ],
)
def test_a_capture_that_was_not_closed_is_read_as_far_as_it_goes(
    text: str, unreadable: int
) -> None:
    (ending,) = endings(text)

    assert (False, unreadable) == (ending.is_closed, ending.unreadable)


def test_a_line_that_is_torn_in_the_middle_costs_only_itself() -> None:
    first, second = (make_failure(comm=name) for name in ("a", "b"))
    lines = capture_text(make_header(), first, second).splitlines(keepends=True)
    text = lines[0] + lines[1][:50] + "\n" + lines[2]

    assert Counter({"b": 1}) == counted(text)
    assert 1 == endings(text)[0].unreadable


def test_several_captures_in_one_file_end_each_by_itself() -> None:
    other = make_header(host="web-2")

    found = endings(capture_text() + capture_text(other, make_failure()))

    assert [True, False] == [each.is_closed for each in found]
    assert ["web-2"] == [each.header.host for each in found[1:]]


def test_a_capture_that_was_read_before_is_passed_over() -> None:
    seen: set[int] = set()

    assert 4 == len(items(capture_text(), seen))
    assert [] == items(capture_text(), seen)
    assert 3 == len(items(capture_text(make_header(time="x"), make_failure()), seen))


def test_a_later_version_is_refused_wherever_its_header_is() -> None:
    assert "newer" in refusal(capture_text() + capture_text(make_header(version=2))).message


def test_what_only_the_totals_count_is_told_once() -> None:
    totals = ({**TOTAL, "comm": "sh", "cause": "pids-cgroup", "count": 7},)
    checkpoint = make_checkpoint(failures=7, causes={"pids-cgroup": 7}, totals=totals)
    failure = make_failure(comm="sh", cause="pids-cgroup", count=3)

    # Whether a record follows the checkpoint or comes before it, as many failed.
    for order in ((failure, checkpoint), (checkpoint, failure)):
        assert Counter({"sh": 7}) == counted(capture_text(make_header(), *order))
    many = make_failure(comm="sh", cause="pids-cgroup", count=9)
    assert Counter({"sh": 9}) == counted(capture_text(make_header(), checkpoint, many))


def test_totals_that_were_judged_otherwise_than_the_records_are_not_added_to_them() -> None:
    totals = (
        {**TOTAL, "comm": "sh", "cause": "pid-max", "count": 3},
        {**TOTAL, "comm": None, "cause": "pids-cgroup", "count": 4},
    )
    checkpoint = make_checkpoint(failures=7, causes={"pid-max": 3, "pids-cgroup": 4}, totals=totals)
    failures = make_failure(comm="sh", cause="pids-cgroup", count=5)

    found = counted(capture_text(make_header(), failures, checkpoint))

    assert 7 == sum(found.values())


@pytest.mark.parametrize(
    "total",
    [
        {},
        {**TOTAL, "comm": ["sh"], "cause": "pids-cgroup", "count": 7},
        {**TOTAL, "comm": "sh", "cause": 5, "count": 7},
        {**TOTAL, "comm": "sh", "cause": "pids-cgroup", "count": "many"},
        {**TOTAL, "comm": "sh", "cause": "pids-cgroup", "count": 10**6},
        {**TOTAL, "comm": "sh", "cause": "pids-cgroup", "count": 7, "uid": "root"},
    ],
)
def test_totals_that_make_no_sense_still_add_up(total: dict[str, Any]) -> None:
    checkpoint = make_checkpoint(failures=7, causes={"pids-cgroup": 7}, totals=(total,))

    assert 7 == sum(counted(capture_text(make_header(), checkpoint)).values())


def test_slow_forks_behind_a_torn_capture_hide_none_of_its_failures() -> None:
    """`cat torn.jsonl latency.jsonl`: the torn line takes the second header along."""
    whole = "".join(records.to_json(each) + "\n" for each in (make_header(), make_failure()))
    told = whole + records.to_json(make_header())[:40] + records.to_json(make_header()) + "\n"
    told += records.to_json(FORKS) + "\n"
    (ending,) = endings(told)

    assert not ending.is_of_latency
    (alone,) = endings(records.to_json(make_header()) + "\n" + records.to_json(FORKS) + "\n")
    assert alone.is_of_latency


def test_a_segment_cut_at_every_byte_never_tells_more_than_happened() -> None:
    """A hundred records in eight commands; after each ten a checkpoint counts one that has no record yet."""
    lines: list[str] = [records.to_json(make_header()) + "\n"]
    proved = [Counter[Any]()]
    sofar: Counter[Any] = Counter()
    for number in range(100):
        comm = f"c{number % 8}"
        sofar[comm] += 1 + number % 3
        failure = make_failure(comm=comm, cause="pids-cgroup", count=1 + number % 3)
        lines.append(records.to_json(failure) + "\n")
        proved.append(sofar.copy())
        if number % 10 == 9:
            ahead = sofar + Counter({f"c{(number + 1) % 8}": 1 + (number + 1) % 3})
            lines.append(checkpoint_of(ahead))
            proved.append(ahead)
    happened = sofar + Counter({"c4": 2})
    whole = "".join(lines).encode()
    ends = [0]
    for line in lines:
        ends.append(ends[-1] + len(line))
    at = 1
    # Every byte of the first lines, a checkpoint among them; then a reading has ever more lines.
    each_byte = range(len(lines[0]), ends[13])
    for cut in (*each_byte, *range(ends[13], len(whole), 101)):
        while at + 1 < len(ends) and ends[at + 1] <= cut:
            at += 1
        found = counted(whole[:cut])

        assert not found - happened, cut
        # Not less than the records, nor than the last checkpoint.
        assert sum(found.values()) >= sum(proved[at - 1].values()), cut


def checkpoint_of(counts: Counter[Any]) -> str:
    totals = tuple(
        {**TOTAL, "comm": comm, "cause": "pids-cgroup", "count": number}
        for comm, number in counts.items()
    )
    number = sum(counts.values())
    return (
        records.to_json(
            make_checkpoint(failures=number, causes={"pids-cgroup": number}, totals=totals)
        )
        + "\n"
    )


def test_a_mark_is_written_as_from_and_to() -> None:
    mark = records.Mark("2026-11-28T03:00:00Z", "web-1", "gap", "2026-11-28T02:00:00Z", None)

    written = json.loads(records.to_json(mark))

    assert ["type", "time", "host", "kind", "from", "to"] == list(written)
    assert mark == records.from_json(json.dumps(written))
    assert isinstance(items(capture_text(make_header(), mark))[0], Header)
