"""What was chosen of a stream of captures, as captures again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from fork_trace.model.records import Checkpoint, Death, Failure, Header, Record, Summary
from fork_trace.output.completeness import Unclosed
from fork_trace.record.account import Account
from fork_trace.record.captures import Captures


def whole(account: Account, captures: Captures) -> Iterator[Record]:
    """Yield what was chosen as captures that are whole in themselves: their totals are what they hold."""
    header: Header | None = None
    counts: Counter[str] = Counter()
    deaths: Counter[str] = Counter()
    for record in account.take(captures.read()):
        if isinstance(record, Header):
            header, counts, deaths = record, Counter(), Counter()
            continue
        if header is not None:
            yield header  # not before it is known to have something of that time
            header = None
        if isinstance(record, Failure):
            counts[record.cause] += record.count
        if isinstance(record, Death):
            deaths[record.cause] += 1
        if isinstance(record, Summary):
            if isinstance(record, Unclosed):
                continue  # of which nothing more is known than its records
            record = replace(
                record, failures=sum(counts.values()), causes=dict(counts), totals=(), rows=()
            )
            if record.deaths is not None:
                record = replace(record, **_killed(record, record.deaths, deaths))
            if isinstance(record, Checkpoint):
                record = replace(record, ended="running")
        yield record


def _killed(summary: Summary, known: Mapping[str, Any], kept: Counter[str]) -> dict[str, Any]:
    """Count the deaths that were kept, and leave out of all kills those that were not asked for."""
    lost = known.get("unknown", 0)
    lost = lost if type(lost) is int else 0
    told = sum(number for number in known.values() if type(number) is int) - lost
    kills = summary.oom_kills
    if kills is not None:
        kills = max(0, kills - (told - sum(kept.values())))
    return {"oom_kills": kills, "deaths": {**kept, **({"unknown": lost} if lost else {})}}
