"""What was chosen of a stream of captures, as captures again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

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
                record = replace(record, deaths=dict(deaths))
            if isinstance(record, Checkpoint):
                record = replace(record, ended="running")
        yield record
