"""What was counted so far, by raw key: exact, and bounded however many commands and cgroups come and go.

A key in here is a struct ft_key without its generation (`events.counted_under`). What a key means is `judge`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from fork_trace.model import events

MOST = 4096  # keys; beyond that the rarest of those who have most become their owner's others
_MOST_OTHERS = 2048  # owners whose others are kept apart
_MOST_TOLD = 256  # commands of one owner that are told each by itself at one time
_T = TypeVar("_T")


class _Entry(Generic[_T]):
    """One key: what was taken out of the kernel's table, and what became of it."""

    __slots__ = ("count", "judged", "latest", "told", "unsampled")

    def __init__(self) -> None:
        self.count = 0
        self.unsampled = 0
        self.told = (
            0  # of the unsampled ones, in records; also of those that are still in the table
        )
        self.judged: Counter[_T] = Counter()
        self.latest: _T | None = None  # verdict

    def take_over(self, other: _Entry[_T]) -> None:
        """Count another key's with these."""
        self.count += other.count
        self.unsampled += other.unsampled
        self.told += other.told
        self.judged.update(other.judged)
        self.latest = other.latest or self.latest


class Ledger(Generic[_T]):
    """The exact counts, those of the kernel's table apart; verdicts are of any type that can be a key."""

    def __init__(self, lean: int = 1) -> None:
        self._entries: dict[bytes, _Entry[_T]] = {}
        self._most, self._most_others = MOST // lean, _MOST_OTHERS // lean
        self._kept = 3 * self._most // 4  # then, so that it is not done again at once

    def __contains__(self, key: bytes) -> bool:
        return key in self._entries

    def _entry(self, key: bytes) -> _Entry[_T]:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = _Entry()
        return entry

    def judge(self, key: bytes, verdict: _T, count: int = 1) -> None:
        """Note that so many failures of a key are in records with this verdict."""
        entry = self._entry(key)
        entry.judged[verdict] += count
        entry.latest = verdict

    def leave(self, key: bytes) -> None:
        """Note that no record stands for a sample of a key: it is owed as if it had not been taken."""
        self._entry(key).told -= 1

    def verdict(self, key: bytes) -> _T | None:
        """Return the verdict that a key was given last; None: none yet."""
        entry = self._entries.get(key)
        return entry.latest if entry else None

    def take(self, harvested: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
        """Add what was taken out of the kernel's table; return the keys that are not kept apart any more."""
        for raw, tally in harvested:
            counts = events.decode_tally(tally)
            entry = self._entry(events.counted_under(raw))
            entry.count += counts.count
            entry.unsampled += counts.unsampled
        rare = self._rare()
        for key in rare:
            self._entry(events.others_of(key)).take_over(self._entries.pop(key))
        others = [key for key in self._entries if events.is_of_others(key)]
        if len(others) > self._most_others:
            others.sort(key=lambda key: self._entries[key].count)
            for key in others[: len(others) - self._most_others // 2]:
                entry = self._entries.pop(key)
                self._entry(events.others_of(key, is_folded=True)).take_over(entry)
                rare.append(key)
        return rare

    def _rare(self) -> list[bytes]:
        """Choose what is not kept apart any more: of those who have most keys what was counted least."""
        own = [key for key in self._entries if not events.is_of_others(key)]
        if len(own) <= self._most:
            return []
        by_owner: dict[bytes, list[bytes]] = {}
        for key in own:
            by_owner.setdefault(events.owner_of(key), []).append(key)
        share = self._kept
        while share > 1 and sum(min(len(keys), share) for keys in by_owner.values()) > self._kept:
            share //= 2
        rare: list[bytes] = []
        for keys in by_owner.values():
            if len(keys) > share:
                keys.sort(key=lambda key: -self._entries[key].count)
                rare += keys[share:]
                del keys[share:]
        left = [key for keys in by_owner.values() for key in keys]
        if len(left) > self._kept:
            left.sort(key=lambda key: self._entries[key].count)
            rare += left[: len(left) - self._kept]
        return rare

    def _all(self, table: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, int, int]]:
        # Key, count and unsampled, with those in the kernel's table.
        counted: dict[bytes, tuple[int, int]] = {}
        for raw, tally in table:
            counts = events.decode_tally(tally)
            counted[events.counted_under(raw)] = (counts.count, counts.unsampled)
        for key, entry in self._entries.items():
            count, unsampled = counted.pop(key, (0, 0))
            yield key, entry.count + count, entry.unsampled + unsampled
        for key, (count, unsampled) in counted.items():
            yield key, count, unsampled

    def owed(self, table: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, int]]:
        """Return the keys with failures that no record stands for yet, and how many; now they are told.

        Of an owner with very many of them only the most are told by command, the rest together.
        """
        by_owner: dict[bytes, list[tuple[int, bytes]]] = {}
        for key, _, unsampled in list(self._all(table)):
            entry = self._entries.get(key)
            rest = unsampled - (entry.told if entry else 0)
            if rest > 0:
                self._entry(key).told += rest
                by_owner.setdefault(events.owner_of(key), []).append((rest, key))
        owed: dict[bytes, int] = {}
        for found in by_owner.values():
            if len(found) > _MOST_TOLD:
                found.sort(key=lambda each: -each[0])
            for place, (rest, key) in enumerate(found):
                told = key if place < _MOST_TOLD else events.others_of(key)
                owed[told] = owed.get(told, 0) + rest
        return list(owed.items())

    def totals(
        self, table: Iterable[tuple[bytes, bytes]]
    ) -> Iterator[tuple[bytes, _T | None, int]]:
        """Return each key's count by verdict; None: no record told one, or not of so many."""
        for key, count, _ in self._all(table):
            entry = self._entries.get(key)
            rest = count
            for verdict, number in entry.judged.items() if entry else ():
                # Samples of a key that was given up meanwhile are counted with the others.
                number = min(number, rest)
                if number:
                    yield key, verdict, number
                rest -= number
            if rest > 0:
                yield key, entry.latest if entry else None, rest
