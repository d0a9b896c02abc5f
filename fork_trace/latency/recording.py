"""Slow forks of a watch as records: of a whole run, or of a recorder's minutes, of which each is told once."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from fork_trace.collect.slow import Seen, SlowWatch
from fork_trace.latency.account import Account
from fork_trace.model.records import Forks, Slow

_EACH_S = 60.0
_MOST_GROUPS = 64  # of a minute: a file is full of what is slow, not of names


class Totals:
    """All forks of a watch, since the last time that they were told."""

    def __init__(self, watch: SlowWatch, over_ms: float) -> None:
        self._watch, self._over_ms = watch, over_ms
        self._told: dict[str, Sequence[int]] = {}
        self._stats: Counter[str] = Counter()
        self._missed, self._until_s = 0, 0.0

    def take(self, ended: str, command: dict[str, Any] | None = None) -> Forks:
        """Return them as a record."""
        watch = self._watch
        stats, missed, now_s = (
            Counter(watch.backend.stats()),
            watch.backend.missed(),
            watch.elapsed_s(),
        )
        since = {name: stats[name] - self._stats[name] for name in stats}
        forks = Forks(
            time=watch.now(),
            host=watch.host,
            kernel=watch.release,
            tool=watch.header().tool,
            attach=watch.backend.attach,
            duration_s=round(now_s - self._until_s, 3),
            over_ms=self._over_ms,
            commands=tuple(self._commands()),
            slow=since["slow"],
            lost=since["unsent"],
            unpaired=since["unpaired"],
            missed=None if missed is None else missed - self._missed,
            untallied=since["untallied"],
            unmeasured=since["unmeasured"],
            waits=watch.backend.waits,
            missing=tuple(
                {"program": name, "reason": why} for name, why in watch.backend.missing.items()
            ),
            ended=ended,
            command=command,
        )
        self._stats, self._missed, self._until_s = stats, missed or 0, now_s
        return forks

    def _commands(self) -> list[dict[str, Any]]:
        found = []
        for each in sorted(self._watch.tallies(), key=lambda each: -each.total_ns):
            numbers = (each.total_ns, each.slow, each.slow_ns, *each.buckets)
            before = self._told.get(each.comm, (0,) * len(numbers))
            self._told[each.comm] = numbers
            total_ns, slow, slow_ns, *buckets = (a - b for a, b in zip(numbers, before))
            if not any(buckets):
                continue
            found.append(
                {
                    "comm": each.comm,
                    "count": sum(buckets),
                    "total_ms": round(total_ns / 1e6, 3),
                    "slow": slow,
                    "slow_ms": round(slow_ns / 1e6, 3),
                    "buckets": buckets,
                }
            )
        return found


class Recording:
    """What a recorder keeps of forks that take long: each minute that had some, and at the end."""

    def __init__(
        self,
        watch: SlowWatch,
        over_ms: float,
        write: Callable[[Slow | Forks], None],
        seen: Callable[[Sequence[tuple[str, float]]], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seen` hears of each slow fork by its reason, and how many seconds it took."""
        self._watch, self._over_ms, self._write, self._seen = watch, over_ms, write, seen
        self._monotonic = monotonic
        self._totals = Totals(watch, over_ms)
        self._account = Account(watch.host, over_ms, _MOST_GROUPS)
        self._due_s = monotonic() + _EACH_S

    def turn(self) -> None:
        """Take in what there is, and do what is due; waits for nothing."""
        self._take(self._watch.poll(0.0))
        if self._monotonic() >= self._due_s:
            self._due_s = self._monotonic() + _EACH_S
            if self._account.count:
                self._tell("running")

    def end(self) -> None:
        """Stop watching, and tell the rest."""
        self._take(self._watch.stop())
        self._tell("signal")

    def _take(self, forks: Sequence[Seen]) -> None:
        told = [(self._account.add(each), each.fork.total_ns / 1e9) for each in forks]
        if told:
            self._seen(told)

    def _tell(self, ended: str) -> None:
        forks = self._totals.take(ended)
        for each in self._account.records({each["comm"]: each["count"] for each in forks.commands}):
            self._write(each)
        self._write(forks)
        self._account = Account(self._watch.host, self._over_ms, _MOST_GROUPS)
