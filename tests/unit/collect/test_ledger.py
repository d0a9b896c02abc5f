"""The exact counts of user space: none is lost, and there are never too many keys."""

from __future__ import annotations

import random
import struct
from collections import Counter

import pytest

from fork_trace.collect import ledger
from fork_trace.model import events


def key(comm: str = "sh", uid: int = 0, cgroup: int = 1, mark: int = 0, fits: int = 0) -> bytes:
    name = comm.encode().ljust(15, b"\0") + bytes([mark])
    return struct.pack("=16sQIiBBBBIQ", name, cgroup, uid, -11, 10, 0, 1, 2, 0, fits)


def tally(count: int, unsampled: int | None = None) -> bytes:
    return struct.pack("=QQQQ", count, count if unsampled is None else unsampled, 0, 0)


def totals(
    book: ledger.Ledger[str], *table: tuple[bytes, bytes]
) -> dict[tuple[str | None, int | None, str | None], int]:
    found: Counter[tuple[str | None, int | None, str | None]] = Counter()
    for raw, verdict, number in book.totals(table):
        decoded = events.decode_key(raw)
        found[decoded.command, decoded.user, verdict] += number
    return dict(found)


def test_what_was_taken_out_of_the_table_and_what_is_in_it_again_are_one_count() -> None:
    book: ledger.Ledger[str] = ledger.Ledger()
    book.take([(key(mark=1), tally(5))])

    assert {("sh", 0, None): 12} == totals(book, (key(), tally(7)))


def test_each_failure_is_owed_once_wherever_it_is_counted_meanwhile() -> None:
    book: ledger.Ledger[str] = ledger.Ledger()

    assert [(key(), 3)] == book.owed([(key(), tally(5, 3))])
    book.take([(key(), tally(9, 7))])
    assert [(key(), 4)] == book.owed([])
    assert [(key(), 2)] == book.owed([(key(mark=1), tally(2))])
    assert [] == book.owed([(key(mark=1), tally(2))])


def test_a_verdict_stands_for_as_many_as_it_was_told_of_and_the_last_for_the_rest() -> None:
    book: ledger.Ledger[str] = ledger.Ledger()
    book.judge(key(), "a", 2)
    book.judge(key(), "b")

    assert {("sh", 0, "a"): 2, ("sh", 0, "b"): 4} == totals(book, (key(), tally(6)))


def test_more_than_were_counted_are_never_told() -> None:
    book: ledger.Ledger[str] = ledger.Ledger()
    book.judge(key(), "a", 5)
    book.judge(key("gone"), "a", 5)

    assert {("sh", 0, "a"): 3} == totals(book, (key(), tally(3)))


def test_the_rarest_of_whoever_has_most_are_counted_together() -> None:
    book: ledger.Ledger[str] = ledger.Ledger()
    quiet = key("quiet", uid=7, cgroup=8)
    book.take([(quiet, tally(1))])
    book.judge(key("busy"), "a")
    given_up: list[bytes] = []
    for start in range(0, 100_000, 2000):
        names = [(key(f"x{number}"), tally(1)) for number in range(start, start + 2000)]
        given_up += book.take([*names, (key("busy"), tally(3))])

    found = totals(book)

    assert 100_000 + 150 + 1 == sum(found.values())
    assert (1, 150) == (
        found["quiet", 7, None],
        found["busy", 0, "a"] + found.get(("busy", 0, None), 0),
    )
    assert len(found) <= ledger.MOST + 2000
    assert found[None, 0, None] == len(given_up) >= 100_000 - ledger.MOST
    assert quiet not in given_up


def test_cgroups_that_come_and_go_for_weeks_end_as_those_of_several() -> None:
    book: ledger.Ledger[str] = ledger.Ledger()
    for start in range(0, 60_000, 2000):
        book.take((key("job", cgroup=number), tally(2)) for number in range(start, start + 2000))
        book.owed([])

    found = Counter(
        (decoded.is_of_others, decoded.is_of_all)
        for decoded in (events.decode_key(raw) for raw, _, _ in book.totals([]))
    )

    assert 120_000 == sum(totals(book).values())
    assert found[False, False] <= ledger.MOST + 2000
    assert found[True, False] <= ledger._MOST_OTHERS
    assert 1 == found[True, True]
    assert totals(book)[None, None, None] > 0


def test_of_very_many_commands_only_the_most_failing_are_told_by_name() -> None:
    book: ledger.Ledger[str] = ledger.Ledger()
    table = [(key(f"x{number}"), tally(1 + (number == 999))) for number in range(1000)]
    table.append((key("quiet", uid=7), tally(1)))

    owed = {events.decode_key(raw).command: rest for raw, rest in book.owed(table)}

    assert 1002 == sum(owed.values())
    assert (2, 1) == (owed["x999"], owed["quiet"])
    assert 1000 - ledger._MOST_TOLD == owed[None]
    assert [] == book.owed(table)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_taken_out_when_nothing_is_lost(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "MOST", 32)
    monkeypatch.setattr(ledger, "_MOST_OTHERS", 8)
    monkeypatch.setattr(ledger, "_MOST_TOLD", 3)
    chance = random.Random(seed)
    book: ledger.Ledger[str] = ledger.Ledger()
    table: dict[bytes, list[int]] = {}
    counted = told = 0
    for _ in range(3000):
        raw = key(f"x{chance.randrange(40)}", chance.randrange(6), chance.randrange(6))
        counts = table.setdefault(raw, [0, 0])
        counts[0] += 1
        counted += 1
        if chance.random() < 0.3:
            book.judge(raw, chance.choice("ab"))
            told += 1
        else:
            counts[1] += 1
        if chance.random() < 0.02:
            told += sum(rest for _, rest in book.owed(_pairs(table)))
        if chance.random() < 0.02:
            book.take(_pairs(table))
            table.clear()
            assert len(list(book.totals([]))) < 200
    told += sum(rest for _, rest in book.owed(_pairs(table)))

    assert counted == sum(totals(book, *_pairs(table)).values())
    assert counted == told


def _pairs(table: dict[bytes, list[int]]) -> list[tuple[bytes, bytes]]:
    return [(raw, tally(*counts)) for raw, counts in table.items()]
